"""ONNX files, run by ONNX Runtime: those of `nas export`, which say what they are, and any other classifier."""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nas.errors import DeviceError, InputError, NasError, visible
from nas.evaluate.subject import Subject, first_line, known_of_metadata

__all__ = ["onnx_subject"]

_LOGITS = "logits"
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_NHWC = "its input must be (batch, 3, height, width)"


def onnx_subject(path: Path, *, resolution: int | None, device: str | None) -> Subject:
    """A file as ONNX Runtime runs it.

    Args:
        path: the file.
        resolution: of the input, for a file that takes images of any size.
        device: `cpu`, which is the default, or `cuda`.
    Raises:
        InputError: it is no readable ONNX file, or not a classifier of images; or its weights are random.
        DeviceError: ONNX Runtime has no such device here.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else it starts a thread and writes a file when it is imported
    import onnxruntime

    provider = _provider(device, onnxruntime.get_available_providers())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong comes as an exception
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[provider])
    except Exception as error:  # ONNX Runtime's own errors have no narrower class in common.
        if not path.is_file():
            raise InputError(f"{path}: no such file") from error
        raise InputError(f"{path}: ONNX Runtime does not load it ({first_line(error)}); export it again") from error
    metadata = session.get_modelmeta().custom_metadata_map
    known = known_of_metadata(metadata, str(path))
    if len(session.get_inputs()) != 1:
        raise InputError(f"{path}: has {len(session.get_inputs())} inputs; what is evaluated has one, of images")
    (given,) = session.get_inputs()
    if given.type not in _TYPES or len(given.shape) != 4 or given.shape[1] not in (3, "3"):
        raise InputError(f"{path}: takes {given.type} of {given.shape}; {_NHWC}, in floating-point numbers")
    batch, size = _sizes(path, given.shape, resolution)
    output = _output(path, [one.name for one in session.get_outputs()])

    def run(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        try:
            (found,) = session.run([output], {given.name: images.astype(_TYPES[given.type], copy=False)})
        except Exception as error:
            raise NasError(f"{path}: ONNX Runtime fails to run it ({first_line(error)})") from error
        return np.asarray(found)

    probe = run(np.zeros((batch or 1, 3, size, size), dtype=np.float32))
    if probe.ndim != 2:
        raise InputError(f"{path}: its output {output} is {probe.shape}, not (batch, classes)")
    return Subject(
        **known,
        name=str(path),
        form="onnx",
        weights=metadata.get("weights") or "those in the file",
        precision=_precision(path),
        runtime=f"ONNX Runtime {onnxruntime.__version__}, {provider}",
        outputs=probe.shape[1],
        resolution=size,
        run=run,
        batch=batch,
        gives_probabilities=None,
    )


def _provider(device: str | None, there: list[str]) -> str:
    wanted = "CUDAExecutionProvider" if (device or "cpu").startswith("cuda") else "CPUExecutionProvider"
    if wanted not in there:
        raise DeviceError(f"ONNX Runtime has no {wanted} here, only {', '.join(there)}: leave --device out")
    return wanted


def _sizes(path: Path, shape: list[Any], resolution: int | None) -> tuple[int | None, int]:
    """The batch if it is fixed, and the height and width of the input."""
    batch, _, height, width = shape
    fixed = [side for side in (height, width) if isinstance(side, int)]
    if len(set(fixed)) > 1:
        raise InputError(f"{path}: takes images of {height} x {width} px, and only squares are evaluated")
    if fixed and resolution not in (None, fixed[0]):
        raise InputError(f"{path}: takes images of {fixed[0]} px only: leave --resolution out")
    size = fixed[0] if fixed else resolution
    if size is None:
        raise InputError(f"{path}: takes images of any size: give --resolution")
    return batch if isinstance(batch, int) else None, size


def _output(path: Path, names: list[str]) -> str:
    if _LOGITS in names:
        return _LOGITS
    if len(names) == 1:
        return names[0]
    hint = ", maps and no classes: export it without --features" if "stride4" in names else f"; none is named {_LOGITS}"
    raise InputError(f"{path}: has the outputs {', '.join(map(visible, names))}{hint}")


def _precision(path: Path) -> str:
    """What most weights are kept in."""
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception:  # ONNX Runtime has its own format as well.
        return ""
    kinds = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.INT8: "int8"}
    kinds |= {onnx.TensorProto.UINT8: "int8"}
    numbers: Counter[str] = Counter()
    for one in model.graph.initializer:
        numbers[kinds.get(one.data_type, "")] += math.prod(one.dims)
    return numbers.most_common(1)[0][0] if numbers else ""
