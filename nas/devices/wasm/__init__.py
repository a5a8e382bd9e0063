"""This machine through ONNX Runtime Web: WebAssembly in Node, or in headless Chromium as `wasm://chromium`.

The npm package onnxruntime-web runs the models. It is not part of this project; `unavailable` says how to install it.
The time of a run is that of one `session.run` in JavaScript. It includes copying the input into the runtime's memory
and the output out of it.

V8 compiles WebAssembly twice. The first, quick compilation gives slow code: an attention unit is six times slower for
its first ten to forty runs, and this repeats with every new operator. With `--no-liftoff`, V8 compiles only once, with
all optimizations. That takes 4 to 6 s before the very first layer. The first run with a new operator is slow, but no
later one. The times after it are within 3 % of those after V8's own second compilation (Node 20, five kinds of layer
and iFormer-M).

The clock of Node has a resolution below 1 us. Chromium's has 5 us, so a run of 0.1 ms is measured to 5 %.

Tried on Linux with Node 18, 20 and 24 and Chromium 156. Not yet tried on a Mac. It does not work on Windows.
"""

from __future__ import annotations

import functools
import json
import platform
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from nas.devices import DeviceDescription, Seconds, Threads
from nas.devices._models import ModelFiles
from nas.devices._runner import Description, Runner, RunnerDevice
from nas.devices._runner_program import processor
from nas.devices.onnxruntime import exported
from nas.devices.wasm.chromium import Chromium
from nas.errors import DeviceError, InputError
from nas.files import Record, cache_folder

__all__ = ["Options", "open_device", "unavailable"]

_HERE = Path(__file__).parent
_PACKAGE = "onnxruntime-web"
_VERSION = "1.30.0"  # the version that this was tried with
_DIST = ("ort.node.min.mjs", "ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_OLDEST_NODE = 18
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_V8_FLAGS = "--no-liftoff"


class Options(Record):
    """What `--option` may set.

    Attributes:
        threads: threads inside an operator. Operators run one after the other.
        package: the folder onnxruntime-web, or a folder with it or its node_modules inside. By default it is searched
            for in $NAS_CACHE/wasm (~/.cache/nas/wasm) and in the working directory.
        runner: path of Node or Chromium, in place of the one on PATH.
        timeout_s: timeout of a layer, loading included, in addition to the duration of its runs.
    """

    threads: Threads = 1
    package: Path | None = None
    runner: Path | None = None
    timeout_s: Seconds = 120.0


def open_device(address: str, options: Options) -> RunnerDevice:
    """This machine, in a child process: Node, or Chromium.

    Raises:
        InputError: an address that is neither `node` nor `chromium`.
        DeviceError: the program or the package is missing or too old, or does not start.
    """
    engine = address or "node"
    if engine not in ("node", "chromium"):
        raise InputError(f"--device wasm takes the addresses node and chromium, got {address!r}")
    try:
        program = _node(options.runner) if engine == "node" else _chromium(options.runner)
        dist = _dist(options.package)
    except DeviceError as error:
        raise DeviceError(f"wasm://{engine}: {error}") from error
    start = _in_node if engine == "node" else _in_chromium
    return RunnerDevice(
        where=f"wasm://{engine}",
        start=functools.partial(start, program, dist, json.dumps(_machine())),
        fingerprint=functools.partial(_fingerprint, engine, options.threads),
        models=ModelFiles(exported, suffix=".onnx"),
        settings={"threads": options.threads},
        timeout_s=options.timeout_s,
    )


def unavailable() -> str | None:
    """Why this device cannot be used from here and what to do; None when it can."""
    try:
        _node(None)
        _dist(None)
    except DeviceError as error:
        return str(error)
    return None


def _in_node(program: str, dist: Path, machine: str) -> Runner:
    return Runner([program, _V8_FLAGS, str(_HERE / "node.mjs"), str(dist), machine])


def _in_chromium(program: str, dist: Path, machine: str) -> Chromium:
    files = {"": _HERE / "page.html", "runner.mjs": _HERE / "runner.mjs"}
    files |= {f"dist/{name}": dist / name for name in _DIST}
    return Chromium(program, v8_flags=_V8_FLAGS, files=files, query={"machine": machine})


def _fingerprint(engine: str, threads: int, about: Description) -> DeviceDescription:
    return DeviceDescription(
        kind="wasm",
        model=about.model,
        os=about.os,
        runtime=f"{_PACKAGE} wasm in {engine.capitalize()}",
        versions=about.versions,
        precision="fp32",
        threads=threads,
        settings={"v8": _V8_FLAGS},
    )


def _machine() -> dict[str, str]:
    """What `--device onnxruntime` says of this machine. JavaScript cannot find it out everywhere."""
    return {"model": processor(), "os": f"{platform.system()} {platform.release()} {platform.machine()}"}


def _node(given: Path | None) -> str:
    program = shutil.which(given or "node")
    if program is None:
        raise DeviceError(
            f"{given or 'node'} is no program; install Node.js {_OLDEST_NODE} or later, give its path with --runner, "
            "or use --device wasm://chromium"
        )
    try:
        said = subprocess.run(
            [program, "--version"], capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=False
        ).stdout
    except OSError as error:
        raise DeviceError(f"{program} cannot be started ({error.strerror})") from error
    except subprocess.TimeoutExpired:
        said = ""
    version = re.fullmatch(r"v(\d+)\.\S+\s*", said)
    if not version:
        raise DeviceError(f"{program} is not Node.js: it gives its version as {said[:40]!r}; check --runner and PATH")
    if int(version[1]) < _OLDEST_NODE:
        raise DeviceError(f"{program} is Node.js {said.strip()}; install {_OLDEST_NODE} or later")
    return program


def _chromium(given: Path | None) -> str:
    for name in (given,) if given else _BROWSERS:
        if program := shutil.which(name):
            return program
    missing = f"{given} is no program" if given else "no Chromium on PATH"
    raise DeviceError(f"{missing}; install it (Debian: apt-get install chromium), or give its path with --runner")


def _dist(given: Path | None) -> Path:
    """The folder dist of the package, with the files that are used."""
    cache = cache_folder("wasm")
    if given:
        folders = [given, given / _PACKAGE, given / "node_modules" / _PACKAGE]
    else:
        folders = [root / "node_modules" / _PACKAGE for root in (cache, Path.cwd())]
    install = f"npm install --prefix {shlex.quote(str(cache))} {_PACKAGE}@{_VERSION}"
    found = next((folder for folder in folders if (folder / "dist").is_dir()), None)
    if found is None:
        where = given or f"{folders[0].parent} or {folders[1].parent}"
        raise DeviceError(f"there is no npm package {_PACKAGE} in {where}; {install}")
    for name in _DIST:
        if not (found / "dist" / name).is_file():
            raise DeviceError(f"{found} has no dist/{name}; {install}")
    return found.resolve() / "dist"
