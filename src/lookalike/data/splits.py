"""The splits of a table: rows to train on, and rows to measure on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lookalike.data.record import Record
from lookalike.data.record_table import RecordTable
from lookalike.errors import DataError

TRAIN, VALIDATION = "train", "validation"

_SPELLINGS = {
    "training": TRAIN,
    "val": VALIDATION,
    "valid": VALIDATION,
    "dev": VALIDATION,
    "testing": "test",
}


def split_name(text: str) -> str:
    """`Val` as `validation`: one name for each of the usual spellings; others in lower case."""
    name = text.strip().lower()
    return _SPELLINGS.get(name, name)


def splits_of(records: Sequence[Record]) -> tuple[str, ...]:
    """The splits that records name, in order of appearance."""
    named = (one.split for one in RecordTable.of(records).distinct_details() if one is not None)
    return tuple(dict.fromkeys(split for split in named if split is not None))


def measured(
    records: Sequence[Record], split: str | None = None, *, required: bool = True
) -> RecordTable:
    """The records to measure on: of `split`, or of the only one that is not `train`.

    Raises:
        DataError: no record is of `split`, see `select`; or there are several to choose from.
    """
    if split is not None:
        return select(records, split, required=required)
    others = [name for name in splits_of(records) if name != TRAIN]
    if len(others) > 1:
        raise DataError(
            f"{records[0].source}: the rows are of the splits {', '.join(splits_of(records))}; "
            f"choose the one to measure, as --split {others[0]}"
        )
    return select(records, others[0] if others else None)


def select(records: Sequence[Record], split: str | None, *, required: bool = True) -> RecordTable:
    """The records of a split; all of them with None.

    Args:
        records: of one list or several.
        split: any spelling of its name.
        required: some record must name a split; without, all are taken where none does.

    Raises:
        DataError: no record is of this split.
    """
    table = RecordTable.of(records)
    if split is None:
        return table
    found, wanted = splits_of(table), split_name(split)
    if not found and not required:
        return table
    if not found:
        raise DataError(
            f"{records[0].source}: no row names a split, so none is of the split {wanted!r}; leave "
            "the split out, or add the column split"
        )
    if wanted not in found:
        raise DataError(
            f"{records[0].source}: no row is of the split {wanted!r}; there are {', '.join(found)}"
        )
    chosen = np.array([one is not None and one.split == wanted for one in table.details])
    return table.take(np.flatnonzero(chosen[table.details_codes]))
