"""Parquet and Arrow: which column holds images, paths in the stead of bytes, texts as BINARY."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lookalike.data.readers import read_records
from lookalike.data.readers.annotation import AnnotationOptions
from lookalike.errors import DataError
from lookalike.storage import read_bytes

JPEG = b"\xff\xd8\xff\xe0" + bytes(20)
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))


def saved(table, file):
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        pq.write_table(table, file)
    else:
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    return str(file)


def content(record):
    part = record.member and (record.member.offset, record.member.size)
    return read_bytes(record.uri, part=part)


@pytest.mark.parametrize("name", ["data/train-00000-of-00001.parquet", "data-0.arrow"])
def test_rows_with_a_path_and_no_bytes(tmp_path, name):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"a")
    rows = [
        {"bytes": None, "path": "images/a.jpg"},
        {"bytes": None, "path": str(tmp_path / "images" / "a.jpg")},
        {"bytes": JPEG, "path": "elsewhere.jpg"},
        {"bytes": None, "path": "s3://b/c.jpg"},
        {"bytes": None, "path": "images/none.jpg"},
    ]
    table = pa.table({"image": pa.array(rows, IMAGE), "label": [1, 2, 3, 4, 5]})
    records = read_records(saved(table, tmp_path / name))
    assert [content(record) for record in records[:3]] == [b"a", b"a", JPEG]
    assert records[3].uri == "s3://b/c.jpg"
    assert records[4].uri.endswith("/images/none.jpg")
    assert [record.label for record in records] == ["1", "2", "3", "4", "5"]
    rows.append({"bytes": None, "path": None})
    table = pa.table({"image": pa.array(rows, IMAGE), "label": range(6)})
    file = saved(table, tmp_path / name)
    with pytest.raises(DataError, match=":6: no image"):
        read_records(file)
    moved = read_records(
        saved(table.slice(0, 1), tmp_path / name), options=AnnotationOptions(image_root="/data")
    )
    assert moved[0].uri == "/data/images/a.jpg"


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
def test_texts_that_are_stored_as_binary(tmp_path, kind, name):
    table = pa.table(
        {
            "path": pa.array([b"a.jpg", "b \u00e9.jpg".encode()], kind),
            "label": pa.array([b"cat", b"7"], kind),
            "phash": pa.array([b"\x01\xfe", b"\x00\xff"], kind),
            "split": pa.array([b"train", b"train"], kind),
        }
    )
    records = read_records(saved(table, tmp_path / name))
    assert [record.uri for record in records] == [f"{tmp_path}/a.jpg", f"{tmp_path}/b \u00e9.jpg"]
    assert [(record.label, record.details.split) for record in records] == [
        ("cat", "train"), ("7", "train"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
def test_any_other_binary_column_is_no_image(tmp_path, name):
    table = pa.table(
        {
            "embedding": pa.array([b"\x00\x01\xff", b"\x00\x02\xfe"]),
            "photo": pa.array([JPEG, JPEG + b"2"]),
            "label": ["a", "b"],
        }
    )
    assert [content(r) for r in read_records(saved(table, tmp_path / name))] == [JPEG, JPEG + b"2"]
    table = pa.table({"phash": [b"\x01\xfe"], "file": ["a.jpg"], "label": ["a"]})
    assert read_records(saved(table, tmp_path / name))[0].uri == f"{tmp_path}/a.jpg"
    with pytest.raises(DataError, match=r"no column of images .* 'phash', 'label'; set data"):
        read_records(saved(table.drop_columns(["file"]), tmp_path / name))


def test_several_columns_of_images(tmp_path):
    table = pa.table({"mask": [JPEG], "picture": [JPEG + b"2"], "label": ["a"]})
    file = saved(table, tmp_path / "t.parquet")
    assert content(read_records(file)[0]) == JPEG + b"2"  # by its name
    table = table.rename_columns(["left_eye", "right_eye", "label"])
    file = saved(table, tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"may be 'left_eye', 'right_eye'; set data\.path_column"):
        read_records(file)
    assert (
        content(read_records(file, options=AnnotationOptions(path_column="right_eye"))[0])
        == JPEG + b"2"
    )


def test_the_column_that_the_data_set_states(tmp_path):
    features = {"scan": {"_type": "Image"}, "label": {"_type": "Value", "dtype": "string"}}
    table = pa.table({"image": [JPEG], "scan": [JPEG + b"2"], "label": ["a"]})
    table = table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    assert content(read_records(saved(table, tmp_path / "t.parquet"))[0]) == JPEG + b"2"
    options = AnnotationOptions(path_column="image")
    assert content(read_records(saved(table, tmp_path / "t.arrow"), options=options)[0]) == JPEG


def test_columns_that_are_typed(tmp_path):
    table = pa.table(
        {
            "Image": pa.array(["a.jpg", "b.jpg"]).dictionary_encode(),
            "Id": pa.array([7, 8], pa.int16()),
            "height": [1.5, 2.5],
        }
    )
    records = read_records(saved(table, tmp_path / "t.parquet"))
    assert [(r.uri, r.label) for r in records] == [
        (f"{tmp_path}/a.jpg", "7"), (f"{tmp_path}/b.jpg", "8"),
    ]  # fmt: skip
    table = pa.table({"path": ["a.jpg"], "label": [[1, 2]]})
    with pytest.raises(DataError, match=r"t\.parquet:1: '\[1, 2\]' is neither a text nor a number"):
        read_records(saved(table, tmp_path / "t.parquet"))


def test_a_text_that_is_no_utf8_is_damage(tmp_path):
    text = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\x8b")]
    )
    table = pa.table({"path": ["a.jpg"], "label": ["a"], "note": text})
    file = saved(table, tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet: damaged in its first rows"):
        read_records(file)


@pytest.mark.parametrize("fields", [("bytes", "path"), ("path",)])
@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_images_of_which_no_row_has_bytes_are_paths(tmp_path, fields, suffix):
    # Without any bytes, Arrow has no type for their field.
    images = [{"bytes": None, "path": f"{i}.jpg"} for i in range(2)]
    images = [{name: image[name] for name in fields} for image in images]
    table = pa.table({"image": images, "label": ["a", "b"]})
    place = tmp_path / f"train.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, place)
    else:
        with pa.OSFile(str(place), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    assert [r.uri for r in read_records(str(place))] == [str(tmp_path / f"{i}.jpg") for i in (0, 1)]
