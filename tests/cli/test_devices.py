"""`nas devices`: what can be measured from here."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

Nas = Callable[..., subprocess.CompletedProcess[str]]


def test_devices_says_what_can_be_measured_from_here(nas: Nas, tmp_path: Path) -> None:
    text = nas("devices", cwd=tmp_path).stdout

    assert re.search(r"onnxruntime\s+yes", text)
    assert "fake" not in text  # it measures nothing
    assert re.search(r"iphone\s+no\s+needs a Mac", text) or sys.platform == "darwin"
