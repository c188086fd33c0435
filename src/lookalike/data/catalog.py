"""A data set: records and their classes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lookalike import storage
from lookalike.data.classes import Classes, listed, read_class_names
from lookalike.data.hierarchy import HierarchyLevel, hierarchy_columns, levels_above
from lookalike.data.readers import read_records
from lookalike.data.readers.annotation import (
    DEFAULT,
    AnnotationOptions,
    combined_error,
    is_integer,
    quoted,
)
from lookalike.data.record import Record
from lookalike.data.record_table import RecordTable
from lookalike.data.splits import measured
from lookalike.errors import ConfigError, DataError


@dataclass(frozen=True)
class Catalog:
    """A data set.

    Attributes:
        records: the images with their labels, N of them; of a list a `RecordTable`.
        class_ids: (N,) int64, the class of each record.
        classes: the map label <-> class.
        weights: (N,) float32, of the images in the loss; None for all alike.
        further_ids: (N, E) int64, the other classes of each record, with -1 behind the last; None
            where each has one class.
        levels: coarser classes above these, the finest first.
    """

    records: Sequence[Record]
    class_ids: np.ndarray
    classes: Classes
    weights: np.ndarray | None = None
    further_ids: np.ndarray | None = None
    levels: tuple[HierarchyLevel, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    @property
    def all_ids(self) -> np.ndarray:
        """All classes of each record, (N,) or (N, 1 + E) int64; see `further_ids`."""
        if self.further_ids is None:
            return self.class_ids
        return np.concatenate([self.class_ids[:, None], self.further_ids], 1)

    @property
    def most_labels(self) -> int:
        """The most classes of a record."""
        return 1 if self.further_ids is None else 1 + self.further_ids.shape[1]

    def class_sizes(self) -> np.ndarray:
        """Images of each class, (C,) int64; an image counts in each of its classes."""
        ids = self.all_ids
        return np.bincount(ids[ids >= 0], minlength=len(self.classes))

    def sampling_ids(self) -> np.ndarray:
        """The class under which samplers count each record, (N,) int64: its smallest one.

        As in Gupta, Dollar and Girshick, LVIS (arXiv 1908.03195), where the rarest class of an
        image decides how often it comes.
        """
        if self.further_ids is None:
            return self.class_ids
        ids = self.all_ids  # (N, 1 + E)
        sizes = np.where(ids >= 0, self.class_sizes()[ids], len(self) + 1)
        return np.take_along_axis(ids, sizes.argmin(1)[:, None], 1)[:, 0]

    def fingerprint(self) -> str:
        """16 hexadecimal digits: paths below a common folder, labels, details and weights."""
        folder, slash, _ = self._common_place().rpartition("/")
        digest = hashlib.sha256()
        line: tuple[object, ...]
        for record in self.records:
            place = storage.unsigned(record.uri)
            if not slash and place[:1] != "/" and not storage.is_remote(place):
                place = f"/{place}"  # as below a folder: the working folder is theirs
            line = (place[len(folder) :], record.label, record.member, record.details)
            if record.details and record.details.further_labels:
                line = (*line, record.details.further_labels)
            digest.update(repr(line).encode("utf-8", "surrogatepass"))
        if self.weights is not None:
            digest.update(self.weights.astype("<f4").tobytes())
        for level in self.levels:
            line = (level.name, level.names, level.of_class.tolist())
            digest.update(repr(line).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:16]

    def _common_place(self) -> str:
        """The text with which the places of all images begin."""
        places = map(storage.unsigned, RecordTable.of(self.records).uris())
        least = most = next(places)
        for place in places:
            if place < least:
                least = place
            elif place > most:
                most = place
        return os.path.commonprefix([least, most])  # noqa: RUF071  # cut at a slash


def open_catalog(
    uri: str,
    format: str = "auto",
    options: AnnotationOptions = DEFAULT,
    *,
    split: str | None = None,
) -> Catalog:
    """The images of a list to measure on, with classes of their own; see `measured`."""
    return build_catalog(measured(read_records(uri, format, options), split))


def build_catalog(
    records: Sequence[Record],
    *,
    classes: str | Sequence[str] | None = None,
    num_classes: int | None = None,
) -> Catalog:
    """The class of every label.

    - With `classes` (see `read_class_names`) a label is one of these names. If every label is an
      integer and none of them is a name, it is the row of its name instead.
    - Integer labels: the distinct ones in numeric order; but with `num_classes` the label *is* the
      class, so that absent classes keep their rows.
    - Text labels (or text and integers): the distinct ones in the order of their code points.

    Raises:
        StorageError: the file of class names cannot be read.
        ConfigError: `num_classes` differs from the number of `classes`.
        DataError: labels that contradict `classes` or `num_classes`.
    """
    records = RecordTable.of(records)
    named = None if classes is None else Classes(read_class_names(classes))
    if named is not None and num_classes not in (None, len(named)):
        raise ConfigError(
            f"data.num_classes={num_classes}, but data.classes holds {len(named):,} names;"
            " leave data.num_classes out"
        )
    distinct = records.distinct_labels()
    integers = all(map(is_integer, distinct))

    found: Classes
    rows: dict[str, int]
    complain: Callable[[str], str]
    if named is not None and not (integers and named.rows.keys().isdisjoint(distinct)):
        found, rows, complain = named, named.rows, named.unknown
    elif named is not None:
        found, rows, complain = named, _up_to(len(named), distinct), _no_row(named)
    elif integers and num_classes is not None:
        found = Classes(tuple(map(str, range(num_classes))))
        rows, complain = _up_to(num_classes, distinct), _too_large(num_classes, distinct)
    else:
        if num_classes is not None and num_classes != len(distinct):
            raise DataError(_wrong_count(records, num_classes))
        # Shortest forms order by (length, digits) as their numbers do, however long they are.
        key = (lambda label: (len(label), label)) if integers else None
        found = Classes(tuple(sorted(distinct, key=key)))
        # Not `found.rows`, which would stay: 100 bytes a class.
        rows, complain = {name: row for row, name in enumerate(found.names)}, found.unknown

    if not distinct <= rows.keys():
        bad = [
            (record, label) for record in records for label in record.labels if label not in rows
        ]
        raise combined_error(bad, lambda item: f"{item[0].origin}: {complain(item[1])}")
    codes = records.label_codes
    ids = np.array([rows.get(label, -1) for label in records.labels], np.int64)[codes]
    return Catalog(records, ids, found, further_ids=_further_ids(records, rows))


def with_hierarchy(catalog: Catalog, hierarchy: str | None) -> Catalog:
    """The catalog with the coarser classes of `data.hierarchy`; as it is with None.

    Raises:
        LookalikeError: as in `levels_above`.
    """
    if hierarchy is None:
        return catalog
    ids = catalog.class_ids
    if not hierarchy_columns(hierarchy):  # a file has a line for each class, whatever the images
        ids = catalog.all_ids[catalog.all_ids >= 0]
    return replace(catalog, levels=levels_above(hierarchy, catalog.classes, catalog.records, ids))


def check_trainable(catalog: Catalog) -> None:
    """Raise a DataError where all images are of one class."""
    present = np.unique(catalog.class_ids)
    if len(present) < 2:
        label = quoted(catalog.classes.names[present[0]])
        one = len(catalog) == 1
        images = "the only image has" if one else f"all {len(catalog):,} images have"
        raise DataError(
            f"{catalog.records[0].source}: {images} the label {label};"
            " training needs at least 2 classes"
        )


def _up_to(count: int, labels: Iterable[str]) -> dict[str, int]:
    """The integer labels below `count`; the length is checked first, as int() has a limit."""
    digits = len(str(count))
    return {label: int(label) for label in labels if len(label) <= digits and int(label) < count}


def _no_row(named: Classes) -> Callable[[str], str]:
    return lambda label: (
        f"label {quoted(label)} is not a row of the {len(named):,} classes"
        f" ({listed(named.names)}), 0 to {len(named) - 1}; fix the line or extend data.classes"
    )


def _too_large(num_classes: int, labels: Iterable[str]) -> Callable[[str], str]:
    largest = max(labels, key=lambda label: (len(label), label))
    fix = "leave it out"
    if len(largest) <= 8:  # beyond, rows for all numbers in between would be too many
        fix = f"set data.num_classes to at least {int(largest) + 1} or leave it out"
    return lambda label: (
        f"label {quoted(label)} is too large for data.num_classes={num_classes}; {fix}"
    )


def _wrong_count(records: Sequence[Record], num_classes: int) -> str:
    distinct = list(dict.fromkeys(label for record in records for label in record.labels))
    if len(distinct) > num_classes:
        label, what = distinct[num_classes], "is one too many"
    else:
        label, what = next(x for x in distinct if not is_integer(x)), "is text"
    origin = next(record.origin for record in records if record.label == label)
    return (
        f"{origin}: label {quoted(label)} {what}: the list holds {len(distinct):,} different"
        f" labels, but data.num_classes={num_classes}; set data.num_classes to {len(distinct)} or"
        " leave it out"
    )


def _further_ids(records: RecordTable, rows: Mapping[str, int]) -> np.ndarray | None:
    """`Catalog.further_ids` by the class of each label."""
    several = [len(one.further_labels) for one in records.distinct_details() if one]
    most = max(several, default=0)
    if not most:
        return None
    codes, details = records.details_codes, records.details
    ids = np.full((len(details), most), -1, np.int64)  # of each of the details
    for code in np.unique(codes).tolist():
        one = details[code]
        if one is not None:
            further = [rows[label] for label in one.further_labels]
            ids[code, : len(further)] = further
    return ids[codes]
