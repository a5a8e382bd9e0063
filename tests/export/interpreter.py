"""Core ML packages on any platform, executed operation by operation."""

from __future__ import annotations

import collections
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


class CoremlProgram:
    """An ML Program from its folder. Weights are in the package's precision, and the arithmetic is that of float32.

    Attributes:
        spec: the package's description.
        operators: how often each operation is there, constants left out.
    """

    def __init__(self, folder: Path) -> None:
        from coremltools.converters.mil.frontend.milproto.load import load
        from coremltools.models import MLModel

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = MLModel(str(folder), skip_model_load=True)
            self.spec = model.get_spec()
            version = self.spec.specificationVersion
            program = load(self.spec, specification_version=version, file_weights_dir=model.weights_dir)
        self._main = program.functions["main"]
        names = (one.op_type for one in self._main.operations)
        self.operators = collections.Counter(name for name in names if name != "const")

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        """The outputs by name: of an image (1, 3, H, W) of pixels in 0..255, or of a normalised tensor.

        An image is scaled as the description says.
        """
        (name,) = self._main.inputs
        values: dict[str, Any] = {name: image}
        for operation in self._main.operations:
            inputs = {key: _value(var, values) for key, var in operation.inputs.items()}
            found = _compute(operation.op_type, inputs, operation)
            for var, value in zip(operation.outputs, found, strict=False):
                values[var.name] = value
        return {var.name: values[var.name] for var in self._main.outputs if var.name in values}


def _value(var: Any, values: dict[str, Any]) -> Any:
    if isinstance(var, list | tuple):
        return [_value(one, values) for one in var]
    if var.name in values:
        return values[var.name]
    return var.val


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.from_numpy(np.asarray(value, dtype=np.float32))


def _pair(value: Any) -> tuple[int, ...]:
    return tuple(int(one) for one in value)


def _compute(kind: str, given: dict[str, Any], operation: Any) -> tuple[Any, ...]:
    """The outputs of one operation; a kind that is not here is an error of the test."""
    x = given.get("x")
    match kind:
        case "const":
            return tuple(var.val for var in operation.outputs)
        case "constexpr_affine_dequantize":
            data = given["quantized_data"]
            shape = [1] * data.ndim
            shape[int(given["axis"])] = -1
            scale, zero = (np.asarray(given[key], np.float32) for key in ("scale", "zero_point"))
            scale, zero = (one.reshape(shape) if one.ndim else one for one in (scale, zero))
            return (_tensor(scale * (data.astype(np.float32) - zero)),)
        case "cast":
            return (x,)
        case "conv":
            weight, bias = _tensor(given["weight"]), given.get("bias")
            assert str(given["pad_type"]) in ("custom", "valid")
            pad = _pair(given["pad"]) if str(given["pad_type"]) == "custom" else (0, 0, 0, 0)
            padded = F.pad(_tensor(x), (pad[2], pad[3], pad[0], pad[1]))
            strides, dilations = (_pair(given[key]) for key in ("strides", "dilations"))
            bias = None if bias is None else _tensor(bias)
            return (F.conv2d(padded, weight, bias, strides, 0, dilations, int(given["groups"])),)
        case "linear":
            return (F.linear(_tensor(x), _tensor(given["weight"]), _tensor(given["bias"])),)
        case "matmul":
            left, right = _tensor(x), _tensor(given["y"])
            left = left.mT if given["transpose_x"] else left
            right = right.mT if given["transpose_y"] else right
            return (left @ right,)
        case "gelu":
            assert str(given["mode"]) == "EXACT"
            return (F.gelu(_tensor(x)),)
        case "sigmoid":
            return (torch.sigmoid(_tensor(x)),)
        case "softmax":
            return (torch.softmax(_tensor(x), int(given["axis"])),)
        case "add":
            return (_tensor(x) + _tensor(given["y"]),)
        case "mul":
            return (_tensor(x) * _tensor(given["y"]),)
        case "reduce_mean":
            return (_tensor(x).mean(_pair(given["axes"]), keepdim=bool(given["keep_dims"])),)
        case "reshape":
            return (_tensor(x).reshape(_pair(given["shape"])),)
        case "transpose":
            return (_tensor(x).permute(_pair(given["perm"])),)
        case "concat":
            return (torch.cat([_tensor(one) for one in given["values"]], int(given["axis"])),)
        case "split":
            sizes = given.get("split_sizes")
            axis = int(given["axis"])
            whole = _tensor(x)
            each = whole.shape[axis] // int(given["num_splits"]) if sizes is None else list(_pair(sizes))
            return torch.split(whole, each, axis)
        case "classify":
            names, probabilities = given["classes"], _tensor(given["probabilities"])
            return str(names[int(probabilities.argmax())]), probabilities
        case _:
            raise AssertionError(f"an operation that no test knows: {kind}")
