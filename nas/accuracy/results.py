"""Published accuracies to learn from: two files beside the accuracy tables.

::

    accuracy_tables/imagenet.networks.csv     a network and resolution a row: its family, and its tally (traits.py)
    accuracy_tables/imagenet.results.csv      a training a row: network, recipe, resolution, top-1 accuracy in %

Lines that begin with # say where a file comes from.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from nas.accuracy.published import Row
from nas.accuracy.traits import TALLY, traits
from nas.errors import InputError
from nas.files import read_text

__all__ = ["NETWORK_COLUMNS", "RESULT_COLUMNS", "read_rows", "rounded_traits"]

NETWORK_COLUMNS = ("network", "family", "resolution", *TALLY)
RESULT_COLUMNS = ("network", "recipe", "resolution", "top1")
_DIGITS = 5  # decimals of a trait
_AUTHORS = ("in1k", "r224_in1k", "r256_in1k")
_DISTILLED = ("dist", ".usi")


def read_rows(networks: Path, results: Path) -> list[Row]:
    """The trained networks of both files.

    `dist` or `usi` in the name of a network or a recipe means that it learnt from a teacher. A recipe that is only
    named after the data is the authors' own, so it is another one in each family.

    Raises:
        InputError: a file cannot be read, a column is missing, a number is none, or a result has no network.
    """
    families: dict[tuple[str, str], str] = {}
    found: dict[tuple[str, str], tuple[float, ...]] = {}
    for line, row in _lines(networks, NETWORK_COLUMNS):
        key = row["network"], row["resolution"]
        try:
            sums = np.asarray([[float(row[name]) for name in TALLY]])
            found[key] = rounded_traits(traits(sums, [int(row["resolution"])]))[0]
        except ValueError as error:
            raise InputError(f"{networks}, line {line} ({row['network']}): {error}") from error
        families[key] = row["family"]
    rows = []
    for line, row in _lines(results, RESULT_COLUMNS):
        key = row["network"], row["resolution"]
        if key not in found:
            raise InputError(f"{results}, line {line}: {networks.name} has no {key[0]} at {key[1]} px")
        try:
            rows.append(
                Row(
                    name=row["network"],
                    family=families[key],
                    recipe=f"{families[key]} {row['recipe']}" if row["recipe"] in _AUTHORS else row["recipe"],
                    distilled=any(word in f"{key[0]}.{row['recipe']}" for word in _DISTILLED),
                    top1=float(row["top1"]),
                    traits=found[key],
                )
            )
        except ValidationError as error:
            raise InputError.from_validation(f"{results}, line {line} ({row['network']})", error) from error
        except ValueError as error:
            raise InputError(f"{results}, line {line} ({row['network']}): {error}") from error
    return rows


def rounded_traits(matrix: npt.NDArray[np.float64]) -> list[tuple[float, ...]]:
    """Traits as a table keeps them, one tuple a network."""
    return [tuple(row) for row in np.round(matrix, _DIGITS).tolist()]


def _lines(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, Mapping[str, str]]]:
    """The rows of a file with their line numbers."""
    lines = read_text(path).splitlines()
    skipped = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    reader = csv.DictReader(lines[skipped:])
    if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
        raise InputError(f"{path}: the header lacks the column {missing[0]}")
    for row in reader:
        if None in row or None in row.values():
            raise InputError(f"{path}, line {skipped + reader.line_num}: another number of cells than the header has")
        yield skipped + reader.line_num, row
