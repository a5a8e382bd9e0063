"""torchvision's compiled operators in all tests, also where it is built for CUDA and torch is not.

That build of torchvision needs three libraries of CUDA, of which its operators for a CPU call nothing. They are made
here, with the names that it looks for and nothing behind them, before anything imports torchvision. Users have no such
libraries: tests/dense/test_detection.py shows what they are told. Without gcc
the tests of the operators skip.
"""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

TOOLS = ("gcc", "nm", "objdump")


def _load_stand_ins(compiled: Path) -> None:
    libraries = [line.split()[-1] for line in _output("objdump", "-p", compiled) if "NEEDED" in line and "cuda" in line]
    names = [line.split()[-1].partition("@")[0] for line in _output("nm", "-D", "--undefined-only", compiled)]
    functions = [f"void *{name}(void) {{ return 0; }}" for name in names if "cuda" in name.lower()]
    runtime = next(library for library in libraries if library.startswith("libcudart"))
    with tempfile.TemporaryDirectory() as folder:
        for library in libraries:
            versions, path = Path(folder) / "versions", Path(folder) / library
            versions.write_text(f"{library} {{ *; }};")  # names of libcudart are looked for with its version
            options = ["-shared", "-fPIC", "-w", f"-Wl,-soname,{library}", f"-Wl,--version-script={versions}"]
            source = "\n".join(functions) if library == runtime else ""
            subprocess.run(["gcc", *options, "-x", "c", "-", "-o", path], input=source, text=True, check=True)
            ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)


def _output(*command: str | Path) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def _prepare() -> None:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    for compiled in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(compiled))  # type: ignore[no-untyped-call]
        except OSError:
            if all(map(shutil.which, TOOLS)):
                _load_stand_ins(compiled)


_prepare()
