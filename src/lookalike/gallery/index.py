"""An index: a folder of vectors with ids that is searched, added to and removed from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from lookalike import storage
from lookalike.data.decode import ImageSource
from lookalike.data.record import Record
from lookalike.data.source import PLAIN, Source
from lookalike.errors import DataError, RunError
from lookalike.gallery import approximate, manifest, upkeep
from lookalike.gallery.images import Images, stream
from lookalike.gallery.manifest import Manifest
from lookalike.gallery.searching import Neighbours, search, unit
from lookalike.gallery.segment import Rows
from lookalike.gallery.store import RETRIES, Store
from lookalike.inference import FinishedModel
from lookalike.model.embedder import Embedder

KINDS = ("auto", "exact", "int8", "ivf", "hnsw")


class Index(Store):
    """A gallery that can be searched.

    An id is there once: adding it again replaces its vector, label and place; where it comes twice
    in one call, the last counts. Every change is whole or not there, whatever is killed when, and
    readers see it at their next search. One process writes at a time; any number reads.

    Attributes:
        embedder: turns images into vectors; None where only vectors are used.
    """

    def __init__(self, path: str | Path, embedder: Embedder | FinishedModel | None = None) -> None:
        """Use `open`, `create` or `build`."""
        if storage.is_remote(str(path)):
            raise RunError(
                f"{storage.public(str(path))}: an index is mapped into memory; give a folder of "
                "this machine"
            )
        super().__init__(Path(storage.local_path(str(path))))
        self.embedder = embedder
        self._check_model()

    @classmethod
    def open(cls, path: str | Path, embedder: Embedder | FinishedModel | None = None) -> Index:
        """An index that is there.

        Raises:
            RunError: there is none, it is damaged, or it was built with another model.
        """
        return cls(path, embedder)

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        embedder: Embedder | FinishedModel | None = None,
        dim: int | None = None,
        kind: str = "auto",
    ) -> Index:
        """A new index without images.

        Args:
            path: the folder, which is made.
            embedder: whose vectors it will hold.
            dim: numbers of a vector, without an embedder.
            kind: how it is searched. "exact": all rows in float32. "int8": all rows, first by
                8 bits a number; finds the same. "ivf", "hnsw": by faiss, nearly the same. "auto":
                "int8", and "ivf" from a million images on where faiss is installed.

        Raises:
            RunError: there is an index or something else.
            MissingExtraError: `kind` needs faiss.
            DataError: an unknown kind.
        """
        if kind not in KINDS:
            raise DataError(f"kind={kind!r} is not one of {', '.join(KINDS)}")
        if kind in approximate.KINDS:
            approximate.faiss()
        if embedder is None and dim is None:
            raise DataError("an index of vectors needs their dimension: dim=")
        if storage.is_remote(str(path)):
            return cls(path, embedder)  # says what is wrong
        folder = Path(storage.local_path(str(path)))
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            what = "holds an index already" if (folder / manifest.FILE).exists() else "is not empty"
            raise RunError(f"{folder}: {what}; choose another place, or add to the index")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise RunError(f"{folder}: cannot be made: {reason}") from None
        model = "" if embedder is None else embedder.fingerprint()
        size = dim if embedder is None else embedder.embedding_dim
        assert size is not None
        manifest.write(folder, Manifest(model, size, kind))
        return cls(folder, embedder)

    @classmethod
    def build(
        cls,
        embedder: Embedder | FinishedModel,
        images: Sequence[Record | ImageSource],
        path: str | Path,
        *,
        ids: Sequence[str] | None = None,
        labels: Sequence[str | None] | None = None,
        kind: str = "auto",
        threads: int = 4,
    ) -> Index:
        """A new index of images; see `create` and `add`. What is killed can be opened, added to."""
        index = cls.create(path, embedder=embedder, kind=kind)
        index._add_images(Images.of(images, ids, labels, None), threads)
        index.compact()
        return index

    def add(
        self,
        images: Sequence[Record | ImageSource] | None = None,
        *,
        vectors: np.ndarray | None = None,
        ids: Sequence[str] | None = None,
        labels: Sequence[str | None] | None = None,
        versions: Sequence[int] | None = None,
        threads: int = 4,
        source: Source = PLAIN,
    ) -> int:
        """Add images, or vectors.

        Images go in as they are embedded, about once a minute: what is killed keeps what is in.

        Args:
            images: paths, URIs, records, encoded bytes, PIL images or arrays; their ids are their
                paths, unless `ids` are given. Those that cannot be read are named in warnings.
            vectors: (N, D) floats of any length but zero, with `ids`, or of `images`, which are
                then not looked at.
            ids: one for each.
            labels: one for each, None where it is not known; those of records by default.
            versions: numbers that change with the image, for whoever compares; 0 by default.
            threads: that read and decode.
            source: of the bytes of paths, URIs and records.

        Returns:
            How many were added or replaced.

        Raises:
            DataError: vectors or ids that cannot be; an image in memory that cannot be read.
            RunError: images, but no embedder.
            StorageError: another process is writing.
        """
        if images is None and (vectors is None or ids is None):
            raise DataError("give images, or vectors with their ids")
        # What has only an id is taken for an image of that path: there may be one.
        listed = Images.of(images if images is not None else list(ids or ()), ids, labels, versions)
        if vectors is None:
            added = self._add_images(listed, threads, source)
        else:
            given = unit(np.asarray(vectors), self.dim)
            if len(given) != listed.given:
                raise DataError(f"{len(given)} vectors of {listed.given} images")
            added = self.append(listed.rows(range(len(listed.ids)), given[listed.kept]))
        self.settle()
        return added

    def _add_images(self, images: Images, threads: int, source: Source = PLAIN) -> int:
        if self.embedder is None:
            raise RunError(f"{self.path}: opened without an embedder: give one, or add vectors")
        return sum(
            self.append(Rows(unit(rows.vectors, self.dim), rows.table))
            for rows in stream(self.embedder, images, threads=threads, source=source)
        )

    def remove(self, ids: Iterable[str]) -> int:
        """Remove images; those that are not there are no mistake.

        Returns:
            How many were removed.
        """
        wanted = pa.array(dict.fromkeys(ids), pa.large_string())
        with self.writing():
            entries = [self.bury(some, wanted) for some in self.segments]
            before = self.state.live
            self.commit(entries)
            removed = before - self.state.live
        self.settle()
        return removed

    def search(
        self,
        queries: np.ndarray | Sequence[ImageSource],
        k: int = 10,
        *,
        exact: bool = False,
    ) -> Neighbours:
        """The k nearest images to each query by cosine.

        Args:
            queries: (Q, D) vectors of any length but zero, or images.
            k: how many.
            exact: look at all rows, also where faiss would be quicker.

        Raises:
            DataError: wrong vectors, or k below 1.
            RunError: images, but no embedder.
            MissingExtraError: a part of the index needs faiss, which is not installed.
        """
        if k < 1:
            raise DataError(f"k={k} must be at least 1")
        if isinstance(queries, np.ndarray):
            asked = unit(queries, self.dim)
        elif self.embedder is None:
            raise RunError(f"{self.path}: opened without an embedder: search with vectors")
        else:
            asked = unit(self.embedder.embed(queries), self.dim)
        for _ in range(RETRIES):
            self.refresh()
            try:
                return search(self.segments, asked, k, exact)
            except FileNotFoundError as error:  # a writer was quicker; it left a newer manifest
                lost = error
        raise RunError(f"{lost.filename or lost}: is missing; build the index anew")

    @property
    def dim(self) -> int:
        """Numbers D of a vector."""
        return self.state.dim

    @property
    def model(self) -> str:
        """The fingerprint of the embedder; "" where the vectors came from elsewhere."""
        return self.state.model

    def compact(self) -> None:
        """Make one segment of all, without what was removed."""
        with self.writing():
            upkeep.merge_all(self)

    def settle(self) -> None:
        """Merge small segments and drop what died, where that is due; `add` and `remove` do it."""
        with self.writing():
            upkeep.settle(self)

    def _check_model(self) -> None:
        if self.embedder is None:
            return
        built, own = self.state.model, self.embedder.fingerprint()
        if built != own:
            of = f"another model ({built[:8]}; this one is {own[:8]})" if built else "bare vectors"
            raise RunError(
                f"{self.path}: the index is of {of}, and vectors of different models cannot be "
                "compared; use the model it was built with, or build another index"
            )
