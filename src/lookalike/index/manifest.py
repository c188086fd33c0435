"""What an index consists of: one small file, replaced as a whole.

    manifest.json               which segments count, and which of their files, with checksums
    segments/000007/
        vectors.npy             (n, D) float32, unit length
        rows.arrow              id, label, image, version of each of the n rows
        dead-12.npy             bits of the rows that were removed or replaced
        codes.npy, scales.npy   the vectors as int8, where they are used
        ivf-12.faiss            faiss's structure, where it is used
        NAME.npy.sums           checksums of the blocks of vectors.npy and codes.npy
    lock                        held by the one who writes

Files never change once the manifest names them. A writer makes new ones, brings them to the disk,
renames a new manifest over the old one, and only then removes what nobody names. So whoever is
killed, whenever: the manifest that is there names whole files, all of the state before or after.

All names are checked when the manifest is read: they are of the forms above, and neither they nor
the folder of the segments are links to somewhere else. So nothing outside of the index is read,
written or removed.
"""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from lookalike.errors import RunError
from lookalike.index.block_checksums import WAY_OUT, digest
from lookalike.storage.checked_json import read_checked
from lookalike.storage.local_files import writing

FILE = "manifest.json"
FORMAT = "lookalike index 2"
_OLD_FORMAT = "lookalike index 1"  # without checksums
MOST_DIM = 2**20

_Count = Annotated[int, Field(ge=0, le=2**48, strict=True)]
_Dim = Annotated[int, Field(ge=1, le=MOST_DIM, strict=True)]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Entry:
    """A segment, as the manifest names it.

    Attributes:
        name: its folder.
        count: rows, those that are dead included.
        dead: how many are.
        dead_file: the file that says which; None where none is.
        search: "float32", "int8", "ivf" or "hnsw": how it is searched.
        near_file: faiss's file for the last two.
        effort: lists that are probed, or candidates that are kept, for the last two.
        slack: for "int8": how long the part of a vector is, at most, that its codes leave out.
        digests: the SHA-256 of files by their name; of mapped ones, that of their checksums.
    """

    name: Annotated[str, Field(pattern=r"^[0-9]{6,18}$")]
    count: _Count
    dead: _Count = 0
    dead_file: Annotated[str, Field(pattern=r"^dead-[0-9]{1,18}\.npy$")] | None = None
    search: Literal["float32", "int8", "ivf", "hnsw"] = "float32"
    near_file: Annotated[str, Field(pattern=r"^(ivf|hnsw)-[0-9]{1,18}\.faiss$")] | None = None
    effort: _Count = 0
    slack: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    digests: dict[str, _Digest] = field(default_factory=dict, compare=False)

    @property
    def live(self) -> int:
        """Rows that can be found."""
        return self.count - self.dead

    @property
    def files(self) -> set[str]:
        """The names of all its files."""
        names = {"vectors.npy", "rows.arrow", self.dead_file, self.near_file}
        if self.search == "int8":
            names |= {"codes.npy", "scales.npy"}
        return {name for name in names if name is not None} | self.digests.keys()

    def replaced(self, digests: dict[str, str], **changes: Any) -> Entry:
        """This segment with other files, and without the checksums of those that are gone."""
        new = replace(self, **changes, digests={})
        kept = {name: value for name, value in self.digests.items() if _belongs(name, new.files)}
        return replace(new, digests=kept | digests)


def _belongs(name: str, files: set[str]) -> bool:
    return name.removesuffix(".sums") in files


@dataclass(frozen=True)
class Manifest:
    """The state of an index.

    Attributes:
        model: the fingerprint of the embedder; "" where vectors came from elsewhere.
        dim: numbers D of a vector.
        kind: "auto", "exact", "int8", "ivf" or "hnsw".
        generation: counts the changes.
        segments: oldest first.
        id: of this index, made with it; "" for older ones.
    """

    model: Annotated[str, Field(pattern=r"^[0-9a-f]{0,64}$")]
    dim: _Dim
    kind: Literal["auto", "exact", "int8", "ivf", "hnsw"]
    generation: _Count = 0
    segments: tuple[Entry, ...] = ()
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{0,32}$")] = ""

    @classmethod
    def new(cls, model: str, dim: int, kind: Any) -> Manifest:
        """That of an index without images."""
        return cls(model, dim, kind, id=uuid.uuid4().hex)

    @property
    def live(self) -> int:
        """Images that can be found."""
        return sum(entry.live for entry in self.segments)

    def with_segments(self, segments: list[Entry]) -> Manifest:
        """The next state, without segments in which nothing is left."""
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
        reason = (error.strerror or "").lower()
        raise RunError(f"{folder / FILE}: cannot be read: {reason}") from None
    try:
        values = json.loads(text)
        form = values.pop("format")
        if form not in (FORMAT, _OLD_FORMAT):
            raise RunError(
                f"{folder / FILE}: an index of another version of lookalike, or damaged; {WAY_OUT}"
            )
        expected = values.pop("digest") if form == FORMAT else None
        if expected is not None and digest(_canonical(values)) != expected:
            raise RunError(f"{folder / FILE}: damaged: not what was written; {WAY_OUT}")
        found = read_checked(json.dumps(values), Manifest, f"{folder / FILE}: broken", WAY_OUT)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(f"{folder / FILE}: broken ({error}); {WAY_OUT}") from None
    _check_names(folder, found)
    return found


def _check_names(folder: Path, found: Manifest) -> None:
    """Each segment is named once, and lies in the index itself."""
    names = [entry.name for entry in found.segments]
    if len(set(names)) < len(names):
        raise RunError(f"{folder / FILE}: broken (a segment is named twice); {WAY_OUT}")
    for entry in found.segments:
        known = entry.replaced({}).digests.keys()
        others = [name for name in entry.digests if name not in known]
        if others:
            raise RunError(f"{folder / FILE}: broken (unknown file {others[0]!r}); {WAY_OUT}")
        if entry.dead > entry.count:
            raise RunError(f"{folder / FILE}: broken ({entry.dead} of {entry.count}); {WAY_OUT}")
    check_links(folder, names)


def check_links(folder: Path, names: list[str]) -> None:
    """Refuse an index whose segments are links: what they name lies elsewhere.

    Raises:
        RunError: one is.
    """
    places = [folder / "segments", *(folder / "segments" / name for name in names)]
    for place in places:
        if place.is_symlink():
            raise RunError(
                f"{place}: is a link; an index holds its files itself: copy them into its folder"
            )


def _canonical(values: dict[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True).encode()


def write(folder: Path, manifest: Manifest) -> None:
    """Make `manifest` the state of the index: from here on it counts, not a moment before.

    Raises:
        StorageError: it cannot be written.
    """
    values = asdict(manifest)
    about = {"format": FORMAT, "digest": digest(_canonical(values))}
    text = json.dumps({**about, **values}, indent=1) + "\n"
    aside = folder / f".{FILE}.partial"
    with writing(folder / FILE):
        aside.unlink(missing_ok=True)  # it may be a link
        with aside.open("x", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        _make_newer(aside, folder / FILE)
        aside.replace(folder / FILE)
        sync(folder)


def _make_newer(file: Path, than: Path) -> None:
    """Give a file a later time than another one, however coarse the clock of the file system is.

    Readers tell manifests apart by it: the number of a removed file is given again.
    """
    if than.exists() and os.stat(file).st_mtime_ns <= os.stat(than).st_mtime_ns:
        # A microsecond, as some file systems keep no less.
        later = os.stat(than).st_mtime_ns + 1000
        os.utime(file, ns=(later, later))


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def stamp(folder: Path) -> tuple[int, int]:
    """Changes whenever the manifest does."""
    status = os.stat(folder / FILE)
    return status.st_ino, status.st_mtime_ns
