"""Options that several commands share, and the parsing of their values."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli.terminal import say
from nas.errors import InputError, visible
from nas.masking import is_masked, masked

if TYPE_CHECKING:
    from nas.data import DataSource
    from nas.latency import LatencyTable
    from nas.search import Limits, Quantity, Run

__all__ = [
    "ANYWHERE",
    "Data",
    "DataOptions",
    "Device",
    "Effort",
    "Json",
    "Limit",
    "MustFit",
    "Objective",
    "Results",
    "Runner",
    "Sampler",
    "SearchData",
    "Settings",
    "Shared",
    "Space",
    "Storage",
    "Supernet",
    "Table",
    "Tables",
    "Threads",
    "Track",
    "WeightsKey",
    "Workers",
    "command_line",
    "find_table",
    "find_tables",
    "read_data",
    "read_fraction",
    "read_quantities",
    "read_seconds",
    "read_settings",
    "read_storage",
    "read_three",
]

ANYWHERE = ("--traceback", "--quiet", "--verbose")  # options of every command, wherever they stand
_LONGEST_URL = 100  # characters of it in a message

Space = Annotated[str, typer.Option("--space", help="Search space: a name or a .toml file.")]
Table = Annotated[str, typer.Option("--table", help="Latency table: a name, its beginning, or a .json file.")]
Tables = Annotated[
    list[str] | None,
    typer.Option(
        "--table",
        help="Latency table: a name, its beginning, or a .json file. Others after the first are for --limit and "
        "--objective.",
        show_default="iphone13",
    ),
]
Limit = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        help="NAME=MOST of a network: params=9M, macs=1.5G, memory=4MB, or TABLE=20 in ms; may be repeated. With "
        "--resume, none drops all.",
        show_default="with --resume those of the run",
    ),
]
Objective = Annotated[
    list[str] | None,
    typer.Option(
        "--objective",
        help="Show the front in this as well: params, macs, memory, or the name of a further --table; may be repeated. "
        "With --resume, none drops all.",
        show_default="with --resume those of the run",
    ),
]
MustFit = Annotated[
    str | None,
    typer.Option(
        "--must-fit",
        help="timm: only networks that timm's own iFormer can build, for nas export --format timm.",
        show_default="any; with --resume that of the run",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, max=256, help="Processes that score, each on its own GPU.", show_default="1"),
]
Shared = Annotated[
    str | None,
    typer.Option(
        "--shared",
        help="Folder or object store URL (fsspec) that the machines of all workers see, for weights.",
        show_default="the results folder",
    ),
]
Track = Annotated[
    list[str] | None,
    typer.Option("--track", help="Also log to tensorboard[:DIR] or mlflow[:URI].", show_default=False),
]
Data = Annotated[
    str,
    typer.Option(
        "--data", help="synthetic, a folder of class folders, Parquet or WebDataset files, or a hub data set."
    ),
]
SearchData = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Score on these images: synthetic, a folder of classes, Parquet or WebDataset files, or a hub data set.",
        show_default="no images",
    ),
]
DataOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        help="NAME=VALUE of the data: image and label name columns, skip_broken=true leaves out what cannot be read.",
        show_default=False,
    ),
]
Effort = Annotated[
    str | None,
    typer.Option("--effort", help="Of short training: quick, standard or thorough.", show_default="quick"),
]
Sampler = Annotated[
    str | None,
    typer.Option(
        "--sampler",
        help="What proposes networks: surrogate, evolution, or Optuna's tpe, nsga2, nsga3, gp or random.",
        show_default="surrogate; with --resume that of the run",
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="Optuna storage URL; one with a password is better given in the variable NAS_STORAGE.",
        show_default="NAS_STORAGE, else a journal in the results folder",
    ),
]
Supernet = Annotated[
    Path | None,
    typer.Option("--supernet", help="File for --proxy supernet; {seed} in its name is the seed.", show_default=False),
]
WeightsKey = Annotated[
    str | None,
    typer.Option(
        "--weights-key",
        help="Which weights to take from a checkpoint of several, such as state_dict.",
        show_default="the averaged ones",
    ),
]
Device = Annotated[
    str, typer.Option("--device", help="NAME or NAME://ADDRESS, such as ssh://user@host:22; nas devices lists them.")
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, max=1024, help="Threads of the runtime.", show_default="1")
]
Runner = Annotated[
    Path | None, typer.Option("--runner", help="Program to run on the device (android).", show_default=False)
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--option", help="NAME=VALUE of the device; may be repeated.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout.")]
Results = Annotated[Path, typer.Argument(help="A results folder.", show_default=False)]


def command_line() -> list[str]:
    """The command line for a record of a run, without passwords."""
    return ["nas", *(masked(argument, alone=True) for argument in sys.argv[1:] if argument not in ANYWHERE)]


def read_storage(given: str | None, kept: Run | None) -> str | None:
    """The Optuna storage URL: of --storage, else of NAS_STORAGE, else what the run that is resumed used.

    Args:
        given: value of --storage.
        kept: the run to go on with. Its storage has *** in place of a password, and None for its own journal.
    Raises:
        InputError: the run has another storage; or the URL has only the *** of a password, and NAS_STORAGE does not
            have the same URL with it.
    """
    whole = os.environ.get("NAS_STORAGE") or None
    url = given or whole
    if kept is None:
        used = url
    else:
        used = kept.storage
        if url is not None and (used is None or masked(url, alone=True) != masked(used, alone=True)):
            source = "--storage" if given else "NAS_STORAGE"
            own = f"in {_shown(used)}" if used else "in the journal of its results folder"
            raise InputError(
                f"{source} is {_shown(url)}, but the study of this run is {own}: leave {source} out, or choose another "
                "--out"
            )
        used = url or used
    if used is None or not is_masked(used):
        return used
    if whole is not None and not is_masked(whole) and masked(whole, alone=True) == used:
        return whole
    raise InputError(
        f"--storage {_shown(used)} has no password in it: set NAS_STORAGE to the whole URL, and repeat the command"
    )


def _shown(url: str) -> str:
    return visible(masked(url, alone=True), limit=_LONGEST_URL)


def find_tables(names: list[str] | None) -> dict[str, LatencyTable]:
    """The tables of --table by their whole names, the one that decides first.

    Raises:
        InputError: there is no such table, or one is named twice.
    """
    found: dict[str, LatencyTable] = {}
    for name in names or ["iphone13"]:
        table, path = find_table(name)
        whole = name if "/" in name else path.name.removesuffix(".json")
        if whole in found:
            raise InputError(f"--table {visible(name)} twice: give each table once")
        found[whole] = table
    return found


def find_table(name: str) -> tuple[LatencyTable, Path]:
    """A table and its file, as `LatencyTable.find`; one of the user's own is told from a shipped one of its name."""
    from nas import catalog
    from nas.latency import LatencyTable

    table, path = LatencyTable.find(name)
    if shipped := catalog.hidden_by(path):
        say(f"table: your own {path}, not the shipped one of this name; that is {shipped}")
    return table, path


def read_quantities(
    limits: list[str] | None, objectives: list[str] | None, tables: Mapping[str, LatencyTable], kept: Run | None
) -> tuple[Limits, tuple[Quantity, ...]]:
    """The values of --limit and --objective; without one of them, what the run to go on with has.

    Args:
        limits: values of --limit.
        objectives: values of --objective.
        tables: from `find_tables`; all but the first must be limited or an objective.
        kept: the run to go on with.
    Raises:
        InputError: one is wrong, or a table is of no use.
    """
    from nas.search import Limits, find_quantities

    found = find_quantities(objectives or [], tables)
    if objectives is None and kept is not None:
        found = find_quantities(kept.objectives, tables, where="run.json")
    read = Limits.parse(limits or [], tables)
    if limits is None and kept is not None and kept.limits:
        read = Limits.of_record(kept.limits, tables, where="run.json")
    used = {*read.record(), *(one.name for one in found)}
    for name in list(tables)[1:]:
        if name not in used:
            raise InputError(f"--table {visible(name)} is of no use: add --limit {name}=MS or --objective {name}")
    return read, found


def read_seconds(text: str) -> float:
    """`90s`, `10m` or `2h` in seconds; a bare number is seconds."""
    unit = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:])
    try:
        value = float(text[:-1] if unit else text) * (unit or 1.0)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InputError(f"--time-limit must be a time such as 90s, 10m or 2h, got {text!r}")
    return value


def read_fraction(name: str, text: str) -> float:
    """`2%` or `0.02` as a fraction."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise InputError(f"{name} must be a share such as 2% or 0.02, got {text!r}")
    return value


def read_data(data: str | None, options: list[str] | None) -> tuple[DataSource | None, list[str]]:
    """The source of --data with those of --option that say how it is read, and the other options, which are of proxies.

    Raises:
        InputError: an option about data without --data, or a value that breaks a rule.
    """
    from pydantic import ValidationError

    from nas.data import DataSource

    own = set(DataSource.model_fields) - {"name"}
    about_data = [text for text in options or [] if text.partition("=")[0] in own]
    others = [text for text in options or [] if text not in about_data]
    settings = read_settings(about_data)
    if data is None:
        if about_data:
            raise InputError(f"--option {about_data[0]} says how images are read: give --data as well")
        return None, others
    try:
        return DataSource.model_validate({"name": data, **settings}), others
    except ValidationError as error:
        raise InputError.from_validation("--option", error) from error


def read_settings(options: list[str] | None, **shorthands: object) -> dict[str, str]:
    """The values of --option NAME=VALUE, with those of options that have their own name."""
    settings = {name: str(value) for name, value in shorthands.items() if value is not None}
    for text in options or []:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise InputError(f"--option must be NAME=VALUE, got {text!r}")
        if settings.setdefault(name, value) != value:
            raise InputError(f"--option {text}: {name} is {settings[name]} already: give it once")
    return settings


def read_three(name: str, text: str | None) -> list[float] | None:
    """Three numbers with commas between them, for red, green and blue."""
    if text is None:
        return None
    try:
        red, green, blue = map(float, text.split(","))
    except ValueError:
        raise InputError(f"{name} must be three numbers such as 0.485,0.456,0.406, got {text!r}") from None
    return [red, green, blue]
