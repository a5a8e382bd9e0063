"""How files are read and written: frozen records, a temporary file that is then renamed, and the cache folder."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import math
import os
import re
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from nas.errors import InputError, NasError

__all__ = [
    "CACHE_PARTS",
    "DISK_FULL",
    "MOST",
    "Amount",
    "Lock",
    "Milliseconds",
    "Number",
    "Record",
    "Scale",
    "append_record",
    "cache_folder",
    "digest",
    "digest_of",
    "drop_half_line",
    "read_bytes",
    "read_record",
    "read_records",
    "read_text",
    "take_lock",
    "unwritten",
    "write_beside",
]

R = TypeVar("R", bound="Record")
_DIGITS = 16
MOST = 1e9  # of any number in a table: in ms some eleven days
_MOST_BYTES = 256 * 2**20  # of a document; 100,000 candidates of a search are some 240 MB
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # that some editors and spreadsheets put before UTF-8
_OTHER_ENCODINGS = (b"\xff\xfe", b"\xfe\xff")  # UTF-16, and UTF-32 of one byte order
_DRAFT = ".nas-draft"  # suffix of a temporary file
_PAUSE_S = 0.02  # between two looks at a lock

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)  # the quota is a disk of its own
Lock = Literal["taken", "in use", "gone", "unknown"]


def _no_negative_zero(value: float) -> float:
    if value == 0 and math.copysign(1, value) < 0:
        raise ValueError("must not be negative, got -0.0")
    return value


def _no_next_to_zero(value: float) -> float:
    if value < 1 / MOST:
        raise ValueError(f"must be {1 / MOST:g} at least, got {value:g}")
    return value


# Numbers of tables. Within these limits no sum, ratio or square of them overflows.
Number = Annotated[float, Field(ge=-MOST, le=MOST)]
Amount = Annotated[float, Field(ge=0, le=MOST), AfterValidator(_no_negative_zero)]
Scale = Annotated[float, Field(gt=0, le=MOST), AfterValidator(_no_next_to_zero)]
Milliseconds = Scale


class Record(BaseModel):
    """Base of everything that is read from or written to a file: frozen, and an unknown key is an error.

    Numbers are finite: JSON has no others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)


# The parts of the cache. All of them can be made again.
CACHE_PARTS = {
    "contents": "what images are known by",
    "hub": "which revision of a hub data set is used",
    "images": "decoded images",
    "iphone": "the runner app",
    "shared": "files of searches that other machines began",
    "supernets": "trained supernets, and trainings to go on with",
    "teachers": "labels of teachers",
    "wasm": "ONNX Runtime Web, as npm installed it",
}


def cache_folder(part: str, *, keeps: str | None = None) -> Path:
    """The folder `$NAS_CACHE/PART`, else `~/.cache/nas/PART`, for files that can be made again.

    Args:
        part: one of `CACHE_PARTS`; or `.` for the folder of all parts.
        keeps: what is going to be written there, as the error message names it. Without it the folder is not made.
    Raises:
        InputError: the folder cannot be made.
        NasError: the disk is full.
    """
    named = os.environ.get("NAS_CACHE")
    folder = (Path(named).expanduser() if named else Path.home() / ".cache" / "nas") / part
    if keeps:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if (full := unwritten(folder, error)).exit_code == 1:
                raise full from error
            raise InputError(
                f"{folder}: cannot keep {keeps} there ({error.strerror}); set NAS_CACHE to another folder"
            ) from error
    return folder


def digest_of(content: str) -> str:
    """Short SHA-256 of a text, in hexadecimal digits."""
    return hashlib.sha256(content.encode()).hexdigest()[:_DIGITS]


def digest(path: Path) -> str:
    """Short SHA-256 of the content of a file, in hexadecimal digits. The path of the file does not matter."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_DIGITS]


def write_beside(path: Path, content: bytes) -> None:
    """Write `content` to a temporary file in the same folder, then rename it to `path`.

    Temporary files of `path` that killed processes left are removed first.

    Raises:
        InputError: the folder does not exist, `path` is a folder, or the disk is read-only.
        NasError: the disk is full.
    """
    _sweep_drafts(path)
    try:
        handle, name = _draft(path)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                # mkstemp makes the file private. Results get the usual permissions of the user's files.
                mask = os.umask(0)
                os.umask(mask)
                Path(name).chmod(0o666 & ~mask)
                Path(name).replace(path)  # still locked, or another writer would sweep it
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise unwritten(path, error) from error


def unwritten(path: Path, error: OSError) -> NasError:
    """The error for a file or folder that cannot be written.

    A full or broken disk is no bad input: the same command goes on later.
    """
    if error.errno in DISK_FULL:
        return NasError(f"{path}: {error.strerror}: make room, then go on as after an interruption")
    if error.errno == errno.EIO:
        return NasError(f"{path}: {error.strerror}: look at its disk, then go on as after an interruption")
    return InputError(f"{path}: cannot be written ({error.strerror})")


def take_lock(handle: int, path: Path, *, wait_s: float = 0.0) -> Lock:
    """Take the system's lock of an open file or folder, which goes when it is closed, or its process ends.

    Args:
        handle: of the file or folder, as it was opened at `path`.
        path: where it should still be: who held the lock before may have removed it.
        wait_s: how long to wait while another process has it.
    Returns:
        `taken`; `in use`: another process has it; `gone`: it is not at `path` any more, so that this lock keeps nobody
        away; or `unknown`: the disk has no such locks.
    """
    state: Lock = "taken"
    until = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if math.isinf(wait_s) else fcntl.LOCK_NB))
        except (BlockingIOError, PermissionError):  # NFS may say that it is not permitted.
            if math.isinf(wait_s):  # A call that waits says so only where there is no such lock to be had.
                state = "unknown"
                break
            if time.monotonic() >= until:
                return "in use"
            time.sleep(_PAUSE_S)
            continue
        except OSError:
            state = "unknown"
        break
    try:
        return state if os.path.samestat(os.fstat(handle), path.stat()) else "gone"
    except FileNotFoundError:
        return "gone"


def _draft(path: Path) -> tuple[int, str]:
    """A new temporary file beside `path`, open and locked, and its name."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_DRAFT)
        if take_lock(handle, Path(name), wait_s=math.inf) != "gone":  # Another process may have swept it before.
            return handle, name
        os.close(handle)


def _sweep_drafts(path: Path) -> None:
    """Remove temporary files of `path` that nobody writes to: the system takes a lock from a process that ends."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]+{re.escape(_DRAFT)}")
    with suppress(OSError):
        for name in [name for name in os.listdir(path.parent) if pattern.fullmatch(name)]:  # noqa: PTH208 - names alone
            with suppress(OSError), (path.parent / name).open("rb+") as draft:
                if take_lock(draft.fileno(), path.parent / name) == "taken":
                    (path.parent / name).unlink()


def append_record(path: Path, record: Record) -> None:
    """Append a line to a file of records. The line is on disk when this returns.

    Raises:
        InputError: the file cannot be written.
        NasError: the disk is full. Half of the line may be there (`drop_half_line`).
    """
    try:
        with path.open("ab") as file:
            file.write(record.model_dump_json(exclude_none=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise unwritten(path, error) from error


def read_bytes(path: Path) -> bytes:
    """The content of a document, without a byte order mark.

    Raises:
        InputError: the file cannot be read, is too large for what nas reads, or is UTF-16.
    """
    try:
        # A named pipe that nobody writes to would be waited for without end; so it is empty.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            os.set_blocking(file.fileno(), True)
            content = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # A name with a NUL is a ValueError.
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(content) > _MOST_BYTES:
        raise InputError(f"{path}: larger than {_MOST_BYTES >> 20} MiB, so not a file of nas")
    if content.startswith(_OTHER_ENCODINGS):
        raise InputError(f"{path}: is text in UTF-16: save it as UTF-8")
    return content.removeprefix(_BYTE_ORDER_MARK)


def read_text(path: Path) -> str:
    """The text of a document.

    Raises:
        InputError: as for `read_bytes`, or it is not UTF-8.
    """
    content = read_bytes(path)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{path}, line {line}: is not text in UTF-8: save it as UTF-8") from error


def read_record(path: Path, kind: type[R]) -> R:
    """Read the one record of a JSON file. Reading never runs code.

    Raises:
        InputError: the file is unreadable, is not JSON, or has an unknown key or a value that breaks a rule.
    """
    content = read_bytes(path)
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise InputError.from_validation(str(path), error) from error


def read_records(path: Path, kind: type[R]) -> list[R]:
    """Read the records of a file, one per line. Without a file there are none. An unfinished last line is left out.

    Raises:
        InputError: the file cannot be read, or a line is not such a record.
    """
    records = []
    lines = read_bytes(path).split(b"\n") if path.exists() else [b""]
    for number, line in enumerate(lines[:-1], start=1):  # What follows the last newline is unfinished or empty.
        try:
            records.append(kind.model_validate_json(line))
        except ValidationError as error:
            raise InputError.from_validation(f"{path}, line {number}", error) from error
    return records


def drop_half_line(path: Path) -> None:
    """Cut off the unfinished last line that a killed process left."""
    if path.is_file():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            write_beside(path, content[:whole])
