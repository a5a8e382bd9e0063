"""What outputs say of images, beside torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nas.data.classes import Matched
from nas.evaluate import Share
from nas.evaluate.tally import Tally, logits_of, look_like_probabilities

NAMES = tuple("abcdefghij")


def tally(outputs: list[int], chosen: list[int] | None = None) -> Tally:
    """Classes of the data at these outputs of ten."""
    matched = Matched(outputs=np.array(outputs), names=NAMES, how="")
    return Tally(matched=matched, chosen=np.array(chosen or range(10)))


@pytest.mark.parametrize("chosen", [None, [1, 2, 3, 5, 7, 9]], ids=["all", "of the data"])
def test_scores_are_those_that_torch_computes(chosen: list[int] | None) -> None:
    random = np.random.default_rng(0)
    outputs = [7, 3, 9, 1, 2, 5]  # of the classes of the data, in no order
    logits, labels = 3 * random.standard_normal((200, 10)), random.integers(0, 6, 200)
    counted = tally(outputs, chosen)

    for start in range(0, 200, 64):
        counted.add(logits[start : start + 64], labels[start : start + 64])
    scores = counted.scores("uvwxyz")

    kept = chosen or list(range(10))
    part = torch.from_numpy(logits[:, kept])
    targets = torch.tensor([kept.index(outputs[label]) for label in labels])
    top5 = (part.topk(5).indices == targets[:, None]).any(1).float().mean()
    assert scores.outputs == len(kept)
    assert scores.top1.value == pytest.approx(float((part.argmax(1) == targets).float().mean()))
    assert scores.top5 is not None
    assert scores.top5.value == pytest.approx(float(top5))
    assert scores.cross_entropy == pytest.approx(float(F.cross_entropy(part, targets)))
    assert sum(one.images for one in scores.confusions) == 200
    assert sum(one.images for one in scores.classes) == 200
    assert sum(one.right for one in scores.classes) == scores.top1.right


def test_confusions_come_before_what_is_right_and_the_most_frequent_first() -> None:
    counted = tally([0, 1])
    logits = np.eye(10)[[0, 0, 0, 4, 5, 5, 1]]

    counted.add(logits, np.array([0, 0, 0, 0, 0, 0, 0]))
    scores = counted.scores(["cat", "dog"])

    found = [(one.actual, one.predicted, one.images) for one in scores.confusions]
    assert found == [("cat", "f", 2), ("cat", "b", 1), ("cat", "e", 1), ("cat", "a", 3)]
    assert [one.name for one in scores.classes] == ["cat"]  # there is no image of the dog


def test_of_equal_outputs_the_first_is_the_answer() -> None:
    counted = tally([0, 1])

    counted.add(np.zeros((2, 10)), np.array([0, 1]))

    assert [one.rank for one in counted.answers] == [0, 1]


def test_five_outputs_have_no_top_5() -> None:
    counted = tally([0, 1], [0, 1, 2, 3, 4])

    counted.add(np.zeros((1, 10)), np.array([0]))

    assert counted.scores(["cat", "dog"]).top5 is None


def test_logarithms_of_probabilities_have_the_same_softmax() -> None:
    logits = np.random.default_rng(0).standard_normal((4, 10))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    both = tally([0]), tally([0])

    both[0].add(logits, np.zeros(4, dtype=int))
    both[1].add(logits_of(probabilities, are_probabilities=True), np.zeros(4, dtype=int))

    assert [one.entropy for one in both[0].answers] == pytest.approx([one.entropy for one in both[1].answers])
    assert look_like_probabilities(probabilities)
    assert not look_like_probabilities(logits)
    assert np.isfinite(logits_of(np.zeros((1, 10)), are_probabilities=True)).all()


@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    [  # Brown, Cai and DasGupta, Statistical Science 16 (2001); and as R's prop.test(correct=FALSE) has them
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (750, 1000, 0.7222, 0.7758),
    ],
)
def test_interval_is_wilsons(right: int, images: int, low: float, high: float) -> None:
    share = Share.of(right, images)

    assert [share.low, share.high] == pytest.approx([low, high], abs=1e-4)
