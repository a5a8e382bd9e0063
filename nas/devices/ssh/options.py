"""What `--option` may set for a remote host."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from nas.devices import Seconds, Threads
from nas.files import Record

__all__ = ["Options"]


def _words(value: str) -> str:
    if not shlex.split(value):  # raises ValueError at an open quote
        raise ValueError("must name a program")
    return value


class Options(Record):
    """What `--option` may set.

    Attributes:
        threads: threads inside an operator. Operators run one after the other.
        provider: execution provider of ONNX Runtime. It must be the first one of every session.
        python: Python on the host, with any arguments of its own, split as a shell does. A relative path starts at the
            home folder.
        config: configuration file for ssh in place of ~/.ssh/config.
        timeout_s: timeout of a layer, loading included, in addition to the duration of its runs. It is also the timeout
            of copying a model to the host.
        reconnect_s: how long to retry after the connection broke.
    """

    threads: Threads = 1
    provider: str = "CPUExecutionProvider"
    python: Annotated[str, AfterValidator(_words)] = "python3"
    config: Path | None = None
    timeout_s: Seconds = 120.0
    reconnect_s: Seconds = 60.0
