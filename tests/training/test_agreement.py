from __future__ import annotations

import pytest
import torch

from nas.data import UNKNOWN
from nas.training.agreement import agreement, confusion


def test_figures_by_hand() -> None:
    truth = torch.tensor([0, 0, 0, 1, 1, UNKNOWN, -100])
    found = torch.tensor([0, 0, 1, 1, 0, 2, 3])

    counts = confusion(truth, found, 4)

    assert counts.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    expected = {"miou": (2 / 4 + 1 / 3) / 2, "class_accuracy": (2 / 3 + 1 / 2) / 2, "pixel_accuracy": 3 / 5}
    assert agreement(counts) == pytest.approx(expected)


def test_bytes_are_compared_with_any_number_of_classes() -> None:
    truth = torch.tensor([0, 43, 44, 254, UNKNOWN], dtype=torch.uint8)

    counts = confusion(truth, truth.long(), 300)

    assert counts.diag().nonzero().flatten().tolist() == [0, 43, 44, 254]
