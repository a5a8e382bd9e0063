"""The runner app on its way to a phone: who signs it, how Xcode builds it, and how it is installed."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nas.devices.iphone.options import Bundle, Options, Team
from nas.devices.iphone.phones import Phone, persistently
from nas.devices.iphone.xcode import ToolError, devicectl, run
from nas.errors import InputError
from nas.files import Record, cache_folder, write_beside
from nas.scratch import ScratchFolder

__all__ = ["Signing", "find_signing", "install", "remember"]

_PROJECT = Path(__file__).with_name("app")
_INSTALL_S = 300.0
_BUILD_S = 1800.0


class Signing(Record):
    """The team that signs the runner app, and the identifier of the app."""

    team: Team
    bundle: Bundle


def find_signing(options: Options) -> Signing:
    """The team and bundle of the options. What they leave out is taken from the last installation.

    Raises:
        ToolError: no team was ever given.
        InputError: the file with the remembered values cannot be read.
    """
    file = _signing_file()
    remembered: dict[str, Any] = {}
    try:
        remembered = Signing.model_validate_json(file.read_bytes()).model_dump()
    except FileNotFoundError:
        pass
    except (OSError, ValidationError) as error:
        raise InputError(f"{file}: cannot be read; remove it and give --option team=TEAM again") from error
    team = options.team or remembered.get("team")
    if team is None:
        raise ToolError(
            "no signing team yet; give it once with --option team=TEAM, "
            "the ten letters and digits in Xcode > Settings > Accounts"
        )
    if team != remembered.get("team"):
        remembered = {}  # A bundle belongs to its team.
    # Apple requires an identifier that nobody else has.
    bundle = options.bundle or remembered.get("bundle") or f"local.nas-runner.{team.lower()}"
    return Signing(team=team, bundle=bundle)


def remember(signing: Signing) -> None:
    """Keep a team and bundle with which an installation succeeded."""
    write_beside(_signing_file(), signing.model_dump_json(indent=1).encode() + b"\n")


def install(phone: Phone, signing: Signing) -> None:
    """Install the runner app on the phone. It is built if there is no build yet, or if the phone refuses its signature.

    Raises:
        ToolError: it cannot be built, or the phone refuses it.
    """
    digest = hashlib.sha256(f"{signing.team} {signing.bundle} {phone.udid}".encode())
    for path in sorted(path for path in _PROJECT.rglob("*") if path.is_file()):
        digest.update(path.read_bytes())
    app = _cache() / "apps" / digest.hexdigest()[:16] / "NASRunner.app"

    def copy_in() -> None:
        devicectl("device", "install", "app", "--device", phone.identifier, str(app), timeout_s=_INSTALL_S)

    if app.is_dir():
        try:
            persistently(phone.identifier, copy_in)
            return
        except ToolError as error:
            if error.kind != "signature":
                raise
            # The profile may have expired. Without a paid membership it does so after seven days.
            shutil.rmtree(app.parent)
    _build(phone, signing, app)
    persistently(phone.identifier, copy_in)


def _build(phone: Phone, signing: Signing, app: Path) -> None:
    with ScratchFolder("build", within=_cache()) as folder:
        source, derived = folder.path / "source", folder.path / "derived"
        shutil.copytree(_PROJECT, source)  # Xcode writes files next to a project.
        run(
            "xcodebuild",
            *("-project", str(source / "NASRunner.xcodeproj"), "-scheme", "NASRunner", "-configuration", "Release"),
            *("-destination", f"platform=iOS,id={phone.udid}", "-derivedDataPath", str(derived), "-quiet"),
            *("-allowProvisioningUpdates", "-allowProvisioningDeviceRegistration"),
            *("CODE_SIGN_STYLE=Automatic", f"DEVELOPMENT_TEAM={signing.team}"),
            f"PRODUCT_BUNDLE_IDENTIFIER={signing.bundle}",
            "build",
            timeout_s=_BUILD_S,
        )
        built = derived / "Build" / "Products" / "Release-iphoneos" / "NASRunner.app"
        if not built.is_dir():
            raise ToolError(f"xcodebuild left no {built.name}; open {_PROJECT} in Xcode and build it there")
        app.parent.mkdir(parents=True, exist_ok=True)
        built.rename(app)


def _signing_file() -> Path:
    return _cache() / "signing.json"


def _cache() -> Path:
    return cache_folder("iphone", keeps="the runner app")
