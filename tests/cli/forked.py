"""A process that has loaded what `nas` loads, and forks for every command: a real process each, without its 5 seconds.

It reads one JSON line a command from stdin, and answers with the exit code. conftest.py starts it.
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import nas
from nas.cli import main

_LIBRARIES = ("optuna", "scipy.optimize", "scipy.stats")
# They load ONNX Runtime, whose threads a fork does not have.
_WITH_THREADS = ("nas.devices", "nas.evaluate.onnx", "nas.export._session", "nas.export._quantised")
_FILES = (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY))


def _end_with(command: Callable[[], None]) -> NoReturn:
    """Run a command, and end the process as Python does, but free nothing that is loaded: that takes 1.5 s."""
    code: object = 0
    try:
        command()
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


def _serve() -> None:
    own = (module.name for module in pkgutil.walk_packages(nas.__path__, "nas."))
    for name in (*_LIBRARIES, *(one for one in own if not one.startswith(_WITH_THREADS))):
        with suppress(ImportError):  # of an extra that is not installed
            importlib.import_module(name)
    gc.freeze()  # so that no collection in a fork copies what is loaded
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        if not (pid := os.fork()):
            os.chdir(asked["cwd"])
            os.environ.clear()
            os.environ.update(asked["environment"])
            for number, (name, mode) in enumerate(_FILES):
                os.dup2(os.open(asked[name], mode), number)
            sys.argv = ["nas", *asked["arguments"]]
            _end_with(main)
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
