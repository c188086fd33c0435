"""Duplicates of queries in the gallery, which raise every metric.

They are searched by their embeddings: two files with the same bytes have the same
embedding but for its last bits, and so nearly the same projection on any line. Images are sorted
by such a projection, neighbours whose vectors agree are candidates, and only their files are
read and compared, byte by byte through their digests.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lookalike.data.loading.image_source import read_twice
from lookalike.data.record import Details, Record, image_keys
from lookalike.errors import StorageError
from lookalike.log import counted
from lookalike.metrics.protocol import Roles

_AGREE = 1 - 1e-5  # the cosine of two copies: batches differ in their last bits
_NEIGHBOURS = 16
_EXAMPLES = 3


@dataclass(frozen=True)
class QueryDuplicates:
    """Queries that find themselves under another name."""

    queries: int  # number of queries with a copy in the gallery
    examples: tuple[tuple[str, str], ...]  # a few of them, (query, copy) as messages name them


def find_duplicates(
    records: Sequence[Record], vectors: Tensor, roles: Roles | None
) -> QueryDuplicates:
    """Queries whose file, or one of the same content, is in the gallery too.

    `vectors` are (N, D) unit vectors of the N records, on the CPU.
    """
    groups: dict[object, list[int]] = defaultdict(list)
    for row in _candidates(vectors):
        groups[_identity(records[row])].append(row)
    found: dict[int, int] = {}
    for rows in groups.values():
        found |= _matches(rows, roles)
    first = sorted(found)[:_EXAMPLES]
    return QueryDuplicates(
        len(found), tuple((_named(records[row]), _named(records[found[row]])) for row in first)
    )


def _named(record: Record) -> str:
    return f"{record.origin}: {record.place}" if record.line else record.place


def _matches(rows: Sequence[int], roles: Roles | None) -> dict[int, int]:
    """The first of these rows that each query among them may find, if any."""
    if roles is None:
        searched, sequence, queries = rows, dict.fromkeys(rows, -1), rows
    else:
        searched = [row for row in rows if roles.gallery[row]]
        sequence = {row: int(roles.sequence[row]) for row in rows}
        queries = [row for row in rows if roles.query[row]]
    if not searched:
        return {}
    first = searched[0]
    # A query that may not find the first finds the second, or the first of another sequence.
    second = searched[1] if len(searched) > 1 else None
    other = next((row for row in searched if sequence[row] != sequence[first]), None)
    found = {}
    for row in queries:
        own = sequence[row]
        if own >= 0:
            place = first if sequence[first] != own else other
        else:
            place = first if first != row else second
        if place is not None:
            found[row] = place
    return found


def _candidates(vectors: Tensor) -> list[int]:
    """Rows whose vector is nearly that of another row."""
    line = torch.randn(
        vectors.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    order = torch.empty(len(vectors), dtype=torch.float64)
    for begin in range(0, len(vectors), 65536):
        part = vectors[begin : begin + 65536].double()
        order[begin : begin + len(part)] = part @ line
    order = order.argsort()
    duplicates = torch.zeros(len(vectors), dtype=torch.bool)
    for step in range(1, min(_NEIGHBOURS, len(vectors) - 1) + 1):
        for begin in range(0, len(vectors) - step, 65536):
            left = order[begin : min(begin + 65536, len(vectors) - step)]
            right = order[begin + step : begin + step + len(left)]
            same = (vectors[left] * vectors[right]).sum(1) >= _AGREE
            duplicates[left[same]] = duplicates[right[same]] = True
    return duplicates.nonzero()[:, 0].tolist()


def _identity(record: Record) -> object:
    """A value that is equal for two records of the same content."""
    box = (record.details or Details()).box
    try:
        return read_twice(record, lambda data: hashlib.sha256(data).digest()), box
    except StorageError:  # gone since it was embedded: its path is left to compare
        return image_keys()(record)


def duplicates_line(copies: QueryDuplicates, queries: int) -> str:
    """A warning of them."""
    have = "has a copy of itself" if copies.queries == 1 else "have a copy of themselves"
    examples = "; ".join(f"{query} = {copy}" for query, copy in copies.examples)
    return (
        f"{copies.queries:,} of {counted(queries, 'query', 'queries')} {have}, byte by byte, in "
        f"the gallery: the metrics are too high ({examples})"
    )
