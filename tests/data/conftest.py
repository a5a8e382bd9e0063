"""Every test of images has a cache of its own, and hears what is left out even if a test before it did."""

from __future__ import annotations

import pytest

from nas.data import load


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path_factory.mktemp("cache")))
    load._say.cache_clear()
