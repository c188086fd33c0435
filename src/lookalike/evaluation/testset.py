"""What is measured: images with labels and roles, from lists, or beside embeddings in files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from lookalike import storage
from lookalike.data.catalog import Catalog, build_catalog
from lookalike.data.readers import read_records
from lookalike.data.readers.annotation import (
    canonical_label,
    combined_error,
    is_missing,
    lines,
    quoted,
    read_text,
)
from lookalike.data.readers.table_columns import PATHS
from lookalike.data.record import Details, Record, image_keys
from lookalike.data.splits import measured_split, select
from lookalike.errors import DataError
from lookalike.evaluation import embedding_files
from lookalike.metrics.protocol import Roles
from lookalike.vectors import vector_files as files


@dataclass(frozen=True)
class TestSet:
    """Images that ask and are searched.

    Attributes:
        name: what it is, without secrets.
        catalog: the images.
        roles: of them; None where everyone asks for all others.
        in_both: how many images stood in the query and in the gallery list, and became one image
            with both roles.
    """

    name: str
    catalog: Catalog
    roles: Roles | None
    in_both: int = 0

    __test__ = False  # no test of pytest's

    @classmethod
    def of(cls, name: str, records: Sequence[Record], in_both: int = 0) -> TestSet:
        """The set of these records."""
        return cls(storage.public(name), build_catalog(records), Roles.of(records), in_both)


def from_list(data: str, *, format: str = "auto", split: str | None = None) -> TestSet:
    """A list whose images ask for each other, or have the roles that it states.

    Raises:
        LookalikeError: it cannot be read, or has no such split.
    """
    records = read_records(data, format)
    return TestSet.of(data, select(records, split or measured_split(records)))


def from_query_and_gallery(
    query: str, gallery: str, *, format: str = "auto", split: str | None = None
) -> TestSet:
    """Images that ask, and images that are searched.

    An image that is in both lists, by its path however that is spelled, is one image with both
    roles: it does not find itself.

    Raises:
        LookalikeError: one of them cannot be read, or an image has another label in the other.
    """
    found: dict[object, Record] = {}
    key_of = image_keys()
    twice: list[Record] = []
    contradictions: list[tuple[Record, Record]] = []
    for uri, asks in ((query, True), (gallery, False)):
        records = read_records(uri, format)
        for record in select(records, split or measured_split(records)):
            details = record.details or Details()
            key = key_of(record)
            other = found.get(key)
            if other is not None and not asks and other.details and other.details.is_query:
                twice.append(record)
                if other.label != record.label:
                    contradictions.append((other, record))
                found[key] = replace(other, details=replace(other.details, is_gallery=True))
                continue
            roles = replace(details, is_query=asks, is_gallery=not asks)
            # Repeated in one list, it stays what the list says: two images.
            found[key if other is None else len(found)] = replace(record, details=roles)
    if contradictions:
        raise combined_error(
            contradictions,
            lambda pair: (
                f"{pair[1].origin}: {pair[1].place} has the label"
                f" {quoted(pair[1].label)}, but {quoted(pair[0].label)} in {pair[0].origin}"
            ),
        )
    return TestSet.of(f"{query} in {gallery}", list(found.values()), len(twice))


def from_files(
    embeddings: Sequence[str], labels: str | None
) -> tuple[TestSet, list[tuple[str, Tensor]]]:
    """Embeddings that exist already, each a model's, of the same images in the same order.

    Args:
        embeddings: `.npy` files, (N, D), or `.parquet` files with the column `vector`. Labels,
            where `labels` is None, are those of NAME.labels.txt beside a `.npy` file, or of the
            column `label`; roles, sequences and paths are taken from the first file's columns as
            in `lookalike.data.readers.table_rows`.
        labels: a file with one label a line.

    Returns:
        The set, and name and (N, D) vectors of each file.

    Raises:
        DataError: they do not fit together, or are no embeddings.
        StorageError: a file cannot be read.
    """
    parts = [embedding_files.read(uri) for uri in embeddings]
    if labels is not None:
        given = [canonical_label(line.strip()) for line in lines(read_text(labels).rstrip("\n"))]
        names = [given] * len(parts)
    else:
        names = [
            _labels_beside(uri, len(part[0])) or embedding_files.labels_of(part[1], uri)
            for uri, part in zip(embeddings, parts, strict=True)
        ]
    place = storage.public(labels or embeddings[0])
    for uri, (vectors, _), its in zip(embeddings, parts, names, strict=True):
        if len(its) != len(vectors):
            raise DataError(
                f"{storage.public(uri)}: {len(vectors):,} vectors, but {place} has {len(its):,}"
                " labels; there must be one for each, in the same order"
            )
        if its != names[0]:
            raise DataError(
                f"{storage.public(uri)}: its labels are not those of "
                f"{storage.public(embeddings[0])}; models are compared on the same images in the "
                "same order"
            )
    for number, label in enumerate(names[0], 1):
        if is_missing(label):
            raise DataError(f"{place}:{number}: label {quoted(label)} is empty or a missing value")
    first = parts[0][1]
    paths = _paths(embeddings[0], first, len(names[0]))
    details = embedding_files.details_in(first, len(names[0]), storage.public(embeddings[0]))
    records = [
        Record(path, label, place, number, details=detail)
        for number, (path, label, detail) in enumerate(
            zip(paths, names[0], details, strict=True), 1
        )
    ]
    found = [(storage.public(uri), part[0]) for uri, part in zip(embeddings, parts, strict=True)]
    return TestSet.of(place, records), found


def _paths(uri: str, columns: dict[str, list[Any]], count: int) -> list[str]:
    """The paths of the images where they are known, otherwise the rows of the file."""
    for name in PATHS:
        if name in columns:
            return list(map(str, columns[name]))
    if files.is_array(uri):
        for kind in ("ids", "paths"):
            found = files.lines_beside(uri, kind, count)
            if found is not None:
                return found
    return [f"{uri}[{row}]" for row in range(count)]


def _labels_beside(uri: str, count: int) -> list[str] | None:
    """The labels beside a `.npy` file, where there are any."""
    found = files.lines_beside(uri, "labels", count) if files.is_array(uri) else None
    return None if found is None else [canonical_label(line.strip()) for line in found]
