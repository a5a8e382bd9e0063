"""A network as a folder for torch, there and back, and to a hub that this test plays."""

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import nas
from nas.data import Normalisation
from nas.errors import InputError
from nas.export import Card
from nas.export import torch as torch_format
from nas.networks import Architecture
from nas.networks.modules import Network, build_model


@pytest.fixture
def network(motley: Architecture, trained: Callable[[nn.Module], Network]) -> Network:
    return trained(build_model(motley, distillation=True))


@pytest.fixture
def folder(network: Network, tmp_path: Path) -> Path:
    card = Card.of(
        network,
        class_names=tuple("abcdefghij"),
        normalisation=Normalisation(mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0)),
    )
    return torch_format.export(network, tmp_path / "motley.torch", card=card)[0]


def test_another_program_loads_it_in_two_lines(network: Network, folder: Path) -> None:
    program = f"import nas\nnetwork = nas.load({str(folder)!r})\n"
    program += "import torch\nx = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)\n"
    program += "print([network.training, network.class_names[1], *network(x).flatten().tolist()])"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    training, second, *logits = eval(done.stdout)
    with torch.no_grad():
        expected = network(torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)).flatten()
    assert (training, second) == (False, "b")
    torch.testing.assert_close(expected, torch.tensor(logits), rtol=1e-5, atol=1e-5)


def test_loaded_network_can_be_exported_again(folder: Path, tmp_path: Path) -> None:
    again, *_ = nas.export(nas.load(folder), "torch", out=tmp_path / "again.torch")

    for name in ("model.safetensors", "config.json", "architecture.json", "README.md"):
        assert (folder / name).read_bytes() == (again / name).read_bytes(), name


def test_image_becomes_the_input(folder: Path) -> None:
    wide = Image.new("RGB", (128, 64), (255, 0, 0))
    wide.paste((255, 255, 255), (32, 0, 96, 64))  # the middle

    image = nas.load(folder).preprocess(wide)

    assert image.shape == (3, 64, 64)
    torch.testing.assert_close(image[:, 32, 32], torch.tensor([1.0, 3.0, 1.0]))


def test_model_card_begins_as_the_hub_reads_it(folder: Path) -> None:
    first, fields, text = (folder / "README.md").read_text().split("---\n", 2)

    assert first == ""
    assert "library_name: nas\n" in fields
    assert "Classes: a, b, c" in text


def test_changed_weights_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)

    with pytest.raises(InputError, match=r"is not the file that config.json describes; export the network again"):
        nas.load(folder)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("config.json", b"{}", "config.json: name: missing key"),
        ("model.safetensors", b"", "model.safetensors: cannot be read"),
    ],
)
def test_broken_files_are_named(folder: Path, name: str, content: bytes, says: str) -> None:
    (folder / name).write_bytes(content)

    with pytest.raises(InputError, match=says):
        nas.load(folder)


def test_folder_with_other_files_is_not_replaced(network: Network, folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")

    with pytest.raises(InputError, match=r"holds notes.txt, which is no part of an exported network"):
        torch_format.export(network, folder)

    assert (folder / "notes.txt").read_text() == "mine"


class Hub(ThreadingHTTPServer):
    """The few answers of a Hugging Face hub that an upload needs; it keeps what it is sent."""

    def __init__(self, *, refuses: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _HubAnswers)
        self.refuses = refuses
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _HubAnswers(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *words: object) -> None:
        pass

    def _answer(self, document: object, status: int = 200) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self._answer({"id": "me/motley", "sha": "0" * 40, "siblings": []})

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        content = self.rfile.read(size)
        if self.server.refuses:
            self._answer({"error": "Invalid user token."}, 401)
        elif self.path == "/api/repos/create":
            self.server.created.append(json.loads(content))
            self._answer({"url": f"{self.server.url}/me/motley"})
        elif "/preupload/" in self.path:
            files = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in
                     json.loads(content)["files"]]  # fmt: skip
            self._answer({"files": files})
        elif "/commit/" in self.path:
            for line in content.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.server.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self._answer({"commitUrl": f"{self.server.url}/me/motley/commit/0", "commitOid": "0" * 40})
        else:
            self._answer({})


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    yield hub
    hub.shutdown()
    hub.server_close()


PUSH = """
import sys, nas
nas.export(sys.argv[1], "torch", out=sys.argv[2], push_to_hub="me/motley", say=print)
"""


def push(hub: Hub, folder: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the library reads the address of its hub when it is imported."""
    return subprocess.run(
        [sys.executable, "-c", PUSH, str(folder), str(out)],
        capture_output=True,
        text=True,
        env={"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_test", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(out.parent)},
    )


def test_folder_is_pushed_to_the_hub_when_asked(hub: Hub, folder: Path, tmp_path: Path) -> None:
    done = push(hub, folder, tmp_path / "pushed.torch")

    assert done.returncode == 0, done.stderr
    assert [one["name"] for one in hub.created] == ["motley"]
    assert hub.files == {path.name: path.read_bytes() for path in (tmp_path / "pushed.torch").iterdir()}
    assert "pushed to" in done.stdout


def test_hub_that_refuses_leaves_the_folder(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.refuses = True

    done = push(hub, folder, tmp_path / "pushed.torch")

    assert "pushed.torch is written, but the hub does not take me/motley: " in done.stderr
    assert nas.load(tmp_path / "pushed.torch").class_names == tuple("abcdefghij")
