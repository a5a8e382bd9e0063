"""An evaluation: every image of a split through one network by one protocol, counted, and what came of it."""

from __future__ import annotations

import csv
import io
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from nas.data import DataSource, Normalisation, Progress
from nas.data.classes import Matched, match_classes
from nas.data.pictures import quiet_pillow
from nas.data.protocol import Interpolation, Protocol
from nas.data.rows import counted
from nas.errors import InputError, NasError
from nas.evaluate.images import Chosen, choose_images
from nas.evaluate.records import Evaluation
from nas.evaluate.subject import Say, Subject
from nas.evaluate.tally import Answer, Tally, logits_of, look_like_probabilities
from nas.files import read_text, write_beside

__all__ = ["BATCH", "confusion_file", "evaluate_subject"]

BATCH = 32  # images at once
_CROP, _INTERPOLATION = 0.875, "bicubic"  # where nothing else is asked for, or said by timm
_IMAGENET = "ImageNet's are --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"


def evaluate_subject(
    subject: Subject,
    data: DataSource,
    *,
    split: str = "val",
    crop: float | None = None,
    interpolation: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: str | Path | Sequence[str] | None = None,
    batch_size: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    out: Path | None = None,
    say: Say,
    on_progress: Progress | None = None,
) -> Evaluation:
    """Run a network on images; the arguments are those of `nas.evaluate`.

    Raises:
        InputError: an argument does not go with the network or the data, or an image cannot be read.
        NasError: the network fails, or its outputs are no numbers.
    """
    protocol = _protocol(subject, crop=crop, interpolation=interpolation, mean=mean, std=std)
    if batch_size is not None and subject.batch not in (None, batch_size):
        raise InputError(
            f"{subject.name}: takes {counted(subject.batch or 1, 'image')} at once: leave --batch-size out"
        )
    if out is not None and (out.suffix != ".csv" or not out.parent.is_dir()):
        raise InputError(f"{out}: --out is a .csv file in a folder that is there")
    chosen = choose_images(data, split=split, limit=limit, seed=seed)
    names = _names(classes) if classes is not None else subject.class_names
    matched = match_classes(chosen.class_names, subject.outputs, names, source=chosen.source, network=subject.name)
    for note in chosen.notes:
        say(f"{chosen.source}: {note}")
    size = subject.batch or batch_size or BATCH
    every, known, places, seconds = _counted(subject, protocol, chosen, matched, size, on_progress)
    if chosen.broken:
        say(f"{chosen.source}: {counted(len(chosen.broken), 'broken image')} left out")
    evaluation = Evaluation(
        network=subject.name,
        form=subject.form,
        weights=subject.weights,
        precision=subject.precision,
        runtime=subject.runtime,
        data=chosen.source,
        split=chosen.split,
        images=len(places),
        broken=len(chosen.broken),
        class_names=chosen.class_names,
        matched=matched.how,
        protocol=protocol,
        protocol_words=protocol.words,
        scores=every.scores(chosen.class_names),
        known=known.scores(chosen.class_names) if len(known.chosen) < len(every.chosen) else None,
        seconds=seconds,
        images_per_s=len(places) / seconds,
        machine=f"{platform.machine()}, {os.cpu_count()} cores, batches of {size}",
    )
    if out is not None:
        _write(out, chosen, matched, every, known, places, evaluation)
    return evaluation


def _protocol(
    subject: Subject,
    *,
    crop: float | None,
    interpolation: str | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Protocol:
    """What is asked for, else what the network's own recipe says, else what is usual.

    Raises:
        InputError: a value breaks a rule, or mean and std are not known.
    """
    if (mean is None) != (std is None):
        raise InputError("--mean and --std go together")
    normalisation, by = subject.normalisation, subject.normalised_by
    if subject.takes_pixels:
        if mean is not None:
            raise InputError(f"{subject.name}: normalises pixels itself: leave --mean and --std out")
        normalisation, by = None, ""
    elif mean is not None:
        try:
            normalisation, by = Normalisation.model_validate({"mean": mean, "std": std}), "as asked for"
        except ValidationError as error:
            raise InputError.from_validation("--mean and --std", error) from error
    elif normalisation is None:
        raise InputError(
            f"{subject.name}: the mean and std of its images are not known: give --mean and --std; {_IMAGENET}"
        )
    if interpolation is not None and interpolation not in get_args(Interpolation):
        raise InputError(f"--interpolation must be one of {', '.join(get_args(Interpolation))}, got {interpolation!r}")
    try:
        return Protocol.model_validate(
            {
                "resolution": subject.resolution,
                "crop": crop if crop is not None else subject.crop or _CROP,
                "interpolation": interpolation or subject.interpolation or _INTERPOLATION,
                "normalisation": normalisation,
                "normalised_by": by,
            }
        )
    except ValidationError as error:
        raise InputError.from_validation("the protocol", error) from error


def _names(classes: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Names of the outputs, from a file with one a line or as they are."""
    if isinstance(classes, str | Path):
        return tuple(line.strip() for line in read_text(Path(classes)).splitlines() if line.strip())
    return tuple(classes)


def _counted(
    subject: Subject, protocol: Protocol, chosen: Chosen, matched: Matched, size: int, on_progress: Progress | None
) -> tuple[Tally, Tally, list[int], float]:
    """The answers over all outputs and over those of the data, the positions of the images, and the seconds it took."""
    every = Tally(matched=matched, chosen=np.arange(subject.outputs))
    known = Tally(matched=matched, chosen=np.sort(matched.outputs))
    are_probabilities = subject.gives_probabilities
    places: list[int] = []
    start, total = time.perf_counter(), len(chosen.rows.labels)
    with quiet_pillow():
        for squares, positions in chosen.batches(protocol, size):
            outputs = subject.outputs_of(protocol.normalised(squares))
            _refuse_no_numbers(outputs, subject, chosen, positions)
            if are_probabilities is None:
                are_probabilities = look_like_probabilities(outputs)
            logits, labels = logits_of(outputs, are_probabilities=are_probabilities), chosen.rows.labels[positions]
            every.add(logits, labels)
            known.add(logits, labels)
            places += positions.tolist()
            if on_progress:
                on_progress(f"evaluating {subject.name}", len(places) + len(chosen.broken), total)
    return every, known, places, time.perf_counter() - start


def _refuse_no_numbers(
    outputs: npt.NDArray[np.float64], subject: Subject, chosen: Chosen, positions: npt.NDArray[np.int64]
) -> None:
    if (bad := np.flatnonzero(~np.isfinite(outputs).all(1))).size:
        where = chosen.rows.where(int(positions[bad[0]]))
        raise NasError(
            f"{subject.name}: its outputs for {where} are no finite numbers; of fp16 this is an overflow: take fp32"
        )


def _write(
    out: Path,
    chosen: Chosen,
    matched: Matched,
    every: Tally,
    known: Tally,
    places: list[int],
    evaluation: Evaluation,
) -> None:
    """Write the predictions, one image a row, and beside them the confusion table.

    Raises:
        InputError: a file cannot be written.
        NasError: the disk is full.
    """
    only = [] if evaluation.known is None else ["predicted_of_known", "rank_of_known"]
    rows: list[list[object]] = [["image", "actual", "predicted", "probability", "rank", "cross_entropy", *only]]
    for place, one, among in zip(places, every.answers, known.answers, strict=True):
        rows.append([chosen.rows.where(place), *_row(one, chosen, matched)])
        rows[-1] += [matched.names[among.output], among.rank + 1] if only else []
    write_beside(out, _csv(rows))
    table: list[list[object]] = [["actual", "predicted", "images"]]
    table += [[one.actual, one.predicted, one.images] for one in evaluation.scores.confusions]
    write_beside(confusion_file(out), _csv(table))


def _row(one: Answer, chosen: Chosen, matched: Matched) -> list[object]:
    actual, predicted = chosen.class_names[one.label], matched.names[one.output]
    return [actual, predicted, f"{one.probability:.6f}", one.rank + 1, f"{one.entropy:.6f}"]


def confusion_file(out: Path) -> Path:
    """Where the confusion table stands beside the predictions."""
    return out.with_name(f"{out.stem}.confusion.csv")


def _csv(rows: list[list[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode(errors="backslashreplace")
