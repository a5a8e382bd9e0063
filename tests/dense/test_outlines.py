import numpy as np
import pytest

from nas.dense.outlines import Polygons, RunLengths, encoded

SIZE = (7, 9)


def drawn() -> np.ndarray:
    mask = np.zeros(SIZE, dtype=np.uint8)
    mask[2:5, 3:8] = 1
    return mask


@pytest.mark.parametrize("seed", range(20))
def test_compressed_run_lengths_are_those_of_the_library(seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = (random.random((random.integers(1, 90), random.integers(1, 90))) < random.random()).astype(np.uint8)

    outline = RunLengths.of(encoded(mask)["counts"].decode(), mask.shape)

    assert np.array_equal(mask, outline.mask())
    assert encoded(mask) == outline.encoded()


def test_plain_run_lengths_go_down_the_columns() -> None:
    outline = RunLengths.of([3 * 7 + 2, 3, 4, 3, 4, 3, 4, 3, 4, 3, 9], SIZE)

    assert np.array_equal(drawn(), outline.mask())


def test_a_polygon_is_drawn_as_by_coco() -> None:
    corners = np.array([3, 2, 8, 2, 8, 5, 3, 5], dtype=np.float32)

    assert np.array_equal(drawn(), Polygons(parts=(corners,), size=SIZE).mask())


def test_parts_of_an_object_are_joined() -> None:
    parts = tuple(np.array([x, 1, x + 2, 1, x + 2, 3, x, 3], dtype=np.float32) for x in (0, 5))

    assert Polygons(parts=parts, size=SIZE).mask().sum() == 8


def test_corners_far_outside_take_no_memory() -> None:
    corners = np.array([-1e6, -1e6, 1e6, -1e6, 1e6, 1e6, -1e6, 1e6], dtype=np.float32)

    assert np.ones(SIZE).sum() == Polygons(parts=(corners,), size=SIZE).mask().sum()


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ([5, 6], "counts must add up to 7 x 9 pixels, got 11"),
        ([63, 10**15], "counts must be run lengths inside the picture"),
        ([63, 10**30], "counts must be run lengths inside the picture"),
        ([-1, 64], "counts must be run lengths inside the picture"),
        ("\x01", "counts are not compressed run lengths"),
        ("oooooooooooo", "counts are not compressed run lengths"),
        ("o", "counts end in the middle of a number"),
        ("", "counts must add up to 7 x 9 pixels, got 0"),
    ],
)
def test_what_leads_out_of_the_picture_is_refused(counts: str | list[int], reason: str) -> None:
    with pytest.raises(ValueError, match="counts") as caught:
        RunLengths.of(counts, SIZE)

    assert reason == str(caught.value)
