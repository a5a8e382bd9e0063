"""An exported ONNX file in runtimes of others: OpenVINO, and ONNX Runtime Web in Node."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.devices import wasm
from nas.errors import NasError
from nas.export import onnx as onnx_format
from nas.export._deployed import compared
from nas.files import cache_folder
from nas.networks.modules import Network

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def network(small_network: Callable[[int], Network]) -> Network:
    return small_network(5)


@pytest.fixture(scope="module")
def file(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "network.onnx"
    return onnx_format.export(network, path, options=onnx_format.Options(batch="dynamic"))[0]


@pytest.fixture(scope="module")
def expected(network: Network) -> np.ndarray:
    with torch.no_grad():
        return network(IMAGES).numpy()


def test_openvino_computes_the_same(file: Path, expected: np.ndarray) -> None:
    openvino = pytest.importorskip("openvino")

    compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    np.testing.assert_allclose(compiled({"image": IMAGES.numpy()})["logits"], expected, rtol=1e-4, atol=1e-4)


SCRIPT = """
import { readFileSync } from "node:fs";
const [dist, model, images] = process.argv.slice(2);
const ort = await import(`file://${dist}/ort.node.min.mjs`);
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(readFileSync(model), { executionProviders: ["wasm"] });
const bytes = readFileSync(images);
const values = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
const { logits } = await session.run({ image: new ort.Tensor("float32", values, [2, 3, 64, 64]) });
console.log(JSON.stringify(Array.from(logits.data)));
"""


def test_onnxruntime_web_computes_the_same(file: Path, expected: np.ndarray, tmp_path: Path) -> None:
    dist = cache_folder("wasm") / "node_modules" / "onnxruntime-web" / "dist"
    if (reason := wasm.unavailable()) or not dist.is_dir():
        pytest.skip(reason or f"no onnxruntime-web in {dist}")
    (tmp_path / "run.mjs").write_text(SCRIPT)
    (tmp_path / "images").write_bytes(IMAGES.numpy().tobytes())
    node = shutil.which("node")
    assert node is not None

    done = subprocess.run(
        [node, tmp_path / "run.mjs", dist, file, tmp_path / "images"], capture_output=True, text=True, check=True
    )

    logits = np.array(json.loads(done.stdout), dtype=np.float32).reshape(2, 5)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), 1.01])
def test_outputs_that_are_not_those_of_torch_are_refused(odd: float) -> None:
    right = (np.ones(3), np.ones(3))
    for pairs in ([right, (np.asarray([1.0, odd]), np.ones(2))], [(np.asarray([odd, 1.0]), np.ones(2)), right]):
        with pytest.raises(NasError, match=r"x\.onnx: Some runtime and torch differ by .*, above 1e-03"):
            compared(Path("x.onnx"), "Some runtime", pairs, bound=1e-3)

    assert compared(Path("x.onnx"), "Some runtime", [right], bound=1e-3).endswith("(bound 1e-03)")
