"""Labels that are missing values are refused in every format, with file and row, all together."""

import io
import json
import math
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lookalike.data.readers import read_records
from lookalike.data.readers.annotation import UNLABELLED, AnnotationOptions, BadRows, is_missing
from lookalike.errors import DataError

MISSING = ("nan", "NaN", "NAN", "-nan", "inf", "-Infinity", "None", "null", "NULL", "<NA>", "N/A")


def complaints(uri):
    with pytest.raises(DataError) as caught:
        read_records(str(uri))
    return str(caught.value).splitlines()


def check(uri, rows):
    found = complaints(uri)
    assert [line.split(": ")[0] for line in found[:10]] == [f"{uri}:{row}" for row in rows[:10]]
    assert all("label" in line and "fill it in or remove" in line for line in found[:10])
    assert found[10:] == ([f"and {len(rows) - 10} more"] if len(rows) > 10 else [])


@pytest.mark.parametrize(
    ("name", "header", "row"),
    [
        ("a.txt", "", "{i}.jpg {label}\n"),
        ("a.csv", "path,label\n", "{i}.jpg,{label}\n"),
        ("a.tsv", "label\tpath\n", "{label}\t{i}.jpg\n"),
        ("a.jsonl", "", '{{"path": "{i}.jpg", "label": "{label}"}}\n'),
    ],
)
def test_missing_values_in_texts(tmp_path, name, header, row):
    labels = ["7", *MISSING, "7"]
    text = header + "".join(row.format(i=i, label=label) for i, label in enumerate(labels))
    (tmp_path / name).write_text(text)
    first = 2 if header else 1
    check(tmp_path / name, [first + 1 + i for i in range(len(MISSING))])
    # Where labels are not needed, they are none.
    found = read_records(str(tmp_path / name), options=UNLABELLED)
    assert [record.label for record in found] == ["7", *[""] * len(MISSING), "7"]


@pytest.mark.parametrize(
    ("name", "text", "first"),
    [
        ("a.txt", "0.jpg\n1.jpg\n", "1: '0.jpg' has no label; write: path label"),
        ("a.csv", "path,label\n0.jpg,\n1.jpg,nan\n", "2: no label; fill it in or remove the row"),
        ("a.jsonl", '{"path": "0.jpg", "label": null}\n' * 2, "1: no label; fill it in or remove"),
    ],
)
def test_a_list_without_any_labels_is_one_error(tmp_path, name, text, first):
    (tmp_path / name).write_text(text)
    [line] = complaints(tmp_path / name)
    assert line.startswith(
        f"{tmp_path / name}: none of the 2 rows has a label, as {tmp_path / name}:{first}"
    )
    (tmp_path / "good.txt").write_text("0.jpg 7\n")
    rows = BadRows()
    places = [str(tmp_path / "good.txt"), str(tmp_path / name)]
    assert len(read_records(places, options=AnnotationOptions(bad=rows))) == 1
    assert [": ".join(row) for row in rows.found] == [line]


@pytest.mark.parametrize("label", [None, b"", b" \n", b"nan"])
def test_shards_without_any_labels_are_one_error(tmp_path, label):
    place = tmp_path / "a.tar"
    with tarfile.open(place, "w") as tar:
        for name, content in (("0.jpg", b"x"), ("0.cls", label), ("1.jpg", b"x"), ("1.cls", label)):
            if content is not None:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    [line] = complaints(place)
    assert line.startswith(f"{place}: none of the 2 rows has a label, as {place}: 0: ")
    found = read_records(str(place), options=UNLABELLED)
    assert [record.label for record in found] == ["", ""]


def test_similar_words_are_classes(tmp_path):
    labels = ["none", "na", "nano", "infinite", "Nantes", "null-a", "1.5", "-1"]
    (tmp_path / "a.csv").write_text("path,label\n" + "".join(f"{x}.jpg,{x}\n" for x in labels))
    assert [record.label for record in read_records(str(tmp_path / "a.csv"))] == labels
    assert not any(map(is_missing, labels))


@pytest.mark.parametrize(
    "values",
    [
        pa.array([17.0, math.nan, math.inf, None, 3.0], pa.float64()),
        pa.array([17.0, math.nan, -math.inf, None, 3.0], pa.float32()),
        pa.array(["17", "nan", "null", None, "3"]),
        pa.array([b"17", b"NaN", b"None", None, b"3"], pa.binary()),
    ],
)
def test_parquet_and_arrow(tmp_path, values):
    table = pa.table({"path": [f"{i}.jpg" for i in range(5)], "label": values})
    pq.write_table(table, tmp_path / "t.parquet")
    with (
        pa.OSFile(str(tmp_path / "t.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as writer,
    ):
        writer.write_table(table)
    for name in ("t.parquet", "t.arrow"):
        check(tmp_path / name, [2, 3, 4])
        found = read_records(str(tmp_path / name), options=UNLABELLED)
        assert [record.label for record in found] == ["17", "", "", "", "3"]


def test_float_columns_of_class_numbers(tmp_path):
    table = pa.table({"path": ["a.jpg", "b.jpg", "c.jpg"], "label": [17.0, -1.0, 0.0]})
    pq.write_table(table, tmp_path / "t.parquet")
    assert [r.label for r in read_records(str(tmp_path / "t.parquet"))] == ["17", "-1", "0"]
    (tmp_path / "t.csv").write_text("path,label\na.jpg,17.0\nb.jpg,-1.0\nc.jpg,-0.0\n")
    assert [r.label for r in read_records(str(tmp_path / "t.csv"))] == ["17", "-1", "0"]
    (tmp_path / "t.txt").write_text("a.jpg 17.0\nb.jpg 17\n")
    assert [r.label for r in read_records(str(tmp_path / "t.txt"))] == ["17", "17"]
    # Two ids that one float cannot tell apart are not made one class.
    table = pa.table({"path": ["a.jpg"], "label": [2.0**53 + 2]})
    pq.write_table(table, tmp_path / "large.parquet")
    assert "is a float, which cannot hold all integers" in complaints(tmp_path / "large.parquet")[0]


def test_class_names_of_hugging_face_are_never_missing_values(tmp_path):
    features = {"label": {"names": ["None", "cat"], "_type": "ClassLabel"}}
    schema = pa.schema(
        [("path", pa.string()), ("label", pa.float64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    table = pa.table([["a.jpg", "b.jpg", "c.jpg"], [0.0, 1.0, math.nan]], schema=schema)
    pq.write_table(table, tmp_path / "t.parquet")
    assert complaints(tmp_path / "t.parquet")[0].startswith(f"{tmp_path}/t.parquet:3: label 'nan'")
    pq.write_table(table.slice(0, 2), tmp_path / "t.parquet")
    assert [r.label for r in read_records(str(tmp_path / "t.parquet"))] == ["None", "cat"]


def test_manifests_and_shards(tmp_path):
    answers = ["cat", math.nan, "null", 17.0]
    items = [
        {"data": {"source": f"{i}.jpg"}, "label-1": {"results": [{"data": answer}]}}
        for i, answer in enumerate(answers)
    ]
    (tmp_path / "a.manifest").write_text("\n".join(map(json.dumps, items)))
    check(tmp_path / "a.manifest", [2, 3])
    rows = BadRows()
    records = read_records(str(tmp_path / "a.manifest"), options=AnnotationOptions(bad=rows))
    assert [record.label for record in records] == ["cat", "17"]
    assert len(rows.found) == 2
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for i, label in enumerate((b"nan", b'{"label": NaN}', b'{"label": 17.0}')):
            kind = "json" if label[:1] == b"{" else "cls"
            for end, content in (("jpg", b"\xff\xd8"), (kind, label)):
                entry = tarfile.TarInfo(f"{i}.{end}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    found = complaints(tmp_path / "a.tar")
    assert [line.split(": ")[1] for line in found] == ["0", "1"]
    assert all("is a missing value" in line for line in found)


def test_names_of_folders_are_never_missing_values(tmp_path):
    for name in ("nan", "cat"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(b"\xff\xd8")
    assert [record.label for record in read_records(str(tmp_path))] == ["cat", "nan"]
