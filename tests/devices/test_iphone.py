"""The iPhone, against executables that answer as Xcode's do (tests/devices/fakes/apple): needs no Mac and no phone."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.devices import Job, Run, open_device, sampled
from nas.devices.iphone import IPhone, Options, unavailable
from nas.devices.iphone.phones import Phone
from nas.errors import DeviceError, InputError
from nas.networks import ConvLayer, HeadLayer, Stack, Subject
from nas.networks.modules import example_input

FAKES = Path(__file__).parent / "fakes" / "apple"
IDENTIFIER = "6B29FC40-CA47-1067-B31D-00DD010662DA"
BUNDLE = "local.nas-runner.abcde12345"


def layer(channels: int) -> ConvLayer:
    return ConvLayer(channels=channels, kernel=3, expansion=2, height=4, width=4)


def job(subject: Subject, *, verify: bool = False) -> Job:
    return Job(subject=subject, duration_ms=1, minimum_runs=3, maximum_runs=9, verify=verify)


class Apple:
    """The Mac's tools and the phones that they know."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.documents = folder / "phone" / "Documents"
        self.state: dict[str, Any] = {"devices": [phone()], "faults": [], "installed": []}
        self.save()

    def save(self) -> None:
        (self.folder / "state.json").write_text(json.dumps(self.state))

    def fault(self, match: str, *, times: int = 1, **what: object) -> None:
        self.state = json.loads((self.folder / "state.json").read_text())
        self.state["faults"].append({"match": match, "times": times, **what})
        self.save()

    def refuse(self, match: str, text: str, *, times: int = 1) -> None:
        self.fault(match, times=times, text=text, code=1)

    def change(self, section: str, **values: object) -> None:
        self.state["devices"][0][section].update(values)
        self.save()

    def calls(self, words: str = "") -> list[str]:
        file = self.folder / "calls.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [call for line in lines if words in (call := " ".join(json.loads(line)))]


def phone(**changes: str) -> dict[str, Any]:
    identity = {"identifier": IDENTIFIER, "udid": "00008140-001A2B3C4D5E6F70", "name": "Anna\u2019s iPhone", **changes}
    return {
        "identifier": identity["identifier"],
        "visibilityClass": "default",
        "capabilities": [{"name": "Launch Application", "featureIdentifier": "com.apple.coredevice.feature.launch"}],
        "connectionProperties": {"tunnelState": "connected", "pairingState": "paired", "transportType": "wired"},
        "deviceProperties": {
            "name": identity["name"],
            "osVersionNumber": "18.2",
            "osBuildUpdate": "22C152",
            "developerModeStatus": "enabled",
            "ddiServicesAvailable": True,
        },
        "hardwareProperties": {
            "deviceType": "iPhone",
            "marketingName": "iPhone 16",
            "productType": "iPhone17,3",
            "platform": "iOS",
            "reality": "physical",
            "udid": identity["udid"],
        },
    }


@pytest.fixture
def apple(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Apple]:
    folder = tmp_path / "apple"
    folder.mkdir()
    (folder / "python3").symlink_to(sys.executable)  # without a shim around it: each call is a process or two
    monkeypatch.setenv("PATH", os.pathsep.join([str(folder), str(FAKES), os.environ["PATH"]]))
    monkeypatch.setenv("NAS_FAKE_APPLE", str(folder))
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("nas.devices.iphone.phones._PAUSE_S", 0.0)
    monkeypatch.setattr("nas.devices.iphone.device.package", empty_package)
    yield Apple(folder)
    with suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int((folder / "app.pid").read_text()), signal.SIGKILL)


def empty_package(subject: Subject) -> Path:
    """A package without a model: conversion takes half a second, and one test does it."""
    folder = Path(tempfile.mkdtemp(suffix=".mlpackage"))
    (folder / "Manifest.json").write_text(subject.key)
    return folder


@pytest.fixture
def device(apple: Apple) -> Iterator[IPhone]:
    """A phone with the app on it."""
    apple.state["installed"] = [BUNDLE]
    apple.save()
    it = Phone(
        identifier=IDENTIFIER, udid="", name="", model="iPhone 16", os="iOS 18.2", is_connected=True, problem=None
    )
    with closing(IPhone(it, bundle=BUNDLE, options=Options(timeout_s=5), versions={})) as made:
        yield made


@pytest.fixture
def opened(apple: Apple) -> Iterator[Callable[..., IPhone]]:
    devices: list[IPhone] = []

    def open_one(address: str = "", **options: str) -> IPhone:
        given = {"team": "ABCDE12345", "timeout_s": "5", **options}
        device = open_device(f"iphone://{address}" if address else "iphone", given)
        assert isinstance(device, IPhone)
        devices.append(device)
        return device

    yield open_one
    for device in devices:
        device.close()


def _not_installed(name: str) -> str:
    raise importlib.metadata.PackageNotFoundError(name)


def failures(runs: list[Run]) -> list[str | None]:
    return [run.failure for run in runs]


class TestMeasuring:
    def test_a_batch_is_one_copy_in_one_launch_and_one_copy_out(self, apple: Apple, device: IPhone) -> None:
        runs = list(device.time([job(layer(8)), job(layer(16)), job(Stack(layer=layer(24), count=2)), job(layer(8))]))

        assert [run.times_ms[0] for run in runs] == [8.0, 16.0, 24.0, 8.0]
        assert [len(run.times_ms) for run in runs] == [3] * 4
        assert len(apple.calls("copy to")) == 1
        assert len(apple.calls("process launch")) == 1
        assert len(apple.calls("copy from")) == 1

    def test_a_model_that_is_timed_twice_is_compiled_and_copied_once(self, apple: Apple, device: IPhone) -> None:
        list(device.time([job(layer(8)), job(layer(8))]))

        assert len(apple.calls("coremlcompiler")) == 1
        assert len(list(apple.documents.rglob("*.mlmodelc"))) == 1

    def test_the_output_comes_back_where_it_is_asked_for(self, device: IPhone) -> None:
        # Larger than what comes back whole.
        subject = ConvLayer(channels=5, kernel=3, expansion=2, height=41, width=41)
        verified, plain = device.time([job(subject, verify=True), job(subject)])

        assert verified.output is not None
        np.testing.assert_array_equal(sampled(example_input(subject).numpy()), verified.output)
        assert plain.output is None

    def test_facts_of_the_phone_come_along(self, opened: Callable[..., IPhone]) -> None:
        device = opened(compute_units="cpu_and_ne")
        (run,) = device.time([job(layer(8))])

        assert run.facts == {
            "thermal_state": "nominal",
            "placement": "NeuralEngine 9 of cpu_and_ne",
            "off_neural_engine": "",
        }

    # coremltools 9.0 asks its own registry in a deprecated way, and leaves temporary folders to the garbage collector.
    @pytest.mark.filterwarnings("ignore:Function _TORCH_OPS_REGISTRY:DeprecationWarning")
    @pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")
    def test_a_real_package_is_converted_and_compiled(
        self, apple: Apple, opened: Callable[..., IPhone], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from nas.devices import coreml

        monkeypatch.setattr("nas.devices.iphone.device.package", coreml.package)
        (run,) = opened().time([job(HeadLayer(channels=8, num_classes=3, height=2, width=2))])

        assert run.times_ms == (8.0, 8.0, 8.0)

    def test_a_second_batch_leaves_nothing_of_the_first(self, apple: Apple, device: IPhone) -> None:
        list(device.time([job(layer(8))]))
        (first,) = (apple.documents / "nas").iterdir()
        list(device.time([job(layer(16))]))
        (second,) = (apple.documents / "nas").iterdir()

        assert first != second

    def test_closing_leaves_nothing_on_the_phone_and_ends_the_app(self, apple: Apple, device: IPhone) -> None:
        list(device.time([job(layer(8))]))
        device.close()

        assert list(apple.documents.iterdir()) == []
        with pytest.raises(ProcessLookupError):
            os.kill(int((apple.folder / "app.pid").read_text()), 0)

    def test_closing_unused_does_not_launch_the_app(self, apple: Apple, opened: Callable[..., IPhone]) -> None:
        opened().close()

        assert apple.calls("process launch") == []

    def test_a_phone_that_is_gone_can_be_closed(self, apple: Apple, device: IPhone) -> None:
        list(device.time([job(layer(8))]))
        apple.refuse("launch", "ERROR: The specified device was not found.", times=9)

        device.close()

    def test_the_fingerprint_names_phone_system_and_software(self, opened: Callable[..., IPhone]) -> None:
        described = opened(compute_units="cpu_and_ne").describe()

        assert described.kind == "iphone"
        assert described.model == "iPhone 16 (iPhone17,3)"
        assert described.os == "iOS 18.2 (22C152)"
        assert described.versions["Xcode"] == "16.2 (16C5032a)"
        assert {"coremltools", "Xcode"} == set(described.versions)
        assert described.precision == "fp16"
        assert described.settings == {"compute_units": "cpu_and_ne", "target": "iOS16"}


class TestThingsThatGoWrongWithOneJob:
    def test_a_crash_that_does_not_repeat_costs_nothing(self, apple: Apple, device: IPhone) -> None:
        apple.fault("1/", app="crash")
        runs = list(device.time([job(layer(8)), job(layer(16)), job(layer(24))]))

        assert failures(runs) == [None, None, None]
        assert runs[1].times_ms[0] == 16.0
        assert len(apple.calls("process launch")) == 2
        assert len(apple.calls("copy to")) == 1

    def test_a_job_that_crashes_twice_has_failed_and_the_others_go_on(self, apple: Apple, device: IPhone) -> None:
        apple.fault("1/", app="crash", times=9)
        runs = list(device.time([job(layer(8)), job(layer(16)), job(layer(24))]))

        assert failures(runs) == [
            None,
            "the runner app ended 2 times in this job: App terminated due to signal 11.",
            None,
        ]
        assert runs[2].times_ms[0] == 24.0

    def test_a_job_that_hangs_has_failed_and_the_others_go_on(
        self, apple: Apple, opened: Callable[..., IPhone]
    ) -> None:
        device = opened(timeout_s="1.5")
        apple.fault("1/", app="hang", times=9)
        runs = list(device.time([job(layer(8)), job(layer(16)), job(layer(24))]))

        assert failures(runs) == [
            None,
            "no result within 1.501 s; if the iPhone was locked, set Auto-Lock to Never",
            None,
        ]

    def test_a_job_that_cannot_be_exported_is_not_sent(
        self, opened: Callable[..., IPhone], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def export(subject: Subject) -> Path:
            if subject == layer(16):
                raise ValueError("no rule for this\nand more")
            return empty_package(subject)

        monkeypatch.setattr("nas.devices.iphone.device.package", export)
        runs = list(opened().time([job(layer(8)), job(layer(16)), job(layer(24))]))

        assert failures(runs) == [None, "cannot be exported: no rule for this", None]
        assert runs[2].times_ms[0] == 24.0

    def test_a_job_that_cannot_be_compiled_is_not_sent(self, apple: Apple, device: IPhone) -> None:
        apple.refuse("c16", "coremlc: error: Encountered an unknown operator.", times=9)
        runs = list(device.time([job(layer(16)), job(layer(8))]))

        assert failures(runs) == ["cannot be compiled for the iPhone: Encountered an unknown operator.", None]

    def test_a_batch_of_nothing_but_failures_needs_no_phone(self, apple: Apple, device: IPhone) -> None:
        apple.refuse("coremlcompiler", "coremlc: error: no.", times=9)
        list(device.time([job(layer(16)), job(layer(8))]))

        assert apple.calls("copy to") == []

    def test_a_line_that_cannot_be_read_is_the_failure_of_its_job(self, apple: Apple, device: IPhone) -> None:
        apple.fault("0/", app="garbles")
        runs = list(device.time([job(layer(8)), job(layer(16))]))

        assert failures(runs) == ["the runner app left no result that can be read", None]


class TestABrokenConnection:
    def test_the_app_goes_on_where_its_console_broke_off(self, apple: Apple, device: IPhone) -> None:
        apple.fault("1/", app="hangs up", times=3)
        runs = list(device.time([job(layer(8)), job(layer(16)), job(layer(24))]))

        assert [run.times_ms[0] for run in runs] == [8.0, 16.0, 24.0]

    def test_a_connection_that_breaks_again_and_again_ends_the_build(self, apple: Apple, device: IPhone) -> None:
        apple.fault("1/", app="hangs up", times=99)
        results = device.time([job(layer(8)), job(layer(16))])

        assert next(results).times_ms[0] == 8.0
        with pytest.raises(DeviceError, match=r"^iphone: the connection to the iPhone broke 6 times; connect it by"):
            next(results)

    @pytest.mark.parametrize("command", ["copy to", "copy from", "install app", "info details"])
    def test_a_command_is_given_again_when_the_tunnel_is_back(
        self, apple: Apple, opened: Callable[..., IPhone], command: str
    ) -> None:
        apple.refuse(command, "ERROR: A connection to this device could not be established. (error 4)", times=2)
        (run,) = opened().time([job(layer(8))])

        assert run.times_ms == (8.0, 8.0, 8.0)

    def test_a_tunnel_that_stays_down_ends_the_build(self, apple: Apple, device: IPhone) -> None:
        apple.refuse("device", "ERROR: Timed out while attempting to establish tunnel.", times=99)

        with pytest.raises(
            DeviceError,
            match=r"^iphone: the connection to the iPhone is lost \(Timed out while attempting to establish "
            r"tunnel\.\); connect it by cable, unlock it and run this again$",
        ):
            list(device.time([job(layer(8))]))

    def test_half_a_file_is_copied_again(self, apple: Apple, device: IPhone) -> None:
        apple.fault("copy from", cut=0.5)
        runs = list(device.time([job(layer(8)), job(layer(16))]))

        assert [run.times_ms[0] for run in runs] == [8.0, 16.0]
        assert len(apple.calls("process launch")) == 1

    def test_an_app_that_tells_its_console_nothing_is_found_done(
        self, apple: Apple, device: IPhone, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nas.devices.iphone.runner_app._POLL_S", 0.2)
        apple.fault("0/", app="mutes")
        runs = list(device.time([job(layer(8)), job(layer(16))]))

        assert [run.times_ms[0] for run in runs] == [8.0, 16.0]
        assert len(apple.calls("process launch")) == 1

    def test_an_app_that_does_not_begin_ends_the_build(self, apple: Apple, device: IPhone) -> None:
        apple.fault("start", app="dies", times=9)

        message = "the runner app ends before it has begun a job: the manifest cannot be read; its crash reports"
        with pytest.raises(DeviceError, match=f"^iphone: {message}"):
            list(device.time([job(layer(8))]))


LOCKED = (
    "ERROR: The application failed to launch. (com.apple.dt.CoreDeviceError error 10002 (0x2712))\n"
    "    NSLocalizedFailureReason = The request was denied by service delegate (SBMainWorkspace) for reason: Locked "
    '("Unable to launch com.x because the device was not, or could not be, unlocked").'
)
UNTRUSTED = (
    "ERROR: The application failed to launch. (com.apple.dt.CoreDeviceError error 10002 (0x2712))\n"
    "    NSLocalizedFailureReason = The request was denied by service delegate (SBMainWorkspace) for reason: Security "
    '("Unable to launch com.x because it has an invalid code signature, inadequate entitlements or its profile has '
    'not been explicitly trusted by the user").'
)


@pytest.mark.parametrize(
    ("text", "message"),
    [(LOCKED, "the iPhone is locked; unlock it"), (UNTRUSTED, "does not trust the developer who signed")],
)
def test_a_launch_that_the_phone_denies_ends_the_build(apple: Apple, device: IPhone, text: str, message: str) -> None:
    apple.refuse("process launch", text)

    with pytest.raises(DeviceError, match=f"^iphone: .*{message}"):
        list(device.time([job(layer(8))]))
    assert len(apple.calls("process launch")) == 1


class TestChoosingAPhone:
    def test_a_phone_whose_tunnel_is_down_is_used(self, apple: Apple, opened: Callable[..., IPhone]) -> None:
        apple.change("connectionProperties", tunnelState="disconnected")

        assert opened().describe().model == "iPhone 16 (iPhone17,3)"

    @pytest.mark.parametrize("address", ["Anna's iPhone", "00008140-001A2B3C4D5E6F70", IDENTIFIER])
    def test_an_address_is_a_name_or_a_number(self, apple: Apple, opened: Callable[..., IPhone], address: str) -> None:
        apple.state["devices"].insert(0, phone(identifier="B", udid="0000B", name="Bob's phone; rm -rf ~"))
        apple.save()
        device = opened(address)
        list(device.time([job(layer(8))]))

        assert [call for call in apple.calls("--device") if f"--device {IDENTIFIER}" not in call] == []

    def test_several_phones_must_be_told_apart(self, apple: Apple, opened: Callable[..., IPhone]) -> None:
        apple.state["devices"].append(phone(identifier="B", udid="0000B", name="Bob"))
        apple.save()

        with pytest.raises(InputError, match=r"could be any of iphone://Anna\u2019s iPhone, iphone://Bob; name one"):
            opened()

    def test_the_only_one_that_can_be_used_is_meant(self, apple: Apple, opened: Callable[..., IPhone]) -> None:
        other = phone(identifier="B", udid="0000B", name="Bob")
        other["deviceProperties"]["developerModeStatus"] = "disabled"
        ipad = phone(identifier="C", udid="0000C", name="Pad")
        ipad["hardwareProperties"]["deviceType"] = "iPad"
        apple.state["devices"] = [{"identifier": "half known"}, other, ipad, *apple.state["devices"]]
        apple.save()

        assert opened().describe().model == "iPhone 16 (iPhone17,3)"

    def test_an_unknown_name_is_answered_with_the_known_ones(self, apple: Apple, opened: Callable[..., IPhone]) -> None:
        with pytest.raises(
            DeviceError, match=r"^iphone: no iPhone is called 'Bob': this Mac knows Anna\u2019s iPhone;"
        ):
            opened("Bob")


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("connectionProperties", {"tunnelState": "unavailable"}, "is not connected; connect it by cable"),
        ("connectionProperties", {"pairingState": "unpaired"}, "does not trust this Mac; connect it by cable"),
        ("deviceProperties", {"osVersionNumber": "16.7"}, "it runs iOS 16.7; iOS 17 or later is needed"),
        ("deviceProperties", {"developerModeStatus": "disabled"}, "Developer Mode is off; turn it on in Settings"),
        ("deviceProperties", {"ddiServicesAvailable": False}, "developer services are not ready; unlock it, open"),
    ],
)
def test_a_phone_that_cannot_be_used_says_why(
    apple: Apple, opened: Callable[..., IPhone], section: str, values: dict[str, object], message: str
) -> None:
    apple.change(section, **values)

    with pytest.raises(DeviceError, match=f"^iphone: .*{message}"):
        opened()
    assert message in (unavailable() or "")


class TestTheToolsOfAMac:
    def test_without_a_mac_the_one_reason_is_that(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))

        assert unavailable() == (
            "needs a Mac with Xcode 15 or later, and there is no xcrun here; "
            "build the table on a Mac and copy its .json to latency_tables/"
        )
        with pytest.raises(DeviceError, match=r"^iphone: needs a Mac with Xcode"):
            open_device("iphone", {})

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('xcrun: error: unable to find utility "devicectl", not a developer tool or in PATH', "xcode-select"),
            (
                "xcrun: error: invalid active developer path (/Library/Developer/CommandLineTools), missing xcrun at: "
                "/Library/Developer/CommandLineTools/usr/bin/xcrun",
                "Xcode 15 or later is not installed or not selected; install it from the App Store",
            ),
            (
                "You have not agreed to the Xcode license agreements. Please run 'sudo xcodebuild -license' from "
                "within a Terminal window to review and agree to the Xcode and Apple SDKs license.",
                "the Xcode licence is not agreed to; run: sudo xcodebuild -license accept",
            ),
        ],
    )
    def test_a_mac_without_a_working_xcode_says_what_to_do(self, apple: Apple, text: str, message: str) -> None:
        apple.refuse("list devices", text)

        assert message in (unavailable() or "")

    def test_a_mac_without_a_phone_says_so(self, apple: Apple) -> None:
        apple.state["devices"] = []
        apple.save()

        assert unavailable() == "no iPhone is connected; connect one by cable, unlock it and tap Trust"

    def test_a_mac_without_coremltools_says_so_before_anything_is_built(
        self, apple: Apple, opened: Callable[..., IPhone], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened().close()
        before = apple.calls("install app")
        monkeypatch.setattr("importlib.metadata.version", _not_installed)
        message = "coremltools is not installed: pip install 'nas[coreml]', for Python 3.11 to 3.13"

        assert unavailable() == message
        with pytest.raises(DeviceError, match=f"^iphone: {re.escape(message)}$"):
            opened()
        assert apple.calls("install app") == before

    def test_half_an_answer_of_devicectl_is_no_answer(self, apple: Apple) -> None:
        apple.fault("list devices", text="", code=0)

        assert unavailable() == "devicectl list devices left no whole answer; try again"


class TestSigning:
    def test_without_a_team_the_fix_is_named(self, apple: Apple) -> None:
        message = r"no signing team yet; give it once with --option team=TEAM"

        assert re.match(message, unavailable() or "")
        with pytest.raises(DeviceError, match=f"^iphone: {message}"):
            open_device("iphone", {})

    def test_a_team_is_given_once(self, apple: Apple, opened: Callable[..., IPhone]) -> None:
        opened(bundle="com.example.runner")
        again = open_device("iphone", {})
        again.close()

        assert unavailable() is None
        assert json.loads((apple.folder / "state.json").read_text())["installed"][0] == "com.example.runner"

    def test_the_bundle_of_one_team_is_not_taken_for_another(self, apple: Apple, opened: Callable[..., IPhone]) -> None:
        opened(bundle="com.example.runner")
        opened(team="ZYXWV98765")

        assert json.loads((apple.folder / "state.json").read_text())["installed"] == ["local.nas-runner.zyxwv98765"]

    def test_a_team_that_failed_is_not_remembered(self, apple: Apple, opened: Callable[..., IPhone]) -> None:
        apple.refuse("xcodebuild", 'error: No Account for Team "ABCDE12345". Add a new account in Accounts settings.')
        with pytest.raises(DeviceError, match="Xcode cannot sign the runner app for this team; sign in to Xcode"):
            opened()

        assert "no signing team yet" in (unavailable() or "")

    @pytest.mark.parametrize("options", [{"team": "abc; reboot"}, {"bundle": "com.x$(reboot)"}, {"bundle": "runner"}])
    def test_what_is_no_team_or_bundle_is_bad_input(
        self, opened: Callable[..., IPhone], options: dict[str, str]
    ) -> None:
        with pytest.raises(InputError, match=r"--device iphone: (team|bundle): string should match pattern"):
            opened(**options)

    def test_a_file_of_signing_that_cannot_be_read_is_named(self, apple: Apple, tmp_path: Path) -> None:
        file = tmp_path / "cache" / "iphone" / "signing.json"
        file.parent.mkdir(parents=True)
        file.write_text("{")

        with pytest.raises(InputError, match=r"signing\.json: cannot be read; remove it"):
            open_device("iphone", {})
        assert f"{file}: cannot be read; remove it and give --option team=TEAM again" == unavailable()


class TestBuildingTheApp:
    def test_it_is_built_once_for_a_team_a_bundle_and_a_phone(
        self, apple: Apple, opened: Callable[..., IPhone]
    ) -> None:
        opened()
        opened()

        assert len(apple.calls("xcodebuild -project")) == 1
        (call,) = apple.calls("xcodebuild -project")
        assert "-destination platform=iOS,id=00008140-001A2B3C4D5E6F70" in call
        assert f"DEVELOPMENT_TEAM=ABCDE12345 PRODUCT_BUNDLE_IDENTIFIER={BUNDLE} build" in call

        opened(bundle="com.example.other")
        apple.change("hardwareProperties", udid="00008140-00FFFFFFFFFFFFFF")
        opened()

        assert len(apple.calls("xcodebuild -project")) == 3

    def test_an_app_whose_profile_has_expired_is_built_anew(self, apple: Apple, opened: Callable[..., IPhone]) -> None:
        opened()
        apple.refuse(
            "install app",
            "ERROR: Failed to install the app on the device. (com.apple.dt.CoreDeviceError error 3002 (0xBBA))\n"
            "    Failed to verify code signature: 0xe8008011 (A valid provisioning profile was not found.)",
        )
        opened()

        assert len(apple.calls("xcodebuild -project")) == 2

    def test_an_app_that_the_phone_never_takes_is_named(self, apple: Apple, opened: Callable[..., IPhone]) -> None:
        apple.refuse("install app", "ERROR: 0xe8008015 (A valid provisioning profile was not found.)", times=9)

        with pytest.raises(
            DeviceError, match="the iPhone refuses the signature of the runner app; check that the team"
        ):
            opened()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (
                "error: Failed Registering Bundle Identifier: The app identifier cannot be registered to your "
                "development team because it is not available. Change your bundle identifier to a unique string.",
                "the bundle identifier belongs to somebody else; give another with --option bundle=IDENTIFIER",
            ),
            (
                "xcodebuild: error: Unable to find a destination matching the provided destination specifier:",
                "this Xcode cannot build for the iPhone's iOS; install the iOS platform in Xcode > Settings",
            ),
            (
                "note: Using new build system\n/x/NASRunner/Runner.swift:99:7: error: cannot find 'MLModel' in scope\n"
                "** BUILD FAILED **",
                "cannot find 'MLModel' in scope",
            ),
        ],
    )
    def test_a_build_that_fails_shows_the_real_error(
        self, apple: Apple, opened: Callable[..., IPhone], text: str, message: str
    ) -> None:
        apple.refuse("xcodebuild -project", text)

        with pytest.raises(DeviceError, match=f"^iphone: {re.escape(message)}"):
            opened()

    def test_the_project_names_every_source_and_defines_every_object(self) -> None:
        folder = FAKES.parents[3] / "nas" / "devices" / "iphone" / "app"
        project = (folder / "NASRunner.xcodeproj" / "project.pbxproj").read_text()
        scheme = next(folder.rglob("*.xcscheme")).read_text()
        defined = set(re.findall(r"^\t\t([0-9A-F]{24})\b.* = \{", project, re.MULTILINE))

        assert defined == set(re.findall(r"\b[0-9A-F]{24}\b", project))
        assert set(re.findall(r"\b[0-9A-F]{24}\b", scheme)) <= defined
        assert {path.name for path in folder.rglob("*.swift")} == set(re.findall(r"path = (\w+\.swift);", project))


def test_a_silent_tool_does_not_hold_the_listing_up(apple: Apple, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.devices.iphone.phones._LIST_S", 0.01)

    assert "devicectl list did not answer within 0.01 s" in (unavailable() or "")
