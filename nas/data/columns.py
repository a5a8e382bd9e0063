"""Which columns of a table are meant, and what a label is: by names, kinds, and what `datasets` noted in a file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from nas.data.rows import class_name, said
from nas.errors import InputError

__all__ = ["class_names", "holds", "image_column", "label_column", "plain_labels", "refuse_other_columns"]

_LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")
_WEBDATASET = "__key__", "cls"  # of every sample, and of one with a class
_IMAGE_COLUMNS = ("image", "img")
_PATH_COLUMNS = ("image", "img", "file_name", "path")
_LONGEST_TYPE = 40
_COLUMNS_SAID = 10


def refuse_other_columns(name: str, schema: Any, first_name: str, first: Any) -> None:
    """Refuse a table that lacks columns of the first, or has other names of classes.

    Raises:
        InputError: it does.
    """
    if lacking := [column for column in first.names if column not in schema.names]:
        raise InputError(f"{name} has no column {lacking[0]}, {first_name} has; give them the same columns")
    for column in first.names:
        if (one := class_names(first, column)) != (other := class_names(schema, column)) and one and other:
            raise InputError(
                f"{name} and {first_name} have other classes in column {column}: {said(other)} there, {said(one)} here"
            )


def _feature(schema: Any, column: str) -> Mapping[str, Any]:
    """What `datasets` says of a column in the metadata of a file."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}
    return feature if isinstance(feature, Mapping) else {}


def class_names(schema: Any, column: str) -> list[str] | None:
    """The names of the classes of a column, if `datasets` noted them."""
    feature = _feature(schema, column)
    names = feature.get("names")
    if feature.get("_type") != "ClassLabel" or not isinstance(names, list):
        return None
    return [class_name(str(name)) for name in names]


def holds(schema: Any, column: str) -> str | None:
    """How a column may hold pictures: `picture` (bytes, or bytes and path), `path`, or None."""
    import pyarrow.types as types  # type: ignore[import-untyped]

    kind = schema.field(column).type
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_struct(kind) and {"bytes", "path"} & {kind.field(index).name for index in range(kind.num_fields)}:
        return "picture"
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        return "picture"
    texts = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    return "path" if texts else None


def image_column(schema: Any, source: str, named: str | None) -> str:
    """The column of images: the one named, or the one that is meant.

    Raises:
        InputError: there is none, or several.
    """
    if named is not None:
        _refuse_missing(schema, named, source, "image")
        if holds(schema, named) is None:
            raise InputError(
                f"{source}: column {named} holds {_shown_type(schema, named)}; pictures must be the bytes of their "
                "files, or bytes and path, or paths, one a row"
            )
        return named
    columns: list[str] = schema.names
    images = [name for name in columns if _feature(schema, name).get("_type") == "Image"]
    images = images or [name for name in columns if holds(schema, name) == "picture"]
    images = images or [name for name in _PATH_COLUMNS if name in columns and holds(schema, name) == "path"][:1]
    meant = [name for name in _IMAGE_COLUMNS if name in images]
    if not images or (len(images) > 1 and not meant):
        what = f"several ({said(images, _COLUMNS_SAID)}) and none called image" if images else "none"
        shown = said(
            columns if images else [f"{name} ({_shown_type(schema, name)})" for name in columns], _COLUMNS_SAID
        )
        example = images[0] if images else "COLUMN"
        raise InputError(
            f"{source}: one column of images is needed, found {what} among columns {shown}; --option image={example} "
            "names one of bytes, or bytes and path"
        )
    return (meant or images)[0]


def label_column(schema: Any, source: str, named: str | None) -> str:
    """The column of labels: the one named, or the one that is meant.

    Raises:
        InputError: there is none.
    """
    if named is not None:
        _refuse_missing(schema, named, source, "label")
        return named
    columns: list[str] = schema.names
    classes = [name for name in columns if class_names(schema, name) is not None]
    meant = [name for name in _LABEL_COLUMNS if name in columns]
    if not meant and not classes and set(_WEBDATASET) <= set(columns):
        return _WEBDATASET[1]
    if not meant and len(classes) != 1:
        raise InputError(
            f"{source}: a column of labels is needed, called {', '.join(_LABEL_COLUMNS[:-1])} or {_LABEL_COLUMNS[-1]}; "
            f"found columns {said(columns, _COLUMNS_SAID)}; --option label=COLUMN names one"
        )
    return next((name for name in meant if name in classes), (meant or classes)[0])


def _refuse_missing(schema: Any, named: str, source: str, option: str) -> None:
    if schema.names.count(named) != 1:
        raise InputError(
            f"{source}: --option {option}={named} names no column; the columns are {said(schema.names, _COLUMNS_SAID)}"
        )


def _shown_type(schema: Any, column: str) -> str:
    shown = str(schema.field(column).type)
    return shown if len(shown) <= _LONGEST_TYPE else f"{shown[: _LONGEST_TYPE - 3]}..."


def plain_labels(values: list[Any], where: str, classes: int | None) -> list[int | str | None]:
    """Labels as whole numbers or names; None where a row has none.

    Args:
        values: what the column holds.
        where: the column, for messages.
        classes: the number of classes that are named; None if the labels themselves are the names.
    Raises:
        InputError: a value is of another kind, or is not below `classes`.
    """
    if classes is not None:
        return [_code(value, classes, where) for value in values]
    return [_label(value, where) for value in values]


def _label(value: Any, where: str) -> int | str | None:
    """One label as a whole number or a name; None if there is none. A table of numbers with gaps holds fractions."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float | Decimal) and math.isnan(value):
        return None
    if isinstance(value, int | float | Decimal):
        if value % 1 != 0:
            raise InputError(f"{where} must be whole numbers or names, got {type(value).__name__} {value:g}")
        return int(value) if value >= 0 else None
    if isinstance(value, bytes):
        value = value.decode(errors="backslashreplace")
    if value is None or isinstance(value, str):
        return class_name(value) or None if value else None
    raise InputError(f"{where} must be whole numbers or names, one a row, got {type(value).__name__}")


def _code(value: Any, classes: int, where: str) -> int | None:
    code = _label(value, where)
    if isinstance(code, str) or (code is not None and code >= classes):
        raise InputError(f"{where} must be below {classes}, the number of names of classes in the file, got {code}")
    return code
