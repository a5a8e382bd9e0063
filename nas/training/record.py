"""What a full training was asked, and on what it ran: training.json, the record that its folder begins with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from nas.data import Normalisation
from nas.files import Record, read_record, read_records, write_beside
from nas.networks import Architecture
from nas.training.course import Epoch
from nas.training.recipe import Precision

__all__ = ["BEST", "LAST", "TrainingRecord", "read_training", "write_training"]

BEST, LAST = "best.torch", "last.torch"  # folders of networks, as nas.load reads them
_RECORD, _METRICS = "training.json", "metrics.jsonl"


class TrainingRecord(Record):
    """A full training.

    Attributes:
        task: `classify`; `detect` or `segment` of nas/dense.
        name: of the network: a reference, a file or a run.
        candidate_id: of the winner of a run, whose number of classes is that of its space.
        architecture: as it is trained.
        data: the images, in words.
        fingerprint: of their classes and labels.
        classes: names, in the order of the outputs.
        recipe: of the task.
        normalisation: of the pixels.
        seed: of weights, order and changes.
        start: where the weights began, or `random`.
        teacher: what else was learned from; empty for none.
        device: such as `cpu` or `cuda (NVIDIA H200)`.
        processes: that trained together.
        threads: of each on a CPU.
        precision: of matrix products and convolutions.
        versions: of libraries.
        command: the command line, without passwords.
        started: in UTC.
    """

    schema_version: Literal[1] = Field(1, alias="schema")
    task: Literal["classify", "detect", "segment"] = "classify"
    name: str
    candidate_id: str = ""
    architecture: Architecture
    data: str
    fingerprint: str
    classes: tuple[str, ...]
    recipe: dict[str, Any]
    normalisation: Normalisation | None = None
    seed: int
    start: str
    teacher: str = ""
    device: str
    processes: int
    threads: int
    precision: Precision
    versions: dict[str, str]
    command: tuple[str, ...] = ()
    started: str

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same where a training goes on; where it runs may change."""
        return {
            "task": self.task,
            "network": self.architecture.id,
            "images": self.fingerprint,
            "recipe": self.recipe,
            "start": self.start,
            "teacher": self.teacher,
            "processes": self.processes,
            "precision": self.precision,
        }


def write_training(folder: Path, record: TrainingRecord) -> None:
    """Write the record into the folder of the training."""
    write_beside(folder / _RECORD, (record.model_dump_json(by_alias=True, exclude_none=True, indent=1) + "\n").encode())


def read_training(folder: Path) -> tuple[TrainingRecord, list[Epoch]] | None:
    """The record of a training and the epochs that have ended; None if the folder is none of a training.

    Raises:
        InputError: a file of it is damaged.
    """
    if not (folder / _RECORD).exists():
        return None
    record = read_record(folder / _RECORD, TrainingRecord)
    metrics = folder / _METRICS
    return record, read_records(metrics, Epoch) if metrics.exists() else []
