"""Paths that nobody meant to be in a list."""

from __future__ import annotations

import re
from collections import Counter

from lookalike import storage
from lookalike.data.annotation import IMAGE_SUFFIXES
from lookalike.data.record import Record
from lookalike.inspection.finding import Finding, Group, Lists, finding

# What archives and file managers leave behind, and paths of another system.
_LITTER = re.compile(
    r"(?P<mac>(?:^|/)(?:__MACOSX/|\._|\.DS_Store$|\.AppleDouble/))"
    r"|(?P<windows>(?:^|/)(?:Thumbs\.db$|desktop\.ini$|\$RECYCLE\.BIN/))"
    r"|(?P<editor>(?:^|/)(?:\.ipynb_checkpoints|\.git|@eaDir)/|~$|\.(?:tmp|part|crdownload|bak)$)"
    r"|(?P<backslash>\\)",
    re.IGNORECASE,
)
_WHY = {
    "mac": "left behind by macOS",
    "windows": "left behind by Windows",
    "editor": "left behind by a program",
    "backslash": "a path of Windows",
}


def inspect_paths(lists: Lists) -> list[Finding]:
    """Left-overs of other programs, names that are no image's, and paths of several kinds."""
    litter, names = [], []
    kinds: dict[str, Counter[str]] = {}
    first: dict[tuple[str, str], int] = {}
    folders: dict[str, str] = {}
    for row, record in enumerate(lists.records):
        name = record.uri if record.member is None else record.member.name
        hit = _LITTER.search(name)
        if hit is not None:
            litter.append(Group((row,), _WHY[hit.lastgroup or ""]))
        elif record.member is None and not _is_named(name):
            names.append(Group((row,)))
        if record.line and record.member is None:
            if record.source not in folders:
                folders[record.source] = storage.resolve("", record.source)
            kind = _kind(record, folders[record.source])
            kinds.setdefault(record.source, Counter())[kind] += 1
            first.setdefault((record.source, kind), row)
    return [
        *finding(
            "suspicious_paths", "doubtful", "paths look like something else than an image of yours",
            "Remove these lines; make the list from the images alone.", litter,
        ),
        *finding(
            "odd_names", "note", "names do not end as an image's name does",
            "Images are read by their content, so this does no harm if they are images.", names,
        ),
        *finding(
            "mixed_paths", "note", "lists mix paths of several kinds",
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


def _is_named(uri: str) -> bool:
    """Whether a URI ends as an image's name does; quickly where it does."""
    if uri.lower().endswith(IMAGE_SUFFIXES):
        return True
    return storage.public(uri).lower().endswith(IMAGE_SUFFIXES)


def _kind(record: Record, folder: str) -> str:
    """How a path stands to the folder of its list; one below it counts as relative."""
    uri = record.uri
    if folder and uri.startswith(folder):
        return "relative"
    if storage.is_remote(uri):
        return f"in {uri.partition('://')[0]}://"
    return "absolute" if uri[:1] == "/" or uri.startswith("file://") else "relative"
