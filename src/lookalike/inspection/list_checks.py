"""Checks of the lists alone, without opening an image: a million lines take seconds."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from lookalike import storage
from lookalike.data.catalog import Catalog
from lookalike.data.decoding.image_formats import IMAGE_SUFFIXES
from lookalike.data.readers.annotation import BadRows
from lookalike.data.readers.skipped_files import (
    FOREIGN_ENDS,
    FOREIGN_FILES,
    FOREIGN_FOLDERS,
    Skipped,
)
from lookalike.data.record import Record, image_keys
from lookalike.inspection.issue import MOST_GROUPS, Group, Issue, Lists, issues_of

_MANY_TIMES = 20  # the median: size of a large class

_NO_VALIDATION = Issue(
    "no_validation", "note", "missing validation list",
    "Quality will not be measured. Give data.val, best with classes that are not in training, or "
    "data.val_fraction=0.1.",
    1, (),
)  # fmt: skip


def check_lists(
    lists: Lists, train: Catalog, val: Catalog | None
) -> tuple[dict[str, Any], list[Issue]]:
    """Counts of both lists, and issues of their labels, lines and paths."""
    facts: dict[str, Any] = {"training": _counts(train)}
    if val is not None:
        shared = set(train.classes.names) & set(val.classes.names)
        facts["validation"] = {**_counts(val), "classes_shared_with_training": len(shared)}
    found = [
        *_repeated_images(lists),
        *_label_variants(lists),
        *_singletons(train),
        *_empty_classes(train),
        *_imbalance(train),
        *_paths(lists),
    ]
    if val is None:
        found.append(_NO_VALIDATION)
    return facts, found


def images_in_both(train: Catalog, val: Catalog) -> list[tuple[Record, Record]]:
    """(training, validation) records of images in both lists, by path; links are followed."""
    key_of = image_keys()
    first = {key_of(record): record for record in reversed(train.records)}
    return [(first[key], record) for record in val.records if (key := key_of(record)) in first]


def distinct_rows(records: Sequence[Record]) -> list[int]:
    """The first row of each image, ascending."""
    first: dict[Any, int] = {}
    key_of = image_keys()
    for row, record in enumerate(records):
        first.setdefault(key_of(record), row)
    return list(first.values())


def bad_rows(bad: BadRows) -> list[Issue]:
    """Rows without a label, with an impossible box, or malformed."""
    return issues_of(
        "bad_rows", "wrong", "unusable rows of the lists",
        "Fix or remove them: training does not start with such rows. The other issues are those "
        "of the other rows.",
        [Group((), f"{place}: {complaint}") for place, complaint in bad.found],
    )  # fmt: skip


def skipped_files(skipped: Sequence[Skipped]) -> list[Issue]:
    """Skipped files of image folders, by kind."""
    lost, others = (
        [Group((), each.describe()) for each in skipped if each.is_loss == is_loss]
        for is_loss in (True, False)
    )
    return [
        *issues_of(
            "skipped_images", "doubtful", "skipped kinds of files that may be images",
            "Convert them, install the library that reads them, or move them to the folder of a "
            "class.",
            lost,
        ),
        *issues_of(
            "skipped_files", "note", "skipped kinds of files in image folders",
            "They are not images: nothing to do, unless some of them should be.", others,
        ),
    ]  # fmt: skip


def _counts(catalog: Catalog) -> dict[str, Any]:
    sizes = catalog.class_sizes()
    present = sizes[sizes > 0]
    bounds = [1, 2, 3, 5, 9, 17, 33, 65, 129, 257, 513, 1025]
    histogram = {}
    for low, high in zip(bounds, [*bounds[1:], None], strict=True):
        count = int(((present >= low) & (present < (high or present.max() + 1))).sum())
        name = f"{low}+" if high is None else str(low) if high == low + 1 else f"{low}-{high - 1}"
        histogram[name] = count
    while len(histogram) > 1 and not list(histogram.values())[-1]:
        histogram.popitem()
    several = {}
    if catalog.further_ids is not None:
        several["images_of_several_classes"] = int((catalog.further_ids[:, 0] >= 0).sum())
    return {
        "list": catalog.records[0].source,
        "images": len(catalog),
        **several,
        "classes": len(present),
        "images_a_class": {
            "least": int(present.min()),
            "median": float(np.median(present)),
            "mean": round(float(present.mean()), 2),
            "most": int(present.max()),
        },
        "classes_by_images": histogram,
    }


def _repeated_images(lists: Lists) -> list[Issue]:
    """Images on several lines, by path."""
    first: dict[Any, int] = {}
    again: dict[Any, list[int]] = {}
    key_of = image_keys()
    for row, record in enumerate(lists.records):
        key = key_of(record)
        if first.setdefault(key, row) != row:
            again.setdefault(key, [first[key]]).append(row)
    leaks, labels, copies = lists.repeated(Group(tuple(rows)) for rows in again.values())
    return [
        *issues_of(
            "leakage_path", "wrong", "images in the training and the validation list",
            "Remove them from one of the lists: validation must not use training images.",
            leaks,
        ),
        *issues_of(
            "two_labels_path", "wrong", "images with two labels in one list",
            "Keep the line with the right label and remove the others. Where both are right, write "
            "them in one line, and set data.label_separator.", labels,
        ),
        *issues_of(
            "repeated_lines", "doubtful", "images more than once in one list",
            "Keep one line each, unless the image should have more weight.", copies,
        ),
    ]  # fmt: skip


def _label_variants(lists: Lists) -> list[Issue]:
    """Labels that differ only in case, blanks, underscores or Unicode form."""
    seen: dict[str, list[int]] = {}
    for row, record in enumerate(lists.records):
        for label in record.labels:
            counted = seen.get(label)
            if counted is None:
                seen[label] = [row, 1]
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
    return issues_of(
        "label_variants", "wrong",
        "groups of labels that differ only in case, blanks or underscores",
        "They are separate classes in training. Write each label in one way.", groups,
    )  # fmt: skip


def _singletons(train: Catalog) -> list[Issue]:
    sizes = train.class_sizes()
    rows = np.flatnonzero(sizes[train.sampling_ids()] == 1)
    if not len(rows):
        return []
    return [
        Issue(
            "singletons", "doubtful" if len(rows) * 10 > (sizes > 0).sum() else "note",
            "classes with a single training image",
            "One image does not show what its class has in common. Add images, or remove the "
            "classes; a few are harmless.",
            len(rows), tuple(Group((int(row),)) for row in rows[:MOST_GROUPS]),
        )
    ]  # fmt: skip


def _empty_classes(train: Catalog) -> list[Issue]:
    sizes = train.class_sizes()
    empty = np.flatnonzero(sizes == 0)
    names = [train.classes.names[row] for row in empty[:MOST_GROUPS]]
    if not names:
        return []
    return [
        Issue(
            "empty_classes", "note", "classes without a training image",
            "Their weights act on other classes only. Remove them from data.classes, or lower "
            "data.num_classes, unless images will be added later.",
            len(empty), tuple(Group((), name) for name in names),
        )
    ]  # fmt: skip


def _imbalance(train: Catalog) -> list[Issue]:
    sizes = train.class_sizes()
    median = float(np.median(sizes[sizes > 0]))
    large = np.flatnonzero(sizes > _MANY_TIMES * median)
    large = large[np.argsort(-sizes[large], kind="stable")]
    names = train.classes.names
    first: dict[int, int] = {}
    ids = train.all_ids.reshape(len(train), -1)
    for row, column in np.argwhere(np.isin(ids, large)).tolist():
        first.setdefault(int(ids[row, column]), row)
    return issues_of(
        "large_classes", "note",
        f"classes with more than {_MANY_TIMES} times the median of {median:g} images",
        "They dominate the batches. Check that each is one thing, or remove some of its images.",
        [Group((first[c],), f"{names[c]}: {sizes[c]:,} images") for c in large.tolist()],
    )  # fmt: skip


def _paths(lists: Lists) -> list[Issue]:
    """Files of other programs, names without an image suffix, and paths of several kinds."""
    foreign, odd = [], []
    folders: dict[tuple[str, str], str] = {}  # far fewer than files: each is checked once
    kinds: dict[str, Counter[str]] = {}
    first: dict[tuple[str, str], int] = {}
    bases: dict[str, str] = {}
    counted: dict[tuple[str, str], list[int]] = {}  # lines of a list and folder: first and number
    for row, record in enumerate(lists.records):
        path = record.uri if record.member is None else record.member.name
        if "?" in path and storage.is_remote(path):
            path = storage.split_query(path)[0]  # a query may hold anything, `/` too
        folder, _, name = path.rpartition("/")
        key = (record.source, folder)
        why = folders.get(key)
        if why is None:
            why = folders[key] = _foreign_folder(folder)
            counted[key] = [row, 0]
        counted[key][1] += bool(record.line and record.member is None)
        low = name.lower()
        if low[:2] == "._" or low in FOREIGN_FILES or low.endswith(FOREIGN_ENDS):
            why = "file of another program"
        if why or "\\" in name:
            foreign.append(Group((row,), why or "Windows path"))
        elif record.member is None and not low.endswith(IMAGE_SUFFIXES):
            odd.append(Group((row,)))
    for (source, folder), (row, number) in counted.items():
        if number:
            if source not in bases:
                bases[source] = storage.resolve("", source)
            kind = _kind(f"{folder}/" if folder else lists.records[row].uri, bases[source])
            kinds.setdefault(source, Counter())[kind] += number
            first.setdefault((source, kind), row)
    return [
        *issues_of(
            "suspicious_paths", "doubtful",
            "paths that are probably not your images",
            "Remove these lines, or make the list from the images alone.", foreign,
        ),
        *issues_of(
            "odd_names", "note", "names without an image suffix",
            "Images are read by their content, so this is harmless if they are images.", odd,
        ),
        *issues_of(
            "mixed_paths", "note", "lists with paths of several kinds",
            "Relative paths move with the list, absolute ones do not. Write all in one way.",
            [
                Group(
                    tuple(first[source, kind] for kind in counts),
                    f"{source}: " + ", ".join(f"{n:,} {kind}" for kind, n in counts.most_common()),
                )
                for source, counts in kinds.items()
                if len(counts) > 1
            ],
        ),
    ]  # fmt: skip


def _foreign_folder(folder: str) -> str:
    """Reason against a folder; "" for none."""
    hit = next((part for part in folder.split("/") if part.lower() in FOREIGN_FOLDERS), None)
    if hit is not None:
        return f"in {hit}"
    return "Windows path" if "\\" in folder else ""


def _kind(uri: str, base: str) -> str:
    """Kind of a path; one below the folder of its list counts as relative."""
    if base and uri.startswith(base):
        return "relative"
    if storage.is_remote(uri):
        return f"in {uri.partition('://')[0]}://"
    return "absolute" if uri[:1] == "/" or uri.startswith("file://") else "relative"
