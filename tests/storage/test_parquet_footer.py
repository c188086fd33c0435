"""Footers of Parquet files, beside what pyarrow reads of them."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lookalike.errors import DataError
from lookalike.storage.claimed_sizes import check_parquet
from lookalike.storage.parquet_footer import read_footer


def written(rows: int = 300, **options: object) -> bytes:
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "path": [f"/photos/{row}.jpg" for row in range(rows)],
            "label": [None if row % 7 == 0 else f"class {row % 5}" for row in range(rows)],
            "vector": pa.FixedSizeListArray.from_arrays(
                pa.array(rng.standard_normal(rows * 4).astype(np.float32)), 4
            ),
            "part": [{"a": True, "b": [row, None]} for row in range(rows)],
        },
        metadata={"lookalike": "{}"},
    )
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rows": 0},
        {"row_group_size": 7, "write_page_index": True},
        {"compression": "zstd", "use_dictionary": False, "write_statistics": False},
        {"data_page_version": "2.0", "version": "1.0", "store_schema": False},
    ],
)
def test_sizes_are_those_that_pyarrow_reads(options):
    content = written(**options)
    found = read_footer(io.BytesIO(content), len(content))
    expected = pq.read_metadata(io.BytesIO(content))
    assert (found.rows, len(found.groups)) == (expected.num_rows, expected.num_row_groups)
    for number, group in enumerate(found.groups):
        theirs = expected.row_group(number)
        assert (group.rows, len(group.columns)) == (theirs.num_rows, theirs.num_columns)
        for place, column in enumerate(group.columns):
            one = theirs.column(place)
            assert column == (
                one.path_in_schema,
                one.num_values,
                one.total_uncompressed_size,
                one.total_compressed_size,
                one.dictionary_page_offset or one.data_page_offset,
            )
    check_parquet(io.BytesIO(content), len(content), "table.parquet")


@pytest.mark.parametrize("level", [b"\x19", b"\x1c"])  # a field that is a list of lists, a struct
def test_footers_that_are_nested_without_end_are_refused(level):
    footer = level * 5000
    content = b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"
    with pytest.raises(ValueError, match="nested too deeply"):
        read_footer(io.BytesIO(content), len(content))


def test_damaged_footers_are_refused_or_read():
    """At some of them pyarrow's own objects end the process."""
    whole = written(20)
    length = int.from_bytes(whole[-8:-4], "little")
    rng = np.random.default_rng(1)
    said = []
    for _ in range(400):
        broken = bytearray(whole)
        for place in rng.integers(len(whole) - 8 - length, len(whole), 2).tolist():
            broken[place] ^= 1 << int(rng.integers(8))
        try:
            check_parquet(io.BytesIO(bytes(broken)), len(whole), "table.parquet")
        except DataError as error:
            said.append(str(error))
    assert len(said) > 40
    assert all(text.startswith("table.parquet: ") and "\n" not in text for text in said)
    for cut in (b"", b"PAR1", whole[-3:], whole[:-1], whole[-8:]):
        with pytest.raises(DataError, match="its footer is damaged"):
            check_parquet(io.BytesIO(cut), len(cut), "table.parquet")
