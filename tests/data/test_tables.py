"""Parquet files and tables of the hub: which columns are meant, and what rows without a picture or label mean."""

from __future__ import annotations

import base64
import io
import json
import unicodedata
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from PIL import Image

from nas.data import DataSource, ImageSet, load_images
from nas.errors import InputError

CLASSES = ("cat", "dog")
LABELS = [0, 1] * 6
NAMES = [CLASSES[label] for label in LABELS]
BOTH_FORMS = [unicodedata.normalize(("NFC", "NFD")[row // 6], f"ü{name}") for row, name in enumerate(NAMES)]
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pets.parquet"


class TestImages:
    @pytest.mark.parametrize("kind", ["struct", "binary", "large_binary", "dictionary"])
    def test_bytes_are_read_in_every_form(self, file: Path, kind: str) -> None:
        columns = {
            "struct": pa.array(_structs(), PICTURE),
            "binary": pa.array(_pngs(), pa.binary()),
            "large_binary": pa.array(_pngs(), pa.large_binary()),
            "dictionary": pa.array(_pngs(), pa.binary()).dictionary_encode(),
        }

        image_set = _load(_write(file, image=columns[kind], label=LABELS))

        _shows(image_set, "0", "1")

    @pytest.mark.parametrize("text", [False, True])
    def test_paths_are_relative_to_the_file(self, file: Path, text: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        (file.parent / "pictures").mkdir()
        (file.parent / "elsewhere").mkdir()
        paths = [f"pictures/{index}.png" for index in range(len(LABELS))]
        for path, content in zip(paths, _pngs(), strict=True):
            (file.parent / path).write_bytes(content)
        structs = pa.array([{"bytes": None, "path": path} for path in paths], PICTURE)
        _write(file, image=paths if text else structs, label=LABELS)
        monkeypatch.chdir(file.parent / "elsewhere")

        before = _load(file)
        _shows(before, "0", "1")
        (file.parent / "pictures" / "0.png").write_bytes(_png(0, 255))  # the cache is checked by these files, too

        assert not _equal(before, _load(file))

    def test_a_path_that_leads_nowhere_is_named_by_its_row(self, file: Path) -> None:
        structs: list[dict[str, Any]] = _structs()
        structs[5] = {"bytes": None, "path": "gone.png"}
        _write(file, image=pa.array(structs, PICTURE), label=LABELS)

        with pytest.raises(InputError, match=r"row 5 of pets\.parquet: not an image .*\(no file .*gone\.png\)"):
            _load(file)

    @pytest.mark.parametrize("missing", [None, {"bytes": None, "path": None}, {"bytes": b"", "path": ""}])
    def test_a_row_without_an_image_is_named(self, file: Path, missing: object) -> None:
        structs: list[Any] = _structs()
        structs[7] = missing
        _write(file, image=pa.array(structs, PICTURE), label=LABELS)

        with pytest.raises(
            InputError, match=r"^row 7 of pets\.parquet has no image; fetch it again, or leave"
        ) as caught:
            _load(file)
        assert caught.value.exit_code == 2

    def test_rows_without_an_image_are_listed_at_once_or_left_out(
        self, file: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        images: list[bytes | None] = [*_pngs()]
        images[2], images[3], images[9] = None, b"", b"no picture"
        _write(file, image=pa.array(images, pa.binary()), label=LABELS)

        with pytest.raises(
            InputError,
            match=r"3 of 12 images cannot be read: row 2 of pets\.parquet, row 3 of pets\.parquet \(no image\); row 9",
        ):
            _load(file)
        image_set = _load(file, skip_broken=True)

        _shows(image_set, "0", "1", count=9)
        assert caplog.messages == [f"{file}: 3 broken images left out"]

    def test_rows_are_named_in_their_file_over_row_groups(self, tmp_path: Path) -> None:
        for name, broken in (("train-0", None), ("train-1", 8)):
            images: list[bytes | None] = [*_pngs()]
            if broken:
                images[broken] = None
            table = pa.table({"image": pa.array(images, pa.binary()), "label": LABELS})
            pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=5)

        with pytest.raises(InputError, match=r"row 8 of train-1\.parquet has no image"):
            _load(tmp_path)
        _shows(_load(tmp_path, skip_broken=True), "0", "1", count=23)
        limited = load_images(str(tmp_path / "train-0.parquet"), resolution=32, seed=0, train_limit=4, val_limit=2)
        _shows(limited, "0", "1", count=6)

    @pytest.mark.parametrize(
        ("column", "message"),
        [
            (
                [[1, 2]] * 12,
                r"found none among columns image \(list<element: int64>\), label \(int64\); --option image=C",
            ),
            (
                [[{"bytes": b"x", "path": "x"}]] * 12,
                r"found none among columns image \(list<element: struct<bytes: bina",
            ),
            (
                [base64.b64encode(b"png" * 200).decode()] * 12,
                "column image holds text that names no file beside it, su",
            ),
            (["https://host/1.png"] * 12, "column image holds text that names no file beside it"),
        ],
    )
    def test_columns_of_another_kind_get_one_line(self, file: Path, column: list[Any], message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            _load(_write(file, image=column, label=LABELS))
        assert "\n" not in str(caught.value)

    def test_the_column_can_be_named(self, file: Path) -> None:
        other = pa.array([_png(2, 200 + index) for index in range(12)], pa.binary())
        _write(file, photo=pa.array(_pngs(), pa.binary()), thumbnail=other, label=LABELS)

        with pytest.raises(InputError, match=r"several \(photo, thumbnail\) .*; --option image=photo names one"):
            _load(file)
        _shows(_load(file, image="photo"), "0", "1")
        with pytest.raises(
            InputError, match=r"--option image=foto names no column; the columns are photo, thumbnail, l"
        ):
            _load(file, image="foto")
        with pytest.raises(InputError, match="column label holds int64; pictures must be the bytes of their files"):
            _load(file, image="label")
        assert not _equal(_load(file, image="photo"), _load(file, image="thumbnail"))

    def test_image_comes_before_other_columns_of_pictures(self, file: Path) -> None:
        thumbnails = pa.array([_png(2, 200)] * 12, pa.binary())

        _shows(_load(_write(file, thumbnail=thumbnails, image=pa.array(_pngs()), label=LABELS)), "0", "1")


class TestLabels:
    @pytest.mark.parametrize(
        ("values", "names"),
        [
            (NAMES, CLASSES),
            (pa.array(NAMES).dictionary_encode(), CLASSES),
            (pa.array(NAMES, pa.large_string()), CLASSES),
            ([f"{name} " if index % 3 else f" {name}" for index, name in enumerate(NAMES)], CLASSES),
            (BOTH_FORMS, ("ücat", "üdog")),
            (pa.array(LABELS, pa.uint8()), ("0", "1")),
            ([float(label) for label in LABELS], ("0", "1")),
            ([Decimal(label) for label in LABELS], ("0", "1")),
            ([bool(label) for label in LABELS], ("False", "True")),
            ([name.encode() for name in NAMES], CLASSES),
            ([9 * label + 1 for label in LABELS], ("1", "10")),
        ],
    )
    def test_labels_are_read_in_every_form(self, file: Path, values: Any, names: tuple[str, str]) -> None:
        _shows(_load(_write(file, image=pa.array(_structs(), PICTURE), label=values)), *names)

    def test_the_column_can_be_named(self, file: Path) -> None:
        _write(file, __key__=[str(row) for row in range(12)], jpg=pa.array(_structs(), PICTURE), breed=LABELS)

        with pytest.raises(InputError, match=r"found columns __key__, jpg, breed; --option label=COLUMN names one$"):
            _load(file)
        _shows(_load(file, label="breed"), "0", "1")
        with pytest.raises(InputError, match="--option label=kind names no column; the columns are __key__, jpg, b"):
            _load(file, label="kind")

    def test_cls_is_a_label_in_samples_of_webdataset_alone(self, file: Path) -> None:
        pictures = {"jpg": pa.array(_structs(), PICTURE), "cls": LABELS}
        with pytest.raises(InputError, match="found columns jpg, cls; --option label=COLUMN names one"):
            _load(_write(file, **pictures))

        _shows(_load(_write(file, **pictures, __key__=[str(row) for row in range(12)])), "0", "1")

    @pytest.mark.parametrize("value", [None, -1, float("nan")])
    def test_a_row_without_a_label_is_named_or_left_out(
        self, file: Path, value: float | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        labels: list[Any] = [*LABELS]
        labels[4] = value
        _write(file, image=pa.array(_pngs()), label=labels)

        with pytest.raises(
            InputError, match=r"row 4 of pets\.parquet has no label \(1 such rows\); remove these rows, o"
        ):
            _load(file)
        _shows(_load(file, skip_broken=True), "0", "1", count=11)
        assert caplog.messages == [f"{file}: 1 row without a label left out"]

    @pytest.mark.parametrize("value", ["", "  ", None])
    def test_an_empty_name_is_no_label(self, file: Path, value: str | None) -> None:
        with pytest.raises(InputError, match=r"row 3 of pets\.parquet has no label"):
            _load(_write(file, image=pa.array(_pngs()), label=[*NAMES[:3], value, *NAMES[4:]]))

    @pytest.mark.parametrize(
        ("value", "got"),
        [
            ([[label] for label in LABELS], "list"),
            ([{"id": label} for label in LABELS], "dict"),
            ([0.5] * 12, "float 0.5"),
            ([float("inf")] * 12, "float inf"),
            (pa.array([0] * 12, pa.date32()), "date"),
        ],
    )
    def test_labels_of_another_kind_get_one_line(self, file: Path, value: Any, got: str) -> None:
        with pytest.raises(InputError, match=rf"labels in column label must be whole numbers or names.*, got {got}$"):
            _load(_write(file, image=pa.array(_pngs()), label=value))

    def test_a_label_above_the_names_of_the_file_is_named(self, file: Path) -> None:
        _with_features(file, ["cat", "dog"], [*LABELS[:-1], 2])

        with pytest.raises(InputError, match=r"labels in column label must be below 2, the number of names .*, got 2"):
            _load(file)

    def test_names_of_the_file_are_one_class_in_both_unicode_forms(self, file: Path) -> None:
        found = []
        for form in ("NFC", "NFD"):
            names = [unicodedata.normalize(form, name) for name in ("k\u00fche", " dog ")]
            found.append(_load(_with_features(file, names)))

        assert found[0].class_names == found[1].class_names == ("k\u00fche", "dog")
        assert found[0].contents == found[1].contents

    @pytest.mark.parametrize("names", [["cat", "cat "], ["\u00fc", "u\u0308"], ["cat", "cat"]])
    def test_names_of_the_file_that_are_the_same_are_refused(self, file: Path, names: list[str]) -> None:
        with pytest.raises(InputError, match=r"labels in column label: the file names .+ twice among its classes"):
            _load(_with_features(file, names))

    @pytest.mark.parametrize("metadata", [b"no", b"[]", b'{"info": {"features": {"image": 7, "label": {"names": 3}}}}'])
    def test_odd_metadata_is_ignored(self, file: Path, metadata: bytes) -> None:
        table = pa.table({"image": pa.array(_structs(), PICTURE), "label": LABELS})
        pq.write_table(table.replace_schema_metadata({b"huggingface": metadata}), file)

        _shows(_load(file), "0", "1")


def test_columns_of_the_hub_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Dataset.from_dict({"jpg": _pngs(), "other": _pngs(), "cls": NAMES})
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: SimpleNamespace(sha="abc"))
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: DatasetDict({"train": rows}))

    image_set = load_images(DataSource(name="owner/name", image="jpg", label="cls"), resolution=32, seed=0)

    _shows(image_set, *CLASSES)


def _load(source: Path, **options: object) -> ImageSet:
    return load_images(DataSource(name=str(source), **options), resolution=32, seed=0)


def _write(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_a_table_that_says_less_than_no_rows_is_one_line(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(file, image=pa.array(_pngs()), label=LABELS)
    found = SimpleNamespace(schema=pq.read_metadata(file).schema, num_rows=-3)
    monkeypatch.setattr("pyarrow.parquet.read_metadata", lambda _: found)

    with pytest.raises(InputError, match=r"pets\.parquet: not a readable Parquet file \(it does not have as many rows"):
        _load(file)


def _with_features(file: Path, names: list[str], labels: list[int] = LABELS) -> Path:
    """A file whose labels are numbers, with the names of the classes as `datasets` notes them."""
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    table = pa.table({"image": pa.array(_structs(), PICTURE), "label": labels})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), file)
    return file


def _png(channel: int, value: int) -> bytes:
    pixels = np.zeros((40, 40, 3), dtype=np.uint8)
    pixels[..., channel] = value
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _pngs(shade: int = 100) -> list[bytes]:
    """Red cats and green dogs."""
    return [_png(label, shade + row) for row, label in enumerate(LABELS)]


def _structs() -> list[dict[str, Any]]:
    return [{"bytes": content, "path": f"{row}.png"} for row, content in enumerate(_pngs())]


def _shows(image_set: ImageSet, *names: str, count: int = 12) -> None:
    """Check the classes, and that each image has the colour of its class."""
    assert image_set.class_names == names
    images = [*image_set.train_images, *image_set.val_images]
    labels = image_set.train_labels.tolist() + image_set.val_labels.tolist()
    assert len(labels) == count
    assert [int(image.float().mean((1, 2)).argmax()) for image in images] == labels


def _equal(one: ImageSet, other: ImageSet) -> bool:
    return one.train_images.equal(other.train_images) and one.val_images.equal(other.val_images)
