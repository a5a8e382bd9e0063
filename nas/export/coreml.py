"""Export to Core ML: an ML Program for the Neural Engine, and the models that devices time."""

from __future__ import annotations

import contextlib
import functools
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from nas.data import ImageSet
from nas.errors import InputError, NasError
from nas.export._card import Card
from nas.export._deployed import LOGITS, MAPS, Precision, deployed, example
from nas.export._draft import drafted
from nas.export._say import Say, quiet
from nas.files import Record
from nas.networks import Subject
from nas.networks.modules import Network, build_deployed, example_input

if TYPE_CHECKING:
    from coremltools.models import MLModel

__all__ = ["SUFFIX", "Options", "export", "import_coremltools", "network_model", "timed_model"]

SUFFIX = ".mlpackage"

_LABEL, _PROBABILITIES = "label", "label_probs"  # coremltools makes the second name of the first


class Options(Record):
    """What may be chosen.

    Attributes:
        input: `image`: the package normalises pixels itself; `tensor`: the caller does. None for `image` if the mean
            and std of the training images are known.
        output: `logits`, or `classifier`: the name of the class and the probabilities of all.
        precision: of weights, arithmetic, and inputs and outputs that are no images.
        deployment_target: first system that runs the package.
        features: the maps at strides 4, 8, 16 and 32 in place of logits.
        int8: compress the weights to 8 bits; the arithmetic stays as it is.
    """

    input: Literal["image", "tensor"] | None = None
    output: Literal["logits", "classifier"] = "logits"
    precision: Precision = "fp16"
    # The first one has float16 inputs and outputs. Earlier targets convert at both ends.
    deployment_target: Literal["iOS16", "iOS17", "iOS18", "iOS26"] = "iOS16"
    features: bool = False
    int8: bool = False


def export(
    network: Network,
    path: Path,
    *,
    options: Options | None = None,
    card: Card | None = None,
    images: ImageSet | None = None,  # noqa: ARG001
    say: Say = quiet,
) -> list[Path]:
    """Write the deployed network as an .mlpackage folder for iOS 16, macOS 13 and later.

    The input `image` is an RGB image of the network's size; or (1, 3, resolution, resolution), normalised as in
    training. The output `logits` is (1, num_classes); with `features` there are the outputs `stride4` to `stride32`, of
    a classifier `label` and `label_probs`. The metadata holds the card.

    Raises:
        InputError: the options do not go together, what they need is not known, or `path` cannot be written.
    """
    options = options or Options()
    card = card or Card.of(network)
    forms: dict[str, Options] = {options.precision: options.model_copy(update={"int8": False})}
    if options.int8:
        forms["int8"] = options
    sizes = {}
    with drafted(path) as draft:
        for name, form in forms.items():
            model = network_model(network, options=form, card=card)
            model.save(str(draft))  # in place of the one before
            sizes[name] = sum(file.stat().st_size for file in draft.rglob("*") if file.is_file())
    kind = model.get_spec().description.input[0].type.WhichOneof("Type").removesuffix("Type")
    shown = ", ".join(f"{size / 1e6:.2f} MB in {name}" for name, size in sizes.items())
    say(f"{path.name}: {shown}; input {kind}; accuracy and latency are not measured: Core ML runs on Apple's systems")
    return [path]


def network_model(network: Network, *, options: Options | None = None, card: Card | None = None) -> MLModel:
    """The deployed network as a Core ML model; takes about 3 s for iFormer-M on one core.

    Raises:
        InputError: as in `export`.
    """
    options = options or Options()
    card = card or Card.of(network)
    _check(options, card)
    module = deployed(network, features=options.features)
    if options.output == "classifier":
        module = nn.Sequential(_First(module), nn.Softmax(dim=1))
    names = MAPS if options.features else ("probabilities",) if options.output == "classifier" else LOGITS
    pixels = None
    if options.input == "image" or (options.input is None and card.normalisation):
        assert card.normalisation is not None
        _scale_input(module, card.normalisation.std)
        # A package has one scale for all channels, so the std are in the first weights.
        pixels = {"scale": 1 / 255, "bias": [-mean for mean in card.normalisation.mean]}
    model = _convert(
        module,
        example(network, 1),
        input_name="image",
        output_names=names,
        precision=options.precision,
        target=options.deployment_target,
        pixels=pixels,
        classes=card.class_names if options.output == "classifier" else None,
    )
    if options.int8:
        import coremltools.optimize.coreml as compress

        config = compress.OptimizationConfig(
            global_config=compress.OpLinearQuantizerConfig(mode="linear_symmetric", granularity="per_channel")
        )
        with _without_bars():
            model = compress.linear_quantize_weights(model, config)
    _describe(model, options, card, is_image=pixels is not None, names=names)
    return model


def timed_model(subject: Subject) -> MLModel:
    """A deployed layer, stack or network with random weights, from `input` to `output` at batch 1; 0.5 s per layer."""
    return _convert(build_deployed(subject), example_input(subject), input_name="input", output_names=["output"])


class _First(nn.Module):
    """The only output of a module, without its tuple."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        first: Tensor = self.module(images)[0]
        return first


def _check(options: Options, card: Card) -> None:
    """Refuse options that do not go together, and those that need what is not known."""
    if options.features and options.output == "classifier":
        raise InputError("--features has no classes: leave --output classifier out")
    if options.input == "image" and card.normalisation is None:
        raise InputError(
            "--input image needs the mean and std of the training images: give --data, or --mean and --std"
        )
    if options.output == "classifier" and not card.class_names:
        raise InputError("--output classifier needs the names of the classes: give --classes FILE or --data")


def _scale_input(module: nn.Module, std: Sequence[float]) -> None:
    """Divide the channels of the input by `std`, in the weights of the first convolution. Its padding stays zero."""
    first = next(part for part in module.modules() if isinstance(part, nn.Conv2d))
    first.weight = nn.Parameter(first.weight / torch.tensor(std).view(1, 3, 1, 1), requires_grad=False)


def _describe(model: MLModel, options: Options, card: Card, *, is_image: bool, names: Sequence[str]) -> None:
    """Write the card into a model, and what its inputs and outputs are."""
    for name, value in card.metadata().items():
        model.user_defined_metadata[name] = value
    model.short_description = card.summary
    model.version = card.architecture_id
    kind = "RGB image" if is_image else "Normalised RGB image, (1, 3, height, width)"
    model.input_description["image"] = f"{kind}, {card.resolution} x {card.resolution}"
    if options.output == "classifier":
        model.output_description[_LABEL] = "Name of the most probable class"
        model.output_description[_PROBABILITIES] = "Probability of each class, by its name"
    elif options.features:
        for name in names:
            model.output_description[name] = f"Map of (1, channels, height, width) at {name.replace('e', 'e ', 1)}"
    else:
        model.output_description["logits"] = f"One number for each of {card.architecture.num_classes} classes"


def _convert(
    module: nn.Module,
    images: Tensor,
    *,
    input_name: str,
    output_names: Sequence[str],
    precision: Precision = "fp16",
    target: str = "iOS16",
    pixels: dict[str, Any] | None = None,
    classes: Sequence[str] | None = None,
) -> MLModel:
    with warnings.catch_warnings():
        # torch 2.13 copies a deprecated type of its own, which warns.
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
        ct = import_coremltools(InputError, "Core ML needs coremltools")
        dtype = np.float16 if precision == "fp16" else np.float32
        shape = tuple(images.shape)
        # coremltools only accepts the dialect that run_decompositions returns.
        program = torch.export.export(module, (images,)).run_decompositions({})
        with _without_bars():
            return ct.convert(
                program,
                inputs=[
                    ct.ImageType(name=input_name, shape=shape, color_layout=ct.colorlayout.RGB, **pixels)
                    if pixels
                    else ct.TensorType(name=input_name, shape=shape, dtype=dtype)
                ],
                outputs=[ct.TensorType(name=name, dtype=dtype) for name in output_names],
                classifier_config=ct.ClassifierConfig(
                    list(classes), predicted_feature_name=_LABEL, predicted_probabilities_output=output_names[0]
                )
                if classes
                else None,
                convert_to="mlprogram",
                compute_precision=ct.precision.FLOAT16 if precision == "fp16" else ct.precision.FLOAT32,
                compute_units=ct.ComputeUnit.ALL,
                minimum_deployment_target=ct.target[target],
                skip_model_load=True,
            )


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Hide the progress bars of coremltools, which has no option for this.

    It shows four bars per conversion, and a latency table needs hundreds of conversions.
    """
    from tqdm import tqdm  # type: ignore[import-untyped]

    draw = tqdm.__init__
    tqdm.__init__ = functools.partialmethod(draw, disable=True)
    try:
        yield
    finally:
        tqdm.__init__ = draw


def import_coremltools(failure: type[NasError], words: str) -> Any:
    """Import coremltools late, as this takes seconds, and quietly, as it warns of each part that needs a Mac.

    Args:
        failure: raised if it is not installed.
        words: begin the message, which says how to install it.
    """
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        import coremltools
    except ImportError as error:
        raise failure(f"{words}: pip install 'nas[coreml]', for Python 3.11 to 3.13") from error
    finally:
        logger.setLevel(level)
    return coremltools
