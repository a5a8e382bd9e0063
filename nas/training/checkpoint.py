"""The files of a full training, from which it goes on: checkpoint.safetensors and metrics.jsonl."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nas.errors import InputError
from nas.files import Record, write_beside
from nas.training.course import Begun, Epoch

__all__ = ["Keeper", "Kept"]

_CHECKPOINT, _METRICS = "checkpoint.safetensors", "metrics.jsonl"
_CHECKPOINT_S = 120.0


class Kept(Record):
    """What a checkpoint belongs to, and what was done.

    Attributes:
        training: what tells the training from others, as JSON.
        done: optimizer steps.
        images: seen.
        history: the epochs that have ended.
        begun: the part of the next epoch that is done.
    """

    training: str
    done: int = 0
    images: int = 0
    history: tuple[Epoch, ...] = ()
    begun: Begun = Begun()


class Keeper:
    """Writes and reads the files of one training.

    Args:
        folder: of the training; it must be there.
        identity: what tells it from others, JSON values by name.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.training = json.dumps(dict(identity), sort_keys=True)
        self._checkpoint, self._metrics = folder / _CHECKPOINT, folder / _METRICS
        self._saved, self._done = time.monotonic(), -1

    def read(self) -> tuple[Kept, dict[str, Tensor]] | None:
        """The checkpoint; None if there is none.

        Raises:
            InputError: it is damaged, or of another training.
        """
        path = self._checkpoint
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                kept = Kept.model_validate_json((file.metadata() or {}).get("training", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (OSError, SafetensorError, ValidationError) as error:
            raise InputError(f"{path}: is no checkpoint that can be gone on with; remove it to begin again") from error
        if kept.training != self.training:
            raise InputError(
                f"{path}: is of another training ({_differing(kept.training, self.training)}): repeat the command of "
                "that one to go on with it, or choose another --out"
            )
        self._done = kept.done
        return kept, tensors

    def save(self, kept: Kept, tensors: Mapping[str, Tensor]) -> None:
        """Write the checkpoint, and the lines of the epochs that have ended.

        Raises:
            NasError: the disk is full.
        """
        written = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        write_beside(self._checkpoint, save(written, {"training": kept.model_dump_json()}))
        self.write_metrics(kept.history)
        self._saved, self._done = time.monotonic(), kept.done

    def is_due(self) -> bool:
        """Whether the checkpoint is two minutes old."""
        return time.monotonic() - self._saved > _CHECKPOINT_S

    def lacks(self, done: int) -> bool:
        """Whether steps were done since the checkpoint."""
        return done > self._done

    def write_metrics(self, history: Sequence[Epoch]) -> None:
        """Write metrics.jsonl, whole: after a kill it has the lines of the checkpoint's epochs."""
        write_beside(self._metrics, b"".join(one.model_dump_json().encode() + b"\n" for one in history))


def _differing(kept: str, asked: str) -> str:
    """The names of what differs in another training."""
    try:
        before, now = json.loads(kept), json.loads(asked)
        names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    except (ValueError, TypeError, AttributeError):  # of another version
        names = []
    return ", ".join(names) or "its form"
