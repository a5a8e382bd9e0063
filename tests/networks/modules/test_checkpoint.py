import argparse
import datetime
import io
import logging
import os
import pathlib
import pickle
import random
import struct
import types
import zipfile
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn

from nas.errors import InputError
from nas.networks import Architecture, AttentionSpec, ConvSpec, StageSpec
from nas.networks.modules import Network, build_model, load_donor, load_model, load_weights, to_timm

Weights = dict[str, Tensor]

CONV = ConvSpec(kernel=7, expansion=1)
SHMA = AttentionSpec(attention="shma", query_reduction=2, modulation=1.0, expansion=1)
STAGES = tuple(StageSpec(channels=c, blocks=(b,)) for c, b in ((8, CONV), (12, CONV), (8, SHMA), (16, CONV)))
NETWORK = Architecture(resolution=32, num_classes=10, stages=STAGES)
FIRST = "stem.conv1.c.weight"
MUTATIONS = int(os.environ.get("NAS_MUTATIONS", "400"))


def built(architecture: Architecture = NETWORK, *, seed: int = 0) -> Network:
    """A network whose weights and statistics all differ from their initial values."""
    network = build_model(architecture)
    generator = torch.Generator().manual_seed(seed)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 1, generator=generator)
    return network


@pytest.fixture(scope="module")
def weights() -> Weights:
    """Weights under timm's names."""
    return to_timm(built())[0]


@pytest.fixture(scope="module")
def averaged() -> Weights:
    return to_timm(built(seed=1))[0]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model_best.pth.tar"


def loaded(path: Path, architecture: Architecture = NETWORK, **options: Any) -> Weights:
    return to_timm(load_model(architecture, path, **options))[0]


def assert_same(expected: Weights, actual: Weights) -> None:
    assert expected.keys() == actual.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, actual[name]), name


def error_of(call: Callable[..., object], *arguments: object, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert message.isprintable() and len(message) <= 400
    return message


def refusal(path: Path, architecture: Architecture = NETWORK) -> str:
    """The message without the path."""
    return error_of(load_model, architecture, path).removeprefix(f"{path}: ")


def prefixed(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()}


def legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


class TestFormats:
    @pytest.mark.parametrize("name", ["model_best.pth.tar", "last.ckpt", "pytorch_model.bin", "w", "w.safetensors"])
    @pytest.mark.parametrize("write", [torch.save, legacy, save_file])
    def test_a_file_is_known_by_its_content(
        self, write: Callable[[Weights, Path], None], name: str, weights: Weights, tmp_path: Path
    ) -> None:
        write(weights, tmp_path / name)

        assert_same(weights, loaded(tmp_path / name))
        assert load_donor(tmp_path / name, {"small": NETWORK}).architecture == NETWORK

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"", "not loaded, it is empty"),
            (b"no weights at all", "not loaded, it is neither a safetensors nor a torch file"),
            (bytes(8), "not loaded, it is neither a safetensors nor a torch file"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
                "not loaded, it is Git LFS's pointer to the file: git lfs pull gets the file itself",
            ),
            (b"<!DOCTYPE html>", "not loaded, it is a web page or XML, not the file: download it again"),
            (
                pickle.dumps({"a": 1}),
                "not loaded, it is a pickle that torch.save did not write, and no pickle is run: save the weights by "
                "torch.save",
            ),
            (
                struct.pack("<Q", 2**40) + b'{"a":',
                "not loaded, it is damaged or holds something else than weights",
            ),
            (b"PK\x03\x04", "not loaded, it is damaged or holds something else than weights"),
        ],
        ids=["empty", "text", "zeros", "git lfs", "web page", "pickle", "safetensors of terabytes", "zip"],
    )
    def test_other_files_are_named(self, content: bytes, says: str, file: Path) -> None:
        file.write_bytes(content)

        assert says == refusal(file)

    def test_a_zip_archive_of_something_else(self, file: Path) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a/b.txt", "text")

        assert refusal(file) == "is a zip archive that torch.save did not write"

    def test_folders_and_devices_are_no_files(self, tmp_path: Path) -> None:
        assert refusal(tmp_path) == "is a folder; name the file of the weights"
        assert refusal(Path("/dev/zero")) == "is no file; name the file of the weights"

    def test_a_torchscript_program(self, file: Path) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a/data.pkl", b"\x80\x02}.")
            archive.writestr("a/constants.pkl", b"\x80\x02}.")

        assert (
            refusal(file) == "is a TorchScript program, not weights: torch.save(model.state_dict(), FILE) saves these"
        )

    @pytest.mark.parametrize("new", [False, True])
    def test_a_newer_pickle_protocol(self, new: bool, weights: Weights, file: Path) -> None:
        torch.save(weights, file, pickle_protocol=4, _use_new_zipfile_serialization=new)

        assert refusal(file) == (
            "not loaded, it has a pickle protocol that only unpickling reads: save it again without pickle_protocol"
        )

    def test_a_supernet_is_not_one_network(self, file: Path) -> None:
        file.write_bytes(save({"a": torch.zeros(1)}, {"supernet": "{}"}))

        assert refusal(file) == "is a supernet, not one network's weights: --proxy supernet scores with it"


class TestSets:
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda w: {"state_dict": w, "epoch": 3},
            lambda w: {"model": {"module": w}, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}},
            lambda w: {"trainer": {"nets": [{"net": w}]}},
            lambda w: {"state_dict_ema": w},
            lambda w: {"ema": {"ema_state_dict": OrderedDict(w)}},
            lambda w: {"optimizer": {"exp_avg": dict.fromkeys(w, torch.zeros(2))}, "network": w},
            lambda w: w | {"epoch": 3, "args": argparse.Namespace(lr=0.1)},
            lambda w: {"state_dict": prefixed("module.", w) | {"n_averaged": torch.tensor(7)}},
            lambda w: prefixed("module.", w) | {"module.n_averaged": torch.tensor(7)},
            lambda w: w | {"n_averaged": torch.tensor(7)},
            lambda w: prefixed("model.", w) | {"loss.weight": torch.zeros(3), "metric.total": torch.tensor(0.0)},
            lambda w: prefixed("module._orig_mod.model.", w),
            lambda w: prefixed("model.module._orig_mod.", w),
            lambda w: prefixed("1.", w) | {"0.mean": torch.zeros(3)},
            lambda w: {n.replace("blocks.0.", "blocks.0._orig_mod."): t for n, t in w.items()},
            lambda w: {n if n.startswith("head.") else f"backbone.{n}": t for n, t in w.items()},
            lambda w: {f"net.{n}" if n.startswith("head.") else f"net.body.module.{n}": t for n, t in w.items()},
            lambda w: {n: t for n, t in w.items() if not n.endswith("num_batches_tracked")},
            lambda w: {
                n: t.float()[None] if n.endswith("num_batches_tracked") else nn.Parameter(t) for n, t in w.items()
            },
        ],
        ids=[
            "state_dict",
            "nested",
            "list",
            "ema",
            "nested_ema",
            "optimizer",
            "beside",
            "n_averaged",
            "swa",
            "swa_flat",
            "lightning",
            "ddp_first",
            "compiled",
            "sequential",
            "parts",
            "backbone",
            "body",
            "no_counter",
            "counters",
        ],
    )
    def test_weights_are_found_wherever_they_lie(
        self, wrap: Callable[[Weights], object], weights: Weights, file: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        torch.save(wrap(weights), file)

        assert_same(weights, loaded(file))
        assert caplog.records == []

    def test_counters_behind_a_prefix_are_kept_in_every_layer(self, file: Path) -> None:
        stages = tuple(StageSpec(channels=8, blocks=(CONV,) * 3) for _ in range(4))
        network = build_model(NETWORK.model_copy(update={"stages": stages}))
        for name, tensor in network.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.fill_(7)
        torch.save(prefixed("module.", network.state_dict()), file)

        assert_same(network.state_dict(), load_model(network.architecture, file).state_dict())

    def test_prefixes_in_safetensors(self, weights: Weights, file: Path) -> None:
        save_file(prefixed("module.", weights), file)

        assert_same(weights, loaded(file))

    @pytest.mark.parametrize(
        ("key", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("64", torch.double)]
    )
    def test_other_precisions_are_converted(self, key: str, dtype: torch.dtype, weights: Weights, file: Path) -> None:
        given = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
        torch.save(given, file)

        assert_same({name: tensor.to(weights[name].dtype) for name, tensor in given.items()}, loaded(file))

    @pytest.mark.parametrize(
        ("wrap", "taken", "other"),
        [
            (lambda w, a: {"state_dict": w, "state_dict_ema": a}, "state_dict_ema", "state_dict"),
            (lambda w, a: {"model_ema": {"module": a}, "model": w}, "model_ema.module", "model"),
            (lambda w, a: prefixed("model.", w) | prefixed("ema_model.module.", a), "ema_model.module", "model"),
            (lambda w, a: w | prefixed("ema.", a), "ema", "."),
            (lambda w, a: {"student": w, "model": a}, "model", "student"),
            (lambda w, a: {"teacher": a, "student": w}, "teacher", "student"),
            (lambda w, a: {"ema": {n: t for n, t in w.items() if "running" not in n}, "model": a}, "model", "ema"),
        ],
        ids=["timm", "nested", "prefixes", "top", "usual", "first", "average of parameters alone"],
    )
    def test_of_several_the_averaged_weights_are_taken_and_said(
        self,
        wrap: Callable[[Weights, Weights], object],
        taken: str,
        other: str,
        weights: Weights,
        averaged: Weights,
        file: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        torch.save(wrap(weights, averaged), file)

        assert_same(averaged, loaded(file))
        [record] = caplog.records
        assert record.levelno == logging.WARNING
        assert record.getMessage().startswith(f"{file}: holds weights under ")
        how = f"--weights-key {other} takes the other (in a search --option weights_key={other})"
        assert record.getMessage().endswith(f" taken, {taken}: {how}")

    def test_a_key_takes_the_other_weights(
        self, weights: Weights, averaged: Weights, file: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        torch.save({"state_dict": weights, "ema": {"module": averaged}}, file)

        assert_same(weights, loaded(file, weights_key="state_dict"))
        assert_same(averaged, loaded(file, weights_key="ema"))
        assert_same(averaged, loaded(file, weights_key="ema.module"))
        network = build_model(NETWORK)
        load_weights(network, file, weights_key="state_dict")
        assert_same(weights, to_timm(network)[0])
        donor = load_donor(file, {"small": NETWORK}, weights_key="state_dict")
        assert_same(weights, to_timm(donor)[0])
        assert caplog.records == []

    def test_a_key_that_is_not_there(self, weights: Weights, file: Path) -> None:
        torch.save({"state_dict": weights, "ema": weights | {}}, file)

        assert (
            f"{file}: holds no sets of weights under the key model; its keys are state_dict, ema"
            == error_of(load_model, NETWORK, file, weights_key="model")
        )  # fmt: skip

    def test_names_are_shown_on_one_line(self, weights: Weights, file: Path) -> None:
        torch.save(weights | {"stages.0.\x1b[31m\n" + "x" * 500: torch.zeros(1)}, file)

        assert "has stages.0.\\x1b[31m\\nxx" in refusal(file)

    def test_a_dictionary_that_holds_itself(self, weights: Weights, file: Path) -> None:
        around: dict[str, Any] = {"model": weights}
        around["model_ema"] = around
        torch.save(around, file)

        assert_same(weights, loaded(file))


class TestPlain:
    @pytest.mark.parametrize(
        "value",
        [
            Path("runs/1"),
            pathlib.PureWindowsPath("c:/runs"),
            argparse.Namespace(out=Path("x"), lr=np.float32(0.1)),
            types.SimpleNamespace(a=1),
            np.float64(80.4),
            np.int32(3),
            np.bool_(True),
            np.float32,
            np.dtype("float16"),
            np.arange(4),
            np.random.default_rng(0).bit_generator.state,
            random.getstate(),
            datetime.datetime.now(datetime.UTC),
            datetime.timedelta(seconds=3),
            defaultdict(list, {"loss": [1.0]}),
            Counter("aab"),
            OrderedDict(a=1),
            {1, 2},
            frozenset({3}),
            b"bytes",
            1j,
            2**80,
            torch.float16,
            torch.device("cuda:0"),
            torch.Size([1, 2]),
            torch.__version__,
            torch.get_rng_state(),
        ],
        ids=lambda value: type(value).__name__,
    )
    @pytest.mark.parametrize("write", [torch.save, legacy])
    def test_plain_values_may_lie_beside_the_weights(
        self, write: Callable[[object, Path], None], value: object, file: Path
    ) -> None:
        write({"model": {"layers.0.a": torch.zeros(1)}, "value": value}, file)

        assert refusal(file).startswith("lacks layers.0.first.conv.weight")

    def test_paths_of_windows(self, weights: Weights, file: Path) -> None:
        torch.save({"model": weights, "args": argparse.Namespace(out=pathlib.PurePosixPath("x"))}, file)
        _rewrite(file, lambda data: data.replace(b"PurePosixPath", b"WindowsPath"))

        assert_same(weights, loaded(file))

    @pytest.mark.parametrize("write", [torch.save, legacy])
    def test_another_type_is_named_with_the_cure(
        self, write: Callable[[object, Path], None], weights: Weights, file: Path
    ) -> None:
        write({"state_dict": weights, "more": pytest.ExitCode.OK}, file)

        message = refusal(file)

        assert message == (
            "holds a pytest.ExitCode beside the weights, and no pickle is run: if you trust the file, "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=False)['state_dict'], 'w.safetensors') "
            "saves the weights"
        )

    @pytest.mark.parametrize("write", [torch.save, legacy])
    def test_a_whole_module_stays_refused(self, write: Callable[[object, Path], None], file: Path) -> None:
        write({"model": built()}, file)

        message = refusal(file)

        assert message == (
            "holds a whole pickled module (nas.networks.modules.network.Network), and no pickle is run: where it "
            "was made, safetensors.torch.save_file(model.state_dict(), 'weights.safetensors') saves its weights"
        )


class TestFit:
    def test_other_classes_are_said_with_the_option(self, file: Path) -> None:
        torch.save(to_timm(build_model(NETWORK.at(num_classes=7)))[0], file)

        message = refusal(file)

        assert message == (
            "head.head.l.weight has shape (7, 16), the network needs (10, 16); for its classes: --num-classes 7, "
            "or architecture.at(num_classes=7)"
        )
        assert load_model(NETWORK.at(num_classes=7), file).architecture.num_classes == 7

    def test_whole_numbers_are_no_weights(self, weights: Weights, file: Path) -> None:
        torch.save(weights | {FIRST: weights[FIRST].to(torch.int8)}, file)

        assert f"{FIRST} has int8 numbers; weights are float16, bfloat16, float32 or float64" == refusal(file)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_training_that_diverged(self, value: float, weights: Weights, file: Path) -> None:
        torch.save(weights | {FIRST: torch.full_like(weights[FIRST], value)}, file)

        assert f"{FIRST} has values that are no finite numbers; take a checkpoint from before that" == refusal(file)

    def test_a_backbone_is_a_donor_without_a_classifier(self, weights: Weights, file: Path) -> None:
        torch.save({name: tensor for name, tensor in weights.items() if not name.startswith("head.")}, file)

        assert refusal(file) == "lacks head.head.bn.weight (and 5 more), which this network has"
        donor = load_donor(file, {"small": NETWORK})
        assert NETWORK.at(num_classes=1) == donor.architecture
        assert torch.equal(weights[FIRST], to_timm(donor)[0][FIRST])


def _rewrite(path: Path, change: Callable[[bytes], bytes], *, compression: int = zipfile.ZIP_STORED) -> None:
    """Change the pickle in an archive of torch.save."""
    content = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(content) as old, zipfile.ZipFile(path, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, change(old.read(name)) if name.endswith("data.pkl") else old.read(name))


def _pickled(steps: bytes, path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, path)
    _rewrite(path, lambda _: b"\x80\x02" + steps + b".")


class TestHostile:
    """Small files that ask their reader for gigabytes, hours or the numbers of others."""

    DAMAGED = "not loaded, it is damaged or holds something else than weights"

    def test_a_storage_larger_than_its_record(self, file: Path) -> None:
        torch.save({"a": torch.zeros(4)}, file)
        _rewrite(file, lambda data: data.replace(b"K\x04", b"J" + struct.pack("<i", 2**30)))

        assert refusal(file) == self.DAMAGED

    def test_storages_larger_than_the_file(self, file: Path) -> None:
        legacy({"a": torch.zeros(4)}, file)
        file.write_bytes(file.read_bytes().replace(b"K\x04", b"J" + struct.pack("<i", 2**30)))

        assert refusal(file) == self.DAMAGED

    def test_records_on_top_of_one_another(self, file: Path) -> None:
        torch.save({"a": torch.zeros(4096)}, file)
        with zipfile.ZipFile(file, "a") as archive:
            record = next(info for info in archive.infolist() if info.filename.endswith("data/0"))
            archive.filelist += [record] * 10_000
            archive._didModify = True  # type: ignore[attr-defined]  # writes the list anew

        assert refusal(file) == "not loaded, its records are larger than the file"

    def test_records_that_unpack_to_gigabytes(self, file: Path) -> None:
        torch.save({"a": torch.zeros(2**20)}, file)
        _rewrite(file, lambda data: data, compression=zipfile.ZIP_DEFLATED)

        assert refusal(file) == "not loaded, its records are compressed, and torch.save writes none of these"

    @pytest.mark.parametrize(
        "steps",
        [
            b"cbuiltins\nbytearray\n" + b"\x8a\x05\x00\x00\x00\x00\x04" + b"\x85R",
            b"ctorch\nTensor\n" + b"\x8a\x05\x00\x00\x00\x00\x04" + b"\x85R",
            b"ctorch.storage\nUntypedStorage\n" + b"\x8a\x05\x00\x00\x00\x00\x04" + b"\x85R",
            b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x08\x00\x00\x00punycode\x86R",
            b"}K\x01" + b"q\x00h\x00\x86" * 60 + b"Ns",
            b"}K\x01" + b"\x85" * 100_000 + b"Ns",
            b"X\xff\xff\xff\xff",
            b"h\x07",
            b"(((",
            b"",
        ],
        ids=[
            "bytearray",
            "tensor",
            "storage",
            "punycode",
            "hash_for_ever",
            "deep_hash",
            "long_string",
            "memo",
            "marks",
            "nothing",
        ],
    )
    def test_pickles_that_exhaust_their_reader(self, steps: bytes, file: Path) -> None:
        _pickled(steps, file)

        assert refusal(file).startswith((self.DAMAGED, "holds a builtins.bytearray beside the weights"))

    def test_names_of_many_networks(self, file: Path) -> None:
        names = [f"{number}.{part}" for number in range(20_000) for part in ("stages.0.a", "head.b", "c")]
        torch.save(dict.fromkeys(names, torch.zeros(1)), file)

        assert refusal(file).startswith("lacks stem.conv1.c.weight")

    def test_a_pickle_without_end(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("nas.networks.modules.pickled._MOST_STEPS", 1000)
        _pickled(b"N" * 1001, file)

        assert refusal(file) == self.DAMAGED


def _originals(folder: Path, weights: Weights) -> Iterator[bytes]:
    """Small checkpoints of every kind of file."""
    few = {"layers.0.first.conv.weight": torch.rand(2, 3), "layers.0.first.norm.running_mean": torch.rand(2)}
    wrapped = {"state_dict": few, "ema": few | {}, "args": argparse.Namespace(p=Path("x"), n=np.float64(3)), "l": [1]}
    for write, content in (
        (torch.save, wrapped),
        (legacy, wrapped),
        (save_file, few),
        (torch.save, weights),
        (legacy, weights),
        (save_file, weights),
    ):
        write(content, folder / "original")  # type: ignore[operator]
        yield (folder / "original").read_bytes()


def _mutated(original: bytes, chance: random.Random) -> bytes:
    """Flip bits, cut, repeat, swap, or write odd numbers, mostly where the structure of the file is."""
    content = bytearray(original)
    for _ in range(chance.choice((1, 1, 2, 5, 30))):
        # Both ends of a file have its structure: headers, pickles, and the directory of an archive.
        reach = chance.choice((64, 1500, len(content)))
        at = chance.randrange(min(reach, len(content)))
        at = at if chance.random() < 0.6 else len(content) - 1 - at
        size = chance.choice((1, 2, 4, 8, 100))
        match chance.randrange(7):
            case 0:
                content[at] ^= 1 << chance.randrange(8)
            case 1:
                content[at] = chance.randrange(256)
            case 2:
                del content[at : at + size]
            case 3:
                content[at:at] = content[at : at + size]
            case 4:
                other = chance.randrange(len(content))
                content[at : at + size] = content[other : other + size]
            case 5:
                odd = chance.choice((b"\xff" * 4, b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 3, b"\x80\x00\x00\x00"))
                content[at : at + len(odd)] = odd
            case _:
                del content[at:]
        if not content:
            break
    return bytes(content)


def test_mutated_files_load_or_are_refused_in_one_line(weights: Weights, file: Path, tmp_path: Path) -> None:
    """`NAS_MUTATIONS=50000 pytest -k mutated` for the long run by hand."""
    originals = list(_originals(tmp_path, weights))
    outcomes: Counter[str] = Counter()
    for seed in range(MUTATIONS):
        chance = random.Random(seed)
        file.write_bytes(_mutated(originals[seed % len(originals)], chance))
        try:
            load_model(NETWORK, file)
            outcomes["loaded"] += 1
        except InputError as error:
            line = str(error)
            assert line.startswith(str(file)) and line.isprintable() and len(line) <= 400, (seed, line)
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(f"mutation {seed}") from error

    assert outcomes["loaded"] and outcomes["refused"]
