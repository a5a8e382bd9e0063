import collections
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from nas.catalog import load_plugin, plugins
from nas.errors import InputError, NasError
from nas.export import Card
from nas.export import coreml as coreml_format
from nas.export import executorch as executorch_format
from nas.export import onnx as onnx_format
from nas.export import timm as timm_format
from nas.files import read_record
from nas.networks import (
    Architecture,
    AttentionLayer,
    AttentionSpec,
    ConvLayer,
    ConvSpec,
    DownsampleLayer,
    HeadLayer,
    Layer,
    Stack,
    StageSpec,
    StemLayer,
)
from nas.networks.modules import Network, build_deployed, build_layer, build_model, example_input, fuse

# coremltools 9.0 uses its own registry in a deprecated way, and leaves temporary folders to the garbage collector.
quiet_coremltools = pytest.mark.filterwarnings(
    "ignore:Function _TORCH_OPS_REGISTRY:DeprecationWarning", "ignore:Implicitly cleaning up:ResourceWarning"
)

CONV = ConvSpec(kernel=7, expansion=2)
SHMA = AttentionSpec(attention="shma", query_reduction=2, modulation=1.0, expansion=2)
SHA = SHMA.model_copy(update={"attention": "sha", "position_kernel": 0})
MHA = SHMA.model_copy(update={"attention": "mha", "heads": 2})
WINDOWED = SHMA.model_copy(update={"window": 4})

LAYERS: dict[str, Layer] = {
    "stem": StemLayer(channels=16, kernel=5, expansion=4, height=64, width=64),
    "downsample": DownsampleLayer(in_channels=16, channels=32, kernel=3, height=16, width=16),
    "conv": ConvLayer(channels=32, kernel=7, expansion=4, height=8, width=8),
    "shma": AttentionLayer(channels=32, spec=SHMA, height=8, width=8),
    "sha": AttentionLayer(channels=32, spec=SHA, height=8, width=8),
    "mha": AttentionLayer(channels=32, spec=MHA, height=8, width=8),
    "windows": AttentionLayer(channels=32, spec=WINDOWED, height=8, width=8, partitions=True, merges=True),
    "inside windows": AttentionLayer(channels=32, spec=WINDOWED, height=8, width=8),
    "head": HeadLayer(channels=32, num_classes=10, height=4, width=4),
}


@pytest.fixture
def network(trained: Callable[[nn.Module], Network]) -> Network:
    """A small network that every format can express."""
    return _small(trained)


def _small(trained: Callable[[nn.Module], Network]) -> Network:
    blocks = ((CONV,), (CONV,), (CONV, SHMA, CONV), (SHMA,))
    stages = tuple(StageSpec(channels=c, blocks=b) for c, b in zip((8, 16, 24, 32), blocks, strict=True))
    return trained(build_model(Architecture(resolution=64, num_classes=10, stages=stages)))


def run(model: bytes, x: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


def optimised_operators(model: bytes, folder: Path) -> collections.Counter[str]:
    """Count the operators of each type in the graph that ONNX Runtime runs, after its fusions."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3  # hide the warning that the saved graph only suits this processor
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return collections.Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


def coreml_operators(path: Path) -> collections.Counter[str]:
    from coremltools.models import MLModel

    main = MLModel(str(path), skip_model_load=True).get_spec().mlProgram.functions["main"]
    operations = main.block_specializations[main.opset].operations
    return collections.Counter(operation.type for operation in operations if operation.type != "const")


@quiet_coremltools
@pytest.mark.parametrize("name", plugins("export"))
class TestContract:
    @pytest.fixture
    def module(self, name: str) -> ModuleType:
        if name == "executorch":  # of an extra
            pytest.importorskip("executorch")
        return load_plugin("export format", "export", name)

    def test_written_files_are_named_and_replaced(self, module: ModuleType, network: Network, tmp_path: Path) -> None:
        path = tmp_path / f"network{module.SUFFIX}"
        before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
        network.train()

        written = module.export(network, path)
        again = module.export(network, path)

        assert path == written[0]
        assert written == again
        assert sorted(one for one in written if one.parent == tmp_path) == sorted(tmp_path.iterdir())
        assert all(one.exists() for one in written)
        assert network.training
        assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())

    def test_missing_folder_is_named(self, module: ModuleType, network: Network, tmp_path: Path) -> None:
        path = tmp_path / "nowhere" / f"network{module.SUFFIX}"

        with pytest.raises(InputError) as caught:
            module.export(network, path)

        assert str(caught.value) == f"{path}: cannot be written (No such file or directory)"


@pytest.fixture(scope="module")
def onnx_file(trained: Callable[[nn.Module], Network], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The small network as ONNX, and the line that was said of it."""
    said: list[str] = []
    (path,) = onnx_format.export(_small(trained), tmp_path_factory.mktemp("onnx") / "network.onnx", say=said.append)
    (line,) = said
    return path, line


class TestOnnx:
    def test_exported_network_computes_the_same(
        self, motley: Architecture, trained: Callable[[nn.Module], Network], tmp_path: Path
    ) -> None:
        network = trained(build_model(motley, distillation=True))
        image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))

        (path,) = onnx_format.export(network, tmp_path / "motley.onnx")

        with torch.no_grad():
            np.testing.assert_allclose(run(path.read_bytes(), image), network(image).numpy(), rtol=1e-4, atol=1e-4)

    def test_file_names_its_ends_and_its_architecture_and_the_difference_is_said(
        self, network: Network, onnx_file: tuple[Path, str]
    ) -> None:
        path, line = onnx_file

        assert line.startswith(f"network.onnx: ONNX Runtime {onnxruntime.__version__} and torch differ by ")
        assert line.endswith(" of the largest output at most (bound 1e-03)")
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

        ends = [(end.name, end.type, end.shape) for end in (*session.get_inputs(), *session.get_outputs())]
        assert ends == [("image", "tensor(float)", [1, 3, 64, 64]), ("logits", "tensor(float)", [1, 10])]
        metadata = session.get_modelmeta().custom_metadata_map
        assert network.architecture == Architecture.from_json(metadata["architecture"])
        assert network.architecture.id == metadata["architecture_id"]

    def test_file_has_no_paths_of_modules_and_shapes_of_its_maps(self, onnx_file: tuple[Path, str]) -> None:
        path, _ = onnx_file

        graph = onnx.load(path).graph
        assert not any(len(part.metadata_props) or part.doc_string for part in (*graph.node, *graph.initializer))
        weights = {weight.name for weight in graph.initializer}
        shaped = {info.name for info in graph.value_info}
        assert not weights & shaped
        assert {name for node in graph.node for name in node.output} - {"logits"} == shaped
        size = sum(weight.ByteSize() for weight in graph.initializer)
        assert path.stat().st_size - size < 40_000  # 100,000 with the paths

    def test_file_can_be_quantised_by_others(self, onnx_file: tuple[Path, str], tmp_path: Path) -> None:
        from onnxruntime.quantization import quantize_dynamic

        path, _ = onnx_file

        quantize_dynamic(path, tmp_path / "small.onnx")

        assert (tmp_path / "small.onnx").stat().st_size < path.stat().st_size

    @pytest.mark.parametrize("options", [{"batch": 3, "opset": 18}, {"precision": "fp16"}])
    def test_options_are_kept_and_compute_the_same(
        self, options: dict[str, object], network: Network, tmp_path: Path
    ) -> None:
        chosen = onnx_format.Options.model_validate(options)
        images = torch.randn(chosen.batch, 3, 64, 64, generator=torch.Generator().manual_seed(2))

        (path,) = onnx_format.export(network, tmp_path / "network.onnx", options=chosen)

        model = onnx.load(path)
        assert model.opset_import[0].version == chosen.opset
        half = onnx.TensorProto.FLOAT16
        assert (half in {weight.data_type for weight in model.graph.initializer}) == (chosen.precision == "fp16")
        bound = 2e-2 if chosen.precision == "fp16" else 1e-4
        with torch.no_grad():
            np.testing.assert_allclose(run(path.read_bytes(), images), network(images).numpy(), atol=bound, rtol=bound)

    def test_maps_of_a_dynamic_batch(self, network: Network, tmp_path: Path) -> None:
        options = onnx_format.Options(batch="dynamic", features=True)

        (path,) = onnx_format.export(network, tmp_path / "maps.onnx", options=options)

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        assert [one.name for one in session.get_outputs()] == ["stride4", "stride8", "stride16", "stride32"]
        assert not any("classifiers" in weight.name for weight in onnx.load(path).graph.initializer)
        for batch in (1, 5):
            images = torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(batch))
            with torch.no_grad():
                expected = network.features(images)
            for mine, theirs in zip(session.run(None, {"image": images.numpy()}), expected, strict=True):
                np.testing.assert_allclose(mine, theirs.numpy(), rtol=1e-4, atol=1e-4)

    def test_file_that_computes_something_else_is_not_written(
        self, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = build_model(network.architecture).eval()
        wrong = onnx_format.network_model(other)
        monkeypatch.setattr(onnx_format, "network_model", lambda *arguments, **named: wrong)
        said: list[str] = []

        with pytest.raises(NasError, match=r"differ by .* of the largest output at most, above 1e-03") as caught:
            onnx_format.export(network, tmp_path / "network.onnx", say=said.append)

        assert caught.value.exit_code == 1
        assert (said, list(tmp_path.iterdir())) == ([], [])

    def test_file_holds_the_deployed_network(self, onnx_file: tuple[Path, str]) -> None:
        path, _ = onnx_file

        operators = collections.Counter(node.op_type for node in onnx.load(path).graph.node)
        assert operators["BatchNormalization"] == 0
        # One per residual branch: 4 conv blocks, and 2 attention units with 2 branches each. The residual connection of
        # a position encoding is inside its kernel.
        assert operators["Add"] == 8

    @pytest.mark.parametrize("name", LAYERS)
    def test_profiled_layer_computes_the_same(self, name: str) -> None:
        x = example_input(LAYERS[name])
        expected = build_deployed(LAYERS[name])(x).numpy()

        np.testing.assert_allclose(run(onnx_format.timed_model(LAYERS[name]), x), expected, rtol=1e-3, atol=1e-4)

    def test_every_profiled_layer_of_a_motley_network_computes_the_same(self, motley: Architecture) -> None:
        for subject in [*motley.layers(), motley]:
            x = example_input(subject)
            expected = build_deployed(subject)(x).numpy()
            error = np.linalg.norm(run(onnx_format.timed_model(subject), x) - expected) / np.linalg.norm(expected)

            assert error < 1e-5, subject.key

    def test_a_stack_is_its_layers_in_a_row_with_weights_of_their_own(self) -> None:
        layer = ConvLayer(channels=8, kernel=3, expansion=2, height=8, width=8)
        modules = list(build_deployed(Stack(layer=layer, count=3)).children())

        assert len(modules) == 3
        first, second = (next(module.parameters()) for module in modules[:2])
        assert not torch.equal(first, second)

    @pytest.mark.parametrize("name", LAYERS)
    # torch 2.13 copies a deprecated type of its own, which warns.
    @pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning")
    def test_profiled_layer_runs_the_operators_of_the_exported_network(self, name: str, tmp_path: Path) -> None:
        program = torch.onnx.export(
            fuse(build_layer(LAYERS[name])),
            (example_input(LAYERS[name]),),
            dynamo=True,
            verbose=False,
            opset_version=20,
        )

        expected = optimised_operators(program.model_proto.SerializeToString(), tmp_path)
        assert expected == optimised_operators(onnx_format.timed_model(LAYERS[name]), tmp_path)


@quiet_coremltools
class TestCoreml:
    def test_package_runs_the_deployed_network(self, network: Network, tmp_path: Path) -> None:
        from coremltools.models import MLModel

        (path,) = coreml_format.export(network, tmp_path / "network.mlpackage")

        # Convolutions: stem 3, downsampling 3, conv blocks 4 x 3, attention units 2 x 7 (position, q, k, v and gate,
        # output, FFN 2). Additions: 4 + 2 x 2. The residual connection of a position encoding is inside its kernel.
        operators = coreml_operators(path)
        expected = {"conv": 32, "add": 8, "gelu": 8, "matmul": 4, "softmax": 2, "sigmoid": 2, "mul": 2, "linear": 1}
        assert expected == {name: operators[name] for name in expected}
        assert {"split", "reshape", "reduce_mean"} == operators.keys() - expected.keys()
        spec = MLModel(str(path), skip_model_load=True).get_spec()
        ends = [*spec.description.input, *spec.description.output]
        half = spec.description.input[0].type.multiArrayType.FLOAT16
        assert [("image", [1, 3, 64, 64], half), ("logits", [1, 10], half)] == [
            (end.name, list(end.type.multiArrayType.shape), end.type.multiArrayType.dataType) for end in ends
        ]
        assert network.architecture.id == spec.description.metadata.userDefined["architecture_id"]

    def test_windows_move_once_in_each_chunk(self, tmp_path: Path) -> None:
        model = coreml_format.timed_model(LAYERS["windows"])
        model.save(str(tmp_path / "layer.mlpackage"))

        # One transpose for each of 16 chunks into windows, and for each of 16 chunks back. coremltools would turn each
        # transpose of a whole tensor of six dimensions into six transposes.
        assert coreml_operators(tmp_path / "layer.mlpackage")["transpose"] == 32


class TestExecutorch:
    def test_program_computes_the_same_and_its_card_is_beside_it(self, network: Network, tmp_path: Path) -> None:
        pytest.importorskip("executorch")
        said: list[str] = []

        _path, beside = executorch_format.export(network, tmp_path / "network.pte", say=said.append)

        assert said[0].startswith("network.pte: ExecuTorch's XNNPACK and torch differ by ")
        assert read_record(beside, Card).architecture == network.architecture

    def test_without_the_extra_it_is_named(
        self, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("executorch", *(name for name in sys.modules if name.startswith("executorch."))):
            monkeypatch.setitem(sys.modules, name, None)

        with pytest.raises(InputError, match=r"ExecuTorch is not installed: pip install 'nas\[executorch\]'"):
            executorch_format.export(network, tmp_path / "network.pte")


class TestTimm:
    def test_files_make_the_same_network_in_timm(self, network: Network, timm: ModuleType, tmp_path: Path) -> None:
        weights, arguments = timm_format.export(network, tmp_path / "w.safetensors")

        theirs = timm.models.iformer.IFormer(**json.loads(arguments.read_text()))
        theirs.load_state_dict(load_file(weights))

        image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            torch.testing.assert_close(theirs.eval()(image), network(image), rtol=1e-5, atol=1e-5)

    def test_network_that_timm_cannot_express_leaves_no_file(self, motley: Architecture, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"timm's iFormer cannot express this network.*--format torch takes every"):
            timm_format.export(build_model(motley), tmp_path / "w.safetensors")

        assert list(tmp_path.iterdir()) == []
