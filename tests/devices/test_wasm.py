"""ONNX Runtime Web for real, in Node and in Chromium, where they are installed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.devices import Job, Run, open_device, sampled, wasm
from nas.devices._runner import RunnerDevice, RunnerLost, RunnerTimeout
from nas.devices.wasm.chromium import Chromium
from nas.errors import DeviceError, InputError
from nas.latency.measure import default_path
from nas.networks import Architecture, AttentionLayer, SearchSpace, Subject
from nas.networks.modules import build_deployed, example_input

TINY = SearchSpace.find("tiny")
NETWORK = TINY.references["tiny_a"]
LAYERS = {type(layer).__name__: layer for layer in TINY.layers}
CONV = LAYERS["ConvLayer"]
LARGE = replace(LAYERS["StemLayer"], height=150, width=134)
BROKEN = replace(LAYERS["ConvLayer"], height=6)  # exported as something that is no model

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH; Debian: apt-get install chromium")

PAGE = """<!doctype html>
<script type="module">
  const requests = new EventSource("requests");
  const answers = {
    tell: () => JSON.stringify({ url: location.href, isolated: crossOriginIsolated }),
    hang: () => { while (true); },
    talk: () => "words",
  };
  requests.onmessage = (event) =>
    fetch("answer", { method: "POST", body: answers[JSON.parse(event.data).op]() });
  requests.onerror = () => window.close();
</script>
"""


def export(subject: Subject) -> bytes:
    from nas.export.onnx import timed_model

    return b"no model" if subject == BROKEN else timed_model(subject)


@pytest.fixture(scope="module")
def models() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wasm, "exported", export)
        yield


class Node:
    """Node behind a script that keeps account of the processes it was started as."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "log"
        self.script = folder / "node"
        write_program(self.script, f'echo $$ >> "{self._log}"; exec {shutil.which("node")} "$@"')

    @property
    def running(self) -> list[int]:
        return [int(line) for line in self._log.read_text().split() if is_running(int(line))]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Node:
    if reason := wasm.unavailable():
        pytest.skip(reason)
    return Node(tmp_path_factory.mktemp("node"))


@pytest.fixture(scope="module")
def node(started: Node, models: None) -> Iterator[RunnerDevice]:
    device = wasm.open_device("", wasm.Options(runner=started.script))
    yield device
    device.close()


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """An empty folder for all temporary files, of ours and of Chromium, whose sockets have to have short names."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", folder)
        patch.setenv("TMPDIR", folder)
        yield Path(folder)


@pytest.fixture(scope="module")
def chromium_folder() -> Iterator[Path]:
    with temporary_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def chromium(models: None, chromium_folder: Path) -> Iterator[RunnerDevice]:
    try:
        device = wasm.open_device("chromium", wasm.Options())
    except DeviceError as error:
        pytest.skip(str(error))
    yield device
    device.close()


@pytest.fixture
def temporary() -> Iterator[Path]:
    with temporary_folder() as folder:
        yield folder


@pytest.fixture
def page(tmp_path: Path, temporary: Path) -> Iterator[Chromium]:
    """A page that needs nothing of npm."""
    (tmp_path / "page.html").write_text(PAGE)
    assert CHROMIUM is not None
    page = Chromium(CHROMIUM, v8_flags="", files={"": tmp_path / "page.html"}, query={"a": "1 2"})
    yield page
    page.kill()


class TestNode:
    # First, before V8 has spent seconds on compiling.
    def test_a_killed_process_is_replaced(self, node: RunnerDevice, started: Node) -> None:
        (first,) = started.running
        os.kill(first, signal.SIGKILL)
        done = run(node, CONV)
        (second,) = started.running

        assert done.failure is None
        assert first != second

    @pytest.mark.parametrize("kind", sorted(LAYERS))
    def test_it_computes_what_torch_computes(self, node: RunnerDevice, kind: str) -> None:
        assert error_against_torch(run(node, LAYERS[kind]), LAYERS[kind]) < 1e-4

    def test_it_runs_every_kind_of_attention(self, node: RunnerDevice, motley: Architecture) -> None:
        # torch's older exporter writes a wrong split where channels are no multiple of the 16 slices that windows take.
        layers = [
            layer for layer in motley.layers() if isinstance(layer, AttentionLayer) and layer.channels in (16, 40, 64)
        ]

        assert {layer.spec.attention for layer in layers} == {"shma", "sha", "mha"}
        assert any(layer.spec.window for layer in layers)
        for layer in layers:
            assert error_against_torch(run(node, layer), layer) < 1e-4, layer.key

    def test_a_large_output_is_thinned_out(self, node: RunnerDevice) -> None:
        assert error_against_torch(run(node, LARGE), LARGE) < 1e-4

    def test_it_says_what_its_times_depend_on(self, node: RunnerDevice) -> None:
        description = node.describe()
        native = open_device("onnxruntime", {})
        native.close()

        assert description.kind == "wasm"
        assert description.runtime == "onnxruntime-web wasm in Node"
        assert default_path(node).name.endswith(".wasm-node.fp32.json")
        assert set(description.versions) == {"onnxruntime-web", "node"}
        assert description.precision == "fp32"
        assert description.threads == 1
        assert description.settings == {"v8": "--no-liftoff"}
        assert (description.model, description.os) == (native.describe().model, native.describe().os)

    def test_it_runs_as_often_and_as_long_as_asked(self, node: RunnerDevice) -> None:
        fewest = run(node, CONV, duration_ms=0, minimum=7, maximum=50).times_ms
        most = run(node, CONV, duration_ms=1e6, minimum=1, maximum=9).times_ms
        longest = run(node, CONV, duration_ms=40, minimum=1, maximum=10**6).times_ms

        assert len(fewest) == 7
        assert len(most) == 9
        assert sum(longest[:-1]) < 40 <= sum(longest) + 1e-6
        assert min(fewest + most + longest) > 0

    def test_a_broken_model_fails_alone(self, node: RunnerDevice, started: Node) -> None:
        run(node, CONV)
        before = started.running
        failed = run(node, BROKEN)

        assert failed.failure is not None
        assert "protobuf parsing failed" in failed.failure
        assert failed.times_ms == ()
        assert run(node, CONV).failure is None
        assert started.running == before

    def test_with_two_threads_it_computes_the_same_and_leaves_nothing(self, started: Node) -> None:
        before = started.running
        device = wasm.open_device("node", wasm.Options(runner=started.script, threads=2))
        try:
            assert device.describe().threads == 2
            assert error_against_torch(run(device, CONV), CONV) < 1e-4
        finally:
            device.close()

        assert started.running == before


@needs_chromium
class TestChromium:
    # First, before V8 has spent seconds on compiling.
    def test_a_crashed_page_is_replaced(self, chromium: RunnerDevice, chromium_folder: Path) -> None:
        pages = end_pages(chromium_folder)
        done = run(chromium, CONV)

        assert pages > 0
        assert done.failure is None

    @pytest.mark.parametrize("kind", ["AttentionLayer", "StemLayer"])
    def test_it_computes_what_torch_computes(self, chromium: RunnerDevice, kind: str) -> None:
        assert error_against_torch(run(chromium, LAYERS[kind]), LAYERS[kind]) < 1e-4

    def test_it_runs_a_whole_network(self, chromium: RunnerDevice) -> None:
        done = run(chromium, NETWORK, minimum=3, maximum=5)

        assert error_against_torch(done, NETWORK) < 1e-4
        assert len(done.times_ms) == 3

    def test_it_says_what_its_times_depend_on(self, chromium: RunnerDevice) -> None:
        description = chromium.describe()

        assert description.runtime == "onnxruntime-web wasm in Chromium"
        assert default_path(chromium).name.endswith(".wasm-chromium.fp32.json")
        assert set(description.versions) == {"onnxruntime-web", "chromium"}
        assert description.versions["chromium"].count(".") == 3

    def test_a_broken_model_fails_alone(self, chromium: RunnerDevice) -> None:
        failed = run(chromium, BROKEN)

        assert failed.failure is not None
        assert "protobuf parsing failed" in failed.failure
        assert run(chromium, CONV).failure is None


@needs_chromium
class TestAPage:
    def test_it_is_isolated_and_at_an_address_that_nobody_else_knows(self, page: Chromium) -> None:
        answer = page.ask({"op": "tell"}, timeout_s=30)
        address, _, query = answer["url"].partition("?")
        origin = address[: address.index("/", len("http://")) + 1]

        assert answer["isolated"]
        assert query == "a=1+2"
        assert origin.startswith("http://127.0.0.1:")
        assert status(address) == 200
        assert status(address + "secret") == 404
        assert status(origin) == 404
        assert status(origin + "guess/") == 404

    def test_one_that_hangs_is_noticed_and_ended(self, page: Chromium, temporary: Path) -> None:
        page.ask({"op": "tell"}, timeout_s=30)
        with pytest.raises(RunnerTimeout, match=r"^no answer within 0\.5 s$"):
            page.ask({"op": "hang"}, timeout_s=0.5)
        page.kill()

        assert eventually(lambda: processes(temporary) == [])
        assert list(temporary.iterdir()) == []

    def test_one_that_crashes_is_noticed_at_once(self, page: Chromium, temporary: Path) -> None:
        page.ask({"op": "tell"}, timeout_s=30)
        end_pages(temporary)

        with pytest.raises(RunnerLost, match=r"^the page crashed$"):
            page.ask({"op": "tell"}, timeout_s=30)

    def test_words_are_no_answer(self, page: Chromium) -> None:
        with pytest.raises(RunnerLost, match=r"^the page said b'words'$"):
            page.ask({"op": "talk"}, timeout_s=30)

    def test_it_ends_when_we_are_killed(self, tmp_path: Path, temporary: Path) -> None:
        (tmp_path / "page.html").write_text(PAGE)
        program = f"""
            import os, pathlib, signal
            from nas.devices.wasm.chromium import Chromium
            files = {{"": pathlib.Path({str(tmp_path / "page.html")!r})}}
            page = Chromium({CHROMIUM!r}, v8_flags="", files=files, query={{}})
            page.ask({{"op": "tell"}}, timeout_s=30)
            os.kill(os.getpid(), signal.SIGKILL)
        """
        ended = subprocess.run([sys.executable, "-c", "if True:" + program], timeout=60, check=False)

        assert ended.returncode == -signal.SIGKILL
        assert eventually(lambda: processes(temporary) == [])


def test_a_browser_that_does_not_start_says_why(tmp_path: Path) -> None:
    write_program(tmp_path / "chromium", "echo No usable sandbox! >&2; exit 3")
    page = Chromium(str(tmp_path / "chromium"), v8_flags="", files={}, query={})
    try:
        with pytest.raises(RunnerLost, match=r"^Chromium ended with exit code 3: No usable sandbox!$"):
            page.ask({"op": "tell"}, timeout_s=30)
    finally:
        page.kill()


class TestWhatIsMissing:
    """What `unavailable` and `open_device` say; each case lacks one thing."""

    @pytest.fixture
    def machine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Programs in bin/, the package in cache/: nothing but fakes, and all there."""
        (tmp_path / "bin").mkdir()
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        write_program(tmp_path / "bin" / "node", "echo v20.1.0")
        dist = tmp_path / "cache/wasm/node_modules/onnxruntime-web/dist"
        dist.mkdir(parents=True)
        for name in ("ort.node.min.mjs", "ort.wasm.min.mjs", *(f"ort-wasm-simd-threaded.{s}" for s in ("mjs", "wasm"))):
            (dist / name).touch()
        return tmp_path

    def test_nothing_is_missing(self, machine: Path) -> None:
        assert wasm.unavailable() is None

    def test_node(self, machine: Path) -> None:
        (machine / "bin/node").unlink()

        assert wasm.unavailable() == (
            "node is no program; install Node.js 18 or later, give its path with --runner, "
            "or use --device wasm://chromium"
        )

    def test_a_newer_node(self, machine: Path) -> None:
        write_program(machine / "bin/node", "echo v16.20.2")

        assert wasm.unavailable() == f"{machine}/bin/node is Node.js v16.20.2; install 18 or later"

    def test_a_node_that_is_node(self, machine: Path) -> None:
        write_program(machine / "bin/node", "echo Amateur packet radio")

        assert wasm.unavailable() == (
            f"{machine}/bin/node is not Node.js: it gives its version as 'Amateur packet radio\\n'; "
            "check --runner and PATH"
        )

    def test_the_package(self, machine: Path) -> None:
        shutil.rmtree(machine / "cache")

        assert wasm.unavailable() == (
            f"there is no npm package onnxruntime-web in {machine}/cache/wasm/node_modules or {machine}/node_modules; "
            f"npm install --prefix {machine}/cache/wasm onnxruntime-web@1.30.0"
        )

    def test_a_part_of_the_package(self, machine: Path) -> None:
        folder = machine / "cache/wasm/node_modules/onnxruntime-web"
        (folder / "dist/ort-wasm-simd-threaded.wasm").unlink()

        assert wasm.unavailable() == (
            f"{folder} has no dist/ort-wasm-simd-threaded.wasm; "
            f"npm install --prefix {machine}/cache/wasm onnxruntime-web@1.30.0"
        )

    def test_the_package_where_it_was_said_to_be(self, machine: Path) -> None:
        with pytest.raises(DeviceError, match=rf"^wasm://node: there is no npm package onnxruntime-web in {machine}; "):
            wasm.open_device("", wasm.Options(package=machine))

    def test_chromium(self, machine: Path) -> None:
        with pytest.raises(DeviceError, match=r"^wasm://chromium: no Chromium on PATH; install it .Debian: apt-get "):
            wasm.open_device("chromium", wasm.Options())

    def test_the_runner(self, machine: Path) -> None:
        with pytest.raises(DeviceError, match=r"^wasm://chromium: nowhere is no program; "):
            wasm.open_device("chromium", wasm.Options(runner=Path("nowhere")))

    @pytest.mark.parametrize("inside", ["", "node_modules", "node_modules/onnxruntime-web"])
    def test_the_package_is_found_at_any_of_its_levels(self, machine: Path, inside: str) -> None:
        (machine / "cache").rename(machine / "elsewhere")
        write_program(machine / "bin/node", 'test "$1" = --version && echo v20.1.0 || { echo "$3" >&2; exit 1; }')
        dist = machine / "elsewhere/wasm/node_modules/onnxruntime-web/dist"

        with pytest.raises(DeviceError, match=f"ended with exit code 1: {dist}$"):
            wasm.open_device("", wasm.Options(package=machine / "elsewhere/wasm" / inside))


def test_another_address_is_refused() -> None:
    with pytest.raises(InputError, match=r"^--device wasm takes the addresses node and chromium, got 'firefox'$"):
        wasm.open_device("firefox", wasm.Options())


def run(device: RunnerDevice, subject: Subject, *, duration_ms: float = 0, minimum: int = 1, maximum: int = 50) -> Run:
    job = Job(subject=subject, duration_ms=duration_ms, minimum_runs=minimum, maximum_runs=maximum, verify=True)
    (done,) = device.time([job])
    return done


def error_against_torch(done: Run, subject: Subject) -> float:
    assert done.failure is None
    assert done.output is not None
    with torch.no_grad():
        expected = sampled(build_deployed(subject)(example_input(subject)).numpy())
    assert expected.shape == done.output.shape
    return float(np.abs(done.output - expected).max() / np.abs(expected).max())


def write_program(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def processes(folder: Path) -> list[int]:
    """Those with a folder in their command line, which all parts of Chromium have; on Linux."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in line.read_bytes():
                found.append(int(line.parent.name))
        except OSError:
            continue  # It has ended.
    return found


def end_pages(folder: Path) -> int:
    """Kill the processes of pages, as the system does when memory runs out; how many there were."""
    pages = [
        process for process in processes(folder) if b"--type=renderer" in Path(f"/proc/{process}/cmdline").read_bytes()
    ]
    for process in pages:
        os.kill(process, signal.SIGKILL)
    return len(pages)


def status(url: str) -> int:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def eventually(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 10
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
