"""A folder of parts: vectors that are done, while others are still to be made.

    manifest.json     what was asked: the model, the images, how many and of which dimension
    000012.part       safetensors: rows and vectors of the part, and which images were bad

A part appears whole, by a rename, after its bytes are on the disk. So whatever was killed, the
parts that are there are right, and the others are made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save_file

from lookalike import storage
from lookalike.data.record import Record
from lookalike.errors import RunError
from lookalike.storage.local_files import usual_mode, writing

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Request:
    """What was asked for; parts of different requests are never mixed.

    Attributes:
        model: the embedder's fingerprint.
        images: the fingerprint of the list, `fingerprint_of`.
        count: images N.
        dim: numbers D of a vector.
        size: images of a part.
        trained: the fingerprint of the trained model with whose vectors these may be compared.
    """

    model: str
    images: str
    count: int
    dim: int
    size: int
    trained: str = ""

    @property
    def parts(self) -> int:
        """How many parts there are."""
        return -(-self.count // self.size)

    def rows(self, number: int) -> range:
        """The images of a part."""
        return range(number * self.size, min((number + 1) * self.size, self.count))


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        rows: (M,) int64, ascending: the images that could be read.
        vectors: (M, D) float32.
        bad: why the others could not be.
    """

    rows: np.ndarray
    vectors: np.ndarray
    bad: dict[int, str]


class Parts:
    """The parts of a request, in a folder of this machine.

    Args:
        folder: of the parts.
        request: what was asked.
    """

    def __init__(self, folder: Path, request: Request) -> None:
        self.folder = folder
        self.request = request

    def begin(self, *, restart: bool) -> None:
        """Make the folder, or go on with one of the same request.

        Args:
            restart: drop what is there.

        Raises:
            RunError: what is there belongs to another request.
        """
        if restart:
            shutil.rmtree(self.folder, ignore_errors=True)
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        manifest = self.folder / MANIFEST
        if manifest.exists():
            self._compare(_object(manifest))
        else:  # without it no part counts
            for path in self.folder.glob("*.part*"):
                path.unlink()
            storage.write_bytes(str(manifest), json.dumps(asdict(self.request)).encode())

    def _compare(self, before: dict[str, object]) -> None:
        now = asdict(self.request)
        if before == now:
            return
        what = "another model" if before.get("model") != now["model"] else "another list of images"
        if before.get("images") == now["images"] and before.get("model") == now["model"]:
            what = "another version of lookalike"
        raise RunError(
            f"{self.folder}: holds parts of {what} ({len(self.done())} of them, "
            f"{before.get('count')} images asked for then, {now['count']} now), which are never "
            "mixed; repeat the first command to finish it, or add --restart to drop them"
        )

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.part"

    def done(self) -> set[int]:
        """The numbers of the parts that are there."""
        return {int(path.stem) for path in self.folder.glob("*.part")}

    def missing(self) -> list[int]:
        """The numbers of the parts that are still to be made."""
        done = self.done()
        return [number for number in range(self.request.parts) if number not in done]

    def write(self, number: int, part: Part) -> None:
        """Keep a part."""
        aside = self._path(number).with_suffix(".partial")
        bad = json.dumps({str(row): reason for row, reason in part.bad.items()})
        tensors = {"rows": part.rows, "vectors": part.vectors}
        with writing(self.folder):
            with usual_mode(aside):
                save_file(tensors, aside, metadata={"bad": bad})
            with aside.open("rb+") as stream:
                os.fsync(stream.fileno())
            aside.replace(self._path(number))

    def read(self, number: int) -> Part:
        """A part that was kept.

        Raises:
            RunError: it is damaged.
        """
        with self._stored(number) as stored:
            rows, vectors = stored.get_tensor("rows"), stored.get_tensor("vectors")
            bad = json.loads(stored.metadata()["bad"])
        return Part(rows, vectors, {int(row): reason for row, reason in bad.items()})

    def sizes(self) -> int:
        """How many vectors all parts have together, by their headers.

        Raises:
            RunError: a part is damaged.
        """
        total = 0
        for number in range(self.request.parts):
            with self._stored(number) as stored:
                total += stored.get_slice("rows").get_shape()[0]
        return total

    @contextmanager
    def _stored(self, number: int) -> Iterator[Any]:
        """The open file of a part; an error inside the block means that it is damaged."""
        path = self._path(number)
        try:
            with safetensors.safe_open(path, "numpy") as stored:
                yield stored
        except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
            raise RunError(f"{path}: damaged ({error}); remove it and go on") from None

    def remove(self) -> None:
        """Drop the folder; what names its parts goes first, so that no rest of it is believed."""
        (self.folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(self.folder)


def _object(manifest: Path) -> dict[str, object]:
    """The content of a manifest.

    Raises:
        RunError: it is broken.
    """
    try:
        found = json.loads(manifest.read_bytes())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise RunError(f"{manifest}: is broken; add --restart to drop what is done")
    return found


def by_part(
    batches: Iterable[tuple[np.ndarray, np.ndarray]], numbers: Sequence[int], request: Request
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Number, rows and vectors of one part after the other, also of those that have none.

    Args:
        batches: (b,) rows and (b, D) vectors, in the order of the parts; none is in two parts.
        numbers: of the parts that the batches are of, ascending.
        request: of the parts.
    """
    rows: list[np.ndarray] = []
    vectors: list[np.ndarray] = []

    def collected() -> tuple[np.ndarray, np.ndarray]:
        empty = np.empty((0, request.dim), np.float32)
        both = np.concatenate([np.empty(0, np.int64), *rows]), np.concatenate([empty, *vectors])
        rows.clear()
        vectors.clear()
        return both

    waiting = list(reversed(numbers))
    for some, their in batches:
        # Batches come in order: what a later part's begins, ends all before it.
        while int(some[0]) // request.size != waiting[-1]:
            yield waiting.pop(), *collected()
        rows.append(some)
        vectors.append(their)
    while waiting:
        yield waiting.pop(), *collected()


def fingerprint_of(records: Sequence[Record]) -> str:
    """32 hexadecimal digits of what a list asks for: images, parts of them, labels, order."""
    digest = hashlib.sha256()
    for text in _lines(records):
        digest.update(text.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def _lines(records: Sequence[Record]) -> Iterator[str]:
    for record in records:
        box = record.details.box if record.details is not None else None
        where = record.member and (record.member.offset, record.member.size)
        yield f"{record.uri}\0{record.label}\0{where or ''}\0{box or ''}\n"
