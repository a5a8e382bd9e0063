"""`nas export`."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

Nas = Callable[..., subprocess.CompletedProcess[str]]


def test_a_network_is_exported(nas: Nas, tmp_path: Path) -> None:
    done = nas("export", "tiny_a", "--format", "onnx", cwd=tmp_path)

    assert done.stdout.strip() == "tiny_a.onnx"
    assert (tmp_path / "tiny_a.onnx").stat().st_size > 0
    assert "random weights" in done.stderr
