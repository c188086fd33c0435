"""Images among the files of a folder, and the others that are skipped, counted by kind."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lookalike.data.decoding.image_formats import (
    IMAGE_SUFFIXES,
    OTHERS,
    READ,
    format_of,
    format_of_name,
)
from lookalike.data.decoding.pillow_plugins import has_plugin, is_plugin_format, missing
from lookalike.storage.archive import leads_out

# Files and folders of file managers, archivers and synchronisers, in lower case.
FOREIGN_FOLDERS = frozenset(
    [
        *("__macosx", ".appledouble", "$recycle.bin", "system volume information", "@eadir"),
        *("lost+found", ".ipynb_checkpoints", ".git"),
    ]
)
FOREIGN_FILES = frozenset([".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"])
FOREIGN_ENDS = ("~", ".tmp", ".part", ".crdownload", ".bak", ".swp")

# Suffixes of files beside images that are never read: there may be one for each image.
_NO_IMAGES = frozenset(
    [
        *(".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml"),
        *(".html", ".htm", ".log", ".lst", ".cls", ".toml", ".ini", ".py", ".ipynb", ".sh"),
        *(".npy", ".npz", ".pkl", ".pt", ".pth", ".mat", ".h5", ".hdf5", ".parquet", ".arrow"),
        *(".safetensors", ".onnx", ".tfrecord", ".lmdb", ".mdb", ".db", ".sqlite", ".md5"),
        *(".sha256", ".xmp", ".aae"),
    ]
)

# Kinds, which follow a count in messages.
HIDDEN = "hidden or left by another program"
OUTSIDE = "outside of all folders of classes"
_LEADING_OUT = "with a name that leads out of the archive"

# Formats that their owner may take for images.
_LIKE_IMAGES = frozenset(
    ["SVG", "PDF", "PostScript", "camera raw", "Photoshop", "OpenEXR", "Radiance", "DICOM", "FITS",
     "video", "git-lfs pointer", "git-annex pointer"]
)  # fmt: skip


@dataclass
class Skipped:
    """Skipped files of one kind.

    Attributes:
        kind: their suffix, or what they have in common.
        example: the path of one.
        reason: their format, and the fix; "" where there is nothing to fix.
        is_loss: whether they may be images that the user wants to be read.
    """

    kind: str
    count: int
    example: str
    reason: str = ""
    is_loss: bool = False

    def describe(self) -> str:
        """As `3 .heic (e.g. cat/1.heic: a HEIC image; install its reader: ...)`."""
        reason = f": {self.reason}" if self.reason else ""
        return f"{self.count:,} {self.kind} (e.g. {self.example}{reason})"


class SkipCounter:
    """The skipped files of one folder, by kind."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str], Skipped] = {}

    def add(self, kind: str, path: str, reason: str = "", *, is_loss: bool = False) -> None:
        """Count a file."""
        known = self._kinds.setdefault(
            (kind, reason), Skipped(kind, 0, path, reason, is_loss=is_loss)
        )
        known.count += 1

    def found(self) -> list[Skipped]:
        """The kinds, possible images first, then by count."""
        return sorted(self._kinds.values(), key=lambda each: (not each.is_loss, -each.count))


def describe(skipped: Sequence[Skipped]) -> str:
    """All kinds in a line, as `4 files skipped: 3 .heic (...), 1 .txt (...)`."""
    count = sum(each.count for each in skipped)
    files = "1 file" if count == 1 else f"{count:,} files"
    return f"{files} skipped: " + ", ".join(each.describe() for each in skipped)


def images_among(
    paths: Sequence[str], read_starts: Callable[[list[str]], list[bytes]], skips: SkipCounter
) -> list[str]:
    """The paths, relative to a folder, that are images, by suffix or else by content.

    `read_starts` reads the first bytes of some of them.
    """
    images: dict[str, bool] = {}
    unclear: list[str] = []
    for path in paths:
        name = path.rpartition("/")[2].lower()
        if leads_out(path):
            skips.add(_LEADING_OUT, path)
        elif _is_left_behind(path, name):
            skips.add(HIDDEN, path)
        elif name.endswith(IMAGE_SUFFIXES) and _is_read(format_of_name(name)):
            images[path] = True
        elif os.path.splitext(name)[1] in _NO_IMAGES:
            skips.add(os.path.splitext(name)[1], path)
        else:
            images[path] = False  # keeps its place
            unclear.append(path)
    for path, start in zip(unclear, read_starts(unclear) if unclear else [], strict=True):
        kind = format_of(start)
        if kind and _is_read(kind):
            images[path] = True
            continue
        suffix = os.path.splitext(path)[1].lower() or "without a suffix"
        if is_plugin_format(kind):
            skips.add(suffix, path, f"a {kind} image; {missing(kind)}", is_loss=True)
        elif kind in _LIKE_IMAGES:
            skips.add(suffix, path, OTHERS[kind], is_loss=True)
        else:
            skips.add(suffix, path, "" if start else "empty or unreadable")
    return [path for path, is_image in images.items() if is_image]


def _is_read(kind: str) -> bool:
    return kind in READ or has_plugin(kind)


def _is_left_behind(path: str, name: str) -> bool:
    if path[0] == "." or "/." in path or name in FOREIGN_FILES or name.endswith(FOREIGN_ENDS):
        return True
    return any(part in FOREIGN_FOLDERS for part in path.lower().split("/")[:-1])
