"""What is evaluated: a network in any form, as a function from images to outputs, and what is known of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from nas.data import Normalisation
from nas.data.protocol import Interpolation
from nas.errors import InputError, visible
from nas.export import RANDOM

__all__ = ["RANDOM_REFUSED", "Say", "Subject", "checked_weights", "first_line", "known_of_metadata"]

Say = Callable[[str], None]
RANDOM_REFUSED = "has random weights, which say nothing: give --weights FILE, or evaluate what was trained"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A network that can be run.

    Attributes:
        name: what it is called.
        form: what runs.
        weights: where they are from.
        precision: of the weights; empty if it is not known.
        runtime: what runs it, in words.
        outputs: number of classes.
        resolution: of its input.
        run: images (B, 3, H, W), normalised in float32, to outputs (B, classes). With `takes_pixels` they are bytes.
        batch: images at once if it takes only that many.
        takes_pixels: whether it normalises pixels itself.
        gives_probabilities: whether its outputs are those; None if that is to be seen.
        class_names: of its outputs, in order; empty if they are not known.
        normalisation: of its input; None if it is not known.
        normalised_by: whose that is, in words.
        crop: what its own recipe says; None if it says nothing.
        interpolation: the same.
    """

    name: str
    form: Literal["torch", "timm", "onnx", "coreml"]
    weights: str
    precision: str
    runtime: str
    outputs: int
    resolution: int
    run: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
    batch: int | None = None
    takes_pixels: bool = False
    gives_probabilities: bool | None = False
    class_names: tuple[str, ...] = ()
    normalisation: Normalisation | None = None
    normalised_by: str = ""
    crop: float | None = None
    interpolation: Interpolation | None = None

    def outputs_of(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Outputs (B, classes) of up to `batch` images, float64."""
        count = len(images)
        if self.batch is not None and count < self.batch:
            images = np.concatenate([images, np.repeat(images[-1:], self.batch - count, axis=0)])
        found: npt.NDArray[np.float64] = self.run(images)[:count].astype(np.float64)
        return found


def checked_weights(weights: str, where: str) -> str:
    """Where the weights are from.

    Raises:
        InputError: they are random.
    """
    if weights == RANDOM:
        raise InputError(f"{where}: {RANDOM_REFUSED}")
    return weights


def known_of_metadata(metadata: Mapping[str, str], where: str) -> dict[str, Any]:
    """What an exported file says of itself (`nas.export.Card.metadata`): mean, std and names of outputs.

    Nothing is known of a file that another program wrote.

    Raises:
        InputError: its weights are random, or what it says breaks a rule.
    """
    known: dict[str, Any] = {}
    if "nas_version" not in metadata:
        return known
    checked_weights(metadata.get("weights", ""), where)
    try:
        if "mean" in metadata and "std" in metadata:
            pair = {name: json.loads(metadata[name]) for name in ("mean", "std")}
            known["normalisation"] = Normalisation.model_validate(pair)
            known["normalised_by"] = "of the file"
        if "class_names" in metadata:
            known["class_names"] = tuple(map(str, json.loads(metadata["class_names"])))
    except ValidationError as error:
        raise InputError.from_validation(f"{where}: its metadata", error) from error
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: its metadata mean, std or class_names cannot be read; export it again") from error
    return known


def first_line(error: Exception) -> str:
    """What a runtime says of a file, in a line."""
    return visible((str(error).strip() or type(error).__name__).splitlines()[0], limit=200)
