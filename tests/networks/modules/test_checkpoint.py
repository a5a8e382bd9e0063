"""Which files are read, and what of them has to fit."""

import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor

from nas.networks import Architecture
from nas.networks.modules import build_model, load_donor, load_model, to_timm

Weights = dict[str, Tensor]
Same, Loading, Refusal = Callable[[Weights, Weights], None], Callable[..., Weights], Callable[..., str]
legacy = partial(torch.save, _use_new_zipfile_serialization=False)

FIRST = "stem.conv1.c.weight"


class TestFormats:
    @pytest.mark.parametrize("name", ["model_best.pth.tar", "last.ckpt", "pytorch_model.bin", "w", "w.safetensors"])
    @pytest.mark.parametrize("write", [torch.save, legacy, save_file])
    def test_a_file_is_known_by_its_content(
        self,
        write: Callable[[Weights, Path], None],
        name: str,
        weights: Weights,
        tmp_path: Path,
        loaded: Loading,
        assert_same: Same,
        plain_network: Architecture,
    ) -> None:
        write(weights, tmp_path / name)

        assert_same(weights, loaded(tmp_path / name))
        assert load_donor(tmp_path / name, {"small": plain_network}).architecture == plain_network

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
            (b"\xfd7zXZ\x00", "not loaded, it is compressed by xz: unxz it first"),
            (b"BZh91AY", "not loaded, it is compressed by bzip2: bunzip2 it first"),
            (b"\x28\xb5\x2f\xfd", "not loaded, it is compressed by Zstandard: unzstd it first"),
            (b"\x93NUMPY\x01", "not loaded, it is an array of NumPy: save the weights by torch.save"),
            (b"GGUF\x03", "not loaded, it is GGUF: name the safetensors or torch file that it was made from"),
            (
                b"\x89HDF\r\n",
                "not loaded, it is HDF5, as Keras writes it: save the weights of the torch model by torch.save",
            ),
            (
                b'{"weight_map": {"stem.conv1.c.weight": "model-00001-of-00002.safetensors"}}',
                "not loaded, it is JSON, such as the list of a checkpoint's parts: save the weights in one file",
            ),
        ],
        ids=[
            *("empty", "text", "zeros", "git lfs", "web page", "pickle", "safetensors of terabytes", "zip"),
            *("xz", "bzip2", "zstd", "npy", "gguf", "hdf5", "json"),
        ],
    )
    def test_other_files_are_named(self, content: bytes, says: str, file: Path, refusal: Refusal) -> None:
        file.write_bytes(content)

        assert says == refusal(file)

    def test_a_zip_archive_of_something_else(self, file: Path, refusal: Refusal) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a/b.txt", "text")

        assert refusal(file) == "is a zip archive that torch.save did not write"

    def test_a_tar_archive(self, file: Path, refusal: Refusal) -> None:
        with tarfile.open(file, "w") as archive:
            archive.addfile(tarfile.TarInfo("weights.pth"))

        message = refusal(file)

        assert message == "not loaded, it is a tar archive: unpack it (tar -xf), and name the file of the weights in it"

    def test_arrays_are_no_tensors(self, weights: Weights, file: Path, refusal: Refusal) -> None:
        torch.save({"model": {name: tensor.numpy() for name, tensor in weights.items()}}, file)

        assert f"holds {FIRST} as no tensor: torch.as_tensor makes one of an array" == refusal(file)

    def test_folders_and_devices_are_no_files(self, tmp_path: Path, refusal: Refusal) -> None:
        assert refusal(tmp_path) == "is a folder; name the file of the weights"
        assert refusal(Path("/dev/zero")) == "is no file; name the file of the weights"

    def test_a_torchscript_program(self, file: Path, refusal: Refusal) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a/data.pkl", b"\x80\x02}.")
            archive.writestr("a/constants.pkl", b"\x80\x02}.")

        assert (
            refusal(file) == "is a TorchScript program, not weights: torch.save(model.state_dict(), FILE) saves these"
        )

    @pytest.mark.parametrize("new", [False, True])
    def test_a_newer_pickle_protocol(self, new: bool, weights: Weights, file: Path, refusal: Refusal) -> None:
        torch.save(weights, file, pickle_protocol=4, _use_new_zipfile_serialization=new)

        assert refusal(file) == (
            "not loaded, it has a pickle protocol that only unpickling reads: save it again without pickle_protocol"
        )

    def test_a_supernet_is_not_one_network(self, file: Path, refusal: Refusal) -> None:
        file.write_bytes(save({"a": torch.zeros(1)}, {"supernet": "{}"}))

        assert refusal(file) == "is a supernet, not one network's weights: --proxy supernet scores with it"


class TestFit:
    def test_other_classes_are_said_with_the_option(
        self, file: Path, refusal: Refusal, plain_network: Architecture
    ) -> None:
        torch.save(to_timm(build_model(plain_network.at(num_classes=7)))[0], file)

        message = refusal(file)

        assert message == (
            "head.head.l.weight has shape (7, 16), the network needs (10, 16); for its classes: --num-classes 7, "
            "or architecture.at(num_classes=7)"
        )
        assert load_model(plain_network.at(num_classes=7), file).architecture.num_classes == 7

    def test_whole_numbers_are_no_weights(self, weights: Weights, file: Path, refusal: Refusal) -> None:
        torch.save(weights | {FIRST: weights[FIRST].to(torch.int8)}, file)

        assert f"{FIRST} has int8 numbers; weights are float16, bfloat16, float32 or float64" == refusal(file)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_training_that_diverged(self, value: float, weights: Weights, file: Path, refusal: Refusal) -> None:
        torch.save(weights | {FIRST: torch.full_like(weights[FIRST], value)}, file)

        assert f"{FIRST} has values that are no finite numbers; take a checkpoint from before that" == refusal(file)

    def test_of_an_average_that_diverged_the_other_weights_are_named(
        self, weights: Weights, file: Path, refusal: Refusal, loaded: Loading, assert_same: Same
    ) -> None:
        broken = weights | {FIRST: torch.full_like(weights[FIRST], float("nan"))}
        torch.save({"swa": broken, "model_ema": broken, "model": weights}, file)

        message = refusal(file)

        assert message == (
            f"{FIRST} has values that are no finite numbers; --weights-key model takes the finite ones (in a search "
            "--option weights_key=model)"
        )
        assert_same(weights, loaded(file, weights_key="model"))

    def test_a_backbone_is_a_donor_without_a_classifier(
        self, weights: Weights, file: Path, plain_network: Architecture
    ) -> None:
        torch.save({name: tensor for name, tensor in weights.items() if not name.startswith("head.")}, file)

        donor = load_donor(file, {"small": plain_network})
        assert plain_network.at(num_classes=1) == donor.architecture
        assert torch.equal(weights[FIRST], to_timm(donor)[0][FIRST])
