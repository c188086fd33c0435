"""Records as columns: a block of rows as an Arrow stream, and what rows have in common.

A record of Python takes some 265 bytes, most of them headers of objects. Here it takes its URI and
28 bytes: label, source and details are codes of distinct values, which are kept once.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import pyarrow as pa

from lookalike.data.record import Details, Member, Record

T = TypeVar("T", bound=Hashable)

_TEXT = pa.large_binary()
_CODING = ("utf-8", "surrogatepass")  # JSON can hold half a surrogate pair


class Distinct(Generic[T]):
    """Distinct values in the order of their appearance."""

    def __init__(self, values: Iterable[T] = ()) -> None:
        self.values: list[T] = list(values)
        self._codes: dict[T, int] = {}

    def codes(self, values: Iterable[T]) -> np.ndarray:
        """The index of each value in `values`, int32; new ones are added."""
        values, known = list(values), self._codes
        if len(known) < len(self.values):  # of another process, or forgotten
            known.update((value, code) for code, value in enumerate(self.values))
        found = list(map(known.get, values))
        if None in found:
            for value in values:
                if value not in known:
                    known[value] = len(self.values)
                    self.values.append(value)
            found = list(map(known.get, values))
        return np.array(found, np.int32)

    def forget_codes(self) -> None:
        """Free the map of values to codes, until values are added again."""
        self._codes = {}


class Shared:
    """Values that many records share: labels, sources, and details but for box and weight."""

    def __init__(
        self,
        labels: Iterable[str] = (),
        sources: Iterable[str] = (),
        details: Iterable[Details | None] = (),
    ) -> None:
        self.labels = Distinct(labels)
        self.sources = Distinct(sources)
        self.details: Distinct[Details | None] = Distinct(details)

    def forget_codes(self) -> None:
        """Free the maps of values to codes, until values are added again."""
        for one in (self.labels, self.sources, self.details):
            one.forget_codes()

    def codes_of(self, other: Shared) -> dict[str, np.ndarray]:
        """The codes here of all values of another, by the name of the column."""
        return {
            "label": self.labels.codes(other.labels.values),
            "source": self.sources.codes(other.sources.values),
            "details": self.details.codes(other.details.values),
        }

    def to_arrow(self) -> pa.Buffer:
        """All values as an Arrow stream."""
        details = [json.dumps(one and asdict(one)) for one in self.details.values]
        columns = [self.labels.values, self.sources.values, details]
        return _stream(
            pa.record_batch(
                [pa.array([[text.encode(*_CODING) for text in values]], pa.large_list(_TEXT))
                 for values in columns],
                ["labels", "sources", "details"],
            )
        )  # fmt: skip

    @classmethod
    def from_arrow(cls, buffer: pa.Buffer) -> Shared:
        """Read the stream that `to_arrow` wrote."""
        labels, sources, details = (
            [text.decode(*_CODING) for text in column[0].as_py()]
            for column in pa.ipc.open_stream(buffer).read_next_batch().columns
        )
        return cls(labels, sources, (_details(json.loads(text)) for text in details))


def pack(records: Sequence[Record], shared: Shared) -> pa.Buffer:
    """Records as an Arrow stream of one batch, for `RecordBlock`; adds to `shared`."""
    number = len(records)
    columns: dict[str, Any] = {
        "uri": pa.array([record.uri.encode(*_CODING) for record in records], _TEXT),
        "label": shared.labels.codes(record.label for record in records),
        "source": shared.sources.codes(record.source for record in records),
        "line": np.fromiter((record.line for record in records), np.int64, number),
    }
    members = [record.member for record in records]
    if any(member is not None for member in members):
        names = [None if m is None else m.name.encode(*_CODING) for m in members]
        columns["member"] = pa.array(names, _TEXT)
        columns["offset"] = np.array([m.offset if m else 0 for m in members], np.int64)
        columns["size"] = np.array([m.size if m else 0 for m in members], np.int64)
    details = [record.details for record in records]
    if any(one is not None for one in details):
        columns |= _detail_columns(details, shared)
    return _stream(pa.record_batch(list(map(pa.array, columns.values())), list(columns)))


def pack_rows(
    uris: Sequence[str], labels: Sequence[str], source: str, first_line: int, shared: Shared
) -> pa.Buffer:
    """As `pack`, of records on successive lines of a list, without members and details."""
    number = len(uris)
    columns = {
        "uri": pa.array([uri.encode(*_CODING) for uri in uris], _TEXT),
        "label": shared.labels.codes(labels),
        "source": np.full(number, shared.sources.codes([source])[0]),
        "line": np.arange(first_line, first_line + number),
    }
    return _stream(pa.record_batch(list(map(pa.array, columns.values())), list(columns)))


def _detail_columns(details: Sequence[Details | None], shared: Shared) -> dict[str, Any]:
    boxes = [None if one is None else one.box for one in details]
    weights = [None if one is None else one.weight for one in details]
    plain: Sequence[Details | None] = details
    columns: dict[str, Any] = {}
    if any(box is not None for box in boxes):
        sides = [side for box in boxes for side in (box or (0, 0, 0, 0))]
        columns["box"] = pa.FixedSizeListArray.from_arrays(
            pa.array(sides, pa.float64()), 4, mask=pa.array([box is None for box in boxes])
        )
        columns["whole"] = np.array([box is not None and isinstance(box[0], int) for box in boxes])
    if any(weight is not None for weight in weights):
        columns["weight"] = pa.array(weights, pa.float64())
    if columns:
        plain = list(map(without_measures, details))
    return {"details": shared.details.codes(plain), **columns}


def without_measures(details: Details | None) -> Details | None:
    """Details without box and weight, which differ between images."""
    if details is None or (details.box is None and details.weight is None):
        return details
    return replace(details, box=None, weight=None)


class RecordBlock:
    """Records that `pack` made columns of, maybe in a mapped file, of which nothing is copied."""

    def __init__(self, buffer: pa.Buffer, shared: Shared) -> None:
        self.buffer = buffer
        self._shared = shared
        self._batch = pa.ipc.open_stream(buffer).read_next_batch()
        columns = dict(zip(self._batch.schema.names, self._batch.columns, strict=True))
        self._uris = columns["uri"]
        # Views by whose items single records are made: a tenth of the time of Arrow's scalars.
        self._ends, self._text = _text_views(self._uris)
        self._label, self._source = (_view(columns[name], "i") for name in ("label", "source"))
        self._line = _view(columns["line"], "q")
        self._member, self._code = columns.get("member"), columns.get("details")
        self._columns = columns

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    def codes(self, name: str) -> np.ndarray:
        """The (n,) int32 codes of `label`, `source` or `details`; those of None are -1."""
        column = self._columns.get(name)
        return np.full(len(self), -1, np.int32) if column is None else column.to_numpy()

    def __getitem__(self, row: int) -> Record:
        shared = self._shared
        return Record(
            str(self._text[self._ends[row] : self._ends[row + 1]], *_CODING),
            shared.labels.values[self._label[row]],
            shared.sources.values[self._source[row]],
            self._line[row],
            None if self._member is None else self._member_of(row),
            None if self._code is None else self._details_of(row),
        )

    def __iter__(self) -> Iterator[Record]:
        labels, sources = self._shared.labels.values, self._shared.sources.values
        if self._member is not None or self._code is not None:
            yield from map(self.__getitem__, range(len(self)))
            return
        fields = zip(self.uris(), self._label, self._source, self._line, strict=True)
        for uri, label, source, line in fields:
            yield Record(uri, labels[label], sources[source], line)

    def uris(self) -> Iterator[str]:
        """The URI of each record."""
        return (uri.decode(*_CODING) for uri in self._uris.to_pylist())

    @property
    def has_boxes(self) -> bool:
        """True if a record has a box."""
        return "box" in self._columns

    def recoded(self, codes: Mapping[str, np.ndarray]) -> pa.Buffer:
        """The block with the codes that others have; see `Shared.codes_of`."""
        columns = dict(self._columns)
        for name in codes.keys() & columns.keys():
            columns[name] = pa.array(codes[name][self.codes(name)])
        return _stream(pa.record_batch(list(columns.values()), list(columns)))

    def _member_of(self, row: int) -> Member | None:
        columns = self._columns
        name = columns["member"][row].as_py()
        if name is None:
            return None
        offset, size = columns["offset"][row].as_py(), columns["size"][row].as_py()
        return Member(name.decode(*_CODING), offset, size)

    def _details_of(self, row: int) -> Details | None:
        columns = self._columns
        found = self._shared.details.values[columns["details"][row].as_py()]
        if found is None:
            return None
        box = columns["box"][row].as_py() if "box" in columns else None
        weight = columns["weight"][row].as_py() if "weight" in columns else None
        if box is None and weight is None:
            return found
        if box is not None:
            box = tuple(map(int, box)) if columns["whole"][row].as_py() else tuple(box)
        return replace(found, box=box, weight=weight)


def _stream(batch: pa.RecordBatch) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _view(column: pa.Array, kind: Literal["i", "q"]) -> memoryview:
    """The numbers of a column without nulls."""
    return memoryview(column.buffers()[1]).cast("B").cast(kind)[: len(column)]


def _text_views(column: pa.Array) -> tuple[memoryview, memoryview]:
    """Ends of the texts of a column, one number more than texts, and all the texts."""
    _, ends, text = column.buffers()
    found = memoryview(b"" if text is None else text).cast("B")
    return memoryview(ends).cast("B").cast("q"), found


def _details(values: dict[str, Any] | None) -> Details | None:
    if values is None:
        return None
    lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
    return Details(**{**values, **lists})
