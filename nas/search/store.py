"""Files that all workers of a search share: a folder, or an object store by a URL of fsspec such as s3://bucket/run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nas.errors import InputError, NasError, visible
from nas.files import write_beside
from nas.masking import masked

__all__ = ["Store"]


class Store:
    """Small files by name.

    Args:
        url: a folder, or a URL of fsspec.
    Raises:
        InputError: there is no such kind of store, or its library is not installed.
    """

    def __init__(self, url: str) -> None:
        import fsspec  # type: ignore[import-untyped]

        if masked(url, alone=True) != url:  # All workers read the URL in the study.
            raise InputError(
                f"--shared {visible(masked(url, alone=True))}: leave the password out; fsspec takes it from its own "
                "settings, see its documentation of the configuration"
            )
        self.url = url
        self.shown = visible(masked(url, alone=True))
        try:
            self._system, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise InputError(f"--shared {self.shown}: {error}") from error
        self._is_local = isinstance(self._system, fsspec.implementations.local.LocalFileSystem)

    @property
    def folder(self) -> Path | None:
        """The folder, if the files are in one."""
        return Path(self._root) if self._is_local else None

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            NasError: the store does not take it.
        """
        if self._is_local:
            path = Path(self._root) / name
            path.parent.mkdir(parents=True, exist_ok=True)
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
            NasError: the store does not answer.
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
            NasError: the store does not let it be removed.
        """

        def drop() -> None:
            try:
                self._system.rm_file(f"{self._root}/{name}")
            except FileNotFoundError:
                return

        self._try(drop)

    def _try(self, what: Any) -> Any:
        try:
            return what()
        except Exception as error:  # Stores pass on any error of their client.
            reason = visible((str(error).splitlines() or [""])[0] or type(error).__name__, limit=200)
            raise NasError(f"--shared {self.shown}: {reason}") from error
