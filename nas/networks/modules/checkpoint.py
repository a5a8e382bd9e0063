"""What a checkpoint file holds: it is known by its content, whatever its name, and nothing in it is run.

A file may hold several sets of weights, such as the trained ones and their average over the last steps. A set is every
group of tensors that have the names of this family's networks, at any depth of the file and behind any prefix. Without
a key the averaged set is taken, as timm does, and one line says so.
"""

from __future__ import annotations

import logging
import re
import stat
import warnings
import zipfile
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from nas.errors import InputError, visible
from nas.networks.modules.pickled import (
    PLAIN_NAMES,
    Pickle,
    Placeholder,
    placeholder_dict,
    read_pickle,
)

__all__ = ["FLOATING", "Checkpoint", "read_checkpoint", "shown"]

# What weights may be kept in; they are converted to the network's.
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# torch.save without a zip archive begins with this number as a pickle, then two more pickles, the content, and the
# names of the storages.
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_LEGACY_PICKLES = 5

_SAFE: list[Any] = [(Placeholder, name) for name in PLAIN_NAMES] + [(placeholder_dict, "collections.defaultdict")]

# Where the names of a network begin: this project's, timm's and the authors'. Everything before is a prefix.
_START = re.compile(r"(?:^|(?<=\.))(?:layers\.\d+|stem|stages|downsample_layers|head|classifier)\.")
# A network has these; a group without them is its head under another prefix, or belongs to something else.
_BODY = re.compile(r"(?:layers\.\d+|stages)\.")
_HEAD = re.compile(r"(?:head|classifier)\.")
# What wrappers of parts of a network put between its names.
_WITHIN = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Keys are split where a word ends, as in modelEMA, and then in lower case.
_WORDS = re.compile(r"(?<=[a-z\d])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_AVERAGED = re.compile(
    r"(?:^|[._])(?:model|net|network)?(?:ema|swa|avg|averaged?|shadow|polyak)(?:model|net|network)?(?:[._]|\d*$)"
)
# These follow another network as its average, if they are alike. Otherwise they are what it learns from.
_FOLLOWING = re.compile(r"(?:^|[._])(?:teacher|target|momentum)(?:[._]|$)")
_NO_WEIGHTS = re.compile(r"optim|sched")
_USUAL = ("state_dict", "model", "student", "online")
_TOP = "."  # the key of weights that lie at the top of the file
_DEEPEST, _MOST_PARTS = 8, 100_000
# torch.save's protocol is 2. Asked for a newer one, it writes what its own restricted reader does not read.
_NEWER = (b"\x03", b"\x04", b"\x05")
_PROTOCOL = "it has a pickle protocol that only unpickling reads: save it again without pickle_protocol"

# What a checkpoint of an honest program does not name.
_RUNNING = ("posix.", "nt.", "os.", "sys.", "subprocess.", "shutil.", "runpy.", "socket.", "builtins.e", "importlib.")

# Tensors that are no plain ones, by what their reader is called.
_NOT_DENSE = {
    "_rebuild_qtensor": "quantized tensors",
    "_rebuild_sparse": "sparse tensors",
    "_rebuild_nested": "nested tensors",
    "_rebuild_meta": "tensors without values, of the device meta",
    "torch.distributed.": "parts of tensors that are spread over several processes",
}
_PLAIN = "save the state_dict of the trained network as it is in memory, whole, in fp32, fp16 or bf16"

_OTHERS = (
    (b"version https://git-lfs", "is Git LFS's pointer to the file: git lfs pull gets the file itself"),
    (b"<", "is a web page or XML, not the file: download it again"),
    (b"\x1f\x8b", "is compressed by gzip: gunzip it first"),
    (b"\xfd7zXZ", "is compressed by xz: unxz it first"),
    (b"BZh", "is compressed by bzip2: bunzip2 it first"),
    (b"\x28\xb5\x2f\xfd", "is compressed by Zstandard: unzstd it first"),
    (b"\x93NUMPY", "is an array of NumPy: save the weights by torch.save"),
    (b"\x89HDF", "is HDF5, as Keras writes it: save the weights of the torch model by torch.save"),
    (b"GGUF", "is GGUF: name the safetensors or torch file that it was made from"),
    (b"{", "is JSON, such as the list of a checkpoint's parts: save the weights in one file"),
    (b"\x80", "is a pickle that torch.save did not write, and no pickle is run: save the weights by torch.save"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One set of weights of a checkpoint file.

    Attributes:
        path: the file.
        tensors: the weights; the names are without prefixes.
        metadata: texts that a safetensors file has beside its tensors.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def read_checkpoint(path: Path, *, weights_key: str | None = None) -> Checkpoint:
    """Read the weights of a safetensors file or of a file of torch.save; the file may have any name.

    Args:
        path: the file.
        weights_key: which weights to take, if the file has several: names of dictionaries and prefixes, joined by dots,
            or the first of them. Without it, the averaged weights are taken, else those of `state_dict` or `model`, and
            a warning is logged.
    Raises:
        InputError: the file cannot be read, is damaged, holds something other than weights, names a type that is
            neither a tensor nor plain, has no weights under `weights_key`, or has weights that are no finite numbers.
    """
    content, metadata = _content(path)
    if "supernet" in metadata:
        raise InputError(f"{path}: is a supernet, not one network's weights: --proxy supernet scores with it")
    sets = _sets(content)
    if not sets:
        named = next((name for _, items in _parts(content) for name, _ in items if _START.search(str(name))), None)
        if named is not None:
            raise InputError(f"{path}: holds {shown(named)} as no tensor: torch.as_tensor makes one of an array")
        raise InputError(f"{path}: holds no weights of a network; torch.save(model.state_dict(), FILE) saves them")
    key = _choose(path, sets, weights_key)
    if (name := _not_finite(sets[key])) is not None:
        others = (other for other in sets if other != key and _not_finite(sets[other]) is None)
        other = next(others, None)
        cure = _how(other, "the finite ones") if other else "take a checkpoint from before that"
        raise InputError(f"{path}: {shown(name)} has values that are no finite numbers; {cure}")
    return Checkpoint(path=path, tensors=sets[key], metadata=metadata)


# Which kind of file it is.


def _content(path: Path) -> tuple[Any, dict[str, str]]:
    """What the file holds, and the metadata of a safetensors file."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: is {'a folder' if path.is_dir() else 'no file'}; name the file of the weights")
        with path.open("rb") as file:
            head = file.read(512)
            file.seek(0)
            # Warnings tell of deprecated types in the file, and of older pickles; either the file is read or refused.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if head.startswith((b"PK\x03\x04", _LEGACY)):
                    return _read_torch(path, file, status.st_size), {}
                if head[8:9] == b"{":
                    return _read_safetensors(path)
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or "damaged"
        raise InputError(f"{path}: cannot be read ({reason})") from error
    except InputError:
        raise
    except Exception as error:  # The readers fail on a damaged file in many ways.
        raise InputError(f"{path}: not loaded, it is damaged or holds something else than weights") from error
    if _LEGACY[2:] in head:
        raise InputError(f"{path}: not loaded, {_PROTOCOL}")
    what = next(
        (words for start, words in _OTHERS if head.startswith(start)), "is neither a safetensors nor a torch file"
    )
    if head[257:262] == b"ustar":
        what = "is a tar archive: unpack it (tar -xf), and name the file of the weights in it"
    raise InputError(f"{path}: not loaded, it {what if head else 'is empty'}")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def _read_torch(path: Path, file: BinaryIO, size: int) -> Any:
    """What torch.save wrote, by torch's restricted reader, after a look at what it is going to do."""
    if file.read(2) == b"PK":
        _check_archive(path, file, size)
    else:
        file.seek(0)
        _check_legacy(path, file, size)
    file.seek(0)
    with torch.serialization.safe_globals(_SAFE):
        return torch.load(file, map_location="cpu", weights_only=True)


def _check_archive(path: Path, file: BinaryIO, size: int) -> None:
    """Raise unless the pickle takes no more from each record than it has, which only new versions of torch check."""
    with zipfile.ZipFile(file) as archive:
        records = {record.filename: record for record in archive.infolist()}
        if any(record.compress_type != zipfile.ZIP_STORED for record in records.values()):
            raise InputError(f"{path}: not loaded, its records are compressed, and torch.save writes none of these")
        # Records that lie on top of one another would take more memory than the file has bytes.
        if sum(record.file_size for record in archive.infolist()) > size:
            raise InputError(f"{path}: not loaded, its records are larger than the file")
        pickles = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
        if any(name.endswith("/constants.pkl") for name in records):
            raise InputError(
                f"{path}: is a TorchScript program, not weights: torch.save(model.state_dict(), FILE) saves these"
            )
        if len(pickles) != 1:
            raise InputError(f"{path}: is a zip archive that torch.save did not write")
        folder = pickles[0].removesuffix("data.pkl")
        with archive.open(pickles[0]) as stream:
            if stream.read(2)[1:] in _NEWER:
                raise InputError(f"{path}: not loaded, {_PROTOCOL}")
        with archive.open(pickles[0]) as stream:
            found = _accepted(path, read_pickle(stream))
    if any(count > records[f"{folder}data/{name}"].file_size for name, count in found.storages.items()):
        raise ValueError("a storage that is larger than its record")


def _check_legacy(path: Path, file: BinaryIO, size: int) -> None:
    """As `_check_archive`, for the pickles in a row that torch.save wrote before torch 1.6."""
    storages: dict[str, int] = {}
    for _ in range(_LEGACY_PICKLES):
        storages |= _accepted(path, read_pickle(file)).storages
    if sum(storages.values()) > size:
        raise ValueError("storages that are larger than the file")


def _accepted(path: Path, found: Pickle) -> Pickle:
    if not found.refused:
        return found
    name = shown(found.refused[0])
    if name.startswith(_RUNNING):
        raise InputError(f"{path}: not loaded, unpickling it would run {name}: trust neither the file nor its source")
    if kind := next((kind for word, kind in _NOT_DENSE.items() if word in name), None):
        raise InputError(f"{path}: holds {kind}, and weights are plain tensors: {_PLAIN}")
    if any(name.startswith("torch.nn.modules.") for name in found.refused):
        raise InputError(
            f"{path}: holds a whole pickled module ({name}), and no pickle is run: where it was made, "
            "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors') saves its weights"
        )
    key = next((f"['{word}']" for word in ("state_dict", "model", "module") if word in found.words), "")
    raise InputError(
        f"{path}: holds a {name} beside the weights, and no pickle is run: if you trust the file, "
        f"safetensors.torch.save_file(torch.load(FILE, weights_only=False){key}, 'w.safetensors') saves the weights"
    )


# Which weights are in it.


def _sets(content: Any) -> dict[str, dict[str, Tensor]]:
    """The sets of weights by their keys, in the order of the file; the largest other group if there are none."""
    sets: dict[str, dict[str, Tensor]] = {}
    rest: dict[str, Tensor] = {}
    for where, items in _parts(content):
        tensors = {name: value.detach() for name, value in items if isinstance(name, str) and _is_plain(value)}
        found = _networks(tensors)
        for prefix, members in found.items():
            parts = [*where, prefix.rstrip(".")] if len(found) > 1 else where
            sets[".".join(filter(None, parts)) or _TOP] = members
        rest = max(rest, tensors, key=len)
    return sets or ({_TOP: rest} if rest else {})


def _parts(content: Any) -> Iterator[tuple[list[str], list[tuple[Any, Any]]]]:
    """The items of every dictionary and list in the content, with the keys that lead to it."""
    waiting: deque[tuple[list[str], Any]] = deque([([], content)])
    seen: set[int] = set()
    while waiting:
        where, part = waiting.popleft()
        if id(part) in seen or len(where) > _DEEPEST or len(seen) > _MOST_PARTS:
            continue  # a dictionary may hold itself
        seen.add(id(part))
        if isinstance(part, dict):
            items = list(dict.items(part))
        elif isinstance(part, list | tuple):
            items = list(enumerate(part))
        else:
            continue
        yield where, items
        waiting.extend(
            ([*where, str(name)], value)
            for name, value in items
            if isinstance(name, str | int) and isinstance(value, dict | list | tuple)
            if not _NO_WEIGHTS.search(str(name).lower())
        )


def _is_plain(value: object) -> bool:
    """Whether it is a tensor with its numbers in memory, one by one."""
    return (
        isinstance(value, Tensor)
        and type(value) in (Tensor, torch.nn.Parameter)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and not value.is_nested
    )


def _networks(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The networks among tensors, by the prefix of their names, without it."""
    groups: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        short = _WITHIN.sub("", name)
        if start := _START.search(short):
            groups.setdefault(short[: start.start()], {})[short[start.start() :]] = tensor
        elif tensor.numel() > 1:  # Single numbers count something, such as the steps that were averaged.
            others[short] = tensor
    bodies = {prefix: group for prefix, group in groups.items() if any(map(_BODY.match, group))}
    for prefix, group in bodies.items():
        if not any(map(_HEAD.match, group)):  # As in mmengine's files: backbone.stages beside head.
            head = next((outer for outer in _outer(prefix) if outer in groups and outer not in bodies), None)
            group |= groups[head] if head is not None else {}
    # What has a network's prefix but no name of this family stays with the network, to be named by the error.
    for name, tensor in others.items():
        if (around := next((outer for outer in _outer(name) if outer in bodies), None)) is not None:
            bodies[around][name.removeprefix(around)] = tensor
    return bodies


def _outer(name: str) -> Iterator[str]:
    """The prefixes of a name, the longest first: of `a.b.c` they are `a.b.`, `a.` and the empty one."""
    for _ in range(_DEEPEST):
        name = name[: name.rfind(".", 0, -1) + 1]
        yield name
        if not name:
            return


def _choose(path: Path, sets: Mapping[str, Mapping[str, Tensor]], wanted: str | None) -> str:
    """The key of the weights to take."""
    names = list(sets)
    if wanted is not None:
        matches = [name for name in names if name == wanted] or [n for n in names if n.startswith(f"{wanted}.")]
        if len(matches) != 1:
            found = f"{len(matches) or 'no'} sets of weights under the key {shown(wanted)}"
            raise InputError(f"{path}: holds {found}; its keys are {_listed(names)}")
        return matches[0]
    # An average of the parameters alone lacks the statistics of the batch norms. It is taken if nothing else is there.
    whole = [name for name in names if any(part.endswith("running_mean") for part in sets[name])] or names
    averaged = [name for name in whole if _is_averaged(name, sets)]
    usual = [name for last in _USUAL for name in whole if name.split(".")[-1] == last]
    usual += [name for part in _USUAL for name in whole if part in name.split(".")]
    taken = (averaged or usual or whole)[0]
    if others := [name for name in names if name != taken]:
        why = "the averaged weights are" if averaged else "it is"
        logging.getLogger(__name__).warning(
            f"{visible(str(path), limit=150)}: holds weights under {_listed(names)}; {why} taken, {shown(taken)}: "
            f"{_how(others[0], 'the other')}"
        )
    return taken


def _is_averaged(name: str, sets: Mapping[str, Mapping[str, Tensor]]) -> bool:
    words = _WORDS.sub("_", name).lower()
    if _AVERAGED.search(words) or _AVERAGED.search(name.lower()):
        return True
    is_like = (_shapes(sets[other]) == _shapes(sets[name]) for other in sets if other != name)
    return _FOLLOWING.search(words) is not None and any(is_like)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The first of the weights with a value that is no finite number."""
    return next(
        (name for name, tensor in tensors.items() if tensor.dtype in FLOATING and not torch.isfinite(tensor).all()),
        None,
    )


def _how(key: str, what: str) -> str:
    """How to take other weights of the file."""
    return f"--weights-key {shown(key)} takes {what} (in a search --option weights_key={shown(key)})"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(shown, names[:3])) + more


def shown(name: str) -> str:
    """A name from a file, as an error shows it."""
    return visible(name, limit=60)
