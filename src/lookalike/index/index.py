"""`Index`: vectors with ids, to be searched and changed, in a folder or a database."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any, Literal

import numpy as np

from lookalike.data.inputs import place_of
from lookalike.data.loading.image_source import Source
from lookalike.data.record import Record
from lookalike.errors import DataError, RunError
from lookalike.index import new_images
from lookalike.index.manifest import MOST_DIM
from lookalike.index.new_images import NewImages, Texts, record_from, texts_of
from lookalike.index.segment_search import checked_k, normalized, vectors_in
from lookalike.index.store import SearchHits, Store, StoredRows
from lookalike.index.store_address import check_kind, create_store, exists, open_store
from lookalike.model import user_images
from lookalike.model.embedder import Embedder
from lookalike.model.inference import FinishedModel
from lookalike.storage import Place

ImagesOrRecords = user_images.Images | Record | Iterable[Record]
"""One image or several, as `Embedder.embed` takes them, or records of a list."""

Labels = str | Iterable[str | None] | None

Kind = Literal["auto", "exact", "int8", "hnsw"]


class Index:
    """An index of images, searched by cosine, in a folder or a database.

    Ids are unique: adding one again replaces its vector, label and place; of the same ids in one
    call, the last counts. In a folder each change is atomic, also when a process is killed, and
    readers see it at their next search; one process writes at a time, any number reads. In a
    database a killed addition leaves whole rows, and any number of processes writes.

    Attributes:
        embedder: turns images into vectors; None where only vectors are used.
    """

    def __init__(self, store: Store, embedder: Embedder | FinishedModel | None = None) -> None:
        """Use `open`, `create` or `build`; a store is given for one that has no address."""
        _check_embedder(embedder)
        self.store = store
        self.embedder = embedder
        self._loading = self._is_due = False
        self._check_model()

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies, in this process or in another, open the place again."""
        return Index.open, (self.store.address, self.embedder)

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def open(
        cls,
        path: Place,
        embedder: Embedder | FinishedModel | None = None,
        *,
        kind: Kind | str = "auto",
    ) -> Index:
        """An existing index.

        Args:
            path: a folder, `qdrant://HOST:6334/COLLECTION` or
                `postgresql://USER@HOST:5432/DATABASE/TABLE`.
            embedder: whose vectors it holds.
            kind: of search that it must have, as in `create`; any for "auto".

        Raises:
            RunError: there is none, it is damaged, or it was built with another model or kind.
            StorageError: the database does not answer, or refuses.
        """
        index = cls(open_store(place_of("path", path)), embedder)
        own = index.store.kind
        if kind not in ("auto", index.store.KINDS[-1] if own == "auto" else own):
            index.close()
            raise RunError(
                f"{index.place}: kind={own} was chosen when it was made, and stays; leave out "
                f"kind={kind} (--kind), or make another index"
            )
        return index

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
            path: the folder, collection or table, which is made; see `open`.
            embedder: whose vectors it will hold.
            dim: numbers of a vector, without an embedder.
            kind: of search. In a folder "exact": all rows in float32; or "int8": all rows, first
                by 8 bits a number, which finds the same and is "auto". A database has "exact",
                "hnsw" and "auto", which is "hnsw".

        Raises:
            RunError: there is an index or something else.
            DataError: an unknown kind.
        """
        place = place_of("path", path)
        _check_embedder(embedder)
        check_kind(kind, place)
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
        model = "" if embedder is None else embedder.trained_fingerprint()
        return cls(create_store(place, model=model, dim=int(size), kind=kind), embedder)

    @classmethod
    def open_or_create(
        cls,
        path: Place,
        *,
        embedder: Embedder | FinishedModel | None = None,
        dim: int | None = None,
        kind: Kind | str = "auto",
    ) -> Index:
        """An existing index, or a new one where there is none; see `open` and `create`."""
        place = place_of("path", path)
        check_kind(kind, place)
        if not exists(place):
            try:
                return cls.create(place, embedder=embedder, dim=dim, kind=kind)
            except RunError:
                if not exists(place):  # which another process may have made meanwhile
                    raise
        return cls.open(place, embedder, kind=kind)

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
        with index.loading():
            index.add(images, ids=ids, labels=labels, threads=threads)
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
        source: Source | None = None,
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
            source: of the images' bytes, in place of `threads`.

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
            added = self._add_images(listed, source or Source(threads=threads))
        else:
            found = vectors_in(vectors)
            if found is None:
                raise DataError("vectors must be an array or a tensor of floats, (N, D) or (D,)")
            if len(found) != listed.given:
                raise DataError(f"{len(found)} vectors of {listed.given} images")
            found = normalized(found[listed.kept], self.dim, listed.ids)
            rows = listed.rows(range(len(listed.ids)), found)
            added = self.store.upsert(rows)
        self._optimize()
        return added

    def _add_images(self, images: NewImages, source: Source) -> int:
        if self.embedder is None:
            raise RunError(f"{self.place}: opened without an embedder: give one, or add vectors")
        return sum(
            self.store.upsert(StoredRows(self._normalized(rows), rows.table))
            for rows in new_images.embedded(self.embedder, images, source)
        )

    def _normalized(self, rows: StoredRows) -> np.ndarray:
        return normalized(rows.vectors, self.dim, rows.table["id"].to_pylist())

    def remove(self, ids: Texts) -> int:
        """Remove one image or several, as far as they are in the index; returns their number."""
        removed = self.store.delete(_distinct(ids))
        self._optimize()
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
            exact: search all rows, also where an approximate search would be faster.
            among: a label or several: search images with one of them only, always exactly.

        Raises:
            DataError: wrong vectors or labels, or k below 1.
            RunError: images, but no embedder.
            StorageError: the database does not answer.
        """
        k = checked_k(k)
        vectors = vectors_in(queries)
        if vectors is None:
            if self.embedder is None:
                raise RunError(f"{self.place}: opened without an embedder: search with vectors")
            vectors = np.atleast_2d(self.embedder.embed(queries))
        asked = normalized(vectors, self.dim)
        labels = None if among is None else texts_of(among)
        return self.store.search(asked, k, exact=exact, among=labels)

    def __len__(self) -> int:
        return self.store.count()

    def __contains__(self, id: object) -> bool:
        try:
            wanted = _distinct(id)  # type: ignore[arg-type]
        except DataError:
            return False
        return len(wanted) == 1 and any(len(rows.table) for rows in self.store.read(wanted))

    def ids(self) -> list[str]:
        """The ids of all images; in a folder, in the order in which they were added."""
        return [id for rows in self.store.read() for id in rows.table["id"].to_pylist()]

    def versions(self) -> dict[str, int]:
        """The version of each image, by id."""
        return {
            id: version
            for rows in self.store.read()
            for id, version in zip(
                rows.table["id"].to_pylist(), rows.table["version"].to_pylist(), strict=True
            )
        }

    def labels(self) -> dict[str, str | None]:
        """The label of each image, by id; None where it is unknown."""
        return {
            id: label
            for rows in self.store.read()
            for id, label in zip(
                rows.table["id"].to_pylist(), rows.table["label"].to_pylist(), strict=True
            )
        }

    def records(self, ids: Texts) -> dict[str, Record]:
        """The records of the images with these ids, as far as they are in the index."""
        found = {}
        for rows in self.store.read(_distinct(ids)):
            for row in rows.table.to_pylist():
                found[row["id"]] = record_from(row["id"], row["label"], row["image"])
        return found

    def vectors(self, ids: Texts) -> np.ndarray:
        """The vectors of these ids, (N, D) float32; of one id, (D,).

        Raises:
            DataError: one is not there.
        """
        if isinstance(ids, (str, os.PathLike)):
            return self.vectors([ids])[0]
        given = texts_of(ids)
        found: dict[str, np.ndarray] = {}
        for rows in self.store.read(_distinct(given), vectors=True):
            found |= zip(rows.table["id"].to_pylist(), rows.vectors, strict=True)
        missing = next((id for id in given if id not in found), None)
        if missing is not None:
            raise DataError(f"{self.place}: {missing} is not in the index")
        return np.array([found[id] for id in given], np.float32).reshape(len(given), self.dim)

    @property
    def place(self) -> str:
        """The folder, or the address without secrets."""
        return self.store.place

    @property
    def dim(self) -> int:
        """The dimension D of a vector."""
        return self.store.dim

    @property
    def model(self) -> str:
        """The fingerprint of the embedder; "" where the vectors came from elsewhere."""
        return self.store.model

    def stats(self) -> dict[str, Any]:
        """Counts and sizes, as plain values."""
        return self.store.stats()

    def check(self) -> None:
        """Compare all files of a folder with their checksums; a search checks what it reads.

        Raises:
            RunError: one is damaged.
        """
        self.store.check()

    def close(self) -> None:
        """Close the connections to a database."""
        self.store.close()

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Many additions: the index is prepared for searches once, after the last of them.

        Not for an object that threads share meanwhile.
        """
        before, self._loading, self._is_due = len(self), True, False
        try:
            yield
        finally:
            self._loading = False
        if self._is_due:
            # Also what a killed load has left is worth it, unless the rest is much more.
            self.store.optimize(fully=len(self) - before > before // 4)

    def _optimize(self) -> None:
        if self._loading:
            self._is_due = True
        else:
            self.store.optimize()

    def compact(self) -> None:
        """Prepare for the fastest search: merge all segments, build what is missing."""
        self.store.optimize(fully=True)

    def _check_model(self) -> None:
        if self.embedder is None:
            return
        if self.dim != self.embedder.embedding_dim:
            raise RunError(
                f"{self.place}: holds vectors of {self.dim:,} numbers, and this model's have "
                f"{self.embedder.embedding_dim:,}; use the model it was built with, or another "
                "index"
            )
        built, own = self.model, self.embedder.fingerprint()
        if built not in (own, self.embedder.trained_fingerprint()):
            of = (
                f"another model ({built[:8]}; this one is {own[:8]})"
                if built
                else "vectors without a model"
            )
            raise RunError(
                f"{self.place}: the index is of {of}, and vectors of different models cannot be "
                "compared; use the model it was built with, or build another index"
            )


def _check_embedder(embedder: object) -> None:
    if embedder is not None and not callable(getattr(embedder, "fingerprint", None)):
        raise DataError(
            f"embedder is of type {type(embedder).__name__}; give what lookalike.load(...) returns"
        )


def _distinct(ids: Texts) -> list[str]:
    """One id or several as texts, each once."""
    return list(dict.fromkeys(texts_of(ids)))
