"""The storage of a study: opening it, waiting while it is locked or away, and saying what is wrong with it."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages._rdb.models import TrialParamModel
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError, InterfaceError, OperationalError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as NoFreeConnection
from sqlalchemy.orm import Session

from nas.errors import InputError, NasError, visible
from nas.files import take_lock
from nas.masking import masked, without_secrets
from nas.search.patience import SAVED, ask_again

__all__ = ["LOCKED", "Patience", "open_storage", "refuse_no_file", "refuse_two_ats"]

T = TypeVar("T")

# What a database raises while another program has locked it, while it restarts, or while it cannot be reached. A
# journal in a file waits for its lock by itself.
_AWAY: tuple[type[Exception], ...] = (OperationalError, InterfaceError, DisconnectionError, NoFreeConnection)
_AWAY += (PendingRollbackError, ConnectionError, TimeoutError)  # the first after a connection that broke in between
# What no waiting mends: of SQLite, and of PostgreSQL and its kind
_LASTING: tuple[str, ...] = ("no such table", "no such column", "has no column", "unable to open", "readonly")
_LASTING += ("malformed", "authentication failed", "no password", "does not exist", "permission denied")
LOCKED = ("locked", "starting up", "shutting down", "recovery mode", "too many")  # worth waiting for at the start too
# What Optuna raises where another process makes the tables of a new database at the same moment; then they are there.
_OTHER_MAKES = ("already exists", "alembic_version", "version_info", "pg_type_typname")
_OPENINGS, _PAUSE_S = 5, 0.2  # and the time between two of them
# What Optuna raises on a journal in which something is wrong that can be read.
_CONTENT = (ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError, RecursionError)
_REASON = 120  # characters of what a driver says
_TO_SERVER = re.compile(r"^connection failed: connection to server at .*? failed: (?=\S)")  # as psycopg begins
_JOURNAL = "study.journal"


def open_storage(storage: str | Path) -> BaseStorage:
    """The storage of an Optuna URL, or a journal in a file."""
    if isinstance(storage, Path):
        return _journal(storage)
    for _ in range(_OPENINGS):
        try:
            return _database(storage)
        except Exception as error:  # of any driver
            if not any(words in _reason(error) for words in _OTHER_MAKES):
                raise
        time.sleep(_PAUSE_S)
    return _database(storage)


class Patience:
    """Asks a storage, and asks again while it is locked or away.

    Args:
        storage: an Optuna storage URL, or the path of a journal.
        say: gets one line for each time that the storage is away.
        patience_s: how long it is asked again; by default a minute.
    Attributes:
        is_open: the study is open. From then on what a database refuses is no bad input, but a failure.
    """

    def __init__(self, storage: str | Path, say: Callable[[str], None], *, patience_s: float | None = None) -> None:
        self._storage, self._say, self.is_open = storage, say, False
        self._patience_s = patience_s
        self._where = "--storage" if isinstance(storage, str) else str(storage)

    def ask(self, question: Callable[[], T], *, worth: Callable[[str], bool] = lambda reason: True) -> T:  # noqa: ARG005
        """The answer to a question that may be asked twice.

        Args:
            question: asks the storage.
            worth: whether it is worth waiting, by the reason why there is no answer.
        Raises:
            InputError: the storage cannot be used, or is damaged.
            NasError: there is no answer within a minute, or the storage or the system refuses it.
        """

        def away(error: Exception) -> str:  # Storages pass on any error of their driver, and of what they hold.
            if isinstance(error, NasError | MemoryError | optuna.exceptions.DuplicatedStudyError):
                raise error
            reason = visible(without_secrets(_reason(error), [str(self._storage)]), limit=_REASON)
            if not _is_away(error, reason) or not worth(reason):
                raise _unusable(self._storage, error, reason, is_open=self.is_open) from error
            return reason

        return ask_again(question, away=away, where=self._where, say=self._say, patience_s=self._patience_s)


def refuse_two_ats(storage: str) -> None:
    """Refuse a URL with an unquoted @ in its password: its second part would be taken for the name of a host.

    Raises:
        InputError: it has one.
    """
    with suppress(ArgumentError, ValueError):  # whoever opens the storage says what is wrong
        url = make_url(storage)
        if url.password is not None and "@" in f"{url.host}{url.database}":
            shown = visible(masked(storage, alone=True), limit=_REASON)
            raise InputError(f"--storage {shown}: write an @ in the password as %40")


def refuse_no_file(storage: str) -> None:
    """Refuse the URL of an SQLite file that is not there: opening it would make an empty one.

    Raises:
        InputError: there is no such file.
    """
    with suppress(ArgumentError, ValueError):  # whoever opens the storage says what is wrong
        url = make_url(storage)
        name = url.database if url.get_backend_name() == "sqlite" else None
        if name and not name.startswith("file:") and not Path(name).exists():  # That would be a URI of SQLite.
            shown = visible(masked(storage, alone=True), limit=_REASON)
            raise InputError(f"--storage {shown}: no such file")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what caused it, the innermost last."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = getattr(cause, "orig", None) or cause.__cause__


def _reason(error: BaseException) -> str:
    """What the database said: the first line of the innermost error."""
    *_, innermost = _causes(error)
    words = (str(innermost).strip().splitlines() or [type(innermost).__name__])[0]
    words = words.partition(" (Background on this error at:")[0].strip()
    return _TO_SERVER.sub("", words)


def _is_away(error: Exception, reason: str) -> bool:
    """Whether a database is locked, restarts, or cannot be reached, so that asking again may help."""
    return any(isinstance(cause, _AWAY) for cause in _causes(error)) and not any(words in reason for words in _LASTING)


def _unusable(storage: str | Path, error: Exception, reason: str, *, is_open: bool) -> NasError:
    """The error for a storage that is damaged, or that refuses what is asked."""
    if isinstance(storage, str):
        where = f"--storage {visible(masked(storage, alone=True), limit=_REASON)}"
        *_, innermost = _causes(error)
        if isinstance(innermost, ModuleNotFoundError) and (innermost.name or "").startswith("psycopg"):
            return InputError(f"{where}: needs the package {innermost.name}: pip install 'nas[postgres]'")
        return NasError(f"{where}: {reason}{SAVED}") if is_open else InputError(f"{where}: cannot be used ({reason})")
    if isinstance(error, OSError) and error.strerror:
        return NasError(f"{storage}: {error.strerror}: mend that, then go on with --resume")
    if not isinstance(error, _CONTENT):
        return NasError(f"{storage}: {reason} ({type(error).__name__}){SAVED}")
    if storage.name != _JOURNAL:
        return InputError(f"{storage}: no journal of a study, which is the file {_JOURNAL} of a results folder")
    what = "cannot be used" if _is_whole(storage) else "damaged, or of another program"
    return InputError(
        f"{storage}: {what} ({type(error).__name__}: {reason}): remove it, then --resume goes on with the candidates "
        "that are scored"
    )


def _is_whole(journal: Path) -> bool:
    """Whether all lines of a journal can be read."""
    try:
        storage = _journal(journal)
        for study in storage.get_all_studies():
            storage.get_all_trials(study._study_id)
    except _CONTENT:
        return False
    return True


def _database(url: str) -> BaseStorage:
    """The storage of an Optuna URL."""
    storage = _Database(url)
    if storage.engine.name == "sqlite":
        # Its log ahead of writes takes one sync a commit instead of four, and readers do not wait for a writer.
        with storage.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    return optuna.storages.get_storage(storage)


class _Database(RDBStorage):
    """Optuna's storage in a database, which writes the parameters of a new trial in one statement.

    Optuna asks three times before it writes each of them: whether the trial is open, and what was distributed how. Here
    trials are new, and their parameters are those of the space.
    """

    def _set_trial_param_without_commit(
        self,
        session: Session,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None = None,  # noqa: ARG002 - of Optuna
    ) -> None:
        session.add(
            TrialParamModel(
                trial_id=trial_id,
                param_name=param_name,
                param_value=param_value_internal,
                distribution_json=distribution_to_json(distribution),
            )
        )


def _journal(path: Path) -> JournalStorage:
    """Storage in a journal file."""
    return JournalStorage(JournalFileBackend(str(path), lock_obj=_JournalLock(path)))


class _JournalLock(JournalFileOpenLock):
    """The system's lock of a journal, which goes when its process ends.

    Optuna's own lock is a file that a killed process leaves. Others break it after some seconds, also that of a process
    that only waits for its disk, and that one fails then.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path, self._handle = path, -1

    def acquire(self) -> bool:
        """Wait for the lock, and cut off the half line that a killed process left: nobody else writes now."""
        while True:
            handle = os.open(self._path, os.O_RDWR)
            try:
                if take_lock(handle, self._path, wait_s=math.inf) != "gone":
                    _cut_half_line(handle)
                    self._handle = handle
                    return True
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)

    def release(self) -> None:
        """Let others have the lock."""
        os.close(self._handle)


def _cut_half_line(handle: int) -> None:
    end = size = os.fstat(handle).st_size
    while end and os.pread(handle, 1, end - 1) != b"\n":
        end -= 1
    if end < size:
        os.ftruncate(handle, end)
