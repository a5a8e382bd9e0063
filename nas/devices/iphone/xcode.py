"""Apple's command-line tools on a Mac, all through xcrun: how they are called, and what to do when they refuse.

Failures are recognized by words from public reports about Xcode 15 and 16. The words are matched loosely. An unknown
failure is shown in the tool's own words.
"""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any, Literal, TypeAlias

from nas.scratch import ScratchFolder

__all__ = [
    "NO_DEVELOPER_MODE",
    "NO_SERVICES",
    "UNCONNECTED",
    "UNPAIRED",
    "XCRUN",
    "Kind",
    "ToolError",
    "devicectl",
    "refusal",
    "run",
    "version",
]

# devicectl is rarely on the PATH. xcrun finds it in the Xcode that is selected.
XCRUN = "xcrun"

_COMMAND_S = 120.0

_NO_XCODE = (
    "needs a Mac with Xcode 15 or later, and there is no xcrun here; "
    "build the table on a Mac and copy its .json to latency_tables/"
)

# What is wrong with a phone, and what to do.
UNPAIRED = "the iPhone does not trust this Mac; connect it by cable, unlock it and tap Trust"
UNCONNECTED = "the iPhone is not connected; connect it by cable and unlock it"
NO_DEVELOPER_MODE = (
    "Developer Mode is off; turn it on in Settings > Privacy & Security > Developer Mode on the iPhone, "
    "which restarts it"
)
NO_SERVICES = (
    "the iPhone's developer services are not ready; unlock it, open Xcode > Window > Devices and Simulators, "
    "and wait until Xcode has prepared it"
)

# Words in the output of a tool -> what is wrong, and what to do. The first match counts.
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
    (r"developer mode", NO_DEVELOPER_MODE),
    (r"must be paired|not paired|pairing (?:failed|required)|trust this (?:computer|mac)", UNPAIRED),
    (r"developer disk image|ddi ?services", NO_SERVICES),
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
    (r"device was not found|no such device", UNCONNECTED),
)
_BAD_SIGNATURE = re.compile(
    r"0xe80080|valid provisioning profile|integrity could not be verified",
    re.IGNORECASE,
)
# The connection to the phone broke, and may come back. Xcode 26 closes it after every command.
_LOST = re.compile(
    r"tunnel|disconnected|network parameters|"
    r"connection\b.{0,40}\b(?:interrupted|invalidated|lost|closed|established)",
    re.IGNORECASE,
)

Kind: TypeAlias = Literal["refused", "lost", "signature", "unknown"]


class ToolError(Exception):
    """A tool refused. The message is one line that says what to do.

    Attributes:
        kind: `refused` where the user has to do something. `lost` where the connection to the phone broke, and can
            perhaps be restored. `signature` where the phone refuses the signature of the app. Else `unknown`.
    """

    def __init__(self, message: str, kind: Kind = "refused") -> None:
        super().__init__(message)
        self.kind = kind


def run(tool: str, *arguments: str, timeout_s: float = _COMMAND_S) -> str:
    """Run a tool and return its stdout.

    Raises:
        ToolError: it is missing, refuses, or does not answer in time.
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
    """Run a devicectl command and return the result from the JSON file that it writes.

    Raises:
        ToolError: it refuses, does not answer in time, or leaves an incomplete file.
    """
    with ScratchFolder("devicectl") as folder:
        file = folder.path / "answer.json"
        run("devicectl", *arguments, "-j", str(file), timeout_s=timeout_s)
        try:
            result = json.loads(file.read_bytes())["result"]
        except (OSError, ValueError, KeyError, TypeError):
            raise ToolError(f"devicectl {' '.join(arguments[:2])} left no whole answer; try again", "lost") from None
    return result if isinstance(result, dict) else {}


def refusal(text: str, *, otherwise: str) -> ToolError:
    """The error that the output of a tool means. Where it printed nothing, `otherwise` is the message."""
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


def version() -> str:
    """Xcode's version and build, such as `16.2 (16C5032a)`."""
    words = run("xcodebuild", "-version").split()
    return f"{words[1]} ({words[-1]})" if len(words) > 2 else " ".join(words)
