"""A scorer of one's own, as a user writes it: for the contract that every proxy keeps."""

from __future__ import annotations

import nas


def score(network: nas.Architecture) -> float:
    """More multiply-adds are better."""
    return nas.count(network).macs / 1e6
