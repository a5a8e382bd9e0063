"""What tells two sets of images apart, and how the batches of a set are drawn and augmented."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from nas.data import UNKNOWN, ImageSet, fingerprint, load_images, training_batches, validation_batches
from nas.data.image_set import MASK_STRIDE


class TestFingerprint:
    def test_it_does_not_depend_on_where_the_images_are(self, colours: ImageSet) -> None:
        moved = replace(colours, description="the same at another path", train_images=colours.train_images.clone())

        assert fingerprint(colours) == fingerprint(moved)
        assert len(fingerprint(colours)) == 16

    def test_it_does_not_depend_on_the_memory_format(self, colours: ImageSet) -> None:
        laid_out = colours.train_images.contiguous(memory_format=torch.channels_last)

        assert fingerprint(colours) == fingerprint(replace(colours, train_images=laid_out))

    @pytest.mark.parametrize("part", ["train_images", "train_labels", "val_images", "val_labels"])
    def test_one_other_byte_changes_it(self, colours: ImageSet, part: str) -> None:
        changed = getattr(colours, part).clone()
        changed.view(-1)[-1] ^= 1

        assert fingerprint(colours) != fingerprint(replace(colours, **{part: changed}))

    @pytest.mark.parametrize(
        "change",
        [
            {"class_names": ("grey", "red", "green", "navy")},
            {"class_names": ("red", "grey", "green", "blue")},
        ],
    )
    def test_other_names_of_classes_change_it(self, colours: ImageSet, change: dict[str, Any]) -> None:
        assert fingerprint(colours) != fingerprint(replace(colours, **change))

    def test_images_of_another_shape_with_the_same_bytes_change_it(self, colours: ImageSet) -> None:
        cut = colours.train_images.reshape(4 * 192, 3, 16, 16)

        assert fingerprint(colours) != fingerprint(replace(colours, train_images=cut))

    def test_an_image_that_goes_from_one_split_to_the_other_changes_it(self, colours: ImageSet) -> None:
        moved = replace(
            colours,
            train_images=colours.train_images[:-1],
            train_labels=colours.train_labels[:-1],
            val_images=torch.cat([colours.train_images[-1:], colours.val_images]),
            val_labels=torch.cat([colours.train_labels[-1:], colours.val_labels]),
        )

        assert fingerprint(colours) != fingerprint(moved)

    def test_the_name_of_a_teacher_stands_for_its_labels(self, colours: ImageSet) -> None:
        soft = torch.nn.functional.one_hot(colours.train_labels, 4).float()
        taught, rounded = (
            replace(colours, train_labels=labels, teacher="x") for labels in (soft, soft + torch.finfo().eps)
        )

        assert fingerprint(taught) == fingerprint(rounded)
        assert len({fingerprint(images) for images in (colours, taught, replace(taught, teacher="y"))}) == 3


class TestBatches:
    def test_every_image_is_seen_once_before_any_is_seen_again(self) -> None:
        image_set = _numbered(count=10)

        seen = torch.cat([labels for _, labels in training_batches(image_set, batch_size=4, steps=5, seed=0)])

        assert list(range(10)) == sorted(seen[:10].tolist()) == sorted(seen[10:].tolist())
        assert seen[:10].tolist() != seen[10:].tolist()

    def test_seed_repeats_images_and_augmentation(self) -> None:
        image_set = load_images("synthetic", resolution=32, seed=0, train_limit=32, val_limit=8)

        first, again, other = (
            torch.cat([images for images, _ in training_batches(image_set, batch_size=8, steps=4, seed=seed)])
            for seed in (5, 5, 6)
        )

        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_batches_do_not_touch_the_global_generator(self) -> None:
        state = torch.random.get_rng_state()

        list(training_batches(_numbered(count=4), batch_size=2, steps=2, seed=0))

        assert torch.equal(state, torch.random.get_rng_state())

    def test_images_are_shifted_and_mirrored_each_on_its_own(self) -> None:
        """The slope of a horizontal ramp shows whether it was mirrored, and its middle shows how far it was shifted."""
        ramp = (torch.arange(32) * 4).to(torch.uint8).expand(64, 3, 32, 32).contiguous()
        image_set = _images(ramp)

        images, _ = next(training_batches(image_set, batch_size=64, steps=1, seed=0))

        row = images[:, 0, 16, :]  # (64, 32)
        mirrored = row[:, 20] < row[:, 12]
        middle = torch.where(mirrored, row[:, 15], row[:, 16]) * 255 / 4
        assert 16 < mirrored.sum() < 48
        assert {14, 15, 16, 17, 18} == set(middle.round().int().tolist())

    def test_border_is_reflected(self) -> None:
        image = torch.zeros(3, 32, 32, dtype=torch.uint8)
        image[:, :, 2] = 255  # a shift by two puts the reflection of this column on the border
        image_set = _images(image.expand(64, 3, 32, 32).contiguous())

        images, _ = next(training_batches(image_set, batch_size=64, steps=1, seed=0))

        assert {1, 2} == set((images[:, 0, 16] > 0.5).sum(1).tolist())

    def test_batches_are_normalised_and_channels_last(self) -> None:
        image_set = load_images("synthetic", resolution=32, seed=0, train_limit=128, val_limit=64)

        images, labels = next(training_batches(image_set, batch_size=128, steps=1, seed=0))

        assert images.shape == (128, 3, 32, 32)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert images.mean((0, 2, 3)).abs().max() < 0.05
        assert (images.std((0, 2, 3)) - 1).abs().max() < 0.05
        assert torch.int64 == labels.dtype

    def test_validation_images_come_once_in_order_unaugmented(self) -> None:
        image_set = load_images("synthetic", resolution=32, seed=0, train_limit=16, val_limit=10)

        batches = list(validation_batches(image_set, batch_size=4))

        std, mean = (torch.tensor(values).view(3, 1, 1) for values in (image_set.std, image_set.mean))
        restored = (torch.cat([images for images, _ in batches]) * std + mean) * 255
        assert [len(labels) for _, labels in batches] == [4, 4, 2]
        assert torch.equal(image_set.val_images, restored.round().to(torch.uint8))
        assert torch.equal(image_set.val_labels, torch.cat([labels for _, labels in batches]))

    def test_constant_channel_stays_finite(self) -> None:
        images, _ = next(
            training_batches(_images(torch.zeros(4, 3, 32, 32, dtype=torch.uint8)), batch_size=4, steps=1, seed=0)
        )

        assert math.isfinite(images.sum().item())


def _numbered(*, count: int) -> ImageSet:
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(count, 3, 32, 32).contiguous()
    return _images(images)


def _images(images: torch.Tensor) -> ImageSet:
    return ImageSet(
        train_images=images,
        train_labels=torch.arange(len(images)),
        val_images=images,
        val_labels=torch.arange(len(images)),
        class_names=tuple(map(str, range(len(images)))),
        description="made here",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )


class TestMasks:
    """Every picture shows its own mask: the value of a pixel is ten times its class, and 250 where nothing is known."""

    @pytest.fixture
    def masked(self) -> ImageSet:
        random = torch.Generator().manual_seed(0)
        masks = torch.randint(0, 6, (12, 32, 32), generator=random, dtype=torch.uint8)
        masks[masks == 5] = UNKNOWN
        pictures = torch.where(masks == UNKNOWN, 250, masks * 10).to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
        return ImageSet(
            train_images=pictures[:8],
            train_labels=masks[:8],
            val_images=pictures[8:],
            val_labels=masks[8:],
            class_names=("a", "b", "c", "d", "e"),
            description="masks",
            mean=(0.5, 0.4, 0.3),
            std=(0.2, 0.2, 0.2),
        )

    @staticmethod
    def _shown(images: torch.Tensor) -> torch.Tensor:
        """The classes that the pixels say, in the middle of squares of four."""
        values = (images[:, 0, 2::MASK_STRIDE, 2::MASK_STRIDE] * 0.2 + 0.5) * 255 / 10
        return torch.where(values > 20, -100, values).round().long()

    def test_a_mask_is_shifted_and_mirrored_as_its_picture_is(self, masked: ImageSet) -> None:
        seen = 0
        for images, labels in training_batches(masked, batch_size=4, steps=6, seed=0):
            assert labels.shape == (4, 8, 8)
            assert labels.dtype == torch.int64
            assert torch.equal(labels, self._shown(images))
            seen += int((labels == -100).sum())
        assert seen > 0

    def test_held_out_masks_are_whole(self, masked: ImageSet) -> None:
        ((images, labels),) = validation_batches(masked, batch_size=8)

        assert torch.equal(labels, self._shown(images))
        assert torch.equal(labels[labels >= 0], masked.val_labels[:, 2::4, 2::4][labels >= 0].long())

    def test_only_masks_are_masks(self, masked: ImageSet, colours: ImageSet) -> None:
        assert (masked.has_masks, colours.has_masks) == (True, False)
        assert fingerprint(masked) != fingerprint(replace(masked, train_labels=masked.train_labels.flip(0)))
