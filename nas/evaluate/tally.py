"""What the outputs of a network say of its images, counted: memory grows by a few numbers an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from nas.data.classes import Matched
from nas.evaluate.records import ClassAccuracy, Confusion, Scores, Share

__all__ = ["Answer", "Tally", "logits_of", "look_like_probabilities"]

_TOP = 5
_TINY = float(np.finfo(np.float32).tiny)  # a probability of zero, to take a logarithm of


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the network says of one image.

    Attributes:
        label: its class in the data.
        output: the highest output.
        probability: of that, by softmax.
        rank: how many outputs are above that of its class; 0 if it is right.
        entropy: -log(probability of its class), in nats.
    """

    label: int
    output: int
    probability: float
    rank: int
    entropy: float


@dataclass(slots=True, kw_only=True)
class Tally:
    """The answers so far, over some of the outputs.

    Attributes:
        matched: which output is which class.
        chosen: the outputs that count, in their order.
        answers: one for each image.
    """

    matched: Matched
    chosen: npt.NDArray[np.int64]
    answers: list[Answer] = field(default_factory=list)

    def add(self, logits: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> None:
        """Count a batch: logits of all outputs (B, C), and the classes of the data (B,)."""
        part = logits[:, self.chosen]  # (B, K)
        rows = np.arange(len(labels))
        targets = np.searchsorted(self.chosen, self.matched.outputs[labels])  # (B,)
        own = part[rows, targets][:, None]
        # Of equal outputs the first counts as the higher one, as argmax has it.
        before = np.arange(part.shape[1])[None] < targets[:, None]
        ranks = ((part > own) | ((part == own) & before)).sum(1)
        best = part.argmax(1)
        shifted = part - part.max(1, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        for row, label in enumerate(labels.tolist()):
            self.answers.append(
                Answer(
                    label=label,
                    output=int(self.chosen[best[row]]),
                    probability=float(np.exp(logs[row, best[row]])),
                    rank=int(ranks[row]),
                    entropy=float(-logs[row, targets[row]]),
                )
            )

    def scores(self, class_names: Sequence[str]) -> Scores:
        """What has been counted."""
        images = len(self.answers)
        right = Counter(one.label for one in self.answers if one.rank == 0)
        of_class = Counter(one.label for one in self.answers)
        pairs = Counter((one.label, one.output) for one in self.answers)
        outputs = self.matched.outputs
        # Mistakes first, the most frequent at the top; then by the order of the classes.
        order = sorted(pairs, key=lambda pair: (outputs[pair[0]] == pair[1], -pairs[pair], pair))
        return Scores(
            outputs=len(self.chosen),
            top1=Share.of(sum(right.values()), images),
            top5=Share.of(sum(one.rank < _TOP for one in self.answers), images) if len(self.chosen) > _TOP else None,
            cross_entropy=sum(one.entropy for one in self.answers) / images,
            classes=tuple(
                ClassAccuracy(name=class_names[label], images=of_class[label], right=right[label])
                for label in sorted(of_class)
            ),
            confusions=tuple(
                Confusion(actual=class_names[pair[0]], predicted=self.matched.names[pair[1]], images=pairs[pair])
                for pair in order
            ),
        )


def logits_of(outputs: npt.NDArray[np.float64], *, are_probabilities: bool) -> npt.NDArray[np.float64]:
    """Outputs as logits: of probabilities the logarithm, whose softmax they are."""
    return np.log(np.maximum(outputs, _TINY)) if are_probabilities else outputs


def look_like_probabilities(outputs: npt.NDArray[np.float64]) -> bool:
    """Whether each row is positive and adds up to one, which no logits do for a whole batch."""
    return bool((outputs >= 0).all() and np.allclose(outputs.sum(1), 1, atol=1e-2))
