"""Test sets: images with labels and roles, from lists, or beside embeddings in files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from lookalike import storage
from lookalike.data.catalog import Catalog, build_catalog, with_hierarchy
from lookalike.data.hierarchy import hierarchy_columns
from lookalike.data.readers import read_records
from lookalike.data.readers.annotation import (
    AnnotationOptions,
    BadRows,
    MalformedRow,
    combined_error,
    lines,
    parse_labels,
    quoted,
    read_text,
)
from lookalike.data.readers.table_columns import SEQUENCE_OR_CAMERA, parse_details
from lookalike.data.readers.table_rows import labels_text
from lookalike.data.record import Details, Record, image_keys, with_labels
from lookalike.data.record_table import RecordTable
from lookalike.data.shared_records import read_once
from lookalike.data.splits import measured, splits_of
from lookalike.distributed.world import ALONE, World
from lookalike.errors import DataError, check_fields
from lookalike.metrics.protocol import Roles
from lookalike.vectors.vector_files import ROLES, read_vectors

_ROWS = 16384  # that are checked together


class ListKeywords(TypedDict, total=False):
    """The fields of `ListOptions` as keywords of a command."""

    format: str
    split: str | None
    label_separator: str | None
    hierarchy: str | None


@dataclass(frozen=True)
class ListOptions:
    """Options of reading a labelled list to measure on.

    Attributes:
        format: auto, or one of `lookalike.data.readers.READERS`.
        split: where the data have splits, the one to measure on; the only one that is not `train`
            by default.
        label_separator: the text between the labels of an image.
        hierarchy: coarser classes at which is measured too: columns of a table (`genus,family`), or
            a file with one `label genus family` a line.

    Raises:
        ConfigError: a field is not of its type.
    """

    format: str = "auto"
    split: str | None = None
    label_separator: str | None = None
    hierarchy: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def annotation(self) -> AnnotationOptions:
        """Options of the rows."""
        return AnnotationOptions(
            label_separator=self.label_separator or None,
            coarser_columns=hierarchy_columns(self.hierarchy),
        )

    def read(self, uri: str) -> RecordTable:
        """All records of a list."""
        return read_records(uri, self.format, self.annotation)


ReadList = Callable[[str], RecordTable]
"""Reads all records of a list."""


@dataclass(frozen=True)
class TestSet:
    """Queries and gallery.

    Attributes:
        name: of the set, without secrets.
        roles: of them; None where each image is a query, and all others its gallery.
        in_both: images of the query and of the gallery list, each now one image with both roles.
    """

    name: str
    catalog: Catalog
    roles: Roles | None
    in_both: int = 0

    __test__ = False  # no test of pytest's

    @classmethod
    def of(
        cls, name: str, records: Sequence[Record], in_both: int = 0, hierarchy: str | None = None
    ) -> TestSet:
        """The test set of some records, with the coarser classes of `hierarchy`."""
        catalog = with_hierarchy(build_catalog(records), hierarchy)
        return cls(storage.public(name), catalog, Roles.of(records), in_both)


def from_list(
    data: str,
    options: ListOptions = ListOptions(),  # frozen
    world: World = ALONE,
    read: ReadList | None = None,
) -> TestSet:
    """A list whose images search each other, or have the roles that it states.

    Called by all workers together; one of each machine reads, by `read` or else by the options.

    Raises:
        LookalikeError: it cannot be read, or has no such split.
    """
    records = measured(read_once(partial(read or options.read, data), world), options.split)
    return TestSet.of(data, records, hierarchy=options.hierarchy)


def from_query_and_gallery(
    query: str,
    gallery: str,
    options: ListOptions = ListOptions(),  # frozen
    world: World = ALONE,
    read: ReadList | None = None,
    read_query: ReadList | None = None,
) -> TestSet:
    """A list of queries, and one of the gallery.

    An image that is in both lists, by its path however that is spelled, is one image with both
    roles: it does not find itself. Called by all workers together; one of each machine reads, by
    `read` or else by the options; the queries by `read_query`, where there is one.

    Raises:
        LookalikeError: one of them cannot be read, or an image has another label in the other.
    """
    records = read_once(
        partial(
            _both_lists,
            partial(read_query or read or options.read, query),
            partial(read or options.read, gallery),
            options.split,
        ),
        world,
    )
    both = [one is not None and one.is_query and one.is_gallery for one in records.details]
    in_both = int(np.array(both, bool)[records.details_codes].sum())
    return TestSet.of(f"{query} in {gallery}", records, in_both, options.hierarchy)


def _both_lists(
    query: Callable[[], RecordTable], gallery: Callable[[], RecordTable], split: str | None
) -> RecordTable:
    """The queries with their roles, then those images of the gallery that are no queries."""
    key_of = image_keys()
    lists = [query(), gallery()]
    one_has_splits = any(map(splits_of, lists))  # the other may be all of the chosen split
    asked, searched = (measured(one, split, required=not one_has_splits) for one in lists)
    queries = [_with_roles(record, query=True, gallery=False) for record in asked]
    rows: dict[object, int] = {}
    for row, record in enumerate(queries):
        rows.setdefault(key_of(record), row)  # an image that a list repeats stays two images
    others = RecordTable()
    contradictions: list[tuple[Record, Record]] = []
    for record in searched:
        found = rows.get(key_of(record))
        if found is None:
            others.append(_with_roles(record, query=False, gallery=True))
            continue
        one = queries[found]
        if set(one.labels) != set(record.labels):
            contradictions.append((one, record))
        queries[found] = _with_roles(one, query=True, gallery=True)
    if contradictions:
        raise combined_error(
            contradictions,
            lambda pair: (
                f"{pair[1].origin}: {pair[1].place} has the label"
                f" {quoted(pair[1].label)}, but {quoted(pair[0].label)} in {pair[0].origin}"
            ),
        )
    records = RecordTable(queries)
    records.extend(others)
    return records


def _with_roles(record: Record, *, query: bool, gallery: bool) -> Record:
    details = replace(record.details or Details(), is_query=query, is_gallery=gallery)
    return replace(record, details=details)


def from_files(
    embeddings: Sequence[str],
    labels: str | None,
    options: ListOptions = ListOptions(),  # frozen
) -> tuple[TestSet, list[tuple[str, Tensor]]]:
    """Embeddings that exist already, each a model's, of the same images in the same order.

    Args:
        embeddings: `.npy` files, (N, D), or `.parquet` files with the column `vector`. Labels,
            where `labels` is None, are those of NAME.labels.txt beside a `.npy` file, or of the
            column `label`; roles, sequences and paths are taken from the first file's columns.
        labels: a file with one label a line, or several with the separator of `options` between.
        options: separator of labels, and a file of coarser classes.

    Returns:
        The set, and name and (N, D) vectors of each file.

    Raises:
        DataError: they do not fit together, or are no embeddings.
        StorageError: a file cannot be read.
    """
    parts = [_load(uri, labels=labels is None) for uri in embeddings]
    files = list(map(storage.public, embeddings))
    place = storage.public(labels) if labels else files[0]
    if labels is not None:
        given = _parse_labels(lines(read_text(labels).rstrip("\r\n")), place, options.annotation)
        names = [given] * len(parts)
    else:
        names = [
            _labels_of(part[1], file, options.annotation)
            for file, part in zip(files, parts, strict=True)
        ]
    for file, (vectors, _), its in zip(files, parts, names, strict=True):
        if len(its) != len(vectors):
            raise DataError(
                f"{file}: {len(vectors):,} vectors, but {place} has {len(its):,}"
                " labels; there must be one for each, in the same order"
            )
        if its != names[0]:
            raise DataError(
                f"{file}: its labels are not those of {files[0]}; models are compared on the same "
                "images in the same order"
            )
    columns = parts[0][1]
    details = _parse_roles(columns, len(names[0]), files[0])
    rows = zip(map(str, columns["path"]), names[0], details, strict=True)
    records = [
        Record(path, its[0], place, number, details=with_labels(detail, its))
        for number, (path, its, detail) in enumerate(rows, 1)
    ]
    found = [(file, part[0]) for file, part in zip(files, parts, strict=True)]
    return TestSet.of(place, records, hierarchy=options.hierarchy), found


def _load(uri: str, *, labels: bool) -> tuple[Tensor, dict[str, list[Any]]]:
    """(N, D) floats as they are, finite, and the columns of `read_vectors`."""
    chunks: list[np.ndarray] = []
    columns: dict[str, list[Any]] = {}
    for vectors, some in read_vectors(uri, labels=labels):
        chunks.append(vectors)
        for name, cells in some.items():
            columns.setdefault(name, []).extend(cells)
    if not chunks:
        raise DataError(f"{storage.public(uri)}: holds no vectors")
    whole = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
    for begin in range(0, len(whole), _ROWS):
        broken = ~np.isfinite(whole[begin : begin + _ROWS]).all(1)
        if broken.any():
            raise DataError(
                f"{storage.public(uri)}: vector {begin + int(broken.argmax()):,} (from 0) is not "
                "finite: it holds NaN or infinity; leave that image out, or embed it anew"
            )
    kind = np.float64 if whole.dtype.itemsize > 8 else whole.dtype
    return torch.from_numpy(whole.astype(kind)), columns


def _labels_of(
    columns: dict[str, list[Any]], place: str, options: AnnotationOptions
) -> list[tuple[str, ...]]:
    if "label" not in columns:
        raise DataError(f"{place}: no column of labels; give them with --labels, one a line")
    return _parse_labels(columns["label"], place, options)


def _parse_labels(
    cells: Iterable[Any], place: str, options: AnnotationOptions
) -> list[tuple[str, ...]]:
    bad = BadRows()
    labels = []
    for number, cell in enumerate(cells, 1):
        try:
            labels.append(parse_labels(labels_text(cell, options.label_separator), options))
        except MalformedRow as error:
            bad.add(f"{place}:{number}", error)
    bad.raise_any()
    return labels


def _parse_roles(columns: dict[str, list[Any]], count: int, place: str) -> list[Details | None]:
    """The roles that a table states, read as in any other table."""
    names = [name for name in ROLES if name in columns]
    if not names:
        return [None] * count
    if {"sequence", "camera"} <= set(names):
        raise DataError(f"{place}: {SEQUENCE_OR_CAMERA}; leave out one of the two columns")
    found: list[Details | None] = []
    bad = BadRows()
    for number, cells in enumerate(zip(*(columns[name] for name in names), strict=True), 1):
        texts = {n: str(cell) for n, cell in zip(names, cells, strict=True) if cell is not None}
        try:
            found.append(parse_details(texts))
        except MalformedRow as error:
            bad.add(f"{place}:{number}", error)
    bad.raise_any()
    return found
