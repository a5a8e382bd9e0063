"""An iPhone connected to this Mac, through Core ML, in a runner app of this project's own.

Xcode's tools build, sign and install the app (nas/devices/iphone/app/) when a build begins. coremltools on this Mac
converts the models, and `coremlcompiler` compiles them, so that the phone only loads them. A batch of jobs takes three
steps: a folder is copied to the phone, the app is launched, and a file is copied back. In between, the phone runs every
model back to back without any work of the Mac.

Nothing of this has been tried on a Mac or an iPhone. The tests run it from end to end against executables that answer
as Xcode's do (tests/devices/fakes/apple). Of the app, Runner.swift was once compiled by Swift 6.0 on Linux over a
stand-in for Core ML, and driven by this package. App.swift was type-checked over stand-ins for its frameworks. Neither
was compiled with Apple's SDK, and Xcode has not opened the project.
"""

from __future__ import annotations

import importlib.metadata
from contextlib import suppress

from nas.devices.iphone.device import IPhone
from nas.devices.iphone.install import find_signing, install, remember
from nas.devices.iphone.options import Options
from nas.devices.iphone.phones import choose_phone, persistently, phone_details
from nas.devices.iphone.xcode import ToolError, version
from nas.errors import DeviceError, InputError

__all__ = ["IPhone", "Options", "open_device", "unavailable"]


def open_device(address: str, options: Options) -> IPhone:
    """Choose an iPhone and install the runner app. Building it takes a minute, once for a team, bundle and phone.

    Args:
        address: name, UDID or devicectl's identifier; may be empty when one iPhone is connected.
        options: see `Options`.
    Raises:
        InputError: several iPhones are connected and none is named.
        DeviceError: something is missing; the message says what to do.
    """
    try:
        found = choose_phone(address)
        phone = persistently(found.identifier, lambda: phone_details(found.identifier))
        if phone.problem:
            raise ToolError(phone.problem)
        signing = find_signing(options)
        converter = _converter()
        install(phone, signing)
        remember(signing)
        versions = {"coremltools": converter, "Xcode": version()}
    except ToolError as error:
        raise DeviceError(f"iphone: {error}") from error
    return IPhone(phone, bundle=signing.bundle, options=options, versions=versions)


def unavailable() -> str | None:
    """Why no iPhone can be used from here and what to do; None when one can."""
    try:
        with suppress(InputError):  # Several can be used.
            choose_phone("")
        find_signing(Options())
        _converter()
    except (InputError, ToolError) as error:
        return str(error)
    return None


def _converter() -> str:
    """The version of coremltools, which converts the models.

    Raises:
        ToolError: it is not installed.
    """
    try:
        return importlib.metadata.version("coremltools")
    except importlib.metadata.PackageNotFoundError:
        raise ToolError("coremltools is not installed: pip install 'nas[coreml]', for Python 3.11 to 3.13") from None
