"""What tells two sets of images apart. Their batches are tested with the sources, in test_load.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from nas.data import ImageSet, fingerprint


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
