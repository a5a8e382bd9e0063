"""A search's result in words."""

from __future__ import annotations

from collections.abc import Callable

from nas.networks import SearchSpace
from nas.report import summary
from nas.search import Candidate, ResultsFolder, SearchResult

TINY = SearchSpace.find("tiny")


def test_the_summary_names_winner_reference_origin_and_noise(result: SearchResult) -> None:
    text = "\n".join(summary(result))

    assert f"winner {result.candidates[2].id}: 0.900 ms [0.810, 0.990] of 1 ms, score 0.5000 +- 0.0250" in text
    assert "compared with tiny_a (0.950 ms, score 0.4800 +- 0.0250): +0.0200, within noise" in text
    assert "3 networks scored, 0 failed, 2 on the front" in text
    assert "predicted latency: iphone13.coreml.fp16, calibrated: iPhone 13; see the table for its errors" in text
    assert "fake on synthetic" in text


def test_a_reference_that_no_winner_beats_is_said_plainly(
    candidate: Callable[..., Candidate], result: SearchResult
) -> None:
    said = "no network better than strong found: it is no slower than the winner, and its score is no lower"
    before = summary(result)
    folder = ResultsFolder(result.path, result.run, resume=True)
    folder.add(candidate(TINY.references["tiny_a"].at(num_classes=3), 0.9, 0.6, name="strong"), None)

    assert said in summary(folder.load())
    assert not [line for line in before if line.startswith("no network better")]


def test_a_score_without_noise_is_not_called_noisy(result: SearchResult) -> None:
    plain = [one.model_copy(update={"details": {}}) for one in result.candidates]
    exact = SearchResult(path=result.path, run=result.run, candidates=tuple(plain))

    assert "the winner is chosen from 3 networks by noisy scores" in "\n".join(summary(result))
    assert "noisy" not in "\n".join(summary(exact))


def test_a_whole_front_has_no_budget(result: SearchResult) -> None:
    run = result.run.model_copy(update={"whole_front": True})
    first, *_ = summary(SearchResult(path=result.path, run=run, candidates=result.candidates))

    assert " of the whole front up to 1 ms, score " in first


def test_a_large_gap_is_not_called_noise(candidate: Callable[..., Candidate], result: SearchResult) -> None:
    folder = ResultsFolder(result.path, result.run, resume=True)
    folder.add(candidate(TINY.references["tiny_a"].at(num_classes=3), 0.9, 0.1, name="weak"), None)
    text = "\n".join(summary(folder.load()))

    assert "compared with weak (0.900 ms, score 0.1000 +- 0.0150): +0.4000, better" in text
