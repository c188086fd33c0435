"""`Index`: a folder of vectors with ids, to be searched and changed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lookalike import storage
from lookalike.data.inputs import place_of
from lookalike.data.loading.image_source import PLAIN, Source
from lookalike.data.record import Record
from lookalike.errors import DataError, RunError
from lookalike.index import compaction, faiss_library, manifest, new_images
from lookalike.index.manifest import MOST_DIM, Manifest
from lookalike.index.new_images import NewImages
from lookalike.index.segment import SegmentRows
from lookalike.index.segment_search import (
    SearchHits,
    checked_k,
    normalized,
    search,
    vectors_in,
)
from lookalike.index.store import RETRIES, Store, Texts, ids_of, texts_of
from lookalike.model import user_images
from lookalike.model.embedder import Embedder
from lookalike.model.inference import FinishedModel
from lookalike.storage import Place
from lookalike.storage.file_lock import locked

ImagesOrRecords = user_images.Images | Record | Iterable[Record]
"""One image or several, as `Embedder.embed` takes them, or records of a list."""

Labels = str | Iterable[str | None] | None

Kind = Literal["auto", "exact", "int8", "ivf", "hnsw"]
KINDS = ("auto", "exact", "int8", "ivf", "hnsw")


class Index(Store):
    """An index of images, searched by cosine.

    Ids are unique: adding one again replaces its vector, label and place; of the same ids in one
    call, the last counts. Each change is atomic, also when a process is killed, and readers see it
    at their next search. One process writes at a time; any number reads.

    Attributes:
        embedder: turns images into vectors; None where only vectors are used.
    """

    def __init__(self, path: Place, embedder: Embedder | FinishedModel | None = None) -> None:
        """Use `open`, `create` or `build`."""
        path = place_of("path", path)
        if storage.is_remote(path):
            raise RunError(
                f"{storage.public(os.fspath(path))}: an index is mapped into memory; give a folder "
                "of this machine"
            )
        super().__init__(Path(storage.local_path(os.fspath(path))))
        self.embedder = embedder
        self._check_model()

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies, in this process or in another, open the folder again."""
        return type(self), (self.path.absolute(), self.embedder)

    @classmethod
    def open(cls, path: Place, embedder: Embedder | FinishedModel | None = None) -> Index:
        """An existing index.

        Raises:
            RunError: there is none, it is damaged, or it was built with another model.
        """
        return cls(path, embedder)

    @classmethod
    def create(
        cls,
        path: Place,
        *,
        embedder: Embedder | FinishedModel | None = None,
        dim: int | None = None,
        kind: Kind | str = "auto",
    ) -> Index:
        """A new index without images.

        Args:
            path: the folder, which is made.
            embedder: whose vectors it will hold.
            dim: numbers of a vector, without an embedder.
            kind: of search. "exact": all rows in float32. "int8": all rows, first by 8 bits a
                number; finds the same. "ivf", "hnsw": by faiss, nearly the same. "auto":
                "int8", and "ivf" from a million images on where faiss is installed.

        Raises:
            RunError: there is an index or something else.
            MissingExtraError: `kind` needs faiss.
            DataError: an unknown kind.
        """
        path = place_of("path", path)
        _check_embedder(embedder)
        if kind not in KINDS:
            raise DataError(f"kind={kind!r} is not one of {', '.join(KINDS)}")
        if kind in faiss_library.KINDS:
            faiss_library.faiss()
        if embedder is None and dim is None:
            raise DataError("an index of vectors needs their dimension: dim=")
        size = embedder.embedding_dim if dim is None and embedder is not None else dim
        if isinstance(size, bool) or not isinstance(size, Integral) or not 1 <= size <= MOST_DIM:
            raise DataError(f"dim={size!r} must be an integer from 1 to {MOST_DIM:,}")
        if embedder is not None and size != embedder.embedding_dim:
            raise DataError(
                f"dim={size}, but the embedder's vectors have {embedder.embedding_dim} numbers; "
                "leave dim out"
            )
        if storage.is_remote(os.fspath(path)):
            return cls(path, embedder)  # raises
        folder = Path(storage.local_path(os.fspath(path)))
        _refuse_used(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise RunError(f"{folder}: cannot be made: {reason}") from None
        model = "" if embedder is None else embedder.trained_fingerprint()
        with locked(folder / "lock", f"{folder}: another process is writing here; try again"):
            _refuse_used(folder)  # another process may have made one meanwhile
            manifest.write(folder, Manifest.new(model, int(size), kind))
        return cls(folder, embedder)

    @classmethod
    def build(
        cls,
        embedder: Embedder | FinishedModel,
        images: ImagesOrRecords,
        path: Place,
        *,
        ids: Texts | None = None,
        labels: Labels = None,
        kind: str = "auto",
        threads: int = 4,
    ) -> Index:
        """A new index of images; see `create` and `add`. If killed, open it and add the rest."""
        index = cls.create(path, embedder=embedder, kind=kind)
        index._add_images(NewImages.of(images, ids, labels, None), threads)
        index.compact()
        return index

    def add(
        self,
        images: ImagesOrRecords | None = None,
        *,
        vectors: Any = None,
        ids: Texts | None = None,
        labels: Labels = None,
        versions: int | Iterable[int] | None = None,
        threads: int = 4,
        source: Source = PLAIN,
    ) -> int:
        """Add one image or several, or vectors.

        Images are written as they are embedded, about once a minute: a kill costs no more.

        Args:
            images: records, or what `Embedder.embed` takes; their ids are their paths, unless `ids`
                are given. Unreadable ones are named in warnings.
            vectors: an array or tensor (N, D) of floats of any length but zero, or one (D,), with
                `ids`, or of `images`, which are then not read.
            ids: one for each.
            labels: one for each, None where it is unknown; those of records by default.
            versions: numbers that change with the image; see `versions()`.
            threads: that read and decode.
            source: of the bytes of paths, URIs and records.

        Returns:
            The number of images that were added or replaced.

        Raises:
            DataError: invalid vectors or ids, or an unreadable image in memory.
            RunError: images, but no embedder.
            StorageError: another process is writing.
        """
        if images is None and (vectors is None or ids is None):
            raise DataError("give images, or vectors with their ids")
        # Vectors with ids alone: the ids are taken for paths of images.
        if images is None and not isinstance(ids, (str, os.PathLike)):
            ids = texts_of(ids)
        listed = NewImages.of(ids if images is None else images, ids, labels, versions)
        if vectors is None:
            added = self._add_images(listed, threads, source)
        else:
            found = vectors_in(vectors)
            if found is None:
                raise DataError("vectors must be an array or a tensor of floats, (N, D) or (D,)")
            found = normalized(found, self.dim)
            if len(found) != listed.given:
                raise DataError(f"{len(found)} vectors of {listed.given} images")
            added = self.append(listed.rows(range(len(listed.ids)), found[listed.kept]))
        self.compact_where_due()
        return added

    def _add_images(self, images: NewImages, threads: int, source: Source = PLAIN) -> int:
        if self.embedder is None:
            raise RunError(f"{self.path}: opened without an embedder: give one, or add vectors")
        return sum(
            self.append(SegmentRows(normalized(rows.vectors, self.dim), rows.table))
            for rows in new_images.embedded(self.embedder, images, threads=threads, source=source)
        )

    def remove(self, ids: Texts) -> int:
        """Remove one image or several, as far as they are in the index; returns their number."""
        wanted = ids_of(ids)
        with self.writing():
            entries = [self.delete_rows(one, wanted) for one in self.segments]
            before = self.state.live
            self.commit(entries)
            removed = before - self.state.live
        self.compact_where_due()
        return removed

    def search(
        self,
        queries: Any,
        k: int = 10,
        *,
        exact: bool = False,
        among: str | tuple[str, ...] | None = None,
    ) -> SearchHits:
        """The k nearest images to each query by cosine.

        Args:
            queries: vectors of any length but zero: an array or tensor (Q, D), or one (D,); or
                images, as `Embedder.embed` takes them. Arrays and tensors of one or two dimensions
                are vectors.
            k: how many; all images if there are fewer.
            exact: search all rows, also where faiss would be faster.
            among: a label or several: search images with one of them only, always exactly.

        Raises:
            DataError: wrong vectors or labels, or k below 1.
            RunError: images, but no embedder.
            MissingExtraError: a part of the index needs faiss, which is not installed.
        """
        k = checked_k(k)
        vectors = vectors_in(queries)
        if vectors is None:
            if self.embedder is None:
                raise RunError(f"{self.path}: opened without an embedder: search with vectors")
            vectors = np.atleast_2d(self.embedder.embed(queries))
        asked = normalized(vectors, self.dim)
        labels = None if among is None else texts_of(among)
        for _ in range(RETRIES):
            view = self.refresh()
            try:
                return search(view.segments, asked, k, exact, labels)
            except FileNotFoundError as error:  # replaced meanwhile: there is a newer manifest
                lost = error
        raise RunError(f"{lost.filename or lost}: is missing; build the index anew")

    @property
    def dim(self) -> int:
        """The dimension D of a vector."""
        return self.state.dim

    @property
    def model(self) -> str:
        """The fingerprint of the embedder; "" where the vectors came from elsewhere."""
        return self.state.model

    def compact(self) -> None:
        """Merge all segments and drop deleted rows."""
        with self.writing():
            compaction.merge_all(self)

    def compact_where_due(self) -> None:
        """Merge many small segments and drop many deleted rows, as `add` and `remove` do."""
        with self.writing():
            compaction.compact_where_due(self)

    def _check_model(self) -> None:
        if self.embedder is None:
            return
        _check_embedder(self.embedder)
        built, own = self.state.model, self.embedder.fingerprint()
        if built not in (own, self.embedder.trained_fingerprint()):
            of = (
                f"another model ({built[:8]}; this one is {own[:8]})"
                if built
                else "vectors without a model"
            )
            raise RunError(
                f"{self.path}: the index is of {of}, and vectors of different models cannot be "
                "compared; use the model it was built with, or build another index"
            )


def _check_embedder(embedder: object) -> None:
    if embedder is not None and not callable(getattr(embedder, "fingerprint", None)):
        raise DataError(
            f"embedder is of type {type(embedder).__name__}; give what lookalike.load(...) returns"
        )


def _refuse_used(folder: Path) -> None:
    """Raise a RunError if a folder is a file, an index, or has other things in it."""
    if not folder.is_dir():
        if folder.exists():
            raise RunError(f"{folder}: is a file; choose another place")
        return
    if (folder / manifest.FILE).exists():
        raise RunError(
            f"{folder}: holds an index already; choose another place, or add to the index"
        )
    if any(file.name != "lock" for file in folder.iterdir()):
        raise RunError(f"{folder}: is not empty; choose another place, or add to the index")
