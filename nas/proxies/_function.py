"""A plain function as a proxy: it is timed, what it gives is checked, and an error in it becomes one line."""

from __future__ import annotations

import inspect
import math
import sys
import sysconfig
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nas.errors import InputError, NasError, visible
from nas.networks import Architecture
from nas.proxies._base import OutOfTime, Score, ScoringFailed

__all__ = ["FunctionProxy", "OwnCode", "Scorer", "accepts", "checked", "number_of"]

Scorer = Callable[[Architecture], Any]  # gives a number or a `Score`; what it gives is checked

_HERE = Path(__file__).parent
_STANDARD = tuple(f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib"))
_INSTALLED = ("/site-packages/", "/dist-packages/")
_LONGEST = 200  # characters of what an error says


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCode:
    """Code of the user.

    Attributes:
        name: what a message calls it.
        path: its file, if it was given as a file.
    """

    name: str
    path: Path | None = None

    @contextmanager
    def running(self, network: Architecture | None = None) -> Iterator[None]:
        """Run it. What lies beside its file can be imported meanwhile, as with `python FILE`.

        Args:
            network: that it scores.
        Raises:
            ScoringFailed, OutOfTime: from the code itself.
            NasError: any other error of the code, in one line; the error itself is its cause.
        """
        try:
            with self._importable():
                yield
        except (ScoringFailed, OutOfTime):
            raise
        except (Exception, SystemExit) as error:
            which = f", for network {network.id}" if network else ""
            raise NasError(
                f"{self.blame(error)}{which}; what is finished is saved; where a network cannot have a score, raise "
                "nas.proxies.ScoringFailed"
            ) from error

    def blame(self, error: BaseException) -> str:
        """Where in the user's code an error came up, and what it is, in one line."""
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(frame.filename)]
        reason = _first_line(error)
        what = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        if not frames:
            return f"{self.name}: {what}"
        last = frames[-1]
        file = self.name if self.path is not None and last.filename == str(self.path) else visible(last.filename)
        function = f", in {last.name}" if last.name != "<module>" else ""
        return f"{file}, line {last.lineno}{function}: {what}"

    @contextmanager
    def _importable(self) -> Iterator[None]:
        """Look for modules beside the file first. Afterwards no longer: a `datasets.py` there is not for this package.

        What the code has imported stays imported.
        """
        if self.path is None:
            yield
            return
        folder = str(self.path.parent)
        sys.path.insert(0, folder)
        try:
            yield
        finally:
            if folder in sys.path:  # The code may have removed it.
                sys.path.remove(folder)


class FunctionProxy:
    """Scores by a plain function of one network, `score(network) -> float`; higher is better.

    The function may also give a `Score`, with details and weights for the record. A network for which it raises
    `ScoringFailed`, or gives anything but a finite number, is a failed candidate. Any other error in the function ends
    the search with exit code 1; what is finished is saved.

    The time of a score is measured, and so is the estimate, which the first network that is asked for stands for. Its
    score is kept, so that no network is scored twice.

    A function is known by its module and name: a run may be resumed with a function that was mended, and it is for the
    user to begin another run when scores have changed their meaning.

    Attributes:
        name: of the function, such as `<lambda>`.

    Args:
        function: gives the score of a network.
        code: what messages call it.
        settings: what tells it from other proxies.
    Raises:
        InputError: the function does not take one network.

    Examples:
        >>> from nas.networks import SearchSpace
        >>> network = SearchSpace.find("tiny").references["tiny_a"]
        >>> FunctionProxy(lambda network: len(network.stages)).score(network).value
        4.0
    """

    def __init__(
        self, function: Scorer, *, code: OwnCode | None = None, settings: dict[str, Any] | None = None
    ) -> None:
        if not callable(function) or not accepts(function, 1):
            raise InputError(f"score must be a function of one network, score(network), got {_described(function)}")
        path = _name_of(function)
        self.name = path.rpartition(".")[2]
        self._function, self._code = function, code or OwnCode(name=self.name)
        module = getattr(function, "__module__", None) or type(function).__module__
        self._settings = settings or {"proxy": "function", "function": f"{module}.{path}"}
        self._first: tuple[str, Score] | None = None  # id and score of the network that the estimate was measured on

    def settings(self) -> dict[str, Any]:
        """The name of the function; for a function in a file, the file and a digest of its content."""
        return dict(self._settings)

    def estimate_seconds(self, architecture: Architecture) -> float:
        """Time of the score of the first network that is asked for, which is scored then.

        Raises:
            ScoringFailed: it cannot be scored.
        """
        if self._first is None:
            self._first = architecture.id, self._scored(architecture)
        return self._first[1].seconds

    def score(self, architecture: Architecture) -> Score:
        """What the function gives.

        Raises:
            ScoringFailed: the function raises it, or gives no finite number.
            NasError: any other error in the function.
        """
        if self._first is not None and self._first[0] == architecture.id:
            return self._first[1]
        return self._scored(architecture)

    def _scored(self, architecture: Architecture) -> Score:
        start = time.perf_counter()
        with self._code.running(architecture):
            return checked(self._function(architecture), start)


def checked(given: Any, start: float) -> Score:
    """A result as a score.

    Args:
        given: a number, or a `Score`.
        start: when the scoring began, by `time.perf_counter`.
    Raises:
        ScoringFailed: it is neither, or has a number that is not finite.
    """
    if not isinstance(given, Score):
        value = number_of(given, "score")  # With torch on a GPU, this waits for the result.
        return Score(value=value, seconds=time.perf_counter() - start, details={})
    details = {
        str(name): value if isinstance(value, str | int) else number_of(value, f"details[{name!r}]")
        for name, value in given.details.items()
    }
    value, seconds = number_of(given.value, "value"), number_of(given.seconds, "seconds")
    return replace(given, value=value, seconds=max(0.0, seconds), details=details)


def number_of(given: Any, what: str) -> float:
    """A finite number, also from a scalar of numpy or torch.

    Args:
        given: what the user's code gave.
        what: how a message calls it.
    Raises:
        ScoringFailed: it is none.
    """
    try:
        plain = given.item() if hasattr(given, "item") else given
        if isinstance(plain, str | bytes | bool) or not hasattr(plain, "__float__"):
            raise TypeError("does the function return its result?" if given is None else "")
        number = float(plain)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:  # torch raises the third one
        why = f" ({_first_line(error)})" if str(error) else ""
        raise ScoringFailed(f"{what} is {_described(given)}, which is no number{why}") from error
    if not math.isfinite(number):
        raise ScoringFailed(f"{what} is {number}, which is no finite number")
    return number


def accepts(function: Callable[..., object], arguments: int) -> bool:
    """Whether a function can be called with so many arguments in their order."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # Some functions written in C do not say what they take.
        return True
    try:
        signature.bind(*[None] * arguments)
    except TypeError:
        return False
    return True


def _described(given: object) -> str:
    """What something is, in a few words."""
    if given is None:
        return "None"
    if inspect.isroutine(given):
        try:
            return f"{_name_of(given)}{inspect.signature(given)}"
        except (TypeError, ValueError):
            return _name_of(given)
    kind = type(given).__name__
    return f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"


def _first_line(error: BaseException) -> str:
    return visible(next(iter(str(error).splitlines()), ""), limit=_LONGEST)


def _name_of(function: object) -> str:
    """The name of a function, of the function inside a partial one, or else of the class of an object."""
    function = getattr(function, "func", function)
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)


def _is_own(filename: str) -> bool:
    """Whether a file in a traceback is the user's: not of this package, of Python itself, or of a library."""
    if filename.startswith("<frozen") or Path(filename).is_relative_to(_HERE.parent):
        return False
    return not filename.startswith(_STANDARD) and not any(part in filename for part in _INSTALLED)
