from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from nas.accuracy.process import Kernel, Labels, Process, covariance

Array = npt.NDArray[np.float64]

# N known networks, M other networks, T = 3 traits.
N = 24
KERNEL = Kernel(
    linear=(0.6, 0.3, 0.1),
    curve=0.5,
    lengths=(1.0, 2.0, 4.0),
    family=0.5,
    family_curve=0.3,
    family_length=0.7,
    recipe=0.4,
    distilled=0.3,
    network=0.2,
    noise=0.1,
)


def _labels(families: Sequence[str], *, recipe: str = "r", network: str = "", distilled: bool = False) -> Labels:
    return Labels(
        family=np.asarray(families),
        recipe=np.full(len(families), recipe),
        network=np.full(len(families), network),
        distilled=np.full(len(families), distilled),
    )


def _known(rows: int = N) -> tuple[Array, Labels, Array]:
    """Traits (N, 3), labels and targets (N,) of six families of networks; pairs of rows are one network."""
    random = np.random.default_rng(0)
    traits = random.normal(size=(rows, 3))
    numbers = np.arange(rows)
    labels = Labels(
        family=np.asarray([f"family {number}" for number in numbers % 6]),
        recipe=np.asarray([f"recipe {number}" for number in numbers % 4]),
        network=np.asarray([f"network {number}" for number in numbers // 2]),
        distilled=numbers % 3 == 0,
    )
    return traits, labels, traits @ [0.6, 0.3, 0.1] + 0.3 * np.sin(2 * traits[:, 0]) + random.normal(0, 0.1, rows)


@pytest.mark.parametrize(
    "group_of",
    [lambda row: row, lambda row: row % 6, lambda row: row // 2, lambda row: row < 9],
    ids=["each row alone", "families", "networks", "two halves"],
)
def test_leaving_a_group_out_is_the_same_as_never_having_seen_it(group_of: Callable[[int], object]) -> None:
    traits, labels, targets = _known()
    groups = [group_of(row) for row in range(N)]
    means, deviations = np.empty(N), np.empty(N)
    for group in set(groups):
        out = np.asarray([one == group for one in groups])
        inside, outside = np.flatnonzero(~out), np.flatnonzero(out)
        rest = Process(KERNEL, traits[inside], labels[inside], targets[inside])
        means[outside], deviations[outside] = rest.predict(traits[outside], labels[outside])

    np.testing.assert_allclose(
        (means, deviations), Process(KERNEL, traits, labels, targets).leave_out(groups), rtol=0, atol=1e-8
    )


def test_a_prediction_is_the_conditional_normal_distribution() -> None:
    traits, labels, targets = _known()
    others, other_labels = np.random.default_rng(1).normal(size=(5, 3)), _labels(["family 1", "new"] * 2 + ["newer"])
    noise = KERNEL.noise**2
    inverse = np.linalg.inv(covariance(KERNEL, traits, labels, traits, labels) + noise * np.eye(N))
    shared = covariance(KERNEL, others, other_labels, traits, labels)
    own = covariance(KERNEL, others, other_labels, others, other_labels) + noise * np.eye(5)
    mean, deviation = Process(KERNEL, traits, labels, targets).predict(others, other_labels)

    np.testing.assert_allclose(shared @ inverse @ targets, mean, rtol=0, atol=1e-8)
    np.testing.assert_allclose(np.sqrt(np.diag(own - shared @ inverse @ shared.T)), deviation, rtol=0, atol=1e-8)


def test_a_prediction_far_from_every_row_has_a_wider_interval() -> None:
    process = Process(KERNEL, *_known())
    _, deviation = process.predict(np.asarray([[0.0, 0, 0], [3, 3, 3], [30, 30, 30]]), _labels(["new"] * 3))

    assert deviation[0] < deviation[1] < deviation[2]


@pytest.mark.parametrize(
    ("known", "other"),
    [
        (_labels(["a"]), _labels(["b"])),
        (_labels(["a"], recipe="long"), _labels(["a"], recipe="short")),
        (_labels(["a"], network="n"), _labels(["a"], network="m")),
        (_labels(["a"], distilled=True), _labels(["a"])),
    ],
    ids=["family", "recipe", "network", "distillation"],
)
def test_rows_pull_a_prediction_that_has_more_in_common_with_them(known: Labels, other: Labels) -> None:
    """A network is a good deal better than all others; what does that say about a second one with the same traits?"""
    traits, labels, targets = _known()
    joined = Labels(
        family=np.concatenate([labels.family, known.family]),
        recipe=np.concatenate([labels.recipe, known.recipe]),
        network=np.concatenate([labels.network, known.network]),
        distilled=np.concatenate([labels.distilled, known.distilled]),
    )
    process = Process(KERNEL, np.vstack([traits, np.zeros(3)]), joined, np.append(targets, 2.0))
    (alike,), (alike_deviation,) = process.predict(np.zeros((1, 3)), known)
    (unlike,), (unlike_deviation,) = process.predict(np.zeros((1, 3)), other)
    (before,), _ = Process(KERNEL, traits, labels, targets).predict(np.zeros((1, 3)), known)

    assert before < unlike < alike < 2.0
    assert alike_deviation < unlike_deviation


def test_a_family_has_a_curve_of_its_own_that_is_local() -> None:
    far = np.asarray([[0.0, 0, 0], [40.0, 0, 0]])
    same = covariance(KERNEL, far, _labels(["a", "a"]), far, _labels(["a", "a"]))
    apart = covariance(KERNEL, far, _labels(["a", "a"]), far, _labels(["b", "b"]))

    np.testing.assert_allclose([[0.5**2 + 0.3**2, 0.5**2], [0.5**2, 0.5**2 + 0.3**2]], same - apart, rtol=0, atol=1e-12)


def test_covariance_of_two_networks_is_the_sum_of_what_they_have_in_common() -> None:
    one, other = np.asarray([[1.0, 2.0, 3.0]]), np.asarray([[2.0, 0.0, 3.0]])
    line = 0.6**2 * 1 * 2 + 0.3**2 * 2 * 0 + 0.1**2 * 3 * 3
    distance = (1 / 1.0) ** 2 + (2 / 2.0) ** 2
    curve = 0.5**2 * np.exp(-distance / 2)
    nothing = _labels(["a"], recipe="x", network="n"), _labels(["b"], recipe="y", network="m")

    assert covariance(KERNEL, one, nothing[0], other, nothing[1]).item() == pytest.approx(4 + line + curve)
    everything = replace(nothing[0], distilled=np.asarray([True]))
    own_curve = 0.3**2 * np.exp(-distance / (2 * 0.7**2))
    offsets = 0.5**2 + 0.4**2 + 0.3**2 + 0.2**2  # family, recipe, distillation, network
    assert covariance(KERNEL, one, everything, other, everything).item() == pytest.approx(
        4 + line + curve + own_curve + offsets
    )
