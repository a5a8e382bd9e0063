"""Published end-to-end times of whole networks on one device, read from the CSV files beside the latency tables.

`iphone13.points.csv` describes networks of the family completely. `iphone13.baselines.csv` lists networks of other
authors. `iphone13.baselines.operations.csv` holds the operations of these networks. They were traced once from timm
(`tests/benchmarks/trace_baselines.py`).
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from nas.errors import InputError
from nas.files import Milliseconds, Record, read_text, write_beside
from nas.networks import (
    Architecture,
    AttentionSpec,
    BlockSpec,
    ConvSpec,
    HeadLayer,
    Layer,
    Operation,
    OperationKind,
    StageSpec,
    StemSpec,
    in_windows,
    odd,
    stage_size,
)
from nas.networks.specs import MOST_BLOCKS

__all__ = [
    "Baseline",
    "PublishedPoint",
    "baselines_beside",
    "operations_beside",
    "read_baselines",
    "read_operations",
    "read_points",
    "write_operations",
]

_Row = TypeVar("_Row", bound=Record)


def _blank_is_none(value: object) -> object:
    return None if value == "" else value


def _split(separator: str) -> BeforeValidator:
    def split(value: object) -> object:
        return tuple(part.strip() or None for part in value.split(separator)) if isinstance(value, str) else value

    return BeforeValidator(split)


_Count = Annotated[int, Field(gt=0, le=10**15)]
_Amount = Annotated[int, Field(ge=0, le=10**15)]
_Percent = Annotated[float, Field(gt=0, le=100)]
_Kernel = Annotated[_Count, AfterValidator(odd)]
_Dims = Annotated[tuple[_Count, _Count, _Count, _Count], _split("-")]
# One number for each stage, such as ||2|4. An empty cell means that all four numbers are empty.
_PerStage = Annotated[
    tuple[_Count | None, _Count | None, _Count | None, _Count | None],
    _split("|"),
    BeforeValidator(lambda value: value or "|||"),
]
_Stages = Annotated[tuple[str, str, str, str], _split("|")]


class _PublishedRow(Record):
    """The columns that every file of published times starts with."""

    name: Annotated[str, Field(min_length=1)]
    latency_ms: Milliseconds
    fit: Literal["yes", "no"]
    why_not: str

    @model_validator(mode="after")
    def _say_why_not(self) -> Self:
        if (self.fit == "no") != bool(self.why_not):
            raise ValueError(f"why_not goes with fit no and only with it, got {self.why_not!r}")
        return self


class PublishedPoint(_PublishedRow):
    """A published network: its time on the device, its accuracy and its complete description.

    Attributes:
        latency_ms: the time as printed.
        fit: whether the model is fitted to this row.
        why_not: the reason why the model is not fitted to this row, otherwise empty.
        uncertainty: assumed relative standard deviation of the printed time.
        top1: ImageNet-1k accuracy in %.
        epochs: training epochs of the network with accuracy `top1`.
        params_m: parameters as printed, in millions.
        gmacs: multiply-adds as printed, in 10^9.
        dims: channels of the four stages, such as `48-96-192-384`.
        stages: blocks of the four stages, such as `2C|2C|9C 4A 1C|2A`. C is a convolution block, A an attention unit.
        stem: `fused` (the stem of iFormer) or `patchify` (the stem of ConvNeXt).
        heads: number of heads in the attention units of each stage, such as `||6|12`, for `mha`.
        query_reduction: R of each stage.
        window: window of the attention units of each stage. The last attention unit of a stage is global.
        timed: `network`, or `backbone` if the time does not include the classifier.
        source: where the time is printed in the paper (iFormer, arXiv:2501.15369).
    """

    uncertainty: Annotated[float, Field(ge=1e-6, lt=1)]
    top1: Annotated[_Percent | None, BeforeValidator(_blank_is_none)]
    epochs: Annotated[int | None, BeforeValidator(_blank_is_none)]
    params_m: Annotated[float | None, BeforeValidator(_blank_is_none)]
    gmacs: Annotated[float | None, BeforeValidator(_blank_is_none)]
    resolution: _Count
    dims: _Dims
    stages: _Stages
    stem: Literal["fused", "patchify"]
    stem_kernel: Annotated[_Kernel | None, BeforeValidator(_blank_is_none)]
    stem_expansion: Annotated[_Count | None, BeforeValidator(_blank_is_none)]
    norm: Literal["bn", "ln"]
    conv_kernel: _Kernel
    conv_expansion: _Count
    attention: Annotated[Literal["shma", "sha", "mha"] | None, BeforeValidator(_blank_is_none)]
    heads: _PerStage
    query_reduction: _PerStage
    modulation: Annotated[float | None, BeforeValidator(_blank_is_none)]
    ffn_expansion: Annotated[int | None, BeforeValidator(_blank_is_none)]
    position_kernel: Annotated[int | None, BeforeValidator(_blank_is_none)]
    window: _PerStage
    timed: Literal["network", "backbone"]
    source: Annotated[str, Field(min_length=1)]
    note: str

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.in_family:
            try:
                self.architecture()
            except ValidationError as error:
                raise ValueError(str(InputError.from_validation("architecture", error))) from error
        elif self.fit == "yes":
            raise ValueError("fit must be no for a network with layer norm or a patchify stem")
        return self

    @property
    def in_family(self) -> bool:
        """Whether the network belongs to the family, so that `architecture` can describe it."""
        return self.norm == "bn" and self.stem == "fused"

    def architecture(self) -> Architecture:
        """The network, including its classifier even if only the backbone was timed.

        Raises:
            ValueError: the network is not of the family, or a column that the network needs is empty or invalid.
        """
        if not self.in_family:
            raise ValueError(f"{self.name}: norm {self.norm} and stem {self.stem} are not part of the family")
        return Architecture(
            resolution=self.resolution,
            stem=StemSpec.model_validate({"kernel": self.stem_kernel, "expansion": self.stem_expansion}),
            stages=tuple(
                in_windows(
                    StageSpec(channels=channels, blocks=self._blocks(index)),
                    self.window[index] or 0,
                    stage_size(self.resolution, index),
                )
                for index, channels in enumerate(self.dims)
            ),
        )

    def timed_layers(self) -> list[Layer]:
        """The layers that the published time covers."""
        layers = list(self.architecture().layers())
        return layers if self.timed == "network" else [part for part in layers if not isinstance(part, HeadLayer)]

    def _blocks(self, index: int) -> tuple[BlockSpec, ...]:
        letters = ""
        for run in self.stages[index].split():
            match = re.fullmatch(r"([1-9]\d*)([CA])", run)
            if match is None:
                raise ValueError(f"stages must look like 2C|2C|9C 4A 1C|2A, got {run!r}")
            if len(match[1]) > len(str(MOST_BLOCKS)) or len(letters) + int(match[1]) > MOST_BLOCKS:
                raise ValueError(f"stages: {MOST_BLOCKS} blocks at most in a stage, got {run!r}")
            letters += match[2] * int(match[1])
        conv = ConvSpec.model_validate({"kernel": self.conv_kernel, "expansion": self.conv_expansion})
        return tuple(conv if letter == "C" else self._attention(index) for letter in letters)

    def _attention(self, index: int) -> AttentionSpec:
        return AttentionSpec.model_validate(
            {
                "attention": self.attention,
                "query_reduction": self.query_reduction[index],
                "modulation": self.modulation,
                "expansion": self.ffn_expansion,
                "position_kernel": self.position_kernel,
                "heads": self.heads[index],
            }
        )


class Baseline(_PublishedRow):
    """A published network of other authors, timed on the same device.

    Attributes:
        latency_ms: the time as printed.
        fit: whether the model is fitted to this row.
        why_not: the reason why the model is not fitted to this row, otherwise empty.
        resolution: height and width of the image.
        top1: ImageNet-1k accuracy in %.
        epochs: training epochs of the network with accuracy `top1`.
        timm_name: name of this network in timm. Empty if timm does not have this network.
        source: where the time is printed.
    """

    resolution: _Count
    top1: Annotated[_Percent | None, BeforeValidator(_blank_is_none)]
    epochs: Annotated[int | None, BeforeValidator(_blank_is_none)]
    timm_name: str
    source: Annotated[str, Field(min_length=1)]
    note: str


class _CountedOperation(Record):
    """A row of an operations file: an operation, and how often it occurs in a network."""

    name: Annotated[str, Field(min_length=1)]
    count: _Count
    kind: OperationKind
    macs: _Amount
    weights: _Amount
    inputs: _Amount
    outputs: _Amount
    reads: _Amount
    writes: _Amount

    def operation(self) -> Operation:
        return Operation(**self.model_dump(exclude={"name", "count"}))


def read_points(path: Path) -> list[PublishedPoint]:
    """Read a points file: one published network per row. The columns are the attributes of `PublishedPoint`.

    Raises:
        InputError: the file cannot be read, a column is missing or unknown, or a value is invalid. The message names
            the file, the row and the column.
    """
    return _once_each(path, _read(path, PublishedPoint))


def read_baselines(path: Path) -> list[Baseline]:
    """Read a baselines file: one network of other authors per row. The columns are the attributes of `Baseline`.

    Raises:
        InputError: as in `read_points`.
    """
    return _once_each(path, _read(path, Baseline))


def baselines_beside(points: Path) -> Path | None:
    """Path of the baselines file beside a points file (`x.baselines.csv` for `x.points.csv`). None if there is none."""
    path = points.with_name(points.name.removesuffix(".points.csv") + ".baselines.csv")
    return path if path.is_file() else None


def operations_beside(baselines: Path) -> Path:
    """Path of the operations file that belongs to a baselines file."""
    return baselines.with_suffix(".operations.csv")


def read_operations(path: Path) -> dict[str, Counter[Operation]]:
    """Read an operations file: for each network its operations, and how often each operation occurs.

    Raises:
        InputError: as in `read_points`.
    """
    networks: dict[str, Counter[Operation]] = {}
    for row in _read(path, _CountedOperation):
        networks.setdefault(row.name, Counter())[row.operation()] += row.count
    return networks


def write_operations(path: Path, networks: Mapping[str, Iterable[Operation]], *, origin: str) -> None:
    """Write an operations file. Equal operations of a network share one row, which has their number.

    The rows of a network are in the order in which its operations first run.

    Args:
        path: file to write.
        networks: name -> operations in the order in which they run.
        origin: what produced the operations, in one line. This text becomes the first line of the file.
    """
    columns = [field.name for field in fields(Operation)]
    lines = [f"# {origin}", ",".join(["name", "count", *columns])]
    for name, parts in networks.items():
        for operation, count in Counter(parts).items():
            lines.append(",".join(map(str, [name, count, *asdict(operation).values()])))
    write_beside(path, ("\n".join(lines) + "\n").encode())


def _read(path: Path, record: type[_Row]) -> list[_Row]:
    """Read a CSV file whose columns are the fields of `record`. Leading lines that start with # are skipped."""
    lines = list(io.StringIO(read_text(path), newline=""))
    try:
        skipped = len(list(takewhile(lambda line: line.startswith("#"), lines)))
        reader = csv.DictReader(lines[skipped:], strict=True)
        header = list(reader.fieldnames or [])
        rows = [(reader.line_num + skipped, row) for row in reader]
    except csv.Error as error:
        raise InputError(f"{path}: is not a CSV file ({error})") from error
    expected = list(record.model_fields)
    if missing := [column for column in expected if column not in header]:
        raise InputError(f"{path}: the header lacks the column{'s' if missing[1:] else ''} {', '.join(missing)}")
    if unknown := [column for column in header if column not in expected]:
        raise InputError(f"{path}: the header has the unknown column{'s' if unknown[1:] else ''} {', '.join(unknown)}")
    return [_record(path, line, row, record) for line, row in rows]


def _record(path: Path, line: int, row: Mapping[str | None, Any], record: type[_Row]) -> _Row:
    where = f"{path}: row {line} ({row['name']})"
    if None in row or None in row.values():
        raise InputError(f"{where}: has {'more' if None in row else 'fewer'} cells than the header")
    try:
        return record.model_validate(row)
    except ValidationError as error:
        raise InputError.from_validation(where, error) from error


_Named = TypeVar("_Named", PublishedPoint, Baseline)


def _once_each(path: Path, rows: list[_Named]) -> list[_Named]:
    for name, count in Counter(row.name for row in rows).items():
        if count > 1:
            raise InputError(f"{path}: column name: {name} occurs {count} times")
    return rows
