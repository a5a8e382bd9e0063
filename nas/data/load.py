"""How the name of a source becomes a set of images: found, read, selected, decoded and cached, or drawn."""

from __future__ import annotations

import functools
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from nas.data.cache import FORMAT, described, read_cache, write_cache
from nas.data.contents import Contents, Survey
from nas.data.image_set import ImageSet, channel_statistics
from nas.data.pictures import picture_readers
from nas.data.rows import Found, Progress, choose_rows, counted
from nas.data.sources import DataSource, find_source
from nas.data.synthetic import CLASS_NAMES, synthetic_images
from nas.errors import InputError, visible
from nas.files import cache_folder, digest_of
from nas.scratch import ScratchFolder

__all__ = ["load_images"]

SYNTHETIC_TRAIN, SYNTHETIC_VAL = 8192, 2048
_LOG = logging.getLogger(__name__)
_LONGEST = 400  # characters of a line
_DRAWING = "synthetic 1"  # increase the number when the same seed draws other images
_CONTENTS = 2  # part of every cache key; increase it when the same images get another fingerprint


def load_images(
    source: str | DataSource,
    *,
    resolution: int,
    seed: int,
    split_seed: int | None = None,
    train_limit: int | None = None,
    val_limit: int | None = None,
    progress: Progress | None = None,
) -> ImageSet:
    """Read, decode and cache the images of `source`.

    If the source has a validation split with labels, that split is used (validation before test). Otherwise a tenth of
    every class is held out, chosen by `split_seed`. Images are scaled to a short side of `resolution` and cropped at
    the centre. Images of every mode become RGB, upright. 25,000 JPEG files of 64 px take about 10 s on two cores, and
    0.1 s from the cache.

    What the source holds is known by content (contents.py): all its images are read once, and again after the size or
    the time of a file has changed.

    What is left out is counted by reason in one line of the log, which is stderr unless logging is set up otherwise.

    Args:
        source: `synthetic`, a folder, a Parquet file or a WebDataset shard (or a pattern such as `data/*.parquet`), or
            a name on the hub; a `DataSource` also names columns, and says whether broken images are left out.
        resolution: height and width in pixels.
        seed: chooses the images kept under a limit, and draws the synthetic images.
        split_seed: chooses the held-out images if the source has no split; `seed` by default. With weights that were
            trained on this source, give the seed of that training, so that none of its training images is held out.
        train_limit: maximum number of training images, spread evenly over the classes.
        val_limit: maximum number of validation images, spread in the same way.
        progress: called with the progress of decoding.

    Raises:
        InputError: there is nothing at `source`, the source is not a set of labelled images, no image can be held out,
            all that is held out is trained on, or images are corrupt or cannot be read now.
        NasError: the disk of the cache is full.
    """
    asked = source if isinstance(source, DataSource) else DataSource(name=source)
    if asked.name == "synthetic":
        asked.refuse_columns("drawn")
        return _synthetic(resolution, seed, train_limit or SYNTHETIC_TRAIN, val_limit or SYNTHETIC_VAL, progress)
    origin = find_source(asked)
    split_seed = seed if split_seed is None else split_seed
    options = asked.model_dump(exclude={"name"})
    readers = picture_readers() if asked.skip_broken else None  # another may read what is broken for this one
    stamps = origin.fingerprint()
    key = json.dumps([FORMAT, readers, stamps, options, resolution, seed, split_seed, train_limit, val_limit])
    folder = cache_folder("images", keeps="decoded images") / digest_of(key)
    read = functools.cache(origin.read)
    survey = _survey(json.dumps([_CONTENTS, stamps, options]), read, progress)
    _refuse_shared(survey, asked.name)
    cached = read_cache(folder, asked.name)
    if cached is None:
        with ScratchFolder("reading", within=folder.parent) as scratch:
            found = read()
            train, val, notes = choose_rows(
                found,
                asked.name,
                seed=seed,
                split_seed=split_seed,
                train_limit=train_limit,
                val_limit=val_limit,
                skip_broken=asked.skip_broken,
            )
            write_cache(
                folder,
                scratch.path / "decoded",
                {"train": train, "val": val},
                {"class_names": list(found.class_names), "notes": [*found.notes, *notes]},
                source=asked.name,
                resolution=resolution,
                skip_broken=asked.skip_broken,
                progress=progress,
            )
            if find_source(asked).fingerprint() != stamps:  # looks at every file again
                shutil.rmtree(folder, ignore_errors=True)
                raise InputError(f"{asked.name}: files have changed while they were read; repeat this when they rest")
        cached = read_cache(folder, asked.name)
        if cached is None:
            raise InputError(f"{folder}: the images just written there cannot be read; is the disk full?")
    image_set, notes = cached
    if words := "; ".join([*survey.notes, *origin.notes, *notes]):
        _say(visible(f"{asked.name}: {words}", limit=_LONGEST))
    return replace(image_set, contents=survey.contents)


def _survey(key: str, read: Callable[[], Found], progress: Progress | None) -> Survey:
    """What the source holds: kept under `key` from the last time, while no file has another size or time."""
    file = cache_folder("contents", keeps="what images are known by") / f"{digest_of(key)}.json"
    survey = Survey.kept(file)
    if survey is None:
        survey = Survey.of(read(), progress)
        survey.keep(file)
    return survey


def _refuse_shared(survey: Survey, source: str) -> None:
    """Refuse to score on nothing but training images, such as where val/ is a link to train/."""
    val = sum(one.val for one in survey.contents.classes)
    if val and survey.shared == val:
        raise InputError(
            f"{source}: all {counted(val, 'validation image')} are training images as well, so a score on them says "
            "nothing; give other images for validation, or take these away to hold out a tenth of train"
        )


@functools.cache
def _say(line: str) -> None:
    """Log a line once: a command may load the same images for several proxies and seeds."""
    _LOG.warning(line)


def _synthetic(resolution: int, seed: int, train: int, val: int, progress: Progress | None) -> ImageSet:
    import torch

    # Each seed gives its own stream of images. Training and validation use different streams, so that a larger training
    # set never includes validation images.
    drawn: dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]] = {}
    for stream, (split, count) in enumerate((("train", train), ("val", val))):
        if progress:
            progress(f"Drawing synthetic {split} images", 0, count)
        drawn[split] = synthetic_images(count=count, resolution=resolution, seed=2 * seed + stream)
        if progress:
            progress(f"Drawing synthetic {split} images", count, count)
    (train_images, train_labels), (val_images, val_labels) = drawn["train"], drawn["val"]
    mean, std = channel_statistics(train_images)
    return ImageSet(
        train_images=torch.from_numpy(train_images),
        train_labels=torch.from_numpy(train_labels),
        val_images=torch.from_numpy(val_images),
        val_labels=torch.from_numpy(val_labels),
        class_names=CLASS_NAMES,
        description=described(f"synthetic, seed {seed}", train, val, len(CLASS_NAMES), resolution),
        mean=mean,
        std=std,
        contents=Contents.drawn(CLASS_NAMES, _DRAWING),
    )
