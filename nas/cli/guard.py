"""The guard at the top of the command line: however a command ends, one line and an exit code say so."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import TextIO

from nas.cli.terminal import print_document, say
from nas.errors import NasError, visible
from nas.masking import without_secrets

__all__ = ["guarded"]

LONGEST_LINE = 400  # characters
_ANSWER_S = 1.0  # for a command to end by itself after Ctrl-C, before something is said
_SAVED = "everything finished so far is saved"
_SHOW_CURSOR = "\x1b[?25h"
_BUG, _INTERRUPTED = 1, 130
_NO_MEMORY = ("not enough memory", "out of memory", "allocate memory")  # as torch says it, in a RuntimeError
_CURES = {
    errno.ENOSPC: "make room, then repeat the command",
    errno.EDQUOT: "make room, then repeat the command",
    errno.EACCES: "change its permissions, or name another",
    errno.EPERM: "change its permissions, or name another",
    errno.EROFS: "name another place",
    errno.EMFILE: "allow more open files: ulimit -n 4096",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EPIPE: "a program or a connection that nas talks to has ended; repeat the command",
}
_EXTRAS = {  # what pyproject.toml has as extras, by the name that is imported
    "coremltools": "coreml",
    "datasets": "data",
    "huggingface_hub": "data",
    "kaleido": "plot",
    "pyarrow": "data",
}
_CUTS_OUTPUT = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF)  # without the name of a file
_INPUT = (errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL)


def guarded(run: Callable[[], object], arguments: Sequence[str], *, show_traceback: bool) -> int:
    """Run a command line; every error ends in one line.

    Args:
        run: what the command line asks for. It returns None, or an exit code.
        arguments: the command line, for the passwords that are kept out of messages.
        show_traceback: print the whole traceback before the line.
    Returns:
        The exit code, as the design promises it.
    """
    for name in ("stdin", "stdout", "stderr"):  # One that is closed would lend its number to the next file.
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # A name that the terminal's encoding does not have is no reason to stop.
            stream.reconfigure(errors="backslashreplace")
    words = _SAVED
    try:
        with _answering():
            code = run()
        sys.stdout.flush()
    except BaseException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # `nas table` alone prints its help.
            return 2
        code, line = _ending(error)
        if isinstance(error, KeyboardInterrupt) and error.args:  # said by the command
            words = visible(str(error), limit=LONGEST_LINE)
        # A password with a space that nobody quoted is two arguments.
        sources = (*arguments, " ".join(arguments), os.environ.get("NAS_STORAGE", ""))
        with suppress(OSError):  # Nobody reads the words any more, or their disk is full. The exit code says it too.
            if show_traceback:
                print_document(without_secrets("".join(traceback.format_exception(error)), sources), to=sys.stderr)
            # Something could not be finished after Ctrl-C: `nas.errors.finishing` says what.
            lines = [] if not isinstance(error, KeyboardInterrupt) else getattr(error, "__notes__", [])
            for one in (*lines, *([f"error: {line}"] if line else [])):
                say(visible(without_secrets(one, sources), limit=LONGEST_LINE), is_error=True)
    if code == _INTERRUPTED:
        with suppress(OSError):
            say(f"interrupted; {words}", is_error=True)
    return code if isinstance(code, int) else 0


@contextmanager
def _answering() -> Iterator[None]:
    """Answer a Ctrl-C that Python cannot act on yet, such as in a long step of torch; the second one ends at once.

    Python raises a KeyboardInterrupt only between two of its own instructions. A file descriptor hears of the signal
    at once.
    """
    heard, told = os.pipe()
    os.set_blocking(told, False)
    try:
        before = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    except ValueError:  # not in the main thread
        os.close(heard)
        os.close(told)
        yield
        return
    is_over = Event()
    thread = Thread(target=_answer, args=(heard, is_over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        signal.set_wakeup_fd(before)
        os.close(told)
        thread.join(_ANSWER_S)
        os.close(heard)


def _answer(heard: int, is_over: Event) -> None:
    numbers = {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
    is_second = False
    while number := os.read(heard, 1):
        if number[0] not in numbers or is_over.wait(_ANSWER_S):
            continue
        with suppress(OSError):  # nobody reads
            if is_second:
                sys.stderr.write(_SHOW_CURSOR * sys.stderr.isatty())
                say(f"interrupted; {_SAVED}", is_error=True)
            else:
                say("stopping once the step that runs now is done; Ctrl-C again ends it at once", is_error=True)
        if is_second:
            os._exit(_INTERRUPTED)
        is_second = True


def _ending(error: BaseException) -> tuple[int, str]:
    """Exit code and line of an error; an empty line for what needs none."""
    match error:
        case NasError():
            return error.exit_code, str(error)
        case KeyboardInterrupt():
            return _INTERRUPTED, ""
        case SystemExit():
            return error.code if isinstance(error.code, int) else int(error.code is not None), ""
        case ModuleNotFoundError() if extra := _EXTRAS.get((error.name or "").partition(".")[0]):
            return 2, f"this needs the package {error.name}: pip install 'nas[{extra}]'"
        case BrokenPipeError() if gone := [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]:
            for stream in gone:  # Whoever read the output has seen enough.
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            return 1, ""
        case OSError():
            return _of_the_system(error)
        case UnicodeEncodeError():
            return 2, f"{error.object}: not valid UTF-8: rename it"
        case MemoryError():
            return 1, "not enough memory: end other programs, or ask for less at once"
        case RuntimeError() if any(words in str(error) for words in _NO_MEMORY):
            return 1, f"not enough memory: end other programs, or ask for less at once ({_first_line(error)})"
        case Exception() if hasattr(error, "format_message"):  # of typer: an option or argument that is not right
            context = getattr(error, "ctx", None)
            path = context.command_path if context else "nas"
            return 2, f"{str(error.format_message()).rstrip('.')}; see {path} --help"
        case _:
            kind = type(error).__name__
            return _BUG, (
                f"this is a bug in nas, please report it: {visible(_first_line(error), limit=200)} ({kind}); the same "
                "command with --traceback shows where"
            )


def _of_the_system(error: OSError) -> tuple[int, str]:
    """Exit code and line of an error that the system reports: a name that cannot be, a full disk, and so on."""
    where = "output" if error.errno in _CUTS_OUTPUT else ""
    if isinstance(error.filename, str | bytes):
        where = visible(os.fsdecode(error.filename), limit=150)
    what = error.strerror or _first_line(error) or type(error).__name__
    cure = _CURES.get(error.errno or 0)
    words = [part for part in (where, what, cure) if part]
    return 2 if error.errno in _INPUT else 1, ": ".join(words)


def _has_no_reader(stream: TextIO) -> bool:
    """Whether a stream is a pipe or a connection of which the other end is closed."""
    try:
        poll = select.poll()
        poll.register(stream, 0)  # What is wrong is told without asking.
        return bool(poll.poll(0))
    except (OSError, ValueError):  # no file
        return False


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
