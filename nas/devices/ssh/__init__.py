"""Any host with Python and ONNX Runtime that `ssh` reaches: a Raspberry Pi, a Jetson, a server, a Mac.

The system's own ssh makes the connection, with the user's keys, known hosts and aliases. It never asks for a password.
On the host, all files are in one temporary folder: the runner and the models, each copied once. The folder is removed
when the device is closed. A folder that a killed build left is removed after a day, by the next build there.

Tested against an sshd on this machine, also with an emulated aarch64 Python behind it. Not yet tested on a board or a
Mac.
"""

from __future__ import annotations

import functools
import shutil

from nas.devices._models import ModelFiles
from nas.devices._runner import RunnerDevice
from nas.devices.onnxruntime import exported, fingerprint
from nas.devices.ssh.connection import Address
from nas.devices.ssh.host import Host
from nas.devices.ssh.options import Options
from nas.errors import DeviceError

__all__ = ["Address", "Host", "Options", "open_device", "unavailable"]

_LIMIT_BYTES = 256 << 20  # of models on the host, whose /tmp may be in its memory


def open_device(address: str, options: Options) -> RunnerDevice:
    """Connect to a host and start the runner on it.

    Raises:
        InputError: no address, or a wrong one.
        DeviceError: it cannot be reached, or cannot run ONNX Runtime.
    """
    host_address = Address.parse(address)
    if reason := unavailable():
        raise DeviceError(f"{host_address}: {reason}")
    host = Host(host_address, options)
    return RunnerDevice(
        where=str(host_address),
        start=host.start,
        fingerprint=functools.partial(fingerprint, str(host_address), options.provider, options.threads),
        models=ModelFiles(exported, suffix=".onnx", limit_bytes=_LIMIT_BYTES, on_removal=host.forget),
        place=host.place,
        settings={"threads": options.threads, "provider": options.provider},
        timeout_s=options.timeout_s,
        at_close=host.close,
    )


def unavailable() -> str | None:
    """Why this device cannot be used from here and what to do; None when it can."""
    if shutil.which("ssh") is None:
        return "no program ssh on the PATH; install OpenSSH's client, such as the package openssh-client"
    return None
