from __future__ import annotations

from typing import Any

import pytest

from nas.proxies import differing, identity

NOW = {
    "proxy": "short-training",
    "data": "photos: 9 train and 3 val images of 2 classes at 32 px",
    "fingerprint": "abc",
    "contents": {"fingerprint": "abc", "classes": []},
    "train_images": 9,
    "val_images": 3,
    "seed": 0,
    "init": "a/supernet.safetensors",
    "digest": "def",
    "device": "cpu",
    "threads": 1,
    "torch": "2.6",
    "precision": "fp32",
}
EARLIER = {name: NOW[name] for name in NOW if name not in ("fingerprint", "contents", "train_images", "val_images")}


@pytest.mark.parametrize(
    "change",
    [
        {"data": "/elsewhere/photos: 9 train and 3 val images of 2 classes at 32 px"},
        {"init": "b/other.safetensors"},
        {"device": "cuda", "threads": 8, "torch": "9.9", "precision": "bf16"},
    ],
    ids=["path of the images", "path of the supernet", "machine"],
)
def test_where_a_proxy_finds_its_files_and_runs_may_differ(change: dict[str, Any]) -> None:
    assert differing(NOW, NOW | change) == []
    assert identity(NOW) == identity(NOW | change)


@pytest.mark.parametrize("change", [{"fingerprint": "x"}, {"val_images": 2}, {"digest": "x"}, {"seed": 1}])
def test_content_and_settings_may_not_differ(change: dict[str, Any]) -> None:
    assert differing(NOW, NOW | change) == list(change)
    assert identity(NOW) != identity(NOW | change)


def test_what_only_one_has_is_different() -> None:
    assert differing(NOW, NOW | {"teacher": "b0"}) == ["teacher"]


def test_settings_of_an_earlier_version_are_compared_by_the_words_about_the_images() -> None:
    other = {"data": "photos: 8 train and 3 val images of 2 classes at 32 px"}

    assert differing(EARLIER, NOW) == differing(NOW, EARLIER) == []
    assert differing(EARLIER, NOW | other) == ["data"]
    assert identity(EARLIER) == identity(NOW, by_content=False)


def test_a_file_without_a_digest_is_known_by_its_path() -> None:
    settings = {"proxy": "x", "init": "a"}

    assert differing(settings, {"proxy": "x", "init": "b"}) == ["init"]


def test_members_of_a_panel_are_treated_alike() -> None:
    panel = {"fingerprint": "abc", "digest": "d", "supernet data": "x", "supernet supernet": "a", "supernet images": 1}

    assert identity(panel) == {"fingerprint": "abc", "digest": "d", "supernet images": 1}
