"""`nas worker`: take candidates of a search that another process began."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from nas.cli.status import watching
from nas.cli.terminal import end_like_ctrl_c, say
from nas.errors import InputError

__all__ = ["worker"]

_POLITE_S = 5.0  # to put the job back once the search is gone


def worker(
    study: Annotated[str, typer.Option(help="Name of the results folder of the search.", show_default=False)],
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            help="Storage of the search: an Optuna URL, or the file study.journal of its results folder.",
            show_default="NAS_STORAGE",
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="The images on this machine.", show_default="as the search was told")
    ] = None,
    proxy: Annotated[
        str | None,
        typer.Option(help="The proxy of the search, where it is a file that may be run here.", show_default=False),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", hidden=True)] = None,
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
    sign_s: Annotated[float, typer.Option("--sign-s", min=0.01, hidden=True)] = 10.0,
) -> None:
    """Take candidates of a search until it is done. Any number of workers may do so, on any number of machines.

    Example: nas worker --storage results/iformer-1.1ms/study.journal --study iformer-1.1ms

    Example: nas worker --storage postgresql+psycopg://me@server/nas --study iformer-1.1ms
    """
    from nas.data import DataSource
    from nas.search.shared import run_worker

    end_like_ctrl_c()
    if with_parent:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    where = storage or os.environ.get("NAS_STORAGE")
    if not where:
        raise InputError("--storage is missing: an Optuna storage URL, or the study.journal of a results folder")
    with watching() as watch:
        run_worker(
            where if "://" in where else _journal(where),
            study,
            data=DataSource(name=data) if data else None,
            proxies=proxy,
            name=name,
            sign_s=sign_s,
            say=say,
            progress=watch,
        )


def _journal(where: str) -> Path:
    """The path of a journal.

    Raises:
        InputError: there is none.
    """
    path = Path(where)
    if not path.is_file():
        raise InputError(f"--storage {where}: no such file; give a URL, or the study.journal of a results folder")
    return path


def _end_with_parent() -> None:
    """Interrupt this process when the standard input ends, which its parent holds open."""
    while os.read(0, 1):  # not sys.stdin, whose lock a thread must not have when Python ends
        pass
    # Not SIGINT, which is ignored in the background of a script; and a signal also ends a sleep of the main thread.
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    time.sleep(_POLITE_S)
    os._exit(130)  # from within code that no signal reaches
