"""Core ML packages, run by Core ML on this Mac.

Never tried on a Mac: the tests run the operations of real packages in an interpreter, where Core ML would.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nas.errors import DeviceError, InputError, NasError
from nas.evaluate.subject import Subject, first_line, known_of_metadata
from nas.export.coreml import import_coremltools

__all__ = ["coreml_subject"]

_LOGITS = "logits"


def coreml_subject(path: Path, *, resolution: int | None, device: str | None) -> Subject:
    """A package as Core ML runs it, on whichever processors it chooses.

    Raises:
        InputError: it is no readable package, or not a classifier of images; or its weights are random.
        DeviceError: this is no Mac, or coremltools is not installed.
    """
    if not path.exists():
        raise InputError(f"{path}: no such package")
    if device is not None:
        raise InputError("--device is not for Core ML, which chooses the processors itself: leave it out")
    if shutil.which("sw_vers") is None:  # every macOS has this program, and no other system has it
        raise DeviceError(
            f"{path}: a Core ML package runs on a Mac only: evaluate it there, or the same network as ONNX here"
        )
    coremltools = import_coremltools(DeviceError, "coremltools is not installed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = coremltools.models.MLModel(str(path))
            spec = model.get_spec()
    except Exception as error:  # coremltools has no error of its own.
        raise InputError(f"{path}: Core ML does not load it ({first_line(error)}); export it again") from error
    metadata = dict(spec.description.metadata.userDefined)
    known = known_of_metadata(metadata, str(path))
    if len(spec.description.input) != 1:
        raise InputError(f"{path}: has {len(spec.description.input)} inputs; what is evaluated has one, of images")
    (given,) = spec.description.input
    kind = given.type.WhichOneof("Type")
    if kind == "imageType":
        size, width = given.type.imageType.height, given.type.imageType.width
    elif kind == "multiArrayType" and list(given.type.multiArrayType.shape)[:2] == [1, 3]:
        _, _, size, width = given.type.multiArrayType.shape
    else:
        raise InputError(f"{path}: its input {given.name} is neither an image nor (1, 3, height, width)")
    if size != width:
        raise InputError(f"{path}: takes images of {size} x {width} px, and only squares are evaluated")
    if resolution not in (None, size):
        raise InputError(f"{path}: takes images of {size} px only: leave --resolution out")
    names = [one.name for one in spec.description.output]
    probabilities = spec.description.predictedProbabilitiesName
    output = probabilities or (_LOGITS if _LOGITS in names else names[0])
    if not probabilities and _LOGITS not in names and len(names) > 1:
        raise InputError(f"{path}: has the outputs {', '.join(names)}; none is named {_LOGITS}")
    takes_pixels = kind == "imageType"
    class_names: tuple[str, ...] = known.get("class_names", ())

    def run(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        try:
            found = model.predict({given.name: _image(images[0]) if takes_pixels else images})[output]
        except Exception as error:
            raise NasError(f"{path}: Core ML fails to run it ({first_line(error)})") from error
        if isinstance(found, dict):  # of a classifier: by name, in any order
            found = [found[name] for name in class_names] if class_names else list(found.values())
        return np.asarray(found, dtype=np.float64).reshape(1, -1)

    empty = np.zeros((1, 3, size, size), dtype=np.uint8 if takes_pixels else np.float32)
    return Subject(
        **known,
        name=str(path),
        form="coreml",
        weights=metadata.get("weights") or "those in the package",
        precision="",
        runtime=f"Core ML through coremltools {coremltools.__version__}",
        outputs=run(empty).shape[1],
        resolution=size,
        run=run,
        batch=1,
        takes_pixels=takes_pixels,
        gives_probabilities=bool(probabilities),
    )


def _image(pixels: npt.NDArray[np.uint8]) -> Any:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
