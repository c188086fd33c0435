"""Which column of a table names the images, and which holds the labels: by name and by content."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence

from lookalike.data.readers.annotation import IMAGE_SUFFIXES, quoted
from lookalike.data.readers.reader_options import Reading
from lookalike.errors import DataError

_log = logging.getLogger(__name__)

PATHS = (
    *("path", "image_path", "file_name", "filename", "image"),
    *("img_path", "file_path", "filepath", "file", "img", "images", "image_file", "image_name"),
    *("img_name", "img_file", "image_filename", "picture", "photo", "imagepath", "imgpath"),
    *("impath", "relative_path", "relpath", "imagename"),
)
"""Usual names of the column of paths, in lower case."""

# Names that mean something else in other tables: they count where nothing else is there.
_OTHER_PATHS = ("url", "image_url", "uri", "image_uri", "image_id", "img_id", "id", "name")

LABELS = (
    *("label", "labels", "class", "class_name"),
    *(
        "classname",
        "class_id",
        "label_id",
        "label_name",
        "identity",
        "identity_id",
        "individual_id",
    ),
    *("individual", "label_group", "target", "targets", "landmark_id", "item_id", "product_id"),
    *("person_id", "person", "pid", "vehicle_id", "hotel_id", "subject_id", "object_id", "sku"),
    *("sku_id", "spu_id", "instance_id", "group_id"),
)
"""Usual names of the column of labels, in lower case."""

_OTHER_LABELS = ("id", "y", "group", "name", "species", "breed", "category_id")

_SAMPLE = 200


def plain(name: str) -> str:
    """The name of a column as it is compared: `Image Path` is `image_path`."""
    return re.sub(r"[\s.-]+", "_", name.strip().lower())


def is_image_name(text: str) -> bool:
    """Whether a cell looks like the path or the address of an image."""
    text = text.strip()
    return text.partition("?")[0].lower().endswith(IMAGE_SUFFIXES) or text[:8].lower().startswith(
        ("http://", "https://")
    )


def names_columns(names: Sequence[str], how: Reading, *, certain: bool) -> bool:
    """Whether these are names of columns: one of paths and, if they must be there, one of labels.

    Args:
        names: the first line.
        how: what is looked for.
        certain: only names that are nothing else.
    """
    if any(map(is_image_name, names)):
        return False
    asked = [column for column in (how.path_column, how.label_column) if column is not None]
    if asked:
        return all(_named(names, column) for column in asked)
    found = list(map(plain, names))
    paths = {name for name in found if name in PATHS or (not certain and name in _OTHER_PATHS)}
    labels = {name for name in found if name in LABELS or (not certain and name in _OTHER_LABELS)}
    return bool(paths) and (not how.labelled or any(labels - {path} for path in paths))


def path_column(
    names: Sequence[str], sample: Sequence[Sequence[str]], place: str, how: Reading
) -> int:
    """The column of paths.

    Args:
        names: of the columns.
        sample: some rows.
        place: the table, for messages.
        how: what is asked for.

    Raises:
        DataError: there is none, or several may be meant.
    """
    if how.path_column is not None:
        return _asked(names, how.path_column, "path_column", place)
    found = list(map(plain, names))
    if "path" in found:
        return _only(found, "path", place)
    known = [index for index, name in enumerate(found) if name in PATHS]
    shown = [index for index in range(len(names)) if _holds_images(sample, index)]
    choices = known if len(known) == 1 else [i for i in known if i in shown] or known or shown
    if not choices:
        other = [index for index, name in enumerate(found) if name in _OTHER_PATHS]
        # An id is one of an image where a folder of images is given.
        choices = [i for i in other if found[i] in ("image_id", "img_id")] or other
    return _chosen(names, choices, "images", "path_column", place)


def label_column(
    names: Sequence[str],
    path: int,
    taken: Sequence[int],
    place: str,
    how: Reading,
    same: Callable[[int, int], bool] | None = None,
) -> int | None:
    """The column of labels; None where there is none and none is needed.

    Args:
        names: of the columns.
        path: the column of paths.
        taken: columns that mean something else.
        place: the table, for messages.
        how: what is asked for.
        same: whether two columns divide the rows into the same classes, as numbers and names of
            classes do; then the first one is taken.

    Raises:
        DataError: there is none, or several may be meant.
    """
    if how.label_column is not None:
        return _asked(names, how.label_column, "label_column", place)
    found = list(map(plain, names))
    free = [i for i in range(len(names)) if i != path and i not in taken and found[i]]
    if any(found[i] == "label" for i in free):
        return _only(found, "label", place)
    choices = [i for i in free if found[i] in LABELS]
    if not choices and len(names) == 2 and how.labelled:
        choices = free
    if not choices:
        choices = [i for i in free if found[i] in _OTHER_LABELS]
    if len(choices) > 1 and same is not None:
        first = min(choices, key=lambda i: LABELS.index(found[i]) if found[i] in LABELS else 99)
        if all(same(first, other) for other in choices if other != first):
            choices = [first]
    if not how.labelled and len(choices) != 1:
        return None
    return _chosen(names, choices, "labels", "label_column", place)


def _named(names: Sequence[str], column: str) -> list[int]:
    """Where a column is: as written, else in another spelling."""
    exact = [index for index, name in enumerate(names) if name.strip() == column.strip()]
    return exact or [i for i, name in enumerate(names) if plain(name) == plain(column)]


def _asked(names: Sequence[str], column: str, setting: str, place: str) -> int:
    found = _named(names, column)
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} columns" if found else "no column"
    raise DataError(f"{place}: {what} named data.{setting}={column} among {_listed(names)}")


def _only(found: Sequence[str], name: str, place: str) -> int:
    if found.count(name) > 1:
        raise DataError(f"{place}: the column {name!r} is there twice; remove one")
    return found.index(name)


def _chosen(
    names: Sequence[str], choices: Sequence[int], what: str, setting: str, place: str
) -> int:
    if len(choices) == 1:
        _log.info("%s: the column of %s is %s", place, what, quoted(names[choices[0]]))
        return choices[0]
    if not choices:
        raise DataError(
            f"{place}: no column of {what} is known among {_listed(names)}; set data.{setting} to "
            f"its name, or call it {setting.removesuffix('_column')}"
        )
    raise DataError(
        f"{place}: the column of {what} may be {_listed([names[i] for i in choices])}; set "
        f"data.{setting} to its name, or call it {setting.removesuffix('_column')}"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(quoted, names[:20])) + (", ..." if len(names) > 20 else "")


def _holds_images(sample: Sequence[Sequence[str]], index: int) -> bool:
    cells = [row[index] for row in sample[:_SAMPLE] if index < len(row) and row[index].strip()]
    return bool(cells) and all(map(is_image_name, cells))
