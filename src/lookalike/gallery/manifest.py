"""What an index consists of: one small file, replaced as a whole.

    manifest.json               which segments count, and which of their files
    segments/000007/
        vectors.npy             (n, D) float32, unit length
        rows.arrow              id, label, image, version of each of the n rows
        dead-12.npy             bits of the rows that were removed or replaced
        codes.npy, scales.npy   the vectors as int8, where they are used
        ivf-12.faiss            faiss's structure, where it is used
    lock                        held by the one who writes

Files never change once the manifest names them. A writer makes new ones, brings them to the disk,
renames a new manifest over the old one, and only then removes what nobody names. So whoever is
killed, whenever: the manifest that is there names whole files, all of the state before or after.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lookalike.errors import RunError

FILE = "manifest.json"
FORMAT = "lookalike index 1"


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
    """

    name: str
    count: int
    dead: int = 0
    dead_file: str | None = None
    search: str = "float32"
    near_file: str | None = None
    effort: int = 0
    slack: float = 0.0

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
        return {name for name in names if name is not None}


@dataclass(frozen=True)
class Manifest:
    """The state of an index.

    Attributes:
        model: the fingerprint of the embedder; "" where vectors came from elsewhere.
        dim: numbers D of a vector.
        kind: "auto", "exact", "int8", "ivf" or "hnsw".
        generation: counts the changes.
        segments: oldest first.
    """

    model: str
    dim: int
    kind: str
    generation: int = 0
    segments: tuple[Entry, ...] = ()

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
        RunError: there is none, or it is of another format.
    """
    try:
        values = json.loads((folder / FILE).read_text("utf-8"))
        if values.pop("format") != FORMAT:
            raise RunError(f"{folder}: an index of another version of lookalike; build it anew")
        segments = tuple(Entry(**entry) for entry in values.pop("segments"))
        return Manifest(**values, segments=segments)
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{folder}: no index here ({FILE} is missing)") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{folder / FILE}: broken ({error}); build the index anew") from None


def write(folder: Path, manifest: Manifest) -> None:
    """Make `manifest` the state of the index: from here on it counts, not a moment before."""
    text = json.dumps({"format": FORMAT, **asdict(manifest)}, indent=1) + "\n"
    aside = folder / f".{FILE}.partial"
    with aside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(folder / FILE)
    sync(folder)


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
