"""Paths that nobody meant to be in a list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lookalike import storage
from lookalike.data.decoding.image_formats import IMAGE_SUFFIXES
from lookalike.data.readers.skipped_files import (
    FOREIGN_ENDS,
    FOREIGN_FILES,
    FOREIGN_FOLDERS,
    Skipped,
)
from lookalike.inspection.issue import Finding, Group, Lists, finding


def inspect_paths(lists: Lists) -> list[Finding]:
    """Left-overs of other programs, names that are no image's, and paths of several kinds."""
    litter, odd = [], []
    folders: dict[tuple[str, str], str] = {}  # few beside the files: each is looked at once
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
            why = folders[key] = _left_behind(folder)
            counted[key] = [row, 0]
        counted[key][1] += bool(record.line and record.member is None)
        low = name.lower()
        if low[:2] == "._" or low in FOREIGN_FILES or low.endswith(FOREIGN_ENDS):
            why = "left behind by another program"
        if why or "\\" in name:
            litter.append(Group((row,), why or "a path of Windows"))
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
        *finding(
            "suspicious_paths", "doubtful",
            "paths that look like something else than an image of yours",
            "Remove these lines; make the list from the images alone.", litter,
        ),
        *finding(
            "odd_names", "note", "names that do not end as an image's name does",
            "Images are read by their content, so this does no harm if they are images.", odd,
        ),
        *finding(
            "mixed_paths", "note", "lists with paths of several kinds",
            "Paths relative to the list move with it, absolute ones do not. Write all in one way.",
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


def inspect_skipped(skipped: Sequence[Skipped]) -> list[Finding]:
    """Files of image folders that are skipped, by kind."""
    kinds = {
        "skipped_images": [each for each in skipped if each.is_loss],
        "skipped_files": [each for each in skipped if not each.is_loss],
    }
    lost, others = ([Group((), each.describe()) for each in found] for found in kinds.values())
    return [
        *finding(
            "skipped_images", "doubtful", "kinds of files that may be images, and are skipped",
            "Convert them, install what reads them, or put them into the folder of a class.", lost,
        ),
        *finding(
            "skipped_files", "note", "kinds of files in image folders that are skipped",
            "They are no images. Nothing is to be done, unless some of them should be.", others,
        ),
    ]  # fmt: skip


def _left_behind(folder: str) -> str:
    """What is wrong with a folder; "" for nothing."""
    hit = next((part for part in folder.split("/") if part.lower() in FOREIGN_FOLDERS), None)
    if hit is not None:
        return f"in {hit}"
    return "a path of Windows" if "\\" in folder else ""


def _kind(uri: str, base: str) -> str:
    """How a path stands to the folder of its list; one below it counts as relative."""
    if base and uri.startswith(base):
        return "relative"
    if storage.is_remote(uri):
        return f"in {uri.partition('://')[0]}://"
    return "absolute" if uri[:1] == "/" or uri.startswith("file://") else "relative"
