"""The command line: arguments, one library call, print. One file a command group; this one puts them together.

Modules that load pydantic, torch or Optuna are imported inside the commands, so that `nas --help` stays quick.
"""

from __future__ import annotations

import os
import sys

import typer

from nas.cli import accuracy, devices, export, latency, results, search, space, supernet, table, validate
from nas.cli.terminal import say
from nas.errors import NasError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Latency-aware neural architecture search over the iFormer family of mobile vision networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(search.search)
app.command()(latency.latency)
app.command()(accuracy.accuracy)
app.command()(devices.devices)
app.command()(results.plot)
app.command()(results.show)
app.command()(results.front)
app.command()(validate.validate)
app.command()(export.export)
app.add_typer(table.app, name="table")
app.add_typer(space.app, name="space")
app.add_typer(supernet.app, name="supernet")


def main() -> None:
    """Run the command line; every expected error ends in one line and its exit code."""
    # OpenMP threads that spin for long make training ten times slower or more when another program uses a core: 9 to
    # 10 s per step instead of 0.6 to 2.6 s on two cores. On an idle machine it makes no difference. torch reads this
    # when it is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        app()
    except NasError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)
    except OSError as error:  # A name that is too long, a full disk, and other errors without a better message.
        say(f"error: {error.filename or 'output'}: {error.strerror}")
        sys.exit(1)
    except SystemExit as end:
        if end.code == 130:  # Typer's exit code for Ctrl-C.
            say("interrupted; everything finished so far is saved")
        raise
