"""Changed copies of networks: the steps of every evolution over rows of a space."""

from __future__ import annotations

import numpy as np

from nas.networks.encoding import Encoding, Rows

__all__ = ["children", "distinct"]

_CROSSED_SHARE = 0.25  # of the children: these take stages from a second parent
_CHANGES = 2.0  # choices that differ between parent and child, on average, those of no use included
_NEARBY_SHARE = 0.7  # of the changes: these go one option up or down


def children(encoding: Encoding, parents: Rows, number: int, random: np.random.Generator) -> Rows:
    """Networks that differ from a parent in few choices, or take whole stages from another parent, (number, columns).

    Args:
        encoding: of the space.
        parents: rows to choose from, each as likely as any other.
        number: of children; some may be equal.
        random: draws.
    """
    rows = parents[random.integers(0, len(parents), number)].copy()
    others = parents[random.integers(0, len(parents), number)]
    crossed = random.random(number) < _CROSSED_SHARE
    for stage in range(len(encoding.space.stages)):
        taken = np.ix_(crossed & (random.random(number) < 0.5), np.r_[encoding.of_stage(stage)])
        rows[taken] = others[taken]
    free = np.flatnonzero(encoding.sizes > 1)
    if not len(free):  # a space of one network
        return rows
    changed = np.zeros(rows.shape, dtype=bool)
    changed[:, free] = random.random((number, len(free))) < _CHANGES / len(free)
    same = np.flatnonzero(~changed.any(axis=1) & ~crossed)  # A child that is its parent would be of no use.
    changed[same, free[random.integers(0, len(free), len(same))]] = True
    nearby = np.clip(rows + random.choice([-1, 1], rows.shape), 0, encoding.sizes - 1)
    anywhere = random.integers(0, encoding.sizes, rows.shape)
    stepped = np.where(random.random(rows.shape) < _NEARBY_SHARE, nearby, anywhere)
    return encoding.canonical(np.where(changed, stepped, rows).astype(np.int16))


def distinct(rows: Rows) -> Rows:
    """The different rows, in a fixed order."""
    # Ten times as fast as np.unique over an axis. That two rows have the same sum is as likely as 1 in 2^62.
    factors = np.random.default_rng(0).integers(2**62, size=rows.shape[1], dtype=np.int64)
    _, first = np.unique(rows.astype(np.int64) @ factors, return_index=True)
    return rows[first]
