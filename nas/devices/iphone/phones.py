"""The iPhones that this Mac knows: their names and states, which one is meant, and how a lost one is reached again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from nas.devices.iphone.xcode import NO_DEVELOPER_MODE, NO_SERVICES, UNCONNECTED, UNPAIRED, ToolError, devicectl
from nas.errors import InputError

__all__ = ["Phone", "choose_phone", "persistently", "phone_details"]

_FIRST_IOS = 17  # the first that devicectl supports
_ATTEMPTS = 5
_PAUSE_S = 2.0  # between attempts to reach a lost phone
_LIST_S = 15.0

_T = TypeVar("_T")


class _Answer(BaseModel):
    """A part of devicectl's answers. They hold far more than is read here."""

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
        identifier: devicectl's identifier.
        udid: identifier for xcodebuild and provisioning profiles.
        name: name that its owner gave it.
        model: such as `iPhone 16 (iPhone17,3)`.
        os: such as `iOS 18.2 (22C152)`.
        is_connected: whether it can be reached; false for one that was connected in the past.
        problem: why it cannot be used and what to do; None when it can.
    """

    identifier: str
    udid: str
    name: str
    model: str
    os: str
    is_connected: bool
    problem: str | None


def choose_phone(address: str) -> Phone:
    """The phone that an address means, according to the list of devices.

    Args:
        address: name, UDID or devicectl's identifier; empty for the only one that can be used.
    Raises:
        InputError: several phones can be used and none is named.
        ToolError: there is none, or it cannot be used.
    """
    known = _phones()
    if address:
        wanted = _plain(address)
        meant = [phone for phone in known if wanted in (_plain(phone.name), phone.udid, phone.identifier)]
        if not meant:
            names = f"this Mac knows {', '.join(phone.name for phone in known)}" if known else "this Mac knows none"
            raise ToolError(f"no iPhone is called {address!r}: {names}; connect it by cable and unlock it")
    else:
        meant = [phone for phone in known if phone.is_connected] or known
    if not meant:
        raise ToolError("no iPhone is connected; connect one by cable, unlock it and tap Trust")
    ready = [phone for phone in meant if phone.problem is None] or meant
    if len(ready) > 1 and ready[0].problem is None:
        names = ", ".join(f"iphone://{phone.name}" for phone in ready)
        raise InputError(f"--device iphone could be any of {names}; name one, by its UDID if need be")
    if ready[0].problem:
        raise ToolError(f"{ready[0].name}: {ready[0].problem}")
    return ready[0]


def persistently(identifier: str, action: Callable[[], _T]) -> _T:
    """Do something on a phone, and retry if the connection breaks. Asking for the phone's details restores it.

    Raises:
        ToolError: the phone refuses it, or the connection stays broken.
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


def phone_details(identifier: str) -> Phone:
    """One iPhone as it is now. This also restores a lost connection to it.

    Raises:
        ToolError: it cannot be reached, or the answer is invalid.
    """
    result = devicectl("device", "info", "details", "--device", identifier)
    try:
        return _phone(_Device.model_validate(result))
    except ValidationError:
        raise ToolError("devicectl device info details told nothing of the iPhone; try again") from None


def _phones() -> list[Phone]:
    """The iPhones that this Mac knows, connected or not.

    Raises:
        ToolError: Xcode is missing or refuses.
    """
    known = []
    for entry in devicectl("list", "devices", timeout_s=_LIST_S).get("devices") or []:
        try:
            device = _Device.model_validate(entry)
        except ValidationError:
            continue  # A device without a name or a kind. coremltools skips it, too.
        hardware = device.hardware_properties
        if hardware.device_type.lower() == "iphone" and hardware.reality == "physical":
            known.append(_phone(device))
    return known


def _phone(device: _Device) -> Phone:
    hardware, properties = device.hardware_properties, device.device_properties
    state, pairing = device.connection_properties.tunnel_state, device.connection_properties.pairing_state
    return Phone(
        identifier=device.identifier,
        udid=hardware.udid,
        name=properties.name,
        model=f"{hardware.marketing_name or 'iPhone'} ({hardware.product_type})",
        os=f"iOS {properties.os_version_number} ({properties.os_build_update})",
        # `disconnected` means that the tunnel to the phone is down. The next command brings it up.
        is_connected=state != "unavailable",
        problem=_problem(properties, state, pairing),
    )


def _problem(properties: _Properties, state: str, pairing: str) -> str | None:
    major = properties.os_version_number.partition(".")[0]
    if pairing == "unpaired":
        return UNPAIRED
    if state == "unavailable":
        return UNCONNECTED
    if major.isdecimal() and int(major) < _FIRST_IOS:
        return f"it runs iOS {properties.os_version_number}; iOS {_FIRST_IOS} or later is needed"
    if properties.developer_mode_status == "disabled":
        return NO_DEVELOPER_MODE
    # While the tunnel is down, the services are never available.
    if state == "connected" and not properties.ddi_services_available:
        return NO_SERVICES
    return None


def _plain(name: str) -> str:
    """A name as users type it: iOS writes "Anna's iPhone" with an apostrophe that is on no keyboard."""
    return name.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
