from __future__ import annotations

from nas.networks import SearchSpace, count
from nas.report import amounts, by_stage, size_words

M, TINY = SearchSpace.find("iformer").references["iformer_m"], SearchSpace.find("tiny").references["tiny_a"]


def test_a_small_network_has_a_size_that_is_not_0() -> None:
    assert size_words(count(M)) == "8.88 M parameters, 1.64 GMACs"
    assert size_words(count(TINY)) == f"{count(TINY).params / 1e3:.2f} k parameters, {count(TINY).macs / 1e6:.2f} MMACs"
    assert "0.00" not in size_words(count(TINY))


def test_the_smallest_network_chooses_the_unit_of_a_column() -> None:
    assert amounts([8_879_128], [1_640_000_000]) == (("params, M", "GMACs"), [("8.88", "1.64")])
    assert amounts([64_000, 8_879_128], [2_306_000, 1_640_000_000]) == (
        ("params, k", "MMACs"),
        [("64.00", "2.31"), ("8879.13", "1640.00")],
    )
    assert amounts([], []) == (("params, k", "MMACs"), [])


def test_differences_stand_part_by_part() -> None:
    parts = ["resolution 256 (224)", "stem kernel 3 (5)", "stage 1 channels 64 (48)", "stage 1 kernel 5 (7)"]

    assert by_stage(parts) == [
        "  image: resolution 256 (224)",
        "  stem: kernel 3 (5)",
        "  stage 1: channels 64 (48), kernel 5 (7)",
    ]
    assert by_stage([]) == []
