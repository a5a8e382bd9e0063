import argparse
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from nas.errors import InputError
from nas.networks import Architecture, AttentionSpec, ConvSpec, DownsampleSpec, StageSpec, StemSpec
from nas.networks.modules import build_model, fuse, load_model, load_weights, save_weights, to_timm

Trained = Callable[[nn.Module], nn.Module]

CONV = ConvSpec(kernel=7, expansion=2)
SHMA = AttentionSpec(attention="shma", query_reduction=2, modulation=1.0, expansion=2)


def small(*last: ConvSpec | AttentionSpec, **changes: Any) -> Architecture:
    """A network that timm can express, unless the blocks of stage 4 (`last`) prevent it."""
    blocks = ((CONV,), (CONV, SHMA, CONV), (CONV, CONV, SHMA, SHMA, CONV), last or (SHMA,))
    stages = tuple(StageSpec(channels=c, blocks=b) for c, b in zip((8, 16, 24, 32), blocks, strict=True))
    return Architecture(**{"resolution": 64, "num_classes": 10, "stages": stages} | changes)


def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def assert_equal_outputs(expected: nn.Module, actual: nn.Module, tolerance: float = 1e-5) -> None:
    with torch.no_grad():
        torch.testing.assert_close(actual.eval()(images()), expected.eval()(images()), rtol=tolerance, atol=tolerance)


def error_of(call: Callable[..., object], *arguments: object, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    return str(caught.value)


# The inverse of the renaming in timm's checkpoint_filter_fn.
TIMM_TO_AUTHORS = (
    (r"^head\.head_dist\.", "classifier.classifier_dist."),
    (r"^head\.head\.", "classifier.classifier."),
    (r"^stem\.conv1\.", "downsample_layers.0.0."),
    (r"^stem\.conv2\.", "downsample_layers.0.2.conv_exp_bn1."),
    (r"^stem\.conv3\.", "downsample_layers.0.2.conv_pwl_bn2."),
    (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1.0."),
    (r"^stages\.(\d)\.blocks\.(\d+)\.", r"stages.\1.\2.block."),
    (r"\.mixer\.module\.(?=[qkvp])", ".token_channel_mixer.m."),
    (r"\.mixer\.module\.", ".channel_mixer.m."),
    (r"\.mixer\.gamma$", ".channel_mixer.gamma"),
    (r"\.cpe\.module\.", ".cpe.m."),
)


def authors_names(network: nn.Module) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in to_timm(network)[0].items():
        for pattern, replacement in TIMM_TO_AUTHORS:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


class TestRoundTrip:
    def test_saved_weights_load_into_an_equal_network(
        self, motley: Architecture, trained: Trained, tmp_path: Path
    ) -> None:
        network = trained(build_model(motley, distillation=True))
        save_weights(network, tmp_path / "w.safetensors", metadata={})

        other = load_model(motley, tmp_path / "w.safetensors")

        assert_equal_outputs(network, other, tolerance=0)

    def test_file_says_what_it_holds(self, motley: Architecture, tmp_path: Path) -> None:
        save_weights(build_model(motley), tmp_path / "w.safetensors", metadata={"data": "synthetic"})

        with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
            assert {"architecture": motley.to_json(), "data": "synthetic"} == file.metadata()

    def test_deployed_weights_load_into_a_deployed_network(self, trained: Trained, tmp_path: Path) -> None:
        deployed = fuse(trained(build_model(small())))
        other = fuse(build_model(small()))
        save_weights(deployed, tmp_path / "w.safetensors", metadata={})

        load_weights(other, tmp_path / "w.safetensors")

        assert_equal_outputs(deployed, other, tolerance=0)

    def test_only_safetensors_are_written(self, tmp_path: Path) -> None:
        message = error_of(save_weights, build_model(small()), tmp_path / "w.pth", metadata={})

        assert f"{tmp_path}/w.pth: weights are saved as .safetensors" == message


class TestTimm:
    @pytest.mark.parametrize("name", ["t", "s", "m", "l", "l2", "h", "m_distilled"])
    def test_same_weights_give_the_outputs_of_timm(
        self, name: str, references: dict[str, Architecture], timm: ModuleType, trained: Trained, tmp_path: Path
    ) -> None:
        theirs = trained(timm.create_model(f"iformer_{name}"))
        save_file(theirs.state_dict(), tmp_path / "timm.safetensors")

        ours = load_model(references[name.removesuffix("_distilled")].at(resolution=64), tmp_path / "timm.safetensors")

        assert_equal_outputs(theirs, ours)

    @pytest.mark.parametrize("name", ["t", "s", "m", "l", "l2", "h"])
    def test_arguments_are_those_of_timm(
        self, name: str, references: dict[str, Architecture], timm: ModuleType
    ) -> None:
        with torch.device("meta"):
            weights, arguments = to_timm(build_model(references[name]))
            theirs = timm.create_model(f"iformer_{name}")
            same = timm.models.iformer.IFormer(**arguments)

        expected = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
        assert expected == {key: tensor.shape for key, tensor in same.state_dict().items()}
        assert expected == {key: tensor.shape for key, tensor in weights.items()}

    @pytest.mark.parametrize("distillation", [False, True])
    @pytest.mark.parametrize(
        "architecture",
        [small(), small(layer_scale=0.5), small(CONV, CONV), small(SHMA, SHMA, CONV)],
        ids=["attention last", "layer scale", "no attention", "one convolution"],
    )
    def test_exported_network_computes_the_same_in_timm(
        self, architecture: Architecture, distillation: bool, timm: ModuleType, trained: Trained
    ) -> None:
        ours = trained(build_model(architecture, distillation=distillation))
        weights, arguments = to_timm(ours)

        theirs = timm.models.iformer.IFormer(**arguments)
        theirs.load_state_dict(weights)

        assert_equal_outputs(ours, theirs)

    def test_fractional_modulation_reaches_timm(self, timm: ModuleType, trained: Trained) -> None:
        half = SHMA.model_copy(update={"modulation": 0.5})
        blocks = ((CONV,), (CONV,), (CONV, half, CONV), (half,))
        stages = tuple(StageSpec(channels=c, blocks=b) for c, b in zip((8, 16, 24, 32), blocks, strict=True))
        ours = trained(build_model(small(stages=stages)))
        weights, arguments = to_timm(ours)

        theirs = timm.models.iformer.IFormer(**arguments)
        theirs.load_state_dict(weights)

        assert_equal_outputs(ours, theirs)

    @pytest.mark.parametrize(
        ("architecture", "reason"),
        [
            (small(stem=StemSpec(kernel=3)), "stem must be kernel=5 expansion=4, got kernel=3 expansion=4"),
            (small(downsample=DownsampleSpec(kernel=5)), "downsample must be kernel=3, got kernel=5"),
            (small(CONV.model_copy(update={"kernel": 3})), "stages[3].blocks[0].kernel must be 7, got 3"),
            (
                small(SHMA.model_copy(update={"attention": "sha"})),
                "stages[3].blocks[0].attention must be shma, got sha",
            ),
            (
                small(SHMA.model_copy(update={"position_kernel": 0})),
                "stages[3].blocks[0].position_kernel must be 3, got 0",
            ),
            (small(SHMA.model_copy(update={"window": 1})), "stages[3].blocks[0].window must be 0, got 1"),
            (small(SHMA.model_copy(update={"modulation": 0.5})), "modulation must be one value, got 0.5, 1"),
            (
                small(SHMA, SHMA.model_copy(update={"query_reduction": 4})),
                "query_reduction in a stage must be one value, got 2, 4",
            ),
            (
                small(CONV.model_copy(update={"expansion": 3})),
                "expansion of the convolution blocks must be one value, got 2, 3",
            ),
            (
                small(SHMA.model_copy(update={"expansion": 3})),
                "expansion of the attention units must be one value, got 2, 3",
            ),
            (
                small(CONV, SHMA),
                "stages[3].blocks must be in the order convolutions, attention units, one convolution",
            ),
            (
                small(stages=tuple(StageSpec(channels=8, blocks=(CONV,)) for _ in range(4))),
                "stages[1].channels must be unlike the stage before (timm would not halve the map), got 8",
            ),
        ],
        ids=lambda value: value.partition(" must")[0] if isinstance(value, str) else "",
    )
    def test_what_timm_cannot_express_is_named(self, architecture: Architecture, reason: str) -> None:
        message = error_of(to_timm, build_model(architecture))

        assert f"timm's iFormer cannot express this network: {reason}" == message


class TestAuthors:
    @pytest.mark.parametrize("numpy_major", [1, 2])
    @pytest.mark.parametrize("distillation", [False, True])
    def test_checkpoints_in_the_authors_names_load(
        self, distillation: bool, numpy_major: int, trained: Trained, tmp_path: Path
    ) -> None:
        network = trained(build_model(small(layer_scale=0.5), distillation=distillation))
        checkpoint = {
            "model": authors_names(network),
            "epoch": 299,
            "args": argparse.Namespace(model="iFormer_m", lr=0.004),
            "max_accuracy": np.float64(80.4),
        }
        torch.save(checkpoint, tmp_path / "new.pth")
        names = {2: b"numpy._core.multiarray", 1: b"numpy.core.multiarray"}
        with zipfile.ZipFile(tmp_path / "new.pth") as new, zipfile.ZipFile(tmp_path / "w.pth", "w") as old:
            for entry in new.namelist():
                old.writestr(entry, new.read(entry).replace(names[2], names[numpy_major]))

        loaded = load_model(small(layer_scale=0.5), tmp_path / "w.pth")

        assert_equal_outputs(network, loaded, tolerance=0)

    def test_the_facts_sheet_names_are_those_read(self) -> None:
        # paper/FACTS.md: stages.S.B.block.token_channel_mixer.m..., downsample_layers..., classifier.classifier.{bn,l}
        names = authors_names(build_model(small()))

        assert {
            "stages.2.3.block.token_channel_mixer.m.q.c.weight",
            "downsample_layers.1.0.bn.weight",
            "classifier.classifier.l.weight",
        } <= names.keys()


class _Payload:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch ran",)


class TestErrors:
    def test_pickled_code_is_not_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        torch.save({"model": build_model(small()).state_dict(), "more": _Payload()}, "evil.pth")

        message = error_of(load_model, small(), Path("evil.pth"))

        assert message == (
            "evil.pth: not loaded, unpickling it would run posix.system: trust neither the file nor its source"
        )
        assert not Path("ran").exists()

    @pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
    def test_missing_file(self, name: str, tmp_path: Path) -> None:
        message = error_of(load_model, small(), tmp_path / name)

        assert message.startswith(f"{tmp_path}/{name}: cannot be read (")

    def test_file_without_weights(self, tmp_path: Path) -> None:
        torch.save({"epoch": 3}, tmp_path / "w.pt")

        message = error_of(load_model, small(), tmp_path / "w.pt")

        cure = "torch.save(model.state_dict(), FILE) saves them"
        assert message == f"{tmp_path}/w.pt: holds no weights of a network; {cure}"

    def test_missing_tensor(self, tmp_path: Path) -> None:
        weights = build_model(small()).state_dict()
        del weights["layers.1.branch.0.conv.weight"]
        save_file(weights, tmp_path / "w.safetensors")

        message = error_of(load_model, small(), tmp_path / "w.safetensors")

        assert f"{tmp_path}/w.safetensors: lacks layers.1.branch.0.conv.weight, which this network has" == message

    def test_unexpected_tensors(self, tmp_path: Path) -> None:
        weights = authors_names(build_model(small()))
        save_file(
            weights | {"stages.0.7.block.a": torch.zeros(1), "stages.0.7.block.b": torch.zeros(1)},
            tmp_path / "w.safetensors",
        )

        message = error_of(load_model, small(), tmp_path / "w.safetensors")

        assert f"{tmp_path}/w.safetensors: has stages.0.7.block.a (and 1 more), which this network lacks" == message

    def test_other_shape_leaves_the_network_as_it_was(self, tmp_path: Path) -> None:
        save_file(to_timm(build_model(small()))[0], tmp_path / "w.safetensors")
        network = build_model(small(num_classes=7))
        before = network.state_dict()["layers.0.first.conv.weight"].clone()

        message = error_of(load_weights, network, tmp_path / "w.safetensors")

        assert (
            f"{tmp_path}/w.safetensors: head.head.l.weight has shape (10, 32), the network needs (7, 32); "
            "for its classes: --num-classes 10, or architecture.at(num_classes=10)" == message
        )
        assert torch.equal(before, network.state_dict()["layers.0.first.conv.weight"])

    def test_second_classifier_without_a_place(self, tmp_path: Path) -> None:
        save_weights(build_model(small(), distillation=True), tmp_path / "w.safetensors", metadata={})

        message = error_of(load_weights, build_model(small()), tmp_path / "w.safetensors")

        assert "which this network lacks; load_model builds the network that fits" in message


def test_without_the_head_other_classes_are_kept(trained: Trained, tmp_path: Path) -> None:
    network = trained(build_model(small(), distillation=True))
    save_file(to_timm(network)[0], tmp_path / "w.safetensors")
    other = trained(build_model(small(num_classes=7)))
    head = other.layers[-1].state_dict()["classifiers.0.linear.weight"].clone()

    load_weights(other, tmp_path / "w.safetensors", head=False)

    assert torch.equal(network.features(images())[-1], other.features(images())[-1])
    assert torch.equal(head, other.layers[-1].state_dict()["classifiers.0.linear.weight"])


class TestDense:
    """Checkpoints of detection and segmentation."""

    @pytest.fixture
    def windowed(self) -> Architecture:
        windows = SHMA.model_copy(update={"window": 2})
        blocks = ((CONV,), (CONV,), (CONV, windows, windows, SHMA, CONV), (SHMA,))
        stages = tuple(StageSpec(channels=c, blocks=b) for c, b in zip((8, 16, 24, 32), blocks, strict=True))
        return small(stages=stages)

    @staticmethod
    def written(network: nn.Module, *, names: Callable[[nn.Module], dict[str, Tensor]]) -> dict[str, Any]:
        """As mmengine writes a detector: its backbone beside other parts, and beside all that a training remembers."""
        body = {n: t for n, t in names(network).items() if not n.startswith(("head.", "classifier."))}
        others = ("neck.fpn_convs.0.conv.weight", "rpn_head.rpn_cls.weight", "roi_head.bbox_head.fc_cls.weight")
        others = (*others, "decode_head.scale_heads.0.0.conv.weight", "auxiliary_head.conv_seg.weight")
        state = {f"backbone.{name}": tensor for name, tensor in body.items()}
        state |= {name: torch.zeros(4, 4) for name in others}
        return {"meta": {"epoch": 12, "iter": 87960}, "state_dict": state, "optimizer": {"state": {}}}

    @pytest.mark.parametrize("names", [authors_names, lambda n: to_timm(n)[0]], ids=["authors", "timm"])
    def test_the_backbone_fits_with_and_without_windows(
        self,
        names: Callable[[nn.Module], dict[str, Tensor]],
        windowed: Architecture,
        trained: Trained,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        everywhere = windowed.at(resolution=32)  # at which no window fits
        source = trained(build_model(everywhere))
        torch.save(self.written(source, names=names), tmp_path / "epoch_12.pth")

        for architecture in (everywhere, windowed):
            network = build_model(architecture)
            own = network.layers[-1].state_dict()["classifiers.0.linear.weight"].clone()
            load_weights(network, tmp_path / "epoch_12.pth")

            expected = build_model(architecture)
            expected.load_state_dict(source.state_dict())
            for ours, theirs in zip(network.eval().features(images()), expected.eval().features(images()), strict=True):
                assert torch.equal(ours, theirs)
            assert torch.equal(own, network.layers[-1].state_dict()["classifiers.0.linear.weight"])
        assert any(
            not torch.equal(a, b) for a, b in zip(expected.features(images()), source.features(images()), strict=True)
        )
        told = "has no classifier, as after detection or segmentation: the network keeps its own"
        assert [f"{tmp_path}/epoch_12.pth: {told}"] * 2 == [record.getMessage() for record in caplog.records]

    def test_a_backbone_that_lacks_more_than_the_classifier_is_refused(self, tmp_path: Path) -> None:
        checkpoint = self.written(build_model(small()), names=authors_names)
        del checkpoint["state_dict"]["backbone.downsample_layers.0.0.c.weight"]
        torch.save(checkpoint, tmp_path / "w.pth")

        message = error_of(load_weights, build_model(small()), tmp_path / "w.pth")

        assert f"{tmp_path}/w.pth: lacks stem.conv1.c.weight, which this network has" == message

    def test_without_the_head_nothing_is_told(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        torch.save(self.written(build_model(small()), names=authors_names), tmp_path / "w.pth")

        load_weights(build_model(small(num_classes=7)), tmp_path / "w.pth", head=False)

        assert caplog.records == []
