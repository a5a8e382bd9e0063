"""What `--option` may set for an Android phone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from nas.devices import Seconds, Threads
from nas.files import Record

__all__ = ["Options"]

_Paths = Annotated[
    tuple[Path, ...], BeforeValidator(lambda value: value.split(os.pathsep) if isinstance(value, str) else value)
]


class Options(Record):
    """What `--option` may set.

    Attributes:
        runner: path of onnxruntime_perf_test or benchmark_model, built for the phone.
        kind: which of the two it is, where its name does not tell.
        libraries: libraries that the runner needs beside it on the phone, as a path list. By default all *.so files of
            its folder.
        cores: hexadecimal mask of the processor cores to run on, such as f0 for the upper four of eight.
        threads: threads inside an operator.
        provider: execution provider as perf_test's -e names it. For LiteRT cpu, xnnpack, gpu or nnapi.
        fallback: whether the CPU may run what the provider cannot. Without it such a layer fails.
        timeout_s: timeout of a layer, loading included, in addition to the duration of its runs.
        reconnect_s: how long to wait for a phone whose connection was lost.
    """

    runner: Path | None = None
    kind: Literal["onnxruntime", "litert"] | None = None
    libraries: _Paths | None = None
    cores: Annotated[str, Field(pattern="^(0*[1-9A-Fa-f][0-9A-Fa-f]*)?$", max_length=64)] = ""
    threads: Threads = 1
    provider: Annotated[str, Field(pattern="^[a-z0-9_]+$")] = "cpu"
    fallback: bool = False
    timeout_s: Seconds = 120.0
    reconnect_s: Seconds = 60.0
