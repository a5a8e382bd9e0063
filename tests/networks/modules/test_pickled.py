"""What lies beside the weights of a file is never run, and no file exhausts its reader."""

import argparse
import datetime
import io
import os
import pathlib
import random
import struct
import types
import warnings
import zipfile
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from nas.errors import InputError
from nas.networks import Architecture
from nas.networks.modules import build_model, load_model

Weights = dict[str, Tensor]
Same, Loading, Refusal = Callable[[Weights, Weights], None], Callable[..., Weights], Callable[..., str]
legacy = partial(torch.save, _use_new_zipfile_serialization=False)

MUTATIONS = int(os.environ.get("NAS_MUTATIONS", "400"))


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
        self, write: Callable[[object, Path], None], value: object, file: Path, refusal: Refusal
    ) -> None:
        write({"model": {"layers.0.a": torch.zeros(1)}, "value": value}, file)

        assert refusal(file).startswith("lacks layers.0.first.conv.weight")

    def test_paths_of_windows(self, weights: Weights, file: Path, loaded: Loading, assert_same: Same) -> None:
        torch.save({"model": weights, "args": argparse.Namespace(out=pathlib.PurePosixPath("x"))}, file)
        _rewrite(file, lambda data: data.replace(b"PurePosixPath", b"WindowsPath"))

        assert_same(weights, loaded(file))

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "quantized tensors"),
            (lambda t: t.to_sparse(), "sparse tensors"),
            (lambda t: t.to("meta"), "tensors without values, of the device meta"),
        ],
        ids=["quantized", "sparse", "meta"],
    )
    def test_tensors_that_are_no_plain_ones(
        self, change: Callable[[Tensor], Tensor], says: str, weights: Weights, file: Path, refusal: Refusal
    ) -> None:
        with warnings.catch_warnings(action="ignore"):  # torch is going to leave quantized tensors
            torch.save(weights | {"stem.conv1.c.weight": change(weights["stem.conv1.c.weight"])}, file)

        assert refusal(file) == (
            f"holds {says}, and weights are plain tensors: save the state_dict of the trained network as it is in "
            "memory, whole, in fp32, fp16 or bf16"
        )

    @pytest.mark.parametrize("write", [torch.save, legacy])
    def test_another_type_is_named_with_the_cure(
        self, write: Callable[[object, Path], None], weights: Weights, file: Path, refusal: Refusal
    ) -> None:
        write({"state_dict": weights, "more": pytest.ExitCode.OK}, file)

        message = refusal(file)

        assert message == (
            "holds a pytest.ExitCode beside the weights, and no pickle is run: if you trust the file, "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=False)['state_dict'], 'w.safetensors') "
            "saves the weights"
        )

    @pytest.mark.parametrize("write", [torch.save, legacy])
    def test_a_whole_module_stays_refused(
        self, write: Callable[[object, Path], None], file: Path, refusal: Refusal, plain_network: Architecture
    ) -> None:
        write({"model": build_model(plain_network)}, file)

        message = refusal(file)

        assert message == (
            "holds a whole pickled module (nas.networks.modules.network.Network), and no pickle is run: where it "
            "was made, safetensors.torch.save_file(model.state_dict(), 'weights.safetensors') saves its weights"
        )


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

    def test_a_storage_larger_than_its_record(self, file: Path, refusal: Refusal) -> None:
        torch.save({"a": torch.zeros(4)}, file)
        _rewrite(file, lambda data: data.replace(b"K\x04", b"J" + struct.pack("<i", 2**30)))

        assert refusal(file) == self.DAMAGED

    def test_storages_larger_than_the_file(self, file: Path, refusal: Refusal) -> None:
        legacy({"a": torch.zeros(4)}, file)
        file.write_bytes(file.read_bytes().replace(b"K\x04", b"J" + struct.pack("<i", 2**30)))

        assert refusal(file) == self.DAMAGED

    def test_records_on_top_of_one_another(self, file: Path, refusal: Refusal, loaded: Loading) -> None:
        torch.save({"a": torch.zeros(4096)}, file)
        with zipfile.ZipFile(file, "a") as archive:
            record = next(info for info in archive.infolist() if info.filename.endswith("data/0"))
            archive.filelist += [record] * 10_000
            archive._didModify = True  # type: ignore[attr-defined]  # writes the list anew

        assert refusal(file) == "not loaded, its records are larger than the file"

    def test_records_that_unpack_to_gigabytes(self, file: Path, refusal: Refusal, loaded: Loading) -> None:
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
    def test_pickles_that_exhaust_their_reader(self, steps: bytes, file: Path, refusal: Refusal) -> None:
        _pickled(steps, file)

        assert refusal(file).startswith((self.DAMAGED, "holds a builtins.bytearray beside the weights"))

    def test_names_of_many_networks(self, file: Path, refusal: Refusal) -> None:
        names = [f"{number}.{part}" for number in range(20_000) for part in ("stages.0.a", "head.b", "c")]
        torch.save(dict.fromkeys(names, torch.zeros(1)), file)

        assert refusal(file).startswith("lacks stem.conv1.c.weight")

    def test_a_pickle_without_end(self, file: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal) -> None:
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


def test_mutated_files_load_or_are_refused_in_one_line(
    weights: Weights, file: Path, tmp_path: Path, plain_network: Architecture
) -> None:
    """`NAS_MUTATIONS=50000 pytest tests/networks/modules/test_pickled.py -k mutated` for the long run by hand."""
    originals = list(_originals(tmp_path, weights))
    outcomes: Counter[str] = Counter()
    for seed in range(MUTATIONS):
        chance = random.Random(seed)
        file.write_bytes(_mutated(originals[seed % len(originals)], chance))
        try:
            load_model(plain_network, file)
            outcomes["loaded"] += 1
        except InputError as error:
            line = str(error)
            assert line.startswith(str(file)) and line.isprintable() and len(line) <= 400, (seed, line)
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(f"mutation {seed}") from error

    assert outcomes["loaded"] and outcomes["refused"]
