"""Worker processes of a search on this machine: started with it, each on its own GPU, and gone with it."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["LOCAL", "Team"]

LOCAL = "local-"  # what the names of these workers begin with, and no others'

_START = "from nas.cli import main; import sys; sys.exit(main())"
_POLITE_S = 2.0  # for a worker to put its job back, before it is killed; someone waits at the terminal


class Team:
    """Some workers of a study.

    A worker reads its standard input, which ends with this process, however that ends.

    Args:
        number: of workers.
        storage: an Optuna storage URL, or the path of a journal.
        study: name of the study.
        arguments: further arguments of `nas worker`.
        logs: folder for what the workers say.
    """

    def __init__(self, number: int, storage: str, study: str, *, arguments: Sequence[str], logs: Path) -> None:
        self.names = [f"{LOCAL}{secrets.token_hex(3)}-{one}" for one in range(number)]
        self._logs = logs
        logs.mkdir(parents=True, exist_ok=True)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._told: set[str] = set()
        threads = str(max(1, (os.cpu_count() or 1) // number))
        for at, own in enumerate(self.names):
            # The storage is in the environment, where other users of the machine do not see its password.
            environment = {"OMP_NUM_THREADS": threads, **os.environ, "NAS_STORAGE": storage, **_device(at)}
            command = [sys.executable, "-c", _START, "worker", "--study", study, "--name", own, "--with-parent"]
            with self._log(own).open("ab") as log:
                self._processes[own] = subprocess.Popen(
                    [*command, *arguments], stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment
                )

    def lost(self) -> dict[str, str]:
        """Workers that ended in another way than at the end of the search, each once, with their last line."""
        ended = {}
        for name, process in self._processes.items():
            if name not in self._told and process.poll() not in (None, 0):
                self._told.add(name)
                ended[name] = self._last_line(name)
        return ended

    @property
    def has_failed(self) -> bool:
        """Whether a worker ended in another way than at the end of the search."""
        return any(process.poll() not in (None, 0) for process in self._processes.values())

    @property
    def is_alive(self) -> bool:
        """Whether a worker still works."""
        return any(process.poll() is None for process in self._processes.values())

    def stop(self) -> None:
        """Let the workers end: at once, but so that each puts its job back."""
        for process in self._processes.values():
            with suppress(OSError):
                if process.stdin:
                    process.stdin.close()
        until = time.monotonic() + _POLITE_S
        for process in self._processes.values():
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def _last_line(self, name: str) -> str:
        code = self._processes[name].returncode
        if code < 0:
            return f"ended by {signal.Signals(-code).name}"
        lines = self._log(name).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {code}"


def _device(number: int) -> dict[str, str]:
    """The environment that gives a worker a GPU of its own; nothing where there is none."""
    import torch

    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = asked.split(",") if asked else [str(one) for one in range(torch.cuda.device_count())]
    return {"CUDA_VISIBLE_DEVICES": devices[number % len(devices)]} if devices and devices[0] else {}
