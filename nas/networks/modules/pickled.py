"""What a pickle would do, found out without doing it: its steps are read, and nothing is imported, called or built.

torch.save writes a pickle beside the numbers of the tensors. torch's restricted reader (`weights_only=True`) never runs
foreign code, but it trusts sizes: few bytes can ask it for gigabytes, or for hours of hashing. `read_pickle` answers
beforehand which types a pickle names and how many bytes of each storage it is going to read.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
import torch

__all__ = ["PLAIN_NAMES", "Pickle", "Placeholder", "placeholder_dict", "read_pickle"]


class Placeholder:
    """What plain types beside the weights become: nothing of them is kept, and nothing of theirs is called."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def placeholder_dict(*_: object) -> dict[Any, Any]:
    """What a defaultdict becomes; torch's reader only fills plain dictionaries."""
    return {}


# Options, paths, times and numpy's numbers: what training scripts keep beside the weights. Python 2 and 3 give several
# of them different names, as do numpy 1 and 2, and Python 3.13 moved the paths.
_BUILTINS = (
    *("bool", "bytes", "dict", "float", "frozenset", "int", "list", "long", "object", "range", "slice", "str"),
    *("tuple", "type", "unicode", "xrange"),
)
_PATHS = ("Path", "PurePath", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
_NUMPY = ("scalar", "_reconstruct")
PLAIN_NAMES = frozenset(
    [f"builtins.{name}" for name in _BUILTINS]
    + [f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in _PATHS]
    + [f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")]
    + [f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in _NUMPY]
    + [f"numpy.{name}" for name in ("dtype", "ndarray", *sorted({t.__name__ for t in np.sctypeDict.values()}))]
    + [f"numpy.dtypes.{name}" for name in dir(np.dtypes) if name.endswith("DType")]
    + ["argparse.Namespace", "types.SimpleNamespace", "decimal.Decimal", "fractions.Fraction", "uuid.UUID"]
    + ["torch.torch_version.TorchVersion"]
)

# Of the names that torch's reader allows, those that a checkpoint of plain tensors has. Left out are bytearray and the
# types of tensors that are built by a call, which take any amount of memory, and tensors that are quantized or sparse.
_TENSORS = frozenset(
    [f"torch._utils._rebuild_{name}" for name in ("tensor", "tensor_v2", "tensor_v3", "parameter")]
    + ["torch._utils._rebuild_parameter_with_state", "torch.nn.parameter.Parameter", "torch._tensor.Tensor"]
    + ["torch._tensor._rebuild_from_type_v2", "torch.Tensor", "torch.Size", "torch.device"]
    + ["torch.serialization._get_layout", "torch.storage.UntypedStorage", "torch.storage.TypedStorage"]
    + ["collections.OrderedDict", "collections.Counter", "collections.defaultdict", "_codecs.encode"]
    + ["builtins.set", "builtins.complex"]
)
_NOT_CALLED = frozenset({"torch.Tensor", "torch._tensor.Tensor", "torch.storage.UntypedStorage"})

_PUSHES = frozenset(
    {"NONE", "NEWFALSE", "NEWTRUE", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "BININT", "BININT1"}
    | {"BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "LONG1"}
)

# A checkpoint of an iFormer with its optimizer takes some 50,000 steps, and 0.1 s for them.
_MOST_STEPS = 2_000_000
# A tuple of tuples, each twice in the next, is short in a file, and takes for ever to be hashed; a deep one overruns
# the stack of the interpreter.
_MOST_ITEMS, _MOST_DEPTH = 100_000, 100


@dataclass(frozen=True, slots=True)
class _Name:
    """A type or function that the pickle names."""

    text: str


@dataclass(frozen=True, slots=True)
class _Tuple:
    items: list[Any]
    size: int
    depth: int


@dataclass(slots=True)
class Pickle:
    """What `read_pickle` found.

    Attributes:
        refused: types and functions that are neither a tensor's nor plain, `module.name`, in the order of their use.
        storages: number of bytes that are going to be read of each storage, by the storage's name.
        words: the strings without a dot, among them the keys of wrapped weights.
    """

    refused: list[str] = field(default_factory=list)
    storages: dict[str, int] = field(default_factory=dict)
    words: set[str] = field(default_factory=set)


def read_pickle(stream: IO[bytes]) -> Pickle:
    """Read one pickle from its first to its last step.

    Args:
        stream: at the first byte of the pickle; afterwards behind its last, unless something was refused.
    Raises:
        ValueError: a damaged pickle, one of another protocol than torch's, or one made to exhaust its reader. Damaged
            ones also raise IndexError, KeyError and the like.
    """
    found = Pickle()
    try:
        _read(stream, found)
    except Exception:
        if not found.refused:  # What comes after a refused type may be its own.
            raise
    return found


def _read(stream: IO[bytes], found: Pickle) -> None:
    stack: list[Any] = []
    outer: list[list[Any]] = []  # the stacks outside the marks, as torch's reader has them
    memo: dict[int, Any] = {}
    for step, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if step > _MOST_STEPS:
            raise ValueError(f"more than {_MOST_STEPS} steps")
        match opcode.name:
            case "PROTO" | "STOP":
                pass
            case "MARK":
                outer.append(stack)
                stack = []
            case "GLOBAL":
                stack.append(_name(str(argument).replace(" ", "."), found))
            case "BINPUT" | "LONG_BINPUT":
                memo[_whole(argument)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[_whole(argument)])
            case "TUPLE":
                items, stack = stack, outer.pop()
                stack.append(_tuple(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [stack.pop() for _ in range(int(opcode.name[-1]))]
                stack.append(_tuple(items[::-1]))
            case "APPENDS" | "SETITEMS":
                stack = outer.pop()
            case "APPEND" | "BUILD":
                stack.pop()
            case "SETITEM":
                stack.pop()
                stack.pop()
            case "REDUCE" | "NEWOBJ":
                arguments, called = stack.pop(), stack.pop()
                if not found.refused:  # Otherwise nothing is going to be called.
                    _check_call(called, arguments)
                stack.append(None)
            case "BINPERSID":
                _claim(stack.pop(), found)
                stack.append(None)
            case name if name in _PUSHES:
                if isinstance(argument, str) and "." not in argument:
                    found.words.add(argument)
                stack.append(argument)
            case _:
                raise ValueError(f"a pickle of protocol {opcode.proto}, torch.save writes 2")


def _name(text: str, found: Pickle) -> _Name:
    if text.startswith("__builtin__."):  # torch.save writes the names of Python 2.
        text = text.replace("__builtin__", "builtins", 1)
    if text not in _TENSORS and text not in PLAIN_NAMES and not _is_storage(text) and not _is_dtype(text):
        found.refused.append(text)
    return _Name(text)


def _is_storage(name: str) -> bool:
    return name.startswith("torch.") and name.endswith("Storage") and hasattr(torch, name.removeprefix("torch."))


def _is_dtype(name: str) -> bool:
    return name.startswith("torch.") and isinstance(getattr(torch, name.removeprefix("torch."), None), torch.dtype)


def _whole(argument: object) -> int:
    assert isinstance(argument, int)
    return argument


def _tuple(items: list[Any]) -> _Tuple:
    tuples = [item for item in items if isinstance(item, _Tuple)]
    size = len(items) + sum(item.size for item in tuples)
    depth = 1 + max((item.depth for item in tuples), default=0)
    if size > _MOST_ITEMS or depth > _MOST_DEPTH:
        raise ValueError("a tuple of tuples without end")
    return _Tuple(items, size, depth)


def _check_call(called: object, arguments: object) -> None:
    items = arguments.items if isinstance(arguments, _Tuple) else []
    match called:
        case _Name("_codecs.encode"):  # how bytes are pickled; other encodings take quadratic time
            allowed = items[1:] == ["latin1"]
        case _Name("torch._tensor._rebuild_from_type_v2"):  # calls its first argument
            inner = items[0]
            allowed = isinstance(inner, _Name) and inner.text.startswith("torch._utils._rebuild_")
        case _Name(text):
            allowed = text not in _NOT_CALLED and not _is_storage(text)
        case _:
            allowed = False
    if not allowed:
        raise ValueError("a call that torch.save does not write")


def _claim(identity: object, found: Pickle) -> None:
    """Note how much of a storage a tensor needs: ('storage', type, name, device, number of elements[, view])."""
    assert isinstance(identity, _Tuple)
    if identity.items[0] == "module":  # The source of a module's class, which torch's reader refuses.
        return
    _, kind, name, _, count, *_ = identity.items
    assert isinstance(kind, _Name) and isinstance(name, str) and isinstance(count, int) and count >= 0
    found.storages[name] = max(found.storages.get(name, 0), count * _item_bytes(kind.text))


def _item_bytes(storage: str) -> int:
    if storage == "torch.storage.UntypedStorage":
        return 1
    dtype: torch.dtype = getattr(torch, storage.removeprefix("torch.")).dtype
    return dtype.itemsize
