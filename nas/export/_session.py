"""An ONNX file in ONNX Runtime, on one thread of this machine's processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime

__all__ = ["session_of"]


def session_of(path: Path) -> Any:
    """A quiet session of a file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
