"""`nas doctor`: what this installation has, and what it lacks."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from nas.catalog import OF_TESTS
from nas.cli import options
from nas.cli.cache import parts_document, size_words
from nas.cli.terminal import print_json, print_table
from nas.masking import masked

__all__ = ["doctor"]

_LIBRARIES = ("torch", "numpy", "optuna", "onnx", "onnxruntime", "coremltools", "datasets", "pillow", "plotly")
_EXTRAS = {
    "kaleido": "pictures of plots",
    "timm": "published weights and other networks: nas[timm]",
    "psycopg": "--storage in PostgreSQL: nas[postgres]",
    "tensorboard": "--track tensorboard: nas[tensorboard]",
    "mlflow-skinny": "--track mlflow: nas[mlflow]",
    "efficientnet-lite-pytorch": "teachers: nas[teacher]",
    "pillow-heif": "HEIC pictures: pip install pillow-heif",
}
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def doctor(as_json: options.Json = False) -> None:
    """Show versions, processors, devices, folders and caches: what to send with a report of a bug.

    --json: {"nas", "python", "platform", "cpus", "memory_bytes" or null, "libraries": {NAME: version or null},
    "cuda": names, "browser" or null, "devices": {NAME: reason why it is not available or null}, "environment": {NAME:
    value}, "folders": {"working", "cache", "free_bytes"}, "cache": as nas cache show --json has it}

    Example: nas doctor
    """
    found = _document()
    if as_json:
        print_json(found)
        return
    libraries = {name: version or "not installed" for name, version in found["libraries"].items()}
    for name, about in _EXTRAS.items():
        if found["libraries"][name] is None:
            libraries[name] += f" ({about})"
    memory = size_words(found["memory_bytes"]) if found["memory_bytes"] else "unknown"
    folders = found["folders"]
    rows = [
        ("nas", f"{found['nas']}, Python {found['python']}, {found['platform']}"),
        ("processors", f"{found['cpus']}; memory {memory}"),
        ("GPUs", ", ".join(found["cuda"]) or "none that torch can use"),
        *libraries.items(),
        ("browser", found["browser"] or "none; pictures of plots and wasm://chromium need Chromium"),
        *(
            (f"device {name}", f"no: {reason}" if reason else "yes")
            for name, reason in found["devices"].items()
            if name != OF_TESTS
        ),
        *found["environment"].items(),
        ("working folder", folders["working"]),
        ("cache", f"{folders['cache']}; {size_words(folders['free_bytes'])} free on its disk"),
        *((f"cache {one['part']}", size_words(one["bytes"])) for one in found["cache"] if one["files"]),
    ]
    print_table(("what", "found"), rows)


def _document() -> dict[str, Any]:
    import torch

    from nas.catalog import load_plugin, plugins
    from nas.files import cache_folder

    cache = cache_folder(".")
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    devices = {name: load_plugin("device", "devices", name).unavailable() or None for name in plugins("devices")}
    cuda = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "nas": importlib.metadata.version("nas"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "libraries": {name: _version(name) for name in (*_LIBRARIES, *_EXTRAS)},
        "cuda": cuda,
        "browser": next((path for name in _BROWSERS if (path := shutil.which(name))), None),
        "devices": devices,
        "environment": {
            name: masked(value, alone=True) for name, value in sorted(os.environ.items()) if name.startswith("NAS_")
        },
        "folders": {
            "working": str(Path.cwd()),
            "cache": str(cache),
            "free_bytes": shutil.disk_usage(existing).free,
        },
        "cache": parts_document(),
    }


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory_bytes() -> int | None:
    if sys.platform == "win32":
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
