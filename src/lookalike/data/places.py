"""The images that people name on a command line: folders, lists, tables, patterns, single files."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from lookalike import storage
from lookalike.data import folder, parquet, read_records
from lookalike.data.annotation import IMAGE_SUFFIXES, all_bad, quoted, unusable
from lookalike.data.record import Record
from lookalike.errors import DataError

_LISTS = (
    *(".txt", ".lst", ".list", ".csv", ".tsv", ".json", ".jsonl", ".manifest"),
    *(".parquet", ".arrow", ".tar", ".tgz"),
)
_RANGE = re.compile(r"\{\d+\.\.\d+\}")


def read_places(places: Sequence[str | Path]) -> list[Record]:
    """The images that `places` name, in the order of the places; labels where they are known.

    - A folder is searched whole, sorted, and so are a ZIP archive and a folder in one; an image's
      label is the name of the folder right below.
    - A file whose name ends as a list or a table does is read as one (`read_records`, in which
      images without labels are welcome); so is one with `.gz` behind.
    - A name with `*` or `[...]` (or, on this machine, `?`) that is no file itself stands for the
      files that it fits, sorted; `**` for any number of folders. Each is an image or a list.
    - Anything else is an image.

    Raises:
        StorageError: a place cannot be read.
        DataError: a place does not exist or holds no image, or a list has bad lines.
    """
    records: list[Record] = []
    for place in map(str, places):
        records += _read(place)
    if not records:
        raise DataError("no images: name folders, lists or images")
    odd = [record for record in records if unusable(record.uri)]
    if odd:
        raise all_bad(
            odd, lambda record: f"{quoted(record.uri)} holds a control character; rename it"
        )
    return records


def _read(place: str) -> list[Record]:
    remote = storage.is_remote(place)
    path = storage.local_path(place)
    if _is_list(place):
        if not remote and not os.path.exists(path) and not _RANGE.search(path):
            return _fitting(place)
        return read_records(place, labelled=False)
    name = storage.split_query(place)[0] if remote else path
    if (
        name.lower().endswith(IMAGE_SUFFIXES)
        and "*" not in name
        and (remote or storage.exists(place))
    ):
        return [Record(place, "", storage.public(place), 0)]
    if storage.is_folder(place):
        return _folder(place)
    if not remote and storage.exists(place):
        return [Record(place, "", place, 0)]
    return _fitting(place)


def _is_list(place: str) -> bool:
    name = storage.split_query(place)[0] if storage.is_remote(place) else place
    return name.lower().removesuffix(".gz").endswith(_LISTS) and "*" not in name


def _folder(place: str) -> list[Record]:
    """The images of a folder; those inside of the tables of a folder that has no other images."""
    try:
        return folder.read(place, labelled=False)
    except DataError:
        if not parquet.is_parquet(place):
            raise
    return parquet.read(place, labelled=False)


def _fitting(place: str) -> list[Record]:
    """What the files are that a pattern fits; a single image where it is none."""
    shown = storage.public(place)
    if storage.is_remote(place):
        name = storage.split_query(place)[0]
        if not any(mark in name for mark in "*["):
            return [Record(place, "", shown, 0)]  # an object without a suffix; reading it will tell
        found = _remote_files(place)
    else:
        path = storage.local_path(place)
        if not glob.has_magic(path):
            raise DataError(f"{shown}: no such file or folder")
        found = sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))
    known = (*IMAGE_SUFFIXES, ".zip")
    files = [file for file in found if file.lower().endswith(known) or _is_list(file)]
    if not files:
        raise DataError(f"{shown}: no images or lists fit this pattern")
    records: list[Record] = []
    for file in files:
        if _is_list(file):
            records += read_records(file, labelled=False)
        elif storage.is_archive(file):
            records += folder.read(file, labelled=False)
        else:
            records.append(Record(file, "", shown, 0))
    return records


def _remote_files(place: str) -> list[str]:
    """The files of object storage that a pattern fits, in order."""
    name, query = storage.split_query(place)
    fixed = re.split(r"[*\[]", name, maxsplit=1)[0].rsplit("/", 1)[0]
    rest = name[len(fixed) + 1 :]
    fits = re.compile(_pattern(rest), re.DOTALL)
    below = fixed + query
    return [
        storage.join(below, path) for path in storage.files_below(below) if fits.fullmatch(path)
    ]


def _pattern(text: str) -> str:
    """A pattern of paths as a regular expression; as `glob`, it leaves out hidden files."""
    parts = []
    for piece in re.split(r"(\*\*/|\*\*|\*|\[[^\]]*\])", text):
        if piece == "**/":
            parts.append(r"(?:[^/.][^/]*/)*")
        elif piece == "**":
            parts.append(".*")
        elif piece == "*":
            parts.append(
                "[^/]*" if parts and not parts[-1].endswith(("/", ")*")) else r"(?!\.)[^/]*"
            )
        elif piece[:1] == "[" and piece[-1:] == "]":
            parts.append("[" + piece[1:-1].replace("\\", r"\\").replace("!", "^", 1) + "]")
        elif piece:
            parts.append(re.escape(piece))
    return "".join(parts)
