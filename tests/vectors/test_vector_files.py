"""Files of vectors: rows in pieces, columns by usual names, names beside arrays, errors."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lookalike.data.record import Details, Record
from lookalike.errors import ConfigError, DataError
from lookalike.vectors import vector_files
from lookalike.vectors.vector_files import read_images, read_vectors
from lookalike.vectors.vector_parts import Part, Parts, Request, merge

VECTORS = np.arange(24, dtype=np.float32).reshape(6, 4)


def whole(uri, **options):
    """Vectors and columns of all rows."""
    pieces = list(read_vectors(str(uri), **options))
    columns = {name: [x for _, some in pieces for x in some[name]] for name in pieces[0][1]}
    return np.concatenate([vectors for vectors, _ in pieces]), columns


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8"])
def test_arrays(tmp_path, monkeypatch, order, kind):
    monkeypatch.setattr(vector_files, "BLOCK_ROWS", 4)
    file = tmp_path / "v.npy"
    np.save(file, np.asarray(VECTORS.astype(kind), order=order))
    vectors, columns = whole(file)
    assert (vectors == VECTORS).all()
    assert vectors.dtype.isnative
    assert columns == {"path": [f"{file}[{row}]" for row in range(6)]}
    (tmp_path / "v.paths.txt").write_text("".join(f"{row}.jpg\n" for row in range(6)))
    (tmp_path / "v.labels.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match=r"v\.labels\.txt: 2 labels of 6 vectors"):
        whole(file)
    assert whole(file, labels=False)[1] == {"path": [f"{row}.jpg" for row in range(6)]}


def test_tables_of_any_program(tmp_path):
    file = tmp_path / "v.parquet"
    columns = {"img": list("abcdef"), "class": [0, 0, 0, 1, 1, 1], "is_query": [True] * 6}
    pq.write_table(pa.table({**columns, "embedding": list(VECTORS)}), file, row_group_size=4)
    vectors, found = whole(file)
    assert (vectors == VECTORS).all()
    assert found == {
        "path": columns["img"],
        "label": columns["class"],
        "is_query": columns["is_query"],
    }
    images = [record for records, _ in read_images(str(file)) for record in records]
    assert images[5] == Record("f", "1", str(file), 0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1.0, 2.0]] * 4 + [None], "row 5 holds no vector"),
        ([[1.0, 2.0]] * 4 + [[1.0]], "row 5 has 1 numbers, row 1 has 2"),
        ([[1.0, 2.0]] * 4 + [[1.0, None]], "row 5 lacks a number"),
        (["1,2"] * 5, "the column vector holds string; expected lists of numbers"),
        ([[]] * 5, "the column vector holds list.*null>; expected lists of numbers"),
    ],
)
def test_errors_name_the_row_of_the_file(tmp_path, rows, message):
    pq.write_table(pa.table({"vector": rows}), tmp_path / "v.parquet", row_group_size=2)
    with pytest.raises(DataError, match=message):
        whole(tmp_path / "v.parquet")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"files that end in \.npy or \.parquet"):
        read_vectors("v.csv")
    (tmp_path / "v.parquet").write_bytes(b"PAR1" * 9)
    with pytest.raises(DataError, match=r"v\.parquet: damaged, or not a Parquet file"):
        whole(tmp_path / "v.parquet")
    pq.write_table(pa.table({"path": ["a.jpg"]}), tmp_path / "v.parquet")
    with pytest.raises(DataError, match="no column of vectors, called vector, embedding"):
        whole(tmp_path / "v.parquet")
    table = pa.table({"path": ["a.jpg", None], "vector": list(VECTORS[:2])})
    pq.write_table(table, tmp_path / "v.parquet")
    with pytest.raises(DataError, match="row 2 has no path"):
        list(read_images(str(tmp_path / "v.parquet")))


@pytest.mark.parametrize("suffix", ["parquet", "npy"])
def test_merged_parts_are_read_back(tmp_path, suffix):
    box = Details((0.0, 0.25, 0.5, 1.0), relative=True)
    records = [Record(f"/{i}.jpg", "ab"[i % 2], "l.txt", i + 1) for i in range(6)]
    records[2] = Record("/2.jpg", "a", "l.txt", 3, details=box)
    parts = Parts(tmp_path / "parts", Request("model", "images", 6, 4, 4))
    parts.begin(restart=False)
    parts.write(0, Part(np.array([0, 2, 3]), VECTORS[[0, 2, 3]], {1: "empty file"}))
    parts.write(1, Part(np.array([4, 5]), VECTORS[4:], {}))
    assert parts.missing() == []
    file = merge(parts, records, tmp_path / "merged", f"v.{suffix}")[-1]
    [(found, vectors)] = read_images(str(file))
    assert (vectors == VECTORS[[0, 2, 3, 4, 5]]).all()
    assert [(r.uri, r.label) for r in found] == [
        (records[i].uri, records[i].label) for i in (0, 2, 3, 4, 5)
    ]
    assert found[1].details == (box if suffix == "parquet" else None)
