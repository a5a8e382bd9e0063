"""The figures are those of pycocotools, and those that one can count."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest

from nas.dense.average_precision import Found, average_precision, truth_of
from nas.dense.coco import Instance, Pictured
from nas.dense.outlines import RunLengths, encoded

SIZE = (60, 80)


def scene(seed: int) -> tuple[list[Pictured], dict[int, Found]]:
    """Discs of three classes and four sizes, one crowd a picture, and detections near to them or nowhere."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    pictures, found = [], {}
    for number in range(12):
        objects, boxes, masks, labels, scores = [], [], [], [], []
        for index in range(random.integers(0, 6)):
            y, x, r = random.uniform(5, 55), random.uniform(5, 75), random.choice([2, 5, 9, 14])
            label = int(random.integers(1, 4))
            mask = ((rows - y) ** 2 + (columns - x) ** 2 < r**2).astype(np.uint8)
            outline = RunLengths.of(encoded(mask)["counts"].decode(), SIZE)
            box = (x - r, y - r, x + r, y + r)
            area, is_crowd = float(mask.sum()), index == 3
            objects.append(Instance(box=box, label=label, outline=outline, area=area, is_crowd=is_crowd))
            for _ in range(random.integers(0, 3)):
                dy, dx, dr = random.normal(0, 1.5, 3)
                moved = ((rows - y - dy) ** 2 + (columns - x - dx) ** 2 < (r + dr) ** 2).astype(np.uint8)
                boxes.append([x + dx - r - dr, y + dy - r - dr, x + dx + r + dr, y + dy + r + dr])
                masks.append(encoded(moved))
                labels.append(label if random.random() < 0.9 else 1)
                scores.append(random.random())
        pictures.append(Pictured(path=Path(f"{number}.png"), height=SIZE[0], width=SIZE[1], instances=tuple(objects)))
        found[number] = Found(
            boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
            scores=np.array(scores, dtype=np.float32),
            labels=np.array(labels, dtype=np.int64),
            masks=tuple(masks),
        )
    return pictures, found


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(3))
def test_the_figures_of_pycocotools(seed: int, kind: str) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    pictures, found = scene(seed)
    truth = truth_of(pictures, 3)

    figures = average_precision(truth, found, kind)  # type: ignore[arg-type]

    with contextlib.redirect_stdout(io.StringIO()):
        known = coco.COCO()
        known.dataset = truth
        known.createIndex()
        results = []
        for image, one in found.items():
            for box, score, label, mask in zip(one.boxes.astype(float), one.scores, one.labels, one.masks, strict=True):
                what: dict[str, object] = {"segmentation": mask}
                if kind == "bbox":
                    what = {"bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]}
                results.append({"image_id": image, "category_id": int(label), "score": float(score), **what})
        judged = evaluation.COCOeval(known, known.loadRes(results), kind)
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    assert 0.05 < figures["ap"] < 0.9
    assert [figures[name] for name in ("ap", "ap50", "ap75")] == pytest.approx(judged.stats[:3], abs=1e-6)


def test_what_is_there_is_found() -> None:
    pictures, _ = scene(0)
    found = {}
    for number, picture in enumerate(pictures):
        objects = [one for one in picture.instances if not one.is_crowd]
        found[number] = Found(
            boxes=np.array([one.box for one in objects], dtype=np.float32).reshape(-1, 4),
            scores=np.ones(len(objects), dtype=np.float32),
            labels=np.array([one.label for one in objects], dtype=np.int64),
            masks=tuple(one.outline.encoded() for one in objects),
        )

    for kind in ("bbox", "segm"):
        figures = average_precision(truth_of(pictures, 3), found, kind)
        assert figures == pytest.approx({"ap": 1, "ap50": 1, "ap75": 1}, abs=1e-6)


def test_nothing_is_found() -> None:
    pictures, _ = scene(0)

    assert average_precision(truth_of(pictures, 3), {}, "bbox") == {"ap": 0, "ap50": 0, "ap75": 0}
