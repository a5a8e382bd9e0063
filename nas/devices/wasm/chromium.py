"""A headless Chromium with one page that answers requests, as a runner does.

A server on 127.0.0.1 serves the page and its files below a path that cannot be guessed. The page receives requests as
events (`text/event-stream`) on a connection that stays open until the page or the browser crashes. It posts answers.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from nas.devices._runner import RunnerLost, RunnerTimeout
from nas.errors import DeviceError
from nas.scratch import ScratchFolder

__all__ = ["Chromium"]

_FLAGS = (
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
# Where Chromium puts files that do not belong to a profile, such as crash reports.
_FOLDERS = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME")
_TYPES = {
    ".html": "text/html",
    ".mjs": "text/javascript",
    ".onnx": "application/octet-stream",
    ".wasm": "application/wasm",
}
_OPENED = b"opened"
_LOST = b""


class Chromium:
    """One running browser and its page.

    Args:
        program: path of Chromium, or of a browser that is based on it.
        v8_flags: flags for its JavaScript engine.
        files: path in the page's address -> file that is served; the page itself is "".
        query: query parameters of the page's address.
    Raises:
        DeviceError: the program cannot be started.
    """

    def __init__(self, program: str, *, v8_flags: str, files: Mapping[str, Path], query: Mapping[str, str]) -> None:
        self._server = _Server(files)
        self._profile = ScratchFolder("chromium")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the browser
        self._is_open = False
        self._program = program
        command = [program, *_FLAGS, f"--js-flags={v8_flags}", f"--user-data-dir={self._profile.path}"]
        if os.geteuid() == 0:
            command.append("--no-sandbox")  # The sandbox does not work for root.
        try:
            self._process = subprocess.Popen(
                [*command, f"{self._server.url}?{urlencode(query)}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                env={**os.environ, **dict.fromkeys(_FOLDERS, str(self._profile.path))},
                start_new_session=True,
            )
        except OSError as error:
            self._release()
            raise DeviceError(f"{program} cannot be started ({error.strerror}); give another with --runner") from error
        threading.Thread(target=self._watch, daemon=True).start()

    def ask(self, request: Mapping[str, object], *, timeout_s: float) -> dict[str, Any]:
        """The answer to one request. The first request also waits for the page.

        Raises:
            RunnerLost: the page or the browser ended, or the answer is not a JSON object.
            RunnerTimeout: it did not answer in time.
        """
        end = time.monotonic() + timeout_s
        if not self._is_open:
            self._receive(end, f"{self._program} has not opened its page within {timeout_s:g} s")
            self._is_open = True
        self._server.send(request)
        said = self._receive(end, f"no answer within {timeout_s:g} s")
        try:
            answer = json.loads(said)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise RunnerLost(f"the page said {said[:80]!r}")
        return answer

    def kill(self) -> None:
        """End the browser with all its processes, and remove its profile."""
        with suppress(ProcessLookupError):  # All its processes have ended.
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        # The lock of a profile is in another folder. It remains even when Chromium ends in the regular way.
        with suppress(OSError):
            lock = (self._profile.path / "SingletonSocket").readlink()
            lock.unlink()
            lock.with_name("SingletonCookie").unlink()
            lock.parent.rmdir()
        self._release()

    def _receive(self, end: float, otherwise: str) -> bytes:
        try:
            said = self._server.said.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            raise RunnerTimeout(otherwise) from None
        if said == _LOST:
            raise self._lost()
        return said

    def _watch(self) -> None:
        self._process.wait()
        self._server.said.put(_LOST)

    def _lost(self) -> RunnerLost:
        try:
            code = self._process.wait(timeout=0.5)  # The page ends with the browser, but not the reverse.
        except subprocess.TimeoutExpired:
            return RunnerLost("the page crashed")
        self._errors.seek(0)
        words = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        # Chromium prints warnings all the time. Once the page has opened, the last line may not be about the end.
        last = next((line for line in words if ":FATAL:" in line), words[-1] if words and not self._is_open else "")
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return RunnerLost(f"Chromium ended with {how}{': ' if last else ''}{last}")

    def _release(self) -> None:
        self._server.close()
        self._profile.close()
        self._errors.close()


class _Server(ThreadingHTTPServer):
    """Serves the files and the requests of one page, and nothing else."""

    daemon_threads = True

    def __init__(self, files: Mapping[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = f"/{secrets.token_urlsafe(16)}/"
        self.url = f"http://127.0.0.1:{self.server_port}{self.root}"
        self.files = dict(files)
        self.said: queue.Queue[bytes] = queue.Queue()
        self.page: BufferedIOBase | None = None
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def send(self, request: Mapping[str, object]) -> None:
        """Send a request to the page, and serve the model that it names."""
        if "model" in request:
            self.files["model"] = Path(str(request["model"]))
        assert self.page is not None
        with suppress(OSError):  # The page is gone, and its handler reports that.
            self.page.write(b"data: " + json.dumps(request).encode() + b"\n\n")

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore broken connections: a killed browser leaves some."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        name = self._name()
        if name == "requests":
            self._answer("text/event-stream")
            self.server.page = self.wfile
            self.server.said.put(_OPENED)
            with suppress(OSError):
                self.rfile.read(1)  # The page sends nothing here, so this returns when the connection ends.
            self.server.said.put(_LOST)
            return
        path = self.server.files.get(name)
        if path is not None and path.is_file():
            self._answer(_TYPES[path.suffix], path.read_bytes())
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        if self._name() == "answer":
            said = self.rfile.read(int(self.headers["Content-Length"]))
            self._answer("text/plain")
            self.server.said.put(said)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def _name(self) -> str:
        """The path below the secret one. For any other path "/", which no file has as its name."""
        path = urlsplit(self.path).path
        return path.removeprefix(self.server.root) if path.startswith(self.server.root) else "/"

    def _answer(self, kind: str, content: bytes = b"") -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")
        # These headers isolate the page from all others. Only an isolated page has threads, and a clock with a
        # resolution of 5 us instead of 100 us.
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.end_headers()
        self.wfile.write(content)
