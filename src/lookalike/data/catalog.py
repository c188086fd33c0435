"""A data set: records and their classes; held-out and sampled classes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lookalike import storage
from lookalike.data.classes import Classes, listed, read_class_names
from lookalike.data.readers import read_records
from lookalike.data.readers.annotation import combined_error, is_integer, quoted
from lookalike.data.record import Record
from lookalike.data.splits import select
from lookalike.errors import ConfigError, DataError

_MOST_CLASSES = 100_000_000  # each has a name in memory


@dataclass(frozen=True)
class Catalog:
    """A data set.

    Attributes:
        records: the images with their labels, N of them.
        class_ids: (N,) int64, the class of each record.
        classes: the map label <-> class.
        weights: (N,) float32, of the images in the loss; None for all alike.
    """

    records: tuple[Record, ...]
    class_ids: np.ndarray
    classes: Classes
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.records)

    def fingerprint(self) -> str:
        """16 hexadecimal digits: paths below a common folder, labels, details and weights."""
        places = [storage.unsigned(record.uri) for record in self.records]
        common = os.path.commonprefix([min(places), max(places)])  # noqa: RUF071  # cut at a slash
        folder = common.rpartition("/")[0]
        digest = hashlib.sha256()
        for place, record in zip(places, self.records, strict=True):
            line = (place[len(folder) :], record.label, record.member, record.details)
            digest.update(repr(line).encode("utf-8", "surrogatepass"))
        if self.weights is not None:
            digest.update(self.weights.astype("<f4").tobytes())
        return digest.hexdigest()[:16]


def open_catalog(
    uri: str,
    *,
    format: str = "auto",
    classes: str | Sequence[str] | None = None,
    num_classes: int | None = None,
    split: str | None = None,
) -> Catalog:
    """`read_records`, `select` and `build_catalog` in one."""
    records = select(read_records(uri, format), split)
    return build_catalog(records, classes=classes, num_classes=num_classes)


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
        ConfigError: `num_classes` is out of range, or differs from the number of `classes`.
        DataError: labels that contradict `classes` or `num_classes`.
    """
    records = tuple(records)
    if num_classes is not None and not 1 <= num_classes <= _MOST_CLASSES:
        raise ConfigError(f"data.num_classes={num_classes} is not within 1 to {_MOST_CLASSES:,}")
    named = None if classes is None else Classes(read_class_names(classes))
    if named is not None and num_classes not in (None, len(named)):
        raise ConfigError(
            f"data.num_classes={num_classes}, but data.classes holds {len(named):,} names;"
            " leave data.num_classes out"
        )
    distinct = dict.fromkeys(record.label for record in records)
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
            raise DataError(_wrong_count(records, num_classes, list(distinct)))
        # Shortest forms order by (length, digits) as their numbers do, however long they are.
        key = (lambda label: (len(label), label)) if integers else None
        found = Classes(tuple(sorted(distinct, key=key)))
        rows, complain = found.rows, found.unknown

    bad = [record for record in records if record.label not in rows]
    if bad:
        raise combined_error(bad, lambda record: f"{record.origin}: {complain(record.label)}")
    ids = np.fromiter((rows[record.label] for record in records), np.int64, len(records))
    return Catalog(records, ids, found)


def hold_out(catalog: Catalog, fraction: float, seed: int) -> tuple[Catalog, Catalog]:
    """The training part, and a fraction of the classes held out to measure retrieval on.

    A class is drawn by a hash of its name and the seed: the draw is the same on every machine,
    and more images of the same classes do not change it. At least two held-out classes have two
    images or more. In both parts the classes keep their order and are numbered anew; classes
    without images stay with the training part.

    Raises:
        ConfigError: `fraction` is not between 0 and 1.
        DataError: there are too few classes for both parts.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"data.val_fraction={fraction} is not between 0 and 1")
    counts = np.bincount(catalog.class_ids, minlength=len(catalog.classes))
    present = np.flatnonzero(counts)
    pairs = np.flatnonzero(counts >= 2)
    if len(present) < 4 or len(pairs) < 2:
        raise DataError(
            f"data.val_fraction={fraction} cannot hold out classes: it takes 4 classes, 2 of them"
            f" with 2 images or more, and there are {len(present):,}, {len(pairs):,} of them with"
            " 2 images or more; give a validation list (data.val) instead"
        )
    names = catalog.classes.names
    drawn = sorted(present.tolist(), key=lambda row: _draw(names[row], seed))
    # Two classes that can be measured come first; where they are among the first drawn anyway,
    # this changes nothing.
    first = [row for row in drawn if counts[row] >= 2][:2]
    number = min(max(2, round(fraction * len(present))), len(present) - 2)
    held = np.zeros(len(names), dtype=bool)
    held[(first + [row for row in drawn if row not in first])[:number]] = True
    return _of_classes(catalog, ~held), _of_classes(catalog, held)


def sample_classes(catalog: Catalog, most: int, seed: int = 0) -> Catalog:
    """Whole classes with at most `most` images together, and two classes at least.

    They are drawn as in `hold_out`, those of one image last: they cannot be measured.
    """
    if len(catalog) <= most:
        return catalog
    counts = np.bincount(catalog.class_ids, minlength=len(catalog.classes))
    names = catalog.classes.names
    drawn = sorted(np.flatnonzero(counts).tolist(), key=lambda row: _draw(names[row], seed))
    kept = np.zeros(len(names), dtype=bool)
    total = 0
    for row in sorted(drawn, key=lambda row: counts[row] < 2):
        if total + counts[row] > most and kept.sum() >= 2:
            break
        kept[row] = True
        total += counts[row]
    return _of_classes(catalog, kept)


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


def _wrong_count(records: Sequence[Record], num_classes: int, distinct: Sequence[str]) -> str:
    # `distinct` is in order of appearance.
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


def _draw(name: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=16).digest()


def _of_classes(catalog: Catalog, kept: np.ndarray) -> Catalog:
    """The records of the `kept` classes, a (C,) mask, with the classes numbered anew."""
    rows = np.cumsum(kept) - 1  # old class -> new class, where kept
    mine = np.flatnonzero(kept[catalog.class_ids])
    names = tuple(catalog.classes.names[row] for row in np.flatnonzero(kept))
    records = tuple(catalog.records[i] for i in mine)
    weights = None if catalog.weights is None else catalog.weights[mine]
    ids = rows[catalog.class_ids[mine]].astype(np.int64)
    return Catalog(records, ids, Classes(names), weights)
