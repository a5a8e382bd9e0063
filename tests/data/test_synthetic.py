from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import torch

from nas.data import load_images
from nas.data.synthetic import CLASS_NAMES, synthetic_images


def test_pictures_are_the_same_bytes_on_every_machine() -> None:
    images, labels = synthetic_images(count=16, resolution=32, seed=0)

    digest = hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest()

    assert digest[:16] == "489546bcb999819c"


def test_another_seed_draws_other_pictures() -> None:
    first, _ = synthetic_images(count=8, resolution=32, seed=0)
    second, _ = synthetic_images(count=8, resolution=32, seed=1)

    assert not (first == second).all(axis=(1, 2, 3)).any()


def test_fewer_pictures_are_the_beginning_of_more() -> None:
    few, few_labels = synthetic_images(count=10, resolution=32, seed=3)
    many, many_labels = synthetic_images(count=300, resolution=32, seed=3)

    assert (few == many[:10]).all()
    assert (few_labels == many_labels[:10]).all()


def test_every_class_is_drawn_about_equally_often() -> None:
    _, labels = synthetic_images(count=2000, resolution=32, seed=0)

    counts = np.bincount(labels, minlength=len(CLASS_NAMES))

    assert len(counts) == 20
    assert 60 < counts.min() <= counts.max() < 140


def test_a_blurred_view_shows_no_texture() -> None:
    """A linear classifier of the whole image, averaged over 8 x 8 pixels (two waves), is hardly better than chance."""
    train, train_labels = _blurred(count=2048, seed=0)
    held_out, labels = _blurred(count=1024, seed=1)
    targets = np.eye(20)[train_labels]
    solution = np.linalg.solve(train.T @ train + 100 * np.eye(train.shape[1]), train.T @ targets)

    accuracy = float((np.argmax(held_out @ solution, axis=1) == labels).mean())

    assert accuracy < 0.10  # chance is 0.05


def test_colours_say_nothing_about_the_class() -> None:
    images, labels = synthetic_images(count=4000, resolution=32, seed=0)

    means = np.array([images[labels == label].mean(axis=(0, 2, 3)) for label in range(20)])

    assert np.ptp(means, axis=0).max() < 8  # of 255; the mean colour of single images varies by 20


def test_drawing_loads_no_torch() -> None:
    code = "import sys, nas.data.synthetic; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _blurred(*, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    images, labels = synthetic_images(count=count, resolution=64, seed=seed)
    small = images.reshape(count, 3, 8, 8, 8, 8).mean(axis=(3, 5)).reshape(count, -1)
    return (small - 128) / 64, labels


class TestSynthetic:
    def test_train_and_val_images_differ(self) -> None:
        image_set = load_images("synthetic", resolution=32, seed=0, train_limit=64, val_limit=64)

        train, val = (
            {image.numpy().tobytes() for image in images} for images in (image_set.train_images, image_set.val_images)
        )
        assert not train & val

    def test_seeds_next_to_each_other_share_no_image(self) -> None:
        first, second = (
            load_images("synthetic", resolution=32, seed=seed, train_limit=32, val_limit=32) for seed in (0, 1)
        )

        assert not torch.equal(first.val_images, second.train_images)

    def test_set_moves_as_a_whole(self) -> None:
        image_set = load_images("synthetic", resolution=32, seed=0, train_limit=8, val_limit=8).to("meta")

        assert {"meta"} == {
            tensor.device.type
            for tensor in (image_set.train_images, image_set.train_labels, image_set.val_images, image_set.val_labels)
        }
