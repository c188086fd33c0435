"""What the lists alone tell: no image is opened here, so a million lines take seconds."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from lookalike.data.catalog import Catalog
from lookalike.data.readers.annotation import BadRows
from lookalike.data.record import Record, image_keys
from lookalike.inspection.issue import MOST_GROUPS, Finding, Group, Lists, finding
from lookalike.inspection.path_checks import inspect_paths

_MANY_TIMES = 20  # the largest class against the median one


def inspect_lists(
    lists: Lists, train: Catalog, val: Catalog | None
) -> tuple[dict[str, Any], list[Finding]]:
    """Counts of both lists, and what is wrong with their labels, lines and paths."""
    facts: dict[str, Any] = {"training": _counts(train)}
    if val is not None:
        shared = set(train.classes.names) & set(val.classes.names)
        facts["validation"] = {**_counts(val), "classes_shared_with_training": len(shared)}
    found = [
        *_repeated(lists),
        *_label_variants(lists),
        *_singletons(train),
        *_empty_classes(train),
        *_imbalance(train),
        *inspect_paths(lists),
    ]
    if val is None:
        found += _unmeasured()
    return facts, found


def images_in_both(train: Catalog, val: Catalog) -> list[tuple[Record, Record]]:
    """The images of both catalogs by their address, as in training and in validation.

    Links are followed; no image is opened.
    """
    key_of = image_keys()
    first = {key_of(record): record for record in reversed(train.records)}
    return [(first[key], record) for record in val.records if (key := key_of(record)) in first]


def distinct_rows(records: Sequence[Record]) -> list[int]:
    """The first row of each picture, ascending: what needs to be read of a list."""
    first: dict[Any, int] = {}
    key_of = image_keys()
    for row, record in enumerate(records):
        first.setdefault(key_of(record), row)
    return list(first.values())


def bad_rows(bad: BadRows) -> list[Finding]:
    """Rows that cannot be used: without a label, with a box that is none, malformed."""
    return finding(
        "bad_rows", "wrong", "rows of the lists that cannot be used",
        "Training does not begin before they are fixed or removed; all else here is about the "
        "other rows.",
        [Group((), f"{place}: {complaint}") for place, complaint in bad.found],
    )  # fmt: skip


def _counts(catalog: Catalog) -> dict[str, Any]:
    """How many images and classes, and how many images a class has."""
    sizes = np.bincount(catalog.class_ids, minlength=len(catalog.classes))
    present = sizes[sizes > 0]
    bounds = [1, 2, 3, 5, 9, 17, 33, 65, 129, 257, 513, 1025]
    histogram = {}
    for low, high in zip(bounds, [*bounds[1:], None], strict=True):
        count = int(((present >= low) & (present < (high or present.max() + 1))).sum())
        name = f"{low}+" if high is None else str(low) if high == low + 1 else f"{low}-{high - 1}"
        histogram[name] = count
    while len(histogram) > 1 and not list(histogram.values())[-1]:
        histogram.popitem()
    return {
        "list": catalog.records[0].source,
        "images": len(catalog),
        "classes": len(present),
        "images_a_class": {
            "least": int(present.min()),
            "median": float(np.median(present)),
            "mean": round(float(present.mean()), 2),
            "most": int(present.max()),
        },
        "classes_by_images": histogram,
    }


def _repeated(lists: Lists) -> list[Finding]:
    """The same picture on several lines: by its address alone."""
    first: dict[Any, int] = {}
    again: dict[Any, list[int]] = {}
    key_of = image_keys()
    for row, record in enumerate(lists.records):
        key = key_of(record)
        if first.setdefault(key, row) != row:
            again.setdefault(key, [first[key]]).append(row)
    twice, labels, leaks = [], [], []
    for rows in again.values():
        mine = [row for row in rows if row < lists.training]
        if mine and len(mine) < len(rows):
            leaks.append(Group(tuple(rows)))
        for part in (mine, rows[len(mine) :]):
            names = {lists.records[row].label for row in part}
            if len(names) > 1:
                labels.append(Group(tuple(part)))
            elif len(part) > 1:
                twice.append(Group(tuple(part)))
    return [
        *finding(
            "leakage_path", "wrong", "images in the training and the validation list",
            "Remove them from one of the lists: validation must not measure what was learnt.",
            leaks,
        ),
        *finding(
            "two_labels_path", "wrong", "images with two labels in one list",
            "Keep the line with the right label and remove the others.", labels,
        ),
        *finding(
            "repeated_lines", "doubtful", "images more than once in one list",
            "Keep one line each, unless the image is to count more than others.", twice,
        ),
    ]  # fmt: skip


def _label_variants(lists: Lists) -> list[Finding]:
    """Labels that differ only in case, in blanks (or what stands for them), or in encoding."""
    seen: dict[str, list[int]] = {}
    for row, record in enumerate(lists.records):
        counted = seen.get(record.label)
        if counted is None:
            seen[record.label] = [row, 1]
        else:
            counted[1] += 1
    alike: dict[str, list[str]] = {}
    for label in seen:
        plain = unicodedata.normalize("NFKC", label).casefold()
        alike.setdefault("".join(plain.replace("_", " ").split()), []).append(label)
    groups = [
        Group(
            tuple(seen[label][0] for label in labels),
            ", ".join(f"{label!r} ({seen[label][1]:,})" for label in labels),
        )
        for labels in alike.values()
        if len(labels) > 1
    ]
    return finding(
        "label_variants", "wrong",
        "groups of labels that differ only in case, blanks or underscores",
        "They are different classes to training. Write each label in one way.", groups,
    )  # fmt: skip


def _singletons(train: Catalog) -> list[Finding]:
    sizes = np.bincount(train.class_ids, minlength=len(train.classes))
    rows = np.flatnonzero(sizes[train.class_ids] == 1)
    if not len(rows):
        return []
    return [
        Finding(
            "singletons", "doubtful" if len(rows) * 10 > (sizes > 0).sum() else "note",
            "classes with a single training image",
            "One image cannot show what its class has in common. Add images, or drop the classes; "
            "a few do no harm.",
            len(rows), tuple(Group((int(row),)) for row in rows[:MOST_GROUPS]),
        )
    ]  # fmt: skip


def _empty_classes(train: Catalog) -> list[Finding]:
    sizes = np.bincount(train.class_ids, minlength=len(train.classes))
    empty = np.flatnonzero(sizes == 0)
    names = [train.classes.names[row] for row in empty[:MOST_GROUPS]]
    if not names:
        return []
    return [
        Finding(
            "empty_classes", "note", "classes without a training image",
            "Their weights only push others away. Leave them out of data.classes, or lower "
            "data.num_classes, unless they are to be filled later.",
            len(empty), tuple(Group((), name) for name in names),
        )
    ]  # fmt: skip


def _imbalance(train: Catalog) -> list[Finding]:
    sizes = np.bincount(train.class_ids, minlength=len(train.classes))
    median = float(np.median(sizes[sizes > 0]))
    large = np.flatnonzero(sizes > _MANY_TIMES * median)
    large = large[np.argsort(-sizes[large], kind="stable")]
    names = train.classes.names
    first: dict[int, int] = {}
    for row in np.flatnonzero(np.isin(train.class_ids, large)).tolist():
        first.setdefault(int(train.class_ids[row]), row)
    return finding(
        "large_classes", "note",
        f"classes with more than {_MANY_TIMES} times the median of {median:g} images",
        "They fill most batches. Look whether they hold one thing, or leave some images out.",
        [Group((first[c],), f"{names[c]}: {sizes[c]:,} images") for c in large.tolist()],
    )  # fmt: skip


def _unmeasured() -> list[Finding]:
    return [
        Finding(
            "no_validation", "note", "list only: none for validation",
            "Quality will not be measured. Give data.val, best with classes that are not in "
            "training, or data.val_fraction=0.1.",
            1, (),
        )
    ]  # fmt: skip
