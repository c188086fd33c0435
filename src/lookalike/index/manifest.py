"""The manifest of an index: one small file that names all others, replaced as a whole.

    manifest.json               which segments count, and which of their files, with checksums
    segments/000007/
        vectors.npy             (n, D) float32, unit length
        rows.arrow              id, label, image, version of each of the n rows
        dead-12.npy             tombstones: bits of the rows that were deleted or replaced
        codes.npy, scales.npy   the vectors as int8, where they are used
    lock                        held by the process that writes

Files never change once the manifest names them. A writer makes new ones, brings them to the disk,
renames a new manifest over the old one, and only then removes files that it does not name. So
after a kill at any moment the manifest names whole files, all of the state before or all of the
state after.

All names are checked when the manifest is read: they are of the forms above, and neither they nor
the folder of the segments are links to another place. So nothing outside of the index is read,
written or removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from lookalike.errors import RunError, reason_of
from lookalike.storage.atomic import replacing
from lookalike.storage.checked_json import read_checked
from lookalike.storage.local_files import writing

FILE = "manifest.json"
FORMAT = "lookalike index 3"
MOST_DIM = 2**20
FIX = "restore the index from a copy, or remove its folder and build it again"

_Count = Annotated[int, Field(ge=0, le=2**48, strict=True)]
_Dim = Annotated[int, Field(ge=1, le=MOST_DIM, strict=True)]
_Tombstones = Annotated[str, Field(pattern=r"^dead-[0-9]{1,18}\.npy$")]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class SegmentEntry:
    """A segment in the manifest.

    Attributes:
        name: its folder.
        count: rows, deleted ones included.
        deleted: deleted rows.
        tombstones: the file with their bits; None where no row is deleted.
        search: what a search reads first.
        slack: for "int8", the largest length of the part of a vector that its codes leave out.
        digests: the SHA-256 of all files by their name.
    """

    name: Annotated[str, Field(pattern=r"^[0-9]{6,18}$")]
    count: _Count
    deleted: _Count = 0
    tombstones: _Tombstones | None = None
    search: Literal["float32", "int8"] = "float32"
    slack: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    digests: dict[str, _Digest] = field(default_factory=dict, compare=False)

    @property
    def live(self) -> int:
        """Rows that can be found."""
        return self.count - self.deleted

    @property
    def files(self) -> set[str]:
        """The names of all its files."""
        names = {"vectors.npy", "rows.arrow"}
        if self.tombstones is not None:
            names.add(self.tombstones)
        if self.search == "int8":
            names |= {"codes.npy", "scales.npy"}
        return names

    def replaced(self, digests: dict[str, str], **changes: Any) -> SegmentEntry:
        """This segment with other files, and without the checksums of replaced ones."""
        new = replace(self, **changes)
        kept = {name: value for name, value in self.digests.items() if name in new.files}
        return replace(new, digests=kept | digests)


@dataclass(frozen=True)
class Manifest:
    """The state of an index.

    Attributes:
        model: the fingerprint of the embedder; "" where vectors came from elsewhere.
        dim: numbers D of a vector.
        generation: counts the changes.
        segments: oldest first.
        id: of this index, made with it.
    """

    model: Annotated[str, Field(pattern=r"^[0-9a-f]{0,64}$")]
    dim: _Dim
    kind: Literal["auto", "exact", "int8"]
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    generation: _Count = 0
    segments: tuple[SegmentEntry, ...] = ()

    @classmethod
    def new(cls, model: str, dim: int, kind: Any) -> Manifest:
        """The state of an index without images."""
        return cls(model, dim, kind, uuid.uuid4().hex)

    @property
    def live(self) -> int:
        """Images that can be found."""
        return sum(entry.live for entry in self.segments)

    def with_segments(self, segments: list[SegmentEntry]) -> Manifest:
        """The next state, without segments that have no live rows."""
        kept = tuple(entry for entry in segments if entry.live)
        return replace(self, segments=kept, generation=self.generation + 1)


def read(folder: Path) -> Manifest:
    """The manifest of an index.

    Raises:
        RunError: there is none, it is of another format, damaged, or names files that are not its
            own.
    """
    try:
        text = (folder / FILE).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{folder}: no index here ({FILE} is missing)") from None
    except OSError as error:
        raise RunError(f"{folder / FILE}: cannot be read: {reason_of(error)}") from None
    try:
        values = json.loads(text)
        if values.pop("format") != FORMAT:
            raise RunError(
                f"{folder / FILE}: an index of another version of lookalike, or damaged; {FIX}"
            )
        if values.pop("digest") != _digest_of(values):
            raise RunError(f"{folder / FILE}: damaged: not what was written; {FIX}")
        found = read_checked(json.dumps(values), Manifest, f"{folder / FILE}: broken", FIX)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(f"{folder / FILE}: broken ({error}); {FIX}") from None
    _check_names(folder, found)
    return found


def _check_names(folder: Path, found: Manifest) -> None:
    """Refuse segments that are named twice or lie elsewhere, and unknown files."""
    names = [entry.name for entry in found.segments]
    if len(set(names)) < len(names):
        raise RunError(f"{folder / FILE}: broken (a segment is named twice); {FIX}")
    for entry in found.segments:
        if others := entry.digests.keys() - entry.files:
            raise RunError(f"{folder / FILE}: broken (unknown file {min(others)!r}); {FIX}")
        if entry.deleted > entry.count:
            raise RunError(f"{folder / FILE}: broken ({entry.deleted} of {entry.count}); {FIX}")
    check_links(folder, names)


def check_links(folder: Path, names: list[str]) -> None:
    """Refuse an index whose segments are links to another place.

    Raises:
        RunError: one is.
    """
    places = [folder / "segments", *(folder / "segments" / name for name in names)]
    for place in places:
        if place.is_symlink():
            raise RunError(
                f"{place}: is a link; an index holds its files itself: copy them into its folder"
            )


def _digest_of(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def write(folder: Path, manifest: Manifest) -> None:
    """Make `manifest` the state of the index.

    Raises:
        StorageError: it cannot be written.
    """
    values = TypeAdapter(Manifest).dump_python(manifest)
    about = {"format": FORMAT, "digest": _digest_of(values)}
    text = json.dumps({**about, **values}, indent=1) + "\n"
    with writing(folder / FILE), replacing(folder / FILE) as partial:
        partial.write_text(text, "utf-8")
        _make_newer(partial, folder / FILE)


def _make_newer(file: Path, than: Path) -> None:
    """Give a file a later time than another one, however coarse the clock of the file system is.

    Readers distinguish manifests by it, as file systems reuse inode numbers of removed files.
    """
    if than.exists() and os.stat(file).st_mtime_ns <= os.stat(than).st_mtime_ns:
        # A microsecond, as some file systems keep no less.
        later = os.stat(than).st_mtime_ns + 1000
        os.utime(file, ns=(later, later))


def stamp(folder: Path) -> tuple[int, int]:
    """Changes whenever the manifest does."""
    status = os.stat(folder / FILE)
    return status.st_ino, status.st_mtime_ns
