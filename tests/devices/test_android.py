"""The Android device against tests/devices/fakes/android/adb, whose phone is a folder and a shell of this machine."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.devices import Device, Job, Run, open_device
from nas.devices.android import unavailable
from nas.errors import DeviceError, InputError
from nas.networks import ConvLayer, HeadLayer, SearchSpace

LAYERS = SearchSpace.find("tiny").layers
LAYER = next(layer for layer in LAYERS if isinstance(layer, ConvLayer))
JOB = Job(subject=LAYER, duration_ms=0, minimum_runs=5, maximum_runs=50)
SERIAL = "0A041FDD4003EW"
CONNECTED = f"{SERIAL}         device usb:1-2 product:oriole model:Pixel_6 device:oriole transport_id:1\n"
OTHER = "emulator-5554          device product:sdk model:sdk_phone transport_id:2\n"

PROGRAMS = {
    "getprop": """case $1 in
        ro.product.manufacturer) echo Google;;
        ro.product.model) cat "$FAKE_PHONE/model";;
        ro.board.platform) echo gs101;;
        ro.build.version.release) echo 14;;
        ro.build.fingerprint) echo google/oriole/oriole:14/AP1A.240405.002/11480754:user/release-keys;;
        ro.product.cpu.abi) echo arm64-v8a;;
        *) echo;;
        esac""",
    "dumpsys": """case $1 in
        power) echo "POWER MANAGER (dumpsys power)"; echo "  mWakefulness=Asleep"; echo "  mWakefulnessChanging=false";;
        thermalservice) echo "IsStatusOverride: false"; echo "Thermal Status: $(cat "$FAKE_PHONE/thermal")";;
        esac""",
    # What toybox says where a mask has none of the phone's eight processors.
    "taskset": """case $1 in
        ??|?) FAKE_MASK=$1; export FAKE_MASK; shift; exec "$@";;
        *) echo "taskset: failed to set pid $$'s affinity: Invalid argument" >&2; exit 1;;
        esac""",
}
TOYBOX = ("cat", "chmod", "find", "grep", "mkdir", "rm", "wc")


@dataclass(frozen=True, slots=True, kw_only=True)
class FakePhone:
    folder: Path
    runner: Path

    def open(self, address: str = "", **options: str) -> Device:
        device = f"android://{address}" if address else "android"
        return open_device(device, {"runner": str(self.runner), **options})

    def run(self, *jobs: Job, **options: str) -> list[Run]:
        with closing(self.open(**options)) as device:
            return list(device.time(jobs or [JOB]))

    def connect(self, *lines: str) -> None:
        (self.folder / "devices").write_text("".join(lines))

    def behave(self, **behaviour: Any) -> None:
        (self.folder / "tool.json").write_text(json.dumps({"run_ms": 1.0, **behaviour}))

    def strike(self, *faults: str) -> None:
        (self.folder / "faults").write_text("\n".join(faults))

    def arguments(self) -> list[list[str]]:
        return [call["arguments"] for call in self.calls()]

    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "tool.calls").read_text().splitlines()]

    def left(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "data").iterdir())


both_shells = pytest.mark.parametrize("phone", ["sh", "mksh"], indirect=True)


@pytest.fixture
def phone(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePhone:
    """A phone that adb finds connected, with an onnxruntime_perf_test to push to it.

    Its shell is that of this machine, or with `both_shells` also the mksh and toybox that Android has.
    """
    shell = getattr(request, "param", "sh")
    if shell == "mksh" and not (shutil.which("mksh") and shutil.which("toybox")):
        pytest.skip(
            "mksh and toybox, the shell and programs of Android, are not installed; apt-get install mksh toybox"
        )
    folder = tmp_path / "phone"
    if shlex.quote(str(folder)) != str(folder):
        pytest.skip(f"the fake adb cannot put {folder} into a command line; set TMPDIR to a plainer one")
    runner = tmp_path / "build" / "onnxruntime_perf_test"
    for made in (folder / "data", folder / "bin", tmp_path / "path", runner.parent):
        made.mkdir(parents=True)
    for name, script in PROGRAMS.items():
        _program(folder / "bin" / name, f"#!/bin/sh\n{script}\n")
    (folder / "bin" / "sh").symlink_to(shutil.which(shell) or "")
    for name in TOYBOX if shell == "mksh" else ():
        (folder / "bin" / name).symlink_to(shutil.which("toybox") or "")
    for name, content in {"faults": "", "model": "Pixel 6\n", "thermal": "0\n"}.items():
        (folder / name).write_text(content)
    for program, source in ((tmp_path / "path" / "adb", "adb"), (runner, "runner")):
        _program(
            program, f"#!{sys.executable} -SI\n{(Path(__file__).parent / 'fakes' / 'android' / source).read_text()}"
        )
    (runner.parent / "libonnxruntime.so").write_text("a library")
    monkeypatch.setenv("FAKE_PHONE", str(folder))
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:{os.environ['PATH']}")
    fake = FakePhone(folder=folder, runner=runner)
    fake.connect(CONNECTED)
    fake.behave()
    return fake


@pytest.fixture
def benchmark_model(phone: FakePhone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePhone]:
    """The same phone with LiteRT's tool, and a stand-in for the package that makes its models."""
    packages = tmp_path / "packages"
    (packages / "litert_torch-0.10.0.dist-info").mkdir(parents=True)
    (packages / "litert_torch-0.10.0.dist-info" / "METADATA").write_text("Name: litert-torch\nVersion: 0.10.0\n")
    (packages / "litert_torch.py").write_text(
        "class _Model:\n"
        "    def model_content(self):\n"
        "        print('(00:00) [START] Write Model to Bytes')\n"
        "        return b'a model'\n"
        "def convert(module, inputs):\n"
        "    print('(00:00) [START] LiteRT-Torch Convert')\n"
        "    return _Model()\n"
        "def to_channel_last_io(module, args, outputs):\n"
        "    return module\n"
    )
    monkeypatch.syspath_prepend(packages)
    monkeypatch.delitem(sys.modules, "litert_torch", raising=False)
    runner = phone.runner.with_name("android_aarch64_benchmark_model")
    shutil.copy(phone.runner, runner)
    yield FakePhone(folder=phone.folder, runner=runner)
    sys.modules.pop("litert_torch", None)


def _program(path: Path, content: str) -> None:
    path.write_text(content)
    path.chmod(0o755)


def _runs(pid: int) -> bool:
    """Whether a process is there and stays; one that was killed takes a moment to go."""
    for _ in range(100):
        try:
            if (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return False
        except (FileNotFoundError, ProcessLookupError):
            return False
        time.sleep(0.01)
    return True


def _error(phone: FakePhone, **options: str) -> str:
    with pytest.raises((DeviceError, InputError)) as caught:
        phone.run(**options)
    text = str(caught.value)
    assert "\n" not in text
    return text


@both_shells
def test_it_describes_the_phone_and_what_runs_on_it(phone: FakePhone) -> None:
    with closing(phone.open(threads="4", cores="f0", provider="xnnpack")) as device:
        description = device.describe()

    assert description.kind == "android"
    assert description.model == "Google Pixel 6 gs101"
    assert description.os == "Android 14 google/oriole/oriole:14/AP1A.240405.002/11480754:user/release-keys"
    assert description.runtime == "onnxruntime_perf_test"
    assert set(description.versions) == {"onnxruntime_perf_test", "libonnxruntime.so"}
    assert description.versions["libonnxruntime.so"] == "sha256:31f109ab3834"
    assert description.precision == "fp32"
    assert description.threads == 4
    assert description.settings == {"provider": "xnnpack", "cores": "f0"}


def test_a_model_name_that_has_the_maker_in_it_is_not_doubled(phone: FakePhone) -> None:
    (phone.folder / "model").write_text("google phone\n")
    with closing(phone.open()) as device:
        assert device.describe().model == "google phone gs101"


def test_every_run_is_reported_in_order(phone: FakePhone) -> None:
    [run] = phone.run()

    assert run.failure is None
    assert run.times_ms == pytest.approx((1.0, 1.001, 1.002, 1.003, 1.004))
    assert run.output is None


@both_shells
def test_the_runner_is_told_what_to_do(phone: FakePhone) -> None:
    phone.run(threads="4", cores="f0", provider="nnapi")
    [call] = phone.calls()

    assert call["mask"] == "f0"
    assert " ".join(call["arguments"]) == (
        "-I -e nnapi -x 4 -s -C session.disable_cpu_ep_fallback|1 -m times -r 5 model.onnx result"
    )


def test_the_processor_may_step_in_only_where_that_is_allowed(phone: FakePhone) -> None:
    phone.run(provider="nnapi", fallback="true")
    phone.run(provider="cpu")

    assert ["-C" in arguments for arguments in phone.arguments()] == [False, False]


def test_thermal_state_and_wakefulness_go_with_every_run(phone: FakePhone) -> None:
    phone.behave(heats="2\n")
    [run] = phone.run()

    assert run.facts == {"wakefulness": "asleep", "thermal_before": "none", "thermal_after": "moderate"}


def test_short_runs_are_repeated_until_they_fill_the_time(phone: FakePhone) -> None:
    [run] = phone.run(Job(subject=LAYER, duration_ms=30, minimum_runs=5, maximum_runs=500))

    assert sum(run.times_ms) >= 30
    assert 30 <= len(run.times_ms) < 60


def test_no_more_runs_than_asked_for(phone: FakePhone) -> None:
    [run] = phone.run(Job(subject=LAYER, duration_ms=1000, minimum_runs=5, maximum_runs=50))

    assert len(run.times_ms) == 50


def test_a_result_with_another_column_is_understood(phone: FakePhone) -> None:
    lines = "".join(f"model.onnx,cpu,{seconds},100,0\n" for seconds in ("1e-05", "2e-05", "1e-05", "1e-05", "1.5e-05"))
    phone.behave(said="Average inference time cost: 0.013 ms", result=lines)
    [run] = phone.run()

    assert run.times_ms == pytest.approx((0.01, 0.02, 0.01, 0.01, 0.015))


def test_statistics_alone_become_quantiles(phone: FakePhone) -> None:
    phone.behave(
        said="Session creation time cost: 0.0102016 s\nFirst inference time cost: 0 ms\n"
        "Average inference time cost: 0.0121 ms\nRuns:5\nMin Latency: 1e-05 s\nMax Latency: 2.5e-05 s\n"
        "P50 Latency: 1.2e-05 s\nP90 Latency: 2e-05 s\nP95 Latency: 2.1e-05 s\nP99 Latency: 2.4e-05 s\n"
        "P999 Latency: 2.5e-05 s"
    )
    [run] = phone.run()

    assert run.times_ms == ()
    assert run.count == 5
    assert run.quantiles_ms == pytest.approx(
        {0.0: 0.01, 0.5: 0.012, 0.9: 0.02, 0.95: 0.021, 0.99: 0.024, 0.999: 0.025, 1.0: 0.025}
    )


@pytest.mark.parametrize(
    ("result", "problem"),
    [
        ("m,0.001,1\nm,0.001,2\nm,0.001,3\n", "damaged: 3 lines for 5 runs"),
        ("m,0.001,1\n" * 4 + "m,0.0", "damaged: 5 lines for 5 runs, the last 'm,0.0'"),
        ("m,0.003,1\n" * 5, "damaged: 5 lines for 5 runs, the last 'm,0.003,1'"),
        ("", "neither times nor quantiles"),
        ("Min Latency: 0.001 s\nP50 Latency: 0.001 s\n", "neither times nor quantiles"),
    ],
    ids=["lines-missing", "half-a-line", "other-than-the-average", "empty", "half-of-the-statistics"],
)
def test_a_damaged_result_is_a_failure(phone: FakePhone, result: str, problem: str) -> None:
    phone.behave(said="Average inference time cost: 1 ms", result=result)
    [run] = phone.run()

    assert problem in (run.failure or "")


@both_shells
def test_a_crash_is_the_failure_of_its_job_alone(phone: FakePhone) -> None:
    phone.behave(signal=signal.SIGSEGV)
    with closing(phone.open()) as device:
        runs = device.time([JOB, JOB])
        crashed = next(runs)
        phone.behave()
        after = next(runs)

    assert "the runner ended with signal 11" in (crashed.failure or "")
    assert len(after.times_ms) == 5


def test_what_the_runner_says_of_a_layer_is_its_failure(phone: FakePhone) -> None:
    words = (
        "This session contains graph nodes that are assigned to the default CPU EP, but fallback to CPU EP has been "
    )
    phone.behave(said=f"{words}explicitly disabled by the user.\n", code=255)
    [run] = phone.run(provider="nnapi")

    assert run.failure == f"the runner ended with exit code 255: {words}explicitly disabled by the user."


def test_a_subject_that_cannot_be_exported_is_a_failure(phone: FakePhone, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, closing(phone.open()) as device:
        runs = device.time([JOB, JOB])
        patch.setattr("nas.export.onnx.build_deployed", lambda subject: 1 / 0)
        run = next(runs)
        patch.undo()
        after = next(runs)

    assert run.failure == "cannot be exported: division by zero"
    assert len(after.times_ms) == 5


@both_shells
def test_a_job_that_takes_too_long_fails_and_is_ended_on_the_phone(phone: FakePhone) -> None:
    phone.behave(hangs=True)
    with closing(phone.open(timeout_s="1")) as device:
        runs = device.time([JOB, JOB])
        late = next(runs)
        hung = int((phone.folder / "running").read_text())
        still_there = _runs(hung)
        phone.behave()
        after = next(runs)

    assert late.failure == "no answer within 1 s"
    assert not still_there
    assert len(after.times_ms) == 5


def test_a_provider_that_was_not_built_in_stops_the_build(phone: FakePhone) -> None:
    phone.behave(said="ort_test_session.cc:180 NNAPI is not supported in this build", code=255)

    assert _error(phone, provider="nnapi") == (
        f"android://{SERIAL}: the runner was built without nnapi; build one with it, as in build.sh --use_nnapi, or "
        "choose another --option provider=NAME"
    )


def test_a_runner_that_shows_its_usage_stops_the_build(phone: FakePhone) -> None:
    phone.behave(said="perf_test [options...] model_path [result_file]", code=255)

    assert "the runner does not know its arguments, such as provider tpu" in _error(phone, provider="tpu")


@both_shells
@pytest.mark.parametrize("fault", ["shell lost", "shell half", "push lost", "push half"])
def test_a_job_is_done_again_after_the_connection_broke(phone: FakePhone, fault: str) -> None:
    phone.strike(fault, fault)
    [run, after] = phone.run(JOB, JOB)

    assert (len(run.times_ms), len(after.times_ms)) == (5, 5)
    assert phone.left() == []


@both_shells
def test_what_a_lost_job_left_running_is_ended_before_the_next(phone: FakePhone) -> None:
    phone.behave(hangs=True)
    phone.strike("shell lost")
    with closing(phone.open(timeout_s="2")) as device:
        [run] = device.time([JOB])

    assert run.failure == "no answer within 2 s"
    assert len(phone.calls()) == 2
    assert not _runs(int((phone.folder / "running").read_text()))


def test_a_phone_that_does_not_come_back_stops_the_build(phone: FakePhone) -> None:
    phone.strike("shell dead")

    assert _error(phone, reconnect_s="0.3") == (
        f"android://{SERIAL}: lost, and not back within 0.3 s (it is not connected; plug it in again), then repeat the "
        "command to go on from here"
    )


def test_a_connection_that_breaks_again_and_again_stops_the_build(phone: FakePhone) -> None:
    phone.strike(*["push lost"] * 6)

    assert f"android://{SERIAL}: lost 6 times at {LAYER.key}: adb: error: failed to copy" in _error(phone)


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("push full", "its storage is full; make room for"),
        ("push denied", "model.onnx cannot be copied there (couldn't create file: Permission denied); see what adb -s"),
    ],
)
def test_a_phone_that_takes_no_file_stops_the_build(phone: FakePhone, fault: str, problem: str) -> None:
    phone.strike(fault)

    assert problem.replace("model.onnx", f"{LAYER.key}.onnx") in _error(phone)


@both_shells
def test_nothing_is_left_on_the_phone(phone: FakePhone) -> None:
    with closing(phone.open()) as device:
        list(device.time([JOB, JOB]))
        during = phone.left()

    assert [name.startswith("nas-android.") for name in during] == [True]
    assert phone.left() == []


@both_shells
def test_folders_of_killed_builds_go_after_a_day(phone: FakePhone) -> None:
    for name, hours in (("nas-android.old", 49), ("nas-android.new", 1), ("mine", 49)):
        folder = phone.folder / "data" / name
        folder.mkdir()
        (folder / "model.onnx").write_text("model")
        os.utime(folder, (time.time() - 3600 * hours,) * 2)
    phone.open().close()

    assert phone.left() == ["mine", "nas-android.new"]


@both_shells
def test_no_value_reaches_a_shell_as_code(phone: FakePhone) -> None:
    pwned = phone.folder / "pwned"
    serial = f"$(touch${{IFS}}{pwned})"
    phone.connect(f"{serial}   device\n")
    (phone.folder / "model").write_text(f"$(touch {pwned}); `touch {pwned}`\n")
    touch = "cd $FAKE_PHONE; touch pwned"  # a file's name has no slash
    odd = phone.runner.with_name(f"perf_test '; {touch} #")
    shutil.copy(phone.runner, odd)
    (odd.parent / f"lib $({touch}); x.so").write_text("library")
    with closing(open_device(f"android://{serial}", {"runner": str(odd)})) as device:
        [run] = device.time([JOB])
        model = device.describe().model

    assert len(run.times_ms) == 5
    assert model == f"Google $(touch {pwned}); `touch {pwned}` gs101"
    assert not pwned.exists()
    assert phone.left() == []


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        ("", "no phone is connected; plug one in and switch on USB debugging in its developer options"),
        (
            f"{SERIAL}  unauthorized usb:1-2 transport_id:1\n",
            f"phone {SERIAL} does not trust this computer; unlock it and accept its question about USB debugging",
        ),
        (
            f"{SERIAL}  offline usb:1-2 transport_id:1\n",
            f"phone {SERIAL} does not answer adb; unplug it, unlock it and plug it in again",
        ),
        (
            "????????????  no permissions (user in plugdev group; are your udev rules wrong?); see [http://x]\n",
            "phone ???????????? may not be opened by this user; apt-get install android-sdk-platform-tools-common for "
            "its udev rules, join the group plugdev and plug it in again",
        ),
        (
            f"{SERIAL}  recovery usb:1-2\n",
            f"phone {SERIAL} is in the state 'recovery'; start Android on it, and see what adb devices -l says",
        ),
        (CONNECTED, None),
        (f"X  unauthorized usb:1-1\n{CONNECTED}", None),
    ],
    ids=["none", "unauthorized", "offline", "no-permissions", "recovery", "connected", "one-of-two"],
)
def test_what_stands_in_the_way_is_told_with_its_fix(phone: FakePhone, listed: str, reason: str | None) -> None:
    phone.connect(listed)

    assert unavailable() == reason
    if reason:
        assert _error(phone).endswith(reason.removeprefix("phone ").partition(" ")[2])


def test_without_adb_the_package_is_named(phone: FakePhone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(phone.folder))

    assert unavailable() == "adb is not installed; apt-get install adb, or put Android's platform-tools on the PATH"
    assert _error(phone) == f"android: {unavailable()}"


def test_one_of_several_phones_must_be_named(phone: FakePhone) -> None:
    phone.connect(CONNECTED, OTHER)

    assert _error(phone) == (
        f"--device android: 2 phones are connected ({SERIAL}, emulator-5554); say which, as in --device android://{SERIAL}"
    )
    phone.open("emulator-5554").close()
    with pytest.raises(DeviceError, match=r"android://nosuch: not connected, there are .*, emulator-5554; plug it in"):
        phone.open("nosuch")


def test_a_phone_that_became_unauthorized_says_so_when_it_is_missed(phone: FakePhone) -> None:
    with closing(phone.open(reconnect_s="0.3")) as device:
        phone.connect(f"{SERIAL}  unauthorized usb:1-2\n")
        with pytest.raises(DeviceError, match=r"not back within 0.3 s \(it does not trust this computer; unlock it"):
            list(device.time([JOB]))


def test_the_runner_must_be_given_and_be_there(phone: FakePhone, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"needs --runner PATH: an onnxruntime_perf_test or LiteRT's benchmark_model"):
        open_device("android", {})
    assert _error(phone, runner=str(tmp_path / "perf_test")).startswith(f"{tmp_path / 'perf_test'}: no such file")
    assert "/no/lib.so: no such file" in _error(phone, libraries=f"{phone.runner}:/no/lib.so")


def test_a_runner_of_another_name_needs_its_kind(phone: FakePhone) -> None:
    renamed = phone.runner.rename(phone.runner.with_name("bench"))

    assert _error(phone, runner=str(renamed)).endswith(
        "does not say what it is; add --option kind=onnxruntime or kind=litert"
    )
    [run] = phone.run(runner=str(renamed), kind="onnxruntime")

    assert len(run.times_ms) == 5


def test_the_libraries_beside_the_runner_go_with_it(phone: FakePhone) -> None:
    pushed = []
    for options in ({}, {"libraries": str(phone.runner)}):
        (phone.folder / "calls").unlink(missing_ok=True)
        phone.open(**options).close()
        calls = [ast.literal_eval(line) for line in (phone.folder / "calls").read_text().splitlines()]
        pushed.append([call[4].rpartition("/")[2] for call in calls if call[2:3] == ["push"]])

    assert pushed == [["runner", "libonnxruntime.so"], ["runner", "onnxruntime_perf_test"]]


def test_a_missing_library_is_named(phone: FakePhone) -> None:
    (phone.folder / "unlinked").touch()

    assert 'library "libonnxruntime.so" not found: needed by main executable; put the library beside' in _error(phone)


@both_shells
def test_a_runner_for_another_processor_is_refused(phone: FakePhone) -> None:
    # The head of a 64-bit ELF file for a processor that no machine has.
    phone.runner.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xff\x7f\x01" + bytes(43))

    assert "; the runner must be onnxruntime_perf_test built for Android on arm64-v8a" in _error(phone)
    assert phone.left() == []


@both_shells
def test_a_runner_that_is_linked_for_linux_is_refused(phone: FakePhone) -> None:
    _program(phone.runner, "#!/lib/ld-linux-none.so\n")

    assert "; the runner must be onnxruntime_perf_test built for Android on arm64-v8a" in _error(phone)


@both_shells
def test_cores_that_the_phone_does_not_have_are_refused(phone: FakePhone) -> None:
    assert "affinity: Invalid argument; choose --option cores=MASK among its processors" in _error(phone, cores="f00")


@pytest.mark.parametrize("cores", ["0", "xyz", "f0; reboot"])
def test_a_mask_must_be_hexadecimal_and_name_a_processor(phone: FakePhone, cores: str) -> None:
    assert "--device android: cores: string should match pattern" in _error(phone, cores=cores)


XNNPACK = "INFO: Explicitly applied XNNPACK delegate, and the model graph will be {} by the delegate.\n"
SAID = (
    "INFO: STARTING!\nINFO: Loaded model model.tflite\n"
    "INFO: count=46 first=15434 curr=10835 min=10613 max=15434 avg=10877.4 std=685 p5=1 median=2 p95=3\n\n"
    "INFO: Running benchmark for at least 5 iterations and at least 0 seconds but terminate if exceeding 150 seconds\n"
    "INFO: count=93 first=10760 curr=10742 min=10617 max=1.24e+06 avg=10747.4 std=82 p5=10650 median=10738 p95=10890\n"
    "INFO: Inference timings in us: Init: 49297, First inference: 15434, Warmup (avg): 10877.4, Inference (avg): 10747"
)


def test_benchmark_model_gives_quantiles(benchmark_model: FakePhone, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark_model.behave(said=SAID)
    [run] = benchmark_model.run(Job(subject=LAYER, duration_ms=250, minimum_runs=5, maximum_runs=50), threads="2")

    assert run.count == 93
    assert run.quantiles_ms == pytest.approx({0.0: 10.617, 0.05: 10.65, 0.5: 10.738, 0.95: 10.89, 1.0: 1240.0})
    assert run.facts["thermal_before"] == "none"
    assert [" ".join(arguments) for arguments in benchmark_model.arguments()] == [
        "--graph=model.tflite --num_threads=2 --max_secs=120 --use_xnnpack=false --num_runs=5 --min_secs=0.25"
    ]
    assert capsys.readouterr().out == ""


def test_equal_times_of_benchmark_model_are_every_quantile(benchmark_model: FakePhone) -> None:
    benchmark_model.behave(said="INFO: count=2 curr=9\nINFO: count=50 curr=7(all same)")
    [run] = benchmark_model.run()

    assert run.quantiles_ms == pytest.approx({0.0: 0.007, 0.5: 0.007, 1.0: 0.007})


def test_the_converter_is_among_the_versions(benchmark_model: FakePhone) -> None:
    with closing(benchmark_model.open()) as device:
        description = device.describe()

    assert description.runtime == "benchmark_model"
    assert description.versions["litert-torch"] == "0.10.0"


@pytest.mark.parametrize(
    ("words", "fallback", "failure"),
    [
        ("completely executed", "false", None),
        ("partially executed", "true", None),
        (
            "partially executed",
            "false",
            "the delegate xnnpack runs a part; with --option fallback=true the processor runs the rest",
        ),
        ("not be executed", "true", "the delegate xnnpack runs nothing of it"),
    ],
)
def test_a_delegate_that_left_the_model_to_the_processor_is_found_out(
    benchmark_model: FakePhone, words: str, fallback: str, failure: str | None
) -> None:
    benchmark_model.behave(said=XNNPACK.format(words) + SAID)
    [run] = benchmark_model.run(provider="xnnpack", fallback=fallback)

    assert run.failure == failure


@pytest.mark.parametrize(
    ("said", "failure"),
    [
        ("INFO: count=50 first=1 curr=2 min=1 max=3 avg=2 std=1", "too old to print a median"),
        ("INFO: count=50 first=1 curr=2 min=1 avg=2 std=1 median=2", "too old to print a median"),
        ("INFO: count=50 (all same)", "too old to print a median"),
        ("INFO: count=3 curr=2(all same)", "the runner reports 3 of 5 runs"),
        ("INFO: STARTING!", "the runner reports 0 of 5 runs"),
    ],
)
def test_what_benchmark_model_does_not_say_is_not_made_up(benchmark_model: FakePhone, said: str, failure: str) -> None:
    benchmark_model.behave(said=said)
    [run] = benchmark_model.run()

    assert failure in (run.failure or "")


def test_a_delegate_that_benchmark_model_does_not_have_is_refused(benchmark_model: FakePhone) -> None:
    assert _error(benchmark_model, provider="qnn") == (
        "--device android: benchmark_model has no provider qnn; there are cpu, xnnpack, gpu, nnapi"
    )


def test_without_the_converter_benchmark_model_says_what_to_install(
    phone: FakePhone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    assert "pip install litert-torch torch==" in _error(phone, kind="litert")


@pytest.mark.parametrize("kind", [ConvLayer, HeadLayer])
def test_a_converted_model_computes_what_torch_does(kind: type) -> None:
    pytest.importorskip("litert_torch", reason="litert-torch is not installed; it brings 2 GB of packages")
    from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-not-found]

    from nas.devices.android.tools import BenchmarkModel
    from nas.networks.modules import build_deployed, example_input

    layer = next(layer for layer in LAYERS if isinstance(layer, kind))
    tool = BenchmarkModel(provider="cpu", threads=1, fallback=False, longest_s=1)
    interpreter = Interpreter(model_content=tool.export(layer))
    interpreter.allocate_tensors()
    image = example_input(layer)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image.permute(0, 2, 3, 1).numpy())
    interpreter.invoke()
    output = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    expected = build_deployed(layer)(image).detach()
    expected = expected.permute(0, 2, 3, 1) if expected.ndim == 4 else expected

    np.testing.assert_allclose(output, expected.numpy(), atol=1e-5)
