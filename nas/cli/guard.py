"""The guard at the top of the command line: however a command ends, one line and an exit code say so."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from nas.cli.terminal import print_document, say
from nas.errors import NasError, visible, without_secrets

__all__ = ["guarded"]

LONGEST_LINE = 400  # characters
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
}
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
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # A name that the terminal's encoding does not have is no reason to stop.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = run()
        sys.stdout.flush()
    except BaseException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # `nas table` alone prints its help.
            return 2
        code, line = _ending(error)
        # A password with a space that nobody quoted is two arguments.
        sources = (*arguments, " ".join(arguments), os.environ.get("NAS_STORAGE", ""))
        if show_traceback:
            print_document(without_secrets("".join(traceback.format_exception(error)), sources), to=sys.stderr)
        if line:
            say("error: " + visible(without_secrets(line, sources), limit=LONGEST_LINE - len("error: ")))
    if code == _INTERRUPTED:
        say("interrupted; everything finished so far is saved")
    return code if isinstance(code, int) else 0


def _ending(error: BaseException) -> tuple[int, str]:
    """Exit code and line of an error; an empty line for what needs none."""
    match error:
        case NasError():
            return error.exit_code, str(error)
        case KeyboardInterrupt():
            return _INTERRUPTED, ""
        case SystemExit():
            return error.code if isinstance(error.code, int) else int(error.code is not None), ""
        case BrokenPipeError():  # Whoever read the output has seen enough.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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
    where = visible(os.fsdecode(error.filename), limit=150) if isinstance(error.filename, str | bytes) else "output"
    what = error.strerror or _first_line(error) or type(error).__name__
    cure = _CURES.get(error.errno or 0)
    return 2 if error.errno in _INPUT else 1, f"{where}: {what}{f': {cure}' if cure else ''}"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
