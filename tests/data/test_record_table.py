"""Records as columns: what goes in comes out, whatever lies in memory, on the disk or elsewhere."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lookalike.data import record_table
from lookalike.data.catalog import build_catalog
from lookalike.data.held_out_classes import hold_out
from lookalike.data.readers import read_records
from lookalike.data.readers.annotation import AnnotationOptions
from lookalike.data.record import Details, Member, Record
from lookalike.data.record_table import RecordTable
from lookalike.data.splits import select, splits_of
from lookalike.errors import StorageError


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Blocks of 8 rows, of which 24 stay in memory; the folder in which further ones lie."""
    monkeypatch.setattr(record_table, "BLOCK", 8)
    monkeypatch.setattr(record_table, "IN_MEMORY", 24)
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lists"


def _details(draw: random.Random) -> Details | None:
    if draw.random() < 0.3:
        return None
    relative = draw.random() < 0.5
    box = (0.125, 0.1, 0.7, 1.0) if relative else (1, 2, draw.randint(3, 10**6), 2**40)
    return Details(
        box=draw.choice([None, box]),
        relative=relative,
        split=draw.choice([None, "train", "validation"]),
        is_query=draw.choice([None, True, False]),
        sequence=draw.choice([None, "s\u00e91"]),
        weight=draw.choice([None, draw.random()]),
        further_labels=draw.choice([(), ("a", "b")]),
        coarser=draw.choice([(), ("x", "\U0001f5fb")]),
    )


def _records(number: int, seed: int) -> list[Record]:
    draw = random.Random(seed)
    names = [
        "a.jpg",
        "/b c/\u00e9.png",
        "oss://b/k?endpoint=x",
        "lone \udcff.jpg",
        "",
        "\U0001f5fb",
    ]
    return [
        Record(
            draw.choice(names) * draw.randint(0, 3),
            draw.choice(["7", "shoe", "\u5c71", "half \ud800"]),
            draw.choice(["one.txt", "two.csv"]),
            draw.choice([0, row, 2**40 + row]),
            draw.choice([None, None, Member("in \u00e9", 2**40, row)]),
            _details(draw),
        )
        for row in range(number)
    ]


@pytest.mark.parametrize("number", [0, 7, 8, 30, 100])
def test_records_come_out_as_they_went_in(small_blocks: Path, number: int) -> None:
    records = _records(number, seed=number)
    table = RecordTable(records)
    assert len(table) == number
    assert list(table) == records
    assert [table[row] for row in range(number)] == records
    assert [repr(one) for one in table] == list(map(repr, records))  # ints stay ints
    assert list(table[-5:]) == records[-5:]
    assert table == records
    assert table != [*records, Record("", "", "", 0)]
    assert [table.labels[code] for code in table.label_codes] == [r.label for r in records]
    plain = [r.details and replace(r.details, box=None, weight=None) for r in records]
    assert [table.details[code] for code in table.details_codes] == plain
    assert small_blocks.is_dir() == (number >= 32)  # four blocks
    assert not small_blocks.is_dir() or not any(small_blocks.iterdir())  # the file has no name


def test_rows_and_joined_tables(small_blocks: Path) -> None:
    first, second = _records(20, seed=1), _records(37, seed=2)
    table = RecordTable(RecordTable(first))
    table.extend(RecordTable(second))
    table.append(first[0])
    together = [*first, *second, first[0]]
    assert list(table) == together
    rows = np.array([57, 3, 3, 40, 19])
    taken = table.take(rows).take(np.array([4, 0, 1]))
    assert list(taken) == [together[row] for row in (19, 57, 3)]
    assert taken[-1] == together[3]
    assert taken.distinct_labels() == {label for one in taken for label in one.labels}
    with pytest.raises(IndexError, match="row 3 of 3 records"):
        taken[3]


def test_catalog_does_not_depend_on_blocks(small_blocks: Path, tmp_path: Path) -> None:
    draw = random.Random(5)
    lines = [f"img/{i:03d}.jpg,{draw.randint(0, 9)}|{draw.randint(10, 12)},"
             f"{draw.choice(['train', 'train', 'val'])}\n" for i in range(90)]  # fmt: skip
    file = tmp_path / "t.csv"
    file.write_text("path,label,split\n" + "".join(lines))
    records = read_records(str(file), options=AnnotationOptions(label_separator="|"))
    plain = list(records)
    assert [record.line for record in records] == list(range(2, 92))  # errors name them
    assert splits_of(records) == splits_of(plain)
    for split in (None, "train"):
        chosen = [r for r in plain if split is None or r.details.split == split]
        assert list(select(records, split)) == chosen
        ours, theirs = build_catalog(select(records, split)), build_catalog(chosen)
        rows = theirs.classes.rows
        assert ours.classes == theirs.classes
        assert ours.class_ids.tolist() == [rows[r.label] for r in chosen]
        assert ours.all_ids.tolist() == [[rows[label] for label in r.labels] for r in chosen]
        assert ours.fingerprint() == theirs.fingerprint()
        for part, other in zip(hold_out(ours, 0.3, 7), hold_out(theirs, 0.3, 7), strict=True):
            assert list(part.records) == list(other.records)
            assert part.all_ids.tolist() == other.all_ids.tolist()


def test_another_process_maps_the_table(small_blocks: Path) -> None:
    records = [replace(r, label="x", details=None) for r in _records(50, seed=3)]
    for number in (5, 50):  # in memory, on the disk
        table = RecordTable(records[:number])
        code = (
            "import sys, json; from lookalike.data.record_table import RecordTable\n"
            "print(ascii(list(RecordTable.from_handle(json.loads(sys.argv[1])))))"
        )
        command = [sys.executable, "-c", code, json.dumps(table.handle())]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert found.strip() == ascii(records[:number])
        assert list(table) == records[:number]
    handle = {**table.handle(), "process": 2**22 + 1}  # beyond the largest
    with pytest.raises(StorageError, match="of this machine has read cannot be opened: no such"):
        RecordTable.from_handle(handle)


def test_full_disk_is_one_clear_line(small_blocks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite

    def full(file: int, content: memoryview, start: int) -> int:
        if start >= 3 * 4096:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, content[:100], start)  # a part, as a system may

    table = RecordTable(_records(20, seed=4))
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StorageError) as raised:
        table.extend(_records(20, seed=4))
    assert str(raised.value) == (
        f"a list of more than 24 images is kept in the cache: {small_blocks}: cannot be written: "
        "no space left on device; set LOOKALIKE_CACHE to another folder"
    )
