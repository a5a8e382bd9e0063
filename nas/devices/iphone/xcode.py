"""Apple's command-line tools on a Mac, all through xcrun: how they are called, and what to do when they refuse.

The words that failures are known by come from public reports of Xcode 15 and 16. They are matched loosely; what is not
known is shown as the tool says it.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

__all__ = [
    "XCRUN",
    "Kind",
    "Phone",
    "ToolError",
    "devicectl",
    "persistently",
    "phone_details",
    "phones",
    "refusal",
    "run",
    "version",
]

# devicectl is seldom on PATH itself, and this finds it in the Xcode that is selected.
XCRUN = "xcrun"

_FIRST_IOS = 17  # devicectl speaks to no earlier one
_ATTEMPTS = 5
_PAUSE_S = 2.0  # between attempts to get a lost phone back
_LIST_S = 15.0
_COMMAND_S = 120.0

_NO_XCODE = (
    "needs a Mac with Xcode 15 or later, and there is no xcrun here; "
    "build the table on a Mac and copy its .json to latency_tables/"
)

_UNPAIRED = "the iPhone does not trust this Mac; connect it by cable, unlock it and tap Trust"
_UNCONNECTED = "the iPhone is not connected; connect it by cable and unlock it"
_NO_DEVELOPER_MODE = (
    "Developer Mode is off; turn it on in Settings > Privacy & Security > Developer Mode on the iPhone, "
    "which restarts it"
)
_NO_SERVICES = (
    "the iPhone's developer services are not ready; unlock it, open Xcode > Window > Devices and Simulators, "
    "and wait until Xcode has prepared it"
)

# Words in what a tool says -> what is wrong and what to do. The first that matches counts.
_REFUSALS = (
    (
        r"license agreement|agreed to the xcode",
        "the Xcode licence is not agreed to; run: sudo xcodebuild -license accept",
    ),
    (
        r"unable to find utility|requires xcode|invalid active developer path|no developer tools",
        "Xcode 15 or later is not installed or not selected; install it from the App Store, then run: "
        "sudo xcode-select --switch /Applications/Xcode.app",
    ),
    (
        r"could not be,? unlocked|reason: locked|device is locked|passcode protected",
        "the iPhone is locked; unlock it, set Settings > Display & Brightness > Auto-Lock to Never, and run this again",
    ),
    (
        r"explicitly trusted by the user|invalid code signature|app certificate is not trusted",
        "the iPhone does not trust the developer who signed the runner app; "
        "trust him in Settings > General > VPN & Device Management on the iPhone",
    ),
    (r"developer mode", _NO_DEVELOPER_MODE),
    (r"must be paired|not paired|pairing (?:failed|required)|trust this (?:computer|mac)", _UNPAIRED),
    (r"developer disk image|ddi ?services", _NO_SERVICES),
    (
        r"no account for team|signing certificate|no profiles for|requires a development team|"
        r"requires a provisioning profile",
        "Xcode cannot sign the runner app for this team; sign in to Xcode > Settings > Accounts with a member of the "
        "team, or give another with --option team=TEAM",
    ),
    (
        r"cannot be registered to your development team",
        "the bundle identifier belongs to somebody else; give another with --option bundle=IDENTIFIER",
    ),
    (
        r"unable to find a destination|platform is not installed|is not installed\. (?:to use|please)",
        "this Xcode cannot build for the iPhone's iOS; install the iOS platform in Xcode > Settings > Components",
    ),
    (r"device was not found|no such device", _UNCONNECTED),
)
_BAD_SIGNATURE = re.compile(
    r"0xe80080|valid provisioning profile|integrity could not be verified",
    re.IGNORECASE,
)
# The way to the phone broke: it may come back. Xcode 26 gives it up after every command.
_LOST = re.compile(
    r"tunnel|disconnected|network parameters|"
    r"connection\b.{0,40}\b(?:interrupted|invalidated|lost|closed|established)",
    re.IGNORECASE,
)

Kind: TypeAlias = Literal["refused", "lost", "signature", "unknown"]

_T = TypeVar("_T")


class ToolError(Exception):
    """A tool refused; the message is one line with what to do.

    Attributes:
        kind: `refused` where the user has to do something; `lost` where the way to the phone broke, and may be mended;
            `signature` where the phone does not take the app as it is signed; else `unknown`.
    """

    def __init__(self, message: str, kind: Kind = "refused") -> None:
        super().__init__(message)
        self.kind = kind


class _Answer(BaseModel):
    """A part of devicectl's answers, which hold far more than is read here."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel)


class _Hardware(_Answer):
    device_type: str
    udid: str = Field(pattern=r"^[0-9A-Za-z-]+$")
    marketing_name: str = ""
    product_type: str = ""
    reality: str = "physical"


class _Properties(_Answer):
    name: str
    os_version_number: str = ""
    os_build_update: str = ""
    developer_mode_status: str = ""
    ddi_services_available: bool = True


class _Connection(_Answer):
    tunnel_state: str = ""
    pairing_state: str = ""


class _Device(_Answer):
    identifier: str = Field(pattern=r"^[0-9A-Za-z-]+$")
    hardware_properties: _Hardware
    device_properties: _Properties
    connection_properties: _Connection = _Connection()


@dataclass(frozen=True, slots=True, kw_only=True)
class Phone:
    """An iPhone that this Mac knows.

    Attributes:
        identifier: devicectl's name of it.
        udid: what xcodebuild and provisioning profiles call it.
        name: what its owner calls it.
        model: such as `iPhone 16 (iPhone17,3)`.
        os: such as `iOS 18.2 (22C152)`.
        is_connected: whether it can be reached; false for one that was connected at another time.
        problem: why it cannot be used and what to do; None when it can.
    """

    identifier: str
    udid: str
    name: str
    model: str
    os: str
    is_connected: bool
    problem: str | None


def run(tool: str, *arguments: str, timeout_s: float = _COMMAND_S) -> str:
    """What a tool writes to its standard output.

    Raises:
        ToolError: it is not there, refuses, or does not answer in time.
    """
    try:
        done = subprocess.run(
            [XCRUN, tool, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError:
        raise ToolError(_NO_XCODE) from None
    except subprocess.TimeoutExpired:
        raise ToolError(
            f"{tool} {arguments[0]} did not answer within {timeout_s:g} s; connect the iPhone by cable and try again",
            "lost",
        ) from None
    if done.returncode:
        raise refusal(f"{done.stderr}\n{done.stdout}", otherwise=f"{tool} ended with exit code {done.returncode}")
    return done.stdout


def devicectl(*arguments: str, timeout_s: float = _COMMAND_S) -> dict[str, Any]:
    """The result of a devicectl command that answers with a file.

    Raises:
        ToolError: it refuses, does not answer in time, or leaves no whole file.
    """
    with tempfile.TemporaryDirectory(prefix="nas-devicectl-") as folder:
        file = Path(folder) / "answer.json"
        run("devicectl", *arguments, "-j", str(file), timeout_s=timeout_s)
        try:
            result = json.loads(file.read_bytes())["result"]
        except (OSError, ValueError, KeyError, TypeError):
            raise ToolError(f"devicectl {' '.join(arguments[:2])} left no whole answer; try again", "lost") from None
    return result if isinstance(result, dict) else {}


def refusal(text: str, *, otherwise: str) -> ToolError:
    """What a tool's words mean; `otherwise` stands in where it said nothing."""
    for pattern, meaning in _REFUSALS:
        if re.search(pattern, text, re.IGNORECASE):
            return ToolError(meaning)
    if _BAD_SIGNATURE.search(text):
        return ToolError(
            "the iPhone refuses the signature of the runner app; check that the team's profile is valid and names it",
            "signature",
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    marked = [line for line in lines if re.search(r"\berror:", line, re.IGNORECASE)]
    said = marked[0] if marked else lines[-1] if lines else otherwise
    return ToolError(
        re.sub(r"^.*?\berror:\s*", "", said, flags=re.IGNORECASE), "lost" if _LOST.search(text) else "unknown"
    )


def persistently(identifier: str, action: Callable[[], _T]) -> _T:
    """Do something on a phone, again if the way to it breaks: asking for its details restores it.

    Raises:
        ToolError: it refuses, or the way stays broken.
    """
    for _ in range(_ATTEMPTS):
        try:
            return action()
        except ToolError as error:
            if error.kind != "lost":
                raise
            last = error
        time.sleep(_PAUSE_S)
        try:
            phone_details(identifier)
        except ToolError as error:
            if error.kind != "lost":
                raise
    raise ToolError(f"the connection to the iPhone is lost ({last}); connect it by cable, unlock it and run this again")


def phones() -> list[Phone]:
    """The iPhones that this Mac knows, connected or not.

    Raises:
        ToolError: Xcode is missing or refuses.
    """
    known = []
    for entry in devicectl("list", "devices", timeout_s=_LIST_S).get("devices") or []:
        try:
            device = _Device.model_validate(entry)
        except ValidationError:
            continue  # A device without a name or a kind, as coremltools skips it too.
        hardware = device.hardware_properties
        if hardware.device_type.lower() == "iphone" and hardware.reality == "physical":
            known.append(_phone(device))
    return known


def phone_details(identifier: str) -> Phone:
    """One iPhone as it is now; restores the way to it.

    Raises:
        ToolError: it cannot be reached, or says nothing of itself.
    """
    result = devicectl("device", "info", "details", "--device", identifier)
    try:
        return _phone(_Device.model_validate(result))
    except ValidationError:
        raise ToolError("devicectl device info details told nothing of the iPhone; try again") from None


def version() -> str:
    """Xcode's version and build, such as `16.2 (16C5032a)`."""
    words = run("xcodebuild", "-version").split()
    return f"{words[1]} ({words[-1]})" if len(words) > 2 else " ".join(words)


def _phone(device: _Device) -> Phone:
    hardware, properties = device.hardware_properties, device.device_properties
    state, pairing = device.connection_properties.tunnel_state, device.connection_properties.pairing_state
    return Phone(
        identifier=device.identifier,
        udid=hardware.udid,
        name=properties.name,
        model=f"{hardware.marketing_name or 'iPhone'} ({hardware.product_type})",
        os=f"iOS {properties.os_version_number} ({properties.os_build_update})",
        # `disconnected` is a phone whose tunnel is down, and comes up with the next command.
        is_connected=state != "unavailable",
        problem=_problem(properties, state, pairing),
    )


def _problem(properties: _Properties, state: str, pairing: str) -> str | None:
    major = properties.os_version_number.partition(".")[0]
    if pairing == "unpaired":
        return _UNPAIRED
    if state == "unavailable":
        return _UNCONNECTED
    if major.isdecimal() and int(major) < _FIRST_IOS:
        return f"it runs iOS {properties.os_version_number}; iOS {_FIRST_IOS} or later is needed"
    if properties.developer_mode_status == "disabled":
        return _NO_DEVELOPER_MODE
    # While the tunnel is down they are never available.
    if state == "connected" and not properties.ddi_services_available:
        return _NO_SERVICES
    return None
