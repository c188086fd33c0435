"""The splits of a table: which of its rows are to be learnt from, and which to be measured on."""

from __future__ import annotations

from collections.abc import Sequence

from lookalike.data.record import Record
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
    """The splits that are named, in order of appearance; none where nothing is said of them."""
    found: dict[str, None] = {}
    for record in records:
        if record.details is not None and record.details.split is not None:
            found[record.details.split] = None
    return tuple(found)


def measured_split(records: Sequence[Record]) -> str | None:
    """The split to measure on when nobody says which: the only one that is not `train`.

    Raises:
        DataError: there are several.
    """
    others = [name for name in splits_of(records) if name != TRAIN]
    if len(others) > 1:
        raise DataError(
            f"{records[0].source}: the rows are of the splits {', '.join(splits_of(records))}; "
            f"say which one is to be measured, as --split {others[0]}"
        )
    return others[0] if others else None


def select(records: Sequence[Record], split: str | None) -> tuple[Record, ...]:
    """The records of a split; all of them where no record says of which it is, or with None.

    Raises:
        DataError: there are splits, but not this one.
    """
    if split is None or not (found := splits_of(records)):
        return tuple(records)
    wanted = split_name(split)
    if wanted not in found:
        raise DataError(
            f"{records[0].source}: no row is of the split {wanted!r}; there are {', '.join(found)}"
        )
    return tuple(
        record
        for record in records
        if record.details is not None and record.details.split == wanted
    )
