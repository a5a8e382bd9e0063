"""Export to ONNX: whole networks for users, and the models that devices time."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import onnx
import torch
from pydantic import BeforeValidator, Field

from nas.data import ImageSet
from nas.errors import InputError
from nas.export._card import Card
from nas.export._deployed import LOGITS, MAPS, Precision, compared, deployed, example, original
from nas.export._draft import drafted
from nas.export._say import Say, quiet
from nas.files import Record
from nas.networks import Subject
from nas.networks.modules import Network, build_deployed, example_input

__all__ = ["SUFFIX", "Options", "export", "network_model", "timed_model"]

SUFFIX = ".onnx"

_MOST_IMAGES = 4096  # at once
_OPSET = 20  # the first opset with GELU as one operator
_OPSETS = (18, 23)  # that the exporter of torch 2.13 writes these networks with
# Largest difference from torch, relative to the largest output. In float32 the worst of 50 random networks of the space
# has 1.4e-6 (tests/export/test_round_trips.py), and a wrong weight far more than the bound; float16 has 11 bits.
_BOUNDS: dict[Precision, float] = {"fp32": 1e-3, "fp16": 5e-2}


def _batch(value: object) -> object:
    if value != "dynamic" and not (str(value).isdecimal() and 1 <= int(str(value)) <= _MOST_IMAGES):
        raise ValueError(f"must be 1 to {_MOST_IMAGES} images, or dynamic, got {value!r}")
    return value if value == "dynamic" else int(str(value))


class Options(Record):
    """What may be chosen.

    Attributes:
        batch: images at once, or `dynamic`: any number of them.
        opset: version of the operators of ONNX, 18 to 23. Before 20 a GELU is several operators.
        precision: of weights and arithmetic; inputs and outputs are float32.
        features: the maps at strides 4, 8, 16 and 32 in place of logits.
        int8: quantise weights and activations to 8 bits, by images of `--data`.
    """

    batch: Annotated[int | Literal["dynamic"], BeforeValidator(_batch)] = 1
    opset: Annotated[int, Field(ge=_OPSETS[0], le=_OPSETS[1])] = _OPSET
    precision: Precision = "fp32"
    features: bool = False
    int8: bool = False

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return MAPS if self.features else LOGITS


def export(
    network: Network,
    path: Path,
    *,
    options: Options | None = None,
    card: Card | None = None,
    images: ImageSet | None = None,
    say: Say = quiet,
) -> list[Path]:
    """Write the deployed network as one .onnx file.

    The input `image` is (B, 3, resolution, resolution) in float32, normalised as in training. The output `logits` is
    (B, num_classes); with `features` there are the outputs `stride4` to `stride32`. The metadata holds the card.

    Before the file gets its name, ONNX Runtime runs it: the outputs must be those of torch.

    Raises:
        InputError: the options do not go together, or `path` cannot be written.
        NasError: the file does not compute what the network computes.
    """
    options = options or Options()
    card = card or Card.of(network)
    if options.int8 and (options.precision == "fp16" or options.features):
        raise InputError("--int8 is for whole networks in fp32: leave --precision fp16 and --features out")
    if options.int8 and images is None:
        raise InputError("--int8 needs images to calibrate with: give --data")
    if options.int8 and options.batch != "dynamic" and options.batch > 32:
        raise InputError("--int8 takes batches of 32 images at most, or --batch dynamic")
    with drafted(path) as draft:
        draft.write_bytes(network_model(network, options=options, card=card))
        say(_compare(network, draft, options))
        if options.int8:
            from nas.export._quantised import quantise

            assert images is not None
            quantise(draft, images, card=card, batch=options.batch, say=say)
    return [path]


def network_model(network: Network, *, options: Options | None = None, card: Card | None = None) -> bytes:
    """The deployed network as the bytes of an ONNX model; takes about 2 s for iFormer-M on one core."""
    options = options or Options()
    is_dynamic = options.batch == "dynamic"
    module = deployed(network, features=options.features, half=options.precision == "fp16")
    # A size of 1 would be taken for one that never changes.
    images = example(network, 2 if options.batch == "dynamic" else options.batch)
    with warnings.catch_warnings():
        # torch 2.13 copies a deprecated type of its own, which warns.
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
        program = torch.onnx.export(
            module,
            (images,),
            dynamo=True,
            external_data=False,
            verbose=False,
            opset_version=options.opset,
            input_names=["image"],
            output_names=list(options.outputs),
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=_MOST_IMAGES)},) if is_dynamic else None,
        )
    assert program is not None
    model = _checked(program.model_proto, options)
    onnx.helper.set_model_props(model, (card or Card.of(network)).metadata())
    return bytes(model.SerializeToString())


def _checked(model: Any, options: Options) -> Any:
    """The model without what only torch's developers read, with shapes that ONNX itself infers."""
    opset = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    if opset != options.opset:  # torch writes the nearest that it can, and does not say so
        raise InputError(f"--opset {options.opset}: torch's exporter can only write this network with opset {opset}")
    graph = model.graph
    # Paths of files and modules in torch: 330 kB of iFormer-M's 35.8 MB.
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer, graph, model):
        del part.metadata_props[:]
        part.doc_string = ""
    # torch lists the weights as well, and the quantisation of ONNX Runtime then takes a transposed weight's old shape.
    del graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    onnx.checker.check_model(inferred, full_check=True)
    return inferred


def _compare(network: Network, path: Path, options: Options) -> str:
    """Run a file in ONNX Runtime beside the network in torch, and say how far they are apart.

    Raises:
        NasError: too far.
    """
    import onnxruntime

    from nas.export._session import session_of

    session = session_of(path)
    theirs = original(network, features=options.features)
    pairs: list[tuple[Any, Any]] = []
    for batch in (1, 3) if options.batch == "dynamic" else (options.batch,):
        images = example(network, batch)
        with torch.no_grad():
            expected = [output.numpy() for output in theirs(images)]
        found = session.run(list(options.outputs), {"image": images.numpy()})
        pairs += zip(found, expected, strict=True)
    return compared(path, f"ONNX Runtime {onnxruntime.__version__}", pairs, bound=_BOUNDS[options.precision])


def timed_model(subject: Subject) -> bytes:
    """A deployed layer, stack or network with random weights as ONNX, from `input` to `output` at batch 1."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A latency table has hundreds of layers. The older exporter takes 15 to 40 ms per layer, the newer one 550 to
        # 870 ms (measured on x86, torch 2.13). ONNX Runtime makes the same graph of both
        # (tests/export/test_contract.py).
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            build_deployed(subject),
            (example_input(subject),),
            buffer,  # type: ignore[arg-type]  # only the newer exporter needs a path
            dynamo=False,
            opset_version=_OPSET,
            input_names=["input"],
            output_names=["output"],
        )
    return buffer.getvalue()
