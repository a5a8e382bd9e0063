"""Files that all workers of a search share: a folder, or an object store by a URL of fsspec such as s3://bucket/run."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nas.errors import InputError, NasError, visible
from nas.files import unwritten, write_beside
from nas.masking import masked
from nas.search.patience import ask_again

__all__ = ["Store"]

# What is worth asking again: the store, or the way to it, is away or busy. Some clients have their own errors for that:
# aiohttp (which s3fs and gcsfs use), botocore, requests and azure-core.
_AWAY = (ConnectionError, TimeoutError)
_AWAY_NUMBERS = {errno.EAGAIN, errno.EBUSY, errno.EIO, errno.ETIMEDOUT, errno.ENETUNREACH, errno.EHOSTUNREACH}
_AWAY_NAMES = {"ClientConnectionError", "ClientPayloadError", "HTTPClientError", "ConnectionError", "Timeout"}
_AWAY_NAMES |= {"ServiceRequestError", "ServiceResponseError"}


class Store:
    """Small files by name.

    Args:
        url: a folder, or a URL of fsspec.
        say: gets one line for each time that the store is away.
        patience_s: how long it is asked again then; by default a minute.
    Raises:
        InputError: there is no such kind of store, its library is not installed, or the URL has a password.

    Attributes:
        url: the URL for other processes, which may run in another folder.
        shown: the URL for messages.
    """

    def __init__(
        self,
        url: str,
        *,
        say: Callable[[str], None] = lambda line: None,  # noqa: ARG005
        patience_s: float | None = None,
    ) -> None:
        import fsspec  # type: ignore[import-untyped]

        if masked(url, alone=True) != url:  # All workers read the URL in the study.
            raise InputError(
                f"--shared {visible(masked(url, alone=True))}: leave the password out; fsspec takes it from its own "
                "settings, see its documentation of the configuration"
            )
        self.shown = visible(masked(url, alone=True))
        try:
            self._system, self._root = fsspec.core.url_to_fs(url)
        except Exception as error:  # of the library of that kind of store, too
            raise InputError(f"--shared {self.shown}: {_reason(error)}") from error
        self._say, self._patience_s = say, patience_s
        self._is_local = isinstance(self._system, fsspec.implementations.local.LocalFileSystem)
        self.url = self._root if self._is_local else url

    @property
    def folder(self) -> Path | None:
        """The folder, if the files are in one."""
        return Path(self._root) if self._is_local else None

    @property
    def is_seen(self) -> bool:
        """Whether what is written here is where the search finds it; a folder may be that of another machine."""
        return self.folder is None or (self.folder / "weights").is_dir()

    def make(self) -> None:
        """Make the folder, if it is one.

        Raises:
            InputError: it cannot be made.
        """
        if self.folder is not None:
            try:
                (self.folder / "weights").mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise unwritten(self.folder, error) from error

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            InputError: the folder cannot be written.
            NasError: the store does not take it, or stays away.
        """
        if self._is_local:
            path = Path(self._root) / name
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise unwritten(path.parent, error) from error
            write_beside(path, content)
            return
        draft = f"{self._root}/{name}.part"

        def put() -> None:
            self._system.makedirs(draft.rpartition("/")[0], exist_ok=True)
            self._system.pipe_file(draft, content)
            self._system.mv(draft, f"{self._root}/{name}")

        self._try(put)

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if there is none.

        Raises:
            NasError: the store does not give it, or stays away.
        """

        def get() -> bytes | None:
            try:
                content: bytes = self._system.cat_file(f"{self._root}/{name}")
            except FileNotFoundError:
                return None
            return content

        content: bytes | None = self._try(get)
        return content

    def remove(self, name: str) -> None:
        """Remove a file, if it is there.

        Raises:
            NasError: the store does not let it be removed, or stays away.
        """

        def drop() -> None:
            try:
                self._system.rm_file(f"{self._root}/{name}")
            except FileNotFoundError:
                return

        self._try(drop)

    def _try(self, what: Any) -> Any:
        def away(error: Exception) -> str:  # Stores pass on any error of their client.
            if not _is_away(error):
                raise NasError(f"--shared {self.shown}: {_reason(error)}") from error
            return _reason(error)

        where = f"--shared {self.shown}"
        return ask_again(what, away=away, where=where, say=self._say, patience_s=self._patience_s)


def _is_away(error: BaseException) -> bool:
    """Whether a store cannot be reached just now, or has too much to do."""
    named = {kind.__name__ for kind in type(error).__mro__} & _AWAY_NAMES
    if named or isinstance(error, _AWAY) or getattr(error, "errno", None) in _AWAY_NUMBERS:
        return True
    return error.__cause__ is not None and _is_away(error.__cause__)


def _reason(error: Exception) -> str:
    """What an error says, in one line."""
    return visible((str(error).strip().splitlines() or [type(error).__name__])[0], limit=200)
