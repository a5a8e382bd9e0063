"""What a search on the user's images scores on, and with: pictures with classes, or pictures with masks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nas.errors import InputError, visible

if TYPE_CHECKING:
    from nas.data import DataSource, ImageSet, Progress
    from nas.proxies import Proxy
    from nas.training import SupernetRecipe

__all__ = ["TASKS", "ScoredImages"]

TASKS = ("classify", "segment")
_PROXIES = "supernet,short-training:standard"  # scores, and settles
_RESOLUTION = 64
_MASK_RESOLUTION = 96
# Every pixel has a label, so that fewer pictures teach as much; each has more than twice the pixels.
_MASK_IMAGES, _MASK_BATCH = 16_000, 32


class ScoredImages:
    """Images of a user, as a supernet is trained and networks are scored on them. They are read when they are needed.

    Args:
        data: what `nas.data.load_images` takes; for masks a folder that `nas/dense/masks.py` describes.
        task: `classify` or `segment`.
        seed: of which are held out, and where squares are cut.
    Raises:
        InputError: the source cannot be of the task, or has options that are not.
    """

    def __init__(self, data: DataSource | str, *, task: str, seed: int) -> None:
        self.data, self.task, self.seed = data, task, seed
        self._images: ImageSet | None = None
        self._path = Path(str(data)).expanduser()
        if self._has_masks:
            self._refuse_what_masks_have_not()
        elif _is_of_masks(self._path):
            raise InputError(
                f"{visible(str(data), limit=150)}: has folders of images and masks, and none of classes: "
                "--task segment scores on it"
            )

    def load(self, progress: Progress | None = None) -> ImageSet:
        """The images, at the supernet's resolution.

        Raises:
            InputError: they cannot be read.
        """
        if self._images is None:
            self._images = self._masks(progress) if self._has_masks else self._classes(progress)
        return self._images

    @property
    def recipe(self) -> SupernetRecipe:
        """How a supernet is trained on them."""
        from nas.training import SupernetRecipe

        return SupernetRecipe(images=_MASK_IMAGES, batch_size=_MASK_BATCH) if self._has_masks else SupernetRecipe()

    def proxies(self, supernet: Path, *, progress: Progress | None = None) -> tuple[dict[str, Proxy], Proxy | None]:
        """The proxies by name, first the one that scores with the supernet; and the one that settles, if there is one.

        Raises:
            InputError: the supernet cannot be read, or was trained on other images.
        """
        from nas.proxies import build_proxies
        from nas.proxies.supernet import score_pixels

        if self._has_masks:
            images, source = self.load(progress), str(self.data)
            return {"supernet": score_pixels(supernet, images, source=source, seed=self.seed, progress=progress)}, None
        settings = {"supernet": str(supernet), "init": str(supernet)}
        built = build_proxies(_PROXIES, data=self.data, seed=self.seed, options=settings, progress=progress)
        return built, list(built.values())[1]

    @property
    def _has_masks(self) -> bool:
        return self.task == "segment"

    def _refuse_what_masks_have_not(self) -> None:
        if str(self.data) == "synthetic":
            raise InputError("--task segment: there are no drawn pictures with masks; give a folder with --data")
        if not isinstance(self.data, str):
            self.data.refuse_columns("a folder of pictures and masks")
            if self.data.skip_broken:
                raise InputError("--option skip_broken=true is of pictures with classes: leave it out")

    def _masks(self, progress: Progress | None) -> ImageSet:
        from nas.dense.mask_set import mask_set
        from nas.dense.masks import MaskFolder

        folder = MaskFolder.read(self._path, seed=self.seed, progress=progress)
        return mask_set(folder, resolution=_MASK_RESOLUTION, seed=self.seed, progress=progress)

    def _classes(self, progress: Progress | None) -> ImageSet:
        from nas.data import load_images

        return load_images(self.data, resolution=_RESOLUTION, seed=self.seed, progress=progress)


def _is_of_masks(path: Path) -> bool:
    """Whether a folder has pictures and masks, which would pass for two classes. Hidden folders count for nothing."""
    try:
        names = {one.name for one in path.iterdir() if one.is_dir() and not one.name.startswith(".")}
    except OSError:
        return False
    return names in ({"images", "masks"}, {"images", "annotations"})
