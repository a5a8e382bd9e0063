"""This Mac through Core ML, against a stand-in for coremltools in the child process: no Mac is needed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from nas.devices import Device, Job, open_device, sampled
from nas.devices._models import ModelFiles
from nas.devices.coreml import TARGET, package, unavailable
from nas.errors import DeviceError, InputError
from nas.networks import ConvLayer, HeadLayer, Subject
from nas.networks.modules import example_input

# What the runner uses of coremltools 9.0, as its source has it. The words in a package's manifest bring faults about.
COREMLTOOLS = """
import enum
import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy

__version__ = "9.0"


class ComputeUnit(enum.Enum):
    ALL = 1
    CPU_AND_GPU = 2
    CPU_ONLY = 3
    CPU_AND_NE = 4


class MLModel:
    def __init__(self, path, compute_units):
        assert path.endswith(".mlpackage")
        self.words = Path(path, "Manifest.json").read_text()
        self.path = f"{path}/{compute_units.name}"
        self.last_predict_duration_in_nano_seconds = None

    def get_compiled_model_path(self):
        return self.path

    def predict(self, data):
        if "-c13-" in self.words:
            os.abort()
        if "-c14-" in self.words:
            time.sleep(30)
        if "-c15-" in self.words:
            raise RuntimeError("Error computing NN outputs.\\nAnd more.")
        print("not for the ears of the other side")
        assert set(data) == {"input"} and data["input"].dtype == numpy.float32
        self.last_predict_duration_in_nano_seconds = 1_500_000
        return {"output": data["input"].astype(numpy.float16)}


class MLNeuralEngineComputeDevice: ...
class MLCPUComputeDevice: ...
class MLGPUComputeDevice: ...


class MLComputePlan:
    @classmethod
    def load_from_path(cls, path, compute_units):
        if "-c16-" in path:
            raise ValueError("MLComputePlan is not supported.")
        plan = cls()
        names = ["const", "ios16.conv", "ios16.conv", "ios16.softmax", "ios16.gelu", "ios16.gelu", "ios16.add"]
        operations = [SimpleNamespace(operator_name=name) for name in names]
        block = SimpleNamespace(operations=operations)
        program = SimpleNamespace(functions={"main": SimpleNamespace(block=block)})
        plan.model_structure = SimpleNamespace(program=program)
        return plan

    def get_compute_device_usage_for_mlprogram_operation(self, operation):
        name = operation.operator_name
        if name == "const":
            return None
        kinds = {"ios16.softmax": MLCPUComputeDevice, "ios16.gelu": MLGPUComputeDevice}
        return SimpleNamespace(preferred_compute_device=kinds.get(name, MLNeuralEngineComputeDevice)())


models = SimpleNamespace(MLModel=MLModel, compute_plan=SimpleNamespace(MLComputePlan=MLComputePlan))
"""

PROGRAMS = {
    "sw_vers": 'case "$1" in -productVersion) echo "$MACOS";; -buildVersion) echo 24C101;; esac',
    "sysctl": 'case "$2" in machdep.cpu.brand_string) echo "Apple M2";; hw.model) echo Mac14,2;; esac',
}


@pytest.fixture
def mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in PROGRAMS.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    (tmp_path / "coremltools.py").write_text(COREMLTOOLS)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("MACOS", "15.2")
    monkeypatch.setattr("nas.devices.coreml.package", empty_package)


def empty_package(subject: Subject) -> Path:
    """A package without a model: conversion takes half a second, and one test does it."""
    folder = Path(tempfile.mkdtemp(suffix=".mlpackage"))
    (folder / "Manifest.json").write_text(subject.key)
    return folder


@pytest.fixture
def opened(mac: None) -> Iterator[Callable[..., Device]]:
    devices = []

    def open_one(**options: str) -> Device:
        devices.append(open_device("coreml", options))
        return devices[-1]

    yield open_one
    for device in devices:
        device.close()


def layer(channels: int) -> ConvLayer:
    return ConvLayer(channels=channels, kernel=3, expansion=2, height=4, width=4)


def job(subject: Subject, **changes: float) -> Job:
    limits = {"duration_ms": 30.0, "minimum_runs": 3, "maximum_runs": 1000, **changes}
    return Job(
        subject=subject,
        duration_ms=limits["duration_ms"],
        minimum_runs=int(limits["minimum_runs"]),
        maximum_runs=int(limits["maximum_runs"]),
        verify=True,
    )


def test_runs_take_what_core_ml_itself_says(opened: Callable[..., Device]) -> None:
    long, least, most = opened().time([job(layer(8)), job(layer(8), duration_ms=0), job(layer(8), maximum_runs=5)])

    assert long.times_ms == (1.5,) * 20
    assert least.times_ms == (1.5,) * 3
    assert most.times_ms == (1.5,) * 5


def test_the_output_comes_back_as_float32(opened: Callable[..., Device]) -> None:
    # Larger than what comes back whole.
    subject = ConvLayer(channels=5, kernel=3, expansion=2, height=41, width=41)
    (run,) = opened().time([job(subject)])

    assert run.output is not None
    assert run.output.dtype == np.float32
    np.testing.assert_array_equal(sampled(example_input(subject).numpy().astype(np.float16)), run.output)


def test_facts_name_the_operations_that_leave_the_neural_engine(opened: Callable[..., Device]) -> None:
    (run,) = opened().time([job(layer(8))])

    assert run.facts == {"placement": "NeuralEngine 3, GPU 2, CPU 1", "off_neural_engine": "gelu 2, softmax 1"}


def test_a_mac_that_cannot_tell_the_placement_measures_all_the_same(opened: Callable[..., Device]) -> None:
    (run,) = opened().time([job(layer(16))])

    assert run.facts == {}
    assert run.times_ms


def test_a_layer_that_fails_crashes_or_hangs_does_not_stop_the_others(opened: Callable[..., Device]) -> None:
    runs = list(opened(timeout_s="4").time([job(layer(channels)) for channels in (15, 13, 14, 8)]))

    assert [run.failure for run in runs] == [
        "Error computing NN outputs.",
        "the runner ended with signal 6",
        "no answer within 4.03 s",
        None,
    ]


def test_the_fingerprint_names_the_mac_and_the_software(opened: Callable[..., Device]) -> None:
    device = opened(compute_units="cpu_and_ne")
    described = device.describe()

    assert device.call_cost
    assert described.kind == "coreml"
    assert described.model == "Apple M2 (Mac14,2)"
    assert described.os == "macOS 15.2 (24C101)"
    assert described.versions == {"coremltools": "9.0"}
    assert described.precision == "fp16"
    assert described.settings == {"compute_units": "cpu_and_ne", "target": "iOS16"}


# coremltools 9.0 asks its own registry in a deprecated way, and leaves temporary folders to the garbage collector.
@pytest.mark.filterwarnings("ignore:Function _TORCH_OPS_REGISTRY:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")
def test_a_real_package_is_of_the_target_that_the_fingerprint_names(
    opened: Callable[..., Device], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import coremltools

    made = []

    def keep(subject: Subject) -> Path:
        folder = package(subject)
        made.append(coremltools.models.MLModel(str(folder), skip_model_load=True).get_spec())
        return folder

    monkeypatch.setattr("nas.devices.coreml.package", keep)
    (run,) = opened().time([job(HeadLayer(channels=8, num_classes=3, height=2, width=2))])

    assert run.failure is None
    assert [spec.specificationVersion for spec in made] == [coremltools.target[TARGET].value]
    assert capsys.readouterr() == ("", "")  # coremltools would draw progress bars for every layer


def test_models_do_not_pile_up(opened: Callable[..., Device], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    device = opened()
    list(device.time([job(layer(8)), job(layer(9))]))
    during = list(folder.rglob("*.mlpackage"))
    device.close()

    assert len(during) == 2
    assert list(folder.iterdir()) == []


def test_the_oldest_package_goes_when_there_is_no_room() -> None:
    files = ModelFiles(empty_package, suffix=".mlpackage", limit_bytes=2 * len(layer(8).key))
    paths = [files.path(layer(channels)) for channels in (1, 2, 1, 3)]

    assert [path.is_dir() for path in paths] == [True, False, True, True]
    files.close()
    assert not any(path.exists() for path in paths)


def test_without_macos_the_one_reason_is_that(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    reason = "needs macOS 13 or later; build the table on a Mac and copy its .json to latency_tables/"

    assert unavailable() == reason
    with pytest.raises(DeviceError, match=f"^coreml: {reason}$"):
        open_device("coreml", {})


def test_an_old_macos_says_which_is_needed(mac: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACOS", "12.7.6")

    assert unavailable() == "this is macOS 12.7.6; update it to 13 or later"


def test_a_mac_without_coremltools_says_so(mac: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    assert unavailable() == "coremltools is not installed: pip install 'nas[coreml]', for Python 3.11 to 3.13"


def test_it_takes_no_address_and_no_unknown_compute_units(mac: None) -> None:
    with pytest.raises(InputError, match="is this Mac and takes no address, got 'there'"):
        open_device("coreml://there", {})
    with pytest.raises(InputError, match="--device coreml: compute_units: input should be 'all', 'cpu_and_ne'"):
        open_device("coreml", {"compute_units": "ane"})
