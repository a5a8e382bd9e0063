"""The command line: arguments, one library call, print. One file a command group; this one puts them together.

Modules that load pydantic, torch or Optuna are imported inside the commands, so that `nas --help` stays quick.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from nas.cli import (
    accuracy,
    cache,
    devices,
    doctor,
    evaluate,
    export,
    latency,
    results,
    search,
    space,
    supernet,
    table,
    train,
    validate,
    worker,
)
from nas.cli.config import expanded
from nas.cli.guard import guarded
from nas.cli.options import ANYWHERE
from nas.cli.status import status_line
from nas.cli.terminal import is_quiet, print_data, quieten
from nas.scratch import sweep

__all__ = ["app", "main"]

app = typer.Typer(
    help="Latency-aware neural architecture search over the iFormer family of mobile vision networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        print_data(f"nas {importlib.metadata.version('nas')}")
        raise typer.Exit


@app.callback()
def _global(
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show the whole traceback of an error, for a report of a bug.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Take options from a .toml file, such as run.toml of a run.", show_default=False),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print data and errors only: no plan, no progress.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Print what the libraries log as well, with the time.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Declare the options that stand before any command. `main` takes them out wherever they stand."""


app.command()(search.search)
app.command()(worker.worker)
app.command()(latency.latency)
app.command()(accuracy.accuracy)
app.command()(devices.devices)
app.command()(results.plot)
app.command()(results.show)
app.command()(results.front)
app.command()(validate.validate)
app.command()(train.train)
app.command()(export.export)
app.command()(evaluate.evaluate)
app.command()(doctor.doctor)
app.add_typer(table.app, name="table")
app.add_typer(space.app, name="space")
app.add_typer(supernet.app, name="supernet")
app.add_typer(cache.app, name="cache")


def _run(arguments: list[str]) -> object:
    command = typer.main.get_command(app)
    assert isinstance(command, TyperGroup)
    sys.argv[1:] = whole = expanded(command, arguments)  # the command line that a run keeps
    is_first = os.environ.get("RANK", "0") == "0"  # Under torchrun only the first process draws.
    with status_line(is_quiet=is_quiet() or not is_first):
        return command.main(whole, prog_name="nas", standalone_mode=False)


def main() -> None:
    """Run the command line; every error ends in one line and its exit code (guard.py)."""
    # OpenMP threads that spin for long make training ten times slower or more when another program uses a core: 9 to
    # 10 s per step instead of 0.6 to 2.6 s on two cores. On an idle machine it makes no difference. torch reads this
    # when it is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    sweep()  # what killed commands left in the temporary folder
    given = sys.argv[1:]
    arguments = [argument for argument in given if argument not in ANYWHERE]
    quieten("--quiet" in given)
    if "--verbose" in given:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    sys.exit(
        guarded(
            lambda: _run(arguments),
            arguments,
            show_traceback="--traceback" in given,
        )
    )
