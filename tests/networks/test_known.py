from __future__ import annotations

import io
from pathlib import Path

import pytest

from nas.errors import InputError
from nas.networks import SearchSpace, find_network


def test_a_network_is_found_by_reference_file_and_stdin(tmp_path: Path) -> None:
    tiny = SearchSpace.find("tiny").references["tiny_a"]
    path = tmp_path / "mine.json"
    path.write_text(tiny.to_json())

    assert find_network("tiny_a", stdin=io.BytesIO()) == ("tiny_a", tiny)
    assert find_network(str(path), stdin=io.BytesIO()) == ("mine", tiny)
    assert find_network("-", stdin=io.BytesIO(tiny.to_json().encode())) == ("stdin", tiny)
    with pytest.raises(InputError, match="did you mean 'iformer_m'"):
        find_network("iformer_mm", stdin=io.BytesIO())


def test_a_training_is_no_network_but_has_one(tmp_path: Path) -> None:
    (tmp_path / "it" / "best.torch").mkdir(parents=True)

    with pytest.raises(InputError, match=r"it: is a training: give its best network, .*it/best.torch$"):
        find_network(str(tmp_path / "it"))
