"""Paths that nobody meant to be in a list."""

from __future__ import annotations

import re
from collections import Counter

from lookalike import storage
from lookalike.data.annotation import IMAGE_SUFFIXES
from lookalike.inspection.finding import Finding, Group, Lists, finding

# What archives, file managers and programs leave behind.
_FOLDERS = re.compile(
    r"(?:^|/)(?P<name>__MACOSX|\.AppleDouble|\$RECYCLE\.BIN|\.ipynb_checkpoints|\.git|@eaDir)/",
    re.IGNORECASE,
)
_FILES = frozenset([".ds_store", "thumbs.db", "desktop.ini"])
_ENDS = ("~", ".tmp", ".part", ".crdownload", ".bak")


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
            path = storage.public(path)  # a query may hold anything, `/` too
        folder, _, name = path.rpartition("/")
        key = (record.source, folder)
        why = folders.get(key)
        if why is None:
            why = folders[key] = _left_behind(folder)
            counted[key] = [row, 0]
        counted[key][1] += bool(record.line and record.member is None)
        low = name.lower()
        if low[:2] == "._" or low in _FILES or low.endswith(_ENDS):
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


def _left_behind(folder: str) -> str:
    """What is wrong with a folder; "" for nothing."""
    hit = _FOLDERS.search(f"{folder}/")
    if hit is not None:
        return f"in {hit['name']}"
    return "a path of Windows" if "\\" in folder else ""


def _kind(uri: str, base: str) -> str:
    """How a path stands to the folder of its list; one below it counts as relative."""
    if base and uri.startswith(base):
        return "relative"
    if storage.is_remote(uri):
        return f"in {uri.partition('://')[0]}://"
    return "absolute" if uri[:1] == "/" or uri.startswith("file://") else "relative"
