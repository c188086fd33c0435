"""Coarser classes above the classes of a list: columns of a table, or a file of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lookalike import storage
from lookalike.data.classes import Classes
from lookalike.data.readers.annotation import (
    BadRows,
    canonical_label,
    combined_error,
    content_lines,
    is_missing,
    names_file,
    quoted,
    read_text,
)
from lookalike.data.record import Record
from lookalike.errors import ConfigError, DataError


@dataclass(frozen=True)
class HierarchyLevel:
    """The classes of a list at a coarser level.

    Attributes:
        names: of its G classes.
        of_class: (C,) int64, the class at this level of each class of the list; -1 for a class
            without images.
    """

    name: str
    names: tuple[str, ...]
    of_class: np.ndarray

    def coarser(self, ids: np.ndarray) -> np.ndarray:
        """The classes at this level of (N,) or (N, L) classes; -1 stays."""
        found: np.ndarray = np.where(ids >= 0, self.of_class[ids], -1)
        return found

    def of_kept(self, kept: np.ndarray) -> HierarchyLevel:
        """The level above the `kept` classes, a (C,) mask, with its own numbered anew."""
        present, of_class = np.unique(self.of_class[kept], return_inverse=True)
        names = tuple(self.names[row] for row in present if row >= 0)
        rows = of_class.astype(np.int64) - int((present < 0).any())
        return HierarchyLevel(self.name, names, rows)


def hierarchy_columns(hierarchy: str | None) -> tuple[str, ...]:
    """The columns that `data.hierarchy` names; none where it names a file.

    Raises:
        ConfigError: a name is empty or there twice.
    """
    if hierarchy is None or names_file(hierarchy):
        return ()
    columns = tuple(name.strip() for name in hierarchy.split(","))
    if not all(columns) or len(set(columns)) < len(columns):
        raise ConfigError(
            f"data.hierarchy={hierarchy}: write different columns with commas between, the finest "
            "first, as genus,family"
        )
    return columns


def levels_above(
    hierarchy: str, classes: Classes, records: Sequence[Record], class_ids: np.ndarray
) -> tuple[HierarchyLevel, ...]:
    """The levels above the classes of records, the finest first.

    `hierarchy` is `data.hierarchy`, columns that the records hold already, or a file, which must
    have a line for each of `class_ids`, (N,) int64.

    Raises:
        StorageError: the file cannot be read.
        DataError: a line of it is wrong, a class is missing or is of two coarser ones.
        ConfigError: the records have no such columns.
    """
    columns = hierarchy_columns(hierarchy)
    if columns:
        names, above = list(columns), _of_columns(hierarchy, classes, records, class_ids)
    else:
        names, above = _of_file(hierarchy, classes, class_ids)
    place = f"data.hierarchy={hierarchy}" if columns else storage.public(hierarchy)
    _check_nested(place, names, list(above.values()))
    levels = []
    for number, name in enumerate(names):
        coarser = sorted({found[number] for found in above.values()})
        row = {label: index for index, label in enumerate(coarser)}
        of_class = np.full(len(classes), -1, np.int64)
        for mine, found in above.items():
            of_class[mine] = row[found[number]]
        levels.append(HierarchyLevel(name, tuple(coarser), of_class))
    return tuple(levels)


def _of_columns(
    hierarchy: str, classes: Classes, records: Sequence[Record], class_ids: np.ndarray
) -> dict[int, tuple[str, ...]]:
    """Class -> its coarser ones, by the columns of its images."""
    above: dict[int, tuple[str, ...]] = {}
    first: dict[int, Record] = {}
    bad: list[tuple[Record, Record]] = []
    for record, mine in zip(records, class_ids.tolist(), strict=True):
        found = record.details.coarser if record.details else ()
        if not found:
            raise ConfigError(
                f"data.hierarchy={hierarchy}: {record.origin} has no such column; name columns of "
                "a table, or a file (.txt, .csv, .tsv) with one `label coarser coarsest` a line"
            )
        if record.details and record.details.further_labels:
            raise ConfigError(
                f"data.hierarchy={hierarchy}: {record.origin} has several labels, and a column one "
                "coarser class; name a file with one `label coarser coarsest` a line"
            )
        if above.setdefault(mine, found) != found:
            bad.append((record, first[mine]))
        first.setdefault(mine, record)
    if bad:
        raise combined_error(
            bad,
            lambda pair: (
                f"{pair[0].origin}: class {quoted(classes.names[classes.index(pair[0].label)])} is "
                f"of {_words(pair[0])} here, but of {_words(pair[1])} in {pair[1].origin}; correct "
                "one"
            ),
        )
    return above


def _words(record: Record) -> str:
    return ", ".join(map(quoted, record.details.coarser)) if record.details else ""


def _of_file(
    uri: str, classes: Classes, class_ids: np.ndarray
) -> tuple[list[str], dict[int, tuple[str, ...]]]:
    """Names of the levels, and class -> its coarser ones; a first line `label ...` has the names.

    Cells are separated by tabs or commas where a line has some, else by blanks. Lines of other
    labels are ignored: one file may serve several lists.
    """
    place = storage.public(uri)
    names: list[str] = []
    above: dict[int, tuple[str, ...]] = {}
    given: dict[int, int] = {}
    bad = BadRows()
    width = 0
    for number, line in content_lines(read_text(uri)):
        mark = "\t" if "\t" in line else "," if "," in line else None
        cells = [cell.strip().strip('"') for cell in line.split(mark)]
        if not width and len(cells) > 1:
            width = len(cells)
            if cells[0].lower() in ("label", "class"):
                names = cells[1:]
                continue
        if len(cells) < 2 or len(cells) != width or any(map(is_missing, cells)):
            wanted = f"its {width - 1} coarser classes" if width > 2 else "its coarser class"
            example = "cat felid mammal" if width > 2 else "cat mammal"
            reason = f"{quoted(line)} is not a label and {wanted}, as: {example}"
            bad.add(f"{place}:{number}", reason)
            continue
        row = classes.rows.get(canonical_label(cells[0]))
        if row is None:
            continue
        if row in given:
            reason = f"label {quoted(cells[0])} is in line {given[row]} already"
            bad.add(f"{place}:{number}", reason)
            continue
        given[row] = number
        above[row] = tuple(map(canonical_label, cells[1:]))
    bad.raise_any()
    missing = [row for row in np.unique(class_ids).tolist() if row not in above]
    if missing:
        shown = ", ".join(quoted(classes.names[row]) for row in missing[:5])
        more = f" and {len(missing) - 5:,} more" if len(missing) > 5 else ""
        raise DataError(f"{place}: no line for the class {shown}{more}; add one for each class")
    return names or [f"level_{number}" for number in range(1, width)], above


def _check_nested(place: str, names: Sequence[str], above: Sequence[tuple[str, ...]]) -> None:
    """Check that each class of a level is below one class of the next."""
    for number in range(len(names) - 1):
        parent: dict[str, str] = {}
        for found in above:
            fine, coarse = found[number], found[number + 1]
            if parent.setdefault(fine, coarse) != coarse:
                both = f"below {quoted(parent[fine])} and below {quoted(coarse)}"
                above_it = names[number + 1]
                raise DataError(
                    f"{place}: {quoted(fine)} of {names[number]} is {both} of {above_it}; correct "
                    f"one, or leave out {above_it}"
                )
