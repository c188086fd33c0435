"""Parquet and Arrow: embedded images, paths, Hugging Face data sets, damaged files."""

import base64
import io
import json
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lookalike.data.readers import read_records
from lookalike.data.readers.annotation import AnnotationOptions
from lookalike.data.record import Details
from lookalike.data.splits import measured, select
from lookalike.errors import DataError, LookalikeError
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
def test_other_binary_columns_are_not_images(tmp_path, name):
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
    with pytest.raises(DataError, match=r"t\.parquet:1: label '\[1, 2\]' is a list"):
        read_records(saved(table, tmp_path / "t.parquet"))


def test_invalid_utf8_is_refused(tmp_path):
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


def png(colour, size=(8, 6)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_parquet_of_paths(tmp_path):
    table = pa.table(
        {
            "label": pa.array([3, 12], pa.int32()),
            "path": ["a.jpg", "s3://bucket/b.jpg"],
            "split": ["train", "test"],
            "is_query": [None, True],
            "x_1": pa.array([None, 1.0]), "y_1": [None, 2], "x_2": [None, 3], "y_2": [None, 4],
        }
    )  # fmt: skip
    pq.write_table(table, tmp_path / "t.parquet")
    first, second = read_records(str(tmp_path / "t.parquet"))
    assert (first.uri, first.label, first.line) == (str(tmp_path / "a.jpg"), "3", 1)
    assert first.details == Details(split="train")
    assert (second.uri, second.label) == ("s3://bucket/b.jpg", "12")
    assert second.details == Details((1, 2, 3, 4), "test", True)


def hugging_face(images, labels, names=("cat", "dog")):
    """A table with the schema that `datasets` writes."""
    features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [None if data is None else {"bytes": data, "path": "x.png"} for data in images]
    schema = pa.schema(
        [("image", image), ("label", pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    return pa.table([pa.array(rows, image), pa.array(labels)], schema=schema)


def save(table, file, kind):
    if kind == "parquet":
        pq.write_table(table, file, row_group_size=3)
        return
    new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
    with pa.OSFile(str(file), "wb") as sink, new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


@pytest.mark.parametrize("kind", ["parquet", "stream", "file"])
def test_embedded_images(tmp_path, kind):
    images = [png((i, 0, 0)) + bytes(i) for i in range(8)]
    file = tmp_path / f"t.{'parquet' if kind == 'parquet' else 'arrow'}"
    save(hugging_face(images, [0, 1] * 4), file, kind)
    for _ in range(2):  # the second time from what was unpacked
        records = read_records(str(file))
        assert list(map(content, records)) == images
        assert [r.label for r in records] == ["cat", "dog"] * 4
        assert [r.line for r in records] == list(range(1, 9))
    # Another content under the same name is not taken for the old one.
    save(hugging_face(images[::-1], [0, 1] * 4), file, kind)
    assert list(map(content, read_records(str(file)))) == images[::-1]


def test_an_edited_table_with_the_same_footer_gives_its_new_images(tmp_path):
    file = tmp_path / "t.parquet"
    for colour in ((1, 0, 0), (2, 0, 0)):
        images = [png((9, 9, 9)), png(colour), png((7, 7, 7))]
        table = hugging_face(images, [0, 1, 0])
        pq.write_table(
            table, file, compression="none", use_dictionary=False, write_statistics=False
        )
        assert list(map(content, read_records(str(file)))) == images


def test_rows_without_image_or_label_are_refused(tmp_path):
    table = hugging_face([png((0, 0, 0)), None, png((1, 0, 0)), b""], [0, 1, -1, None])
    for kind, name in (("parquet", "t.parquet"), ("stream", "t.arrow")):
        save(table, tmp_path / name, kind)
        with pytest.raises(DataError) as error:
            read_records(str(tmp_path / name))
        assert str(error.value).splitlines() == [
            f"{tmp_path}/{name}:2: no image",
            f"{tmp_path}/{name}:3: label -1 is not one of the 2 class names",
            f"{tmp_path}/{name}:4: no label; fill it in or remove the row",
        ]


def test_folders_of_hugging_face(tmp_path):
    image = png((0, 0, 0))
    hub = tmp_path / "hub" / "data"
    hub.mkdir(parents=True)
    counts = {"train-00000-of-00002": 2, "train-00001-of-00002": 1, "test-00000-of-00001": 4}
    for name, count in counts.items():
        save(hugging_face([image] * count, [0] * count), hub / f"{name}.parquet", "parquet")
    saved = tmp_path / "saved"
    for split, count in (("train", 3), ("test", 4)):
        (saved / split).mkdir(parents=True)
        (saved / split / "dataset_info.json").write_text("{}")
        table = hugging_face([image] * count, [0] * count)
        save(table, saved / split / "data-00000-of-00001.arrow", "stream")
    for folder in (tmp_path / "hub", saved):
        records = read_records(str(folder))
        assert len(records) == 7
        assert len(select(records, "train")) == 3
        assert len(measured(records)) == 4
    alone = read_records(str(hub / "test-00000-of-00001.parquet"))
    assert all(record.details is None for record in alone)


def test_errors_of_damaged_tables_are_one_line(tmp_path):
    save(hugging_face([png((0, 0, 0))] * 9, [0] * 9), tmp_path / "t.parquet", "parquet")
    save(hugging_face([png((0, 0, 0))] * 9, [0] * 9), tmp_path / "t.arrow", "stream")
    rng = np.random.default_rng()
    for name in ("t.parquet", "t.arrow"):
        whole = (tmp_path / name).read_bytes()
        for _ in range(150):
            data = bytearray(whole)
            if rng.random() < 0.3:
                data = data[: rng.integers(len(data))]
            for _ in range(rng.integers(1, 20)):
                if data:
                    data[rng.integers(len(data))] = rng.integers(256)
            (tmp_path / f"bad{name[1:]}").write_bytes(data)
            try:
                read_records(str(tmp_path / f"bad{name[1:]}"))
            except LookalikeError as error:
                assert "\n" not in str(error) or str(error).count("bad") > 1  # noqa: PT017


@pytest.mark.parametrize("footer", [b"\x19" * 5000, b"\x00" * 9, b""])
def test_a_damaged_footer_is_damage_of_the_file_and_not_of_its_storage(tmp_path, footer):
    content = b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(DataError, match="not a whole Parquet file"):
        read_records(str(tmp_path / "t.parquet"))


# As the fuzzing found it: six labels, and a column of images that says it has none.
SHORT_COLUMN = (
    "eNqNVM1u00AQnl07VgIGJZV2ZSMj5UCtgNqSREpAKBzWaVp+AqSRqjQVFydYTiW3TZNAUg6ceQFufQLEA/AEnDjy"
    "EAj1xBOwP3GclgoximZmd+b75puVlRZrl4hOzhDZaxKTwArASz0DtxG6ASgnPJZek17PoWIGAFKxESCU3FrjyCwx"
    "iOFUoZBZFC3RqiyX4+56AXNvYk37+A3zodfIzSbBcmYqi3hpxulWCL1Ah2YWmkl4Jq/gyAQOzpM7TR4EOFuLx6B5"
    "vMxjpeOKlY57KRSuuF2ehJB2j+j26wpYxrg/CA59okMFW6mDQz8MeE7MVX7qnU6Cscr1oT8ZrELTERp0UYz8XhAB"
    "NW3HrrnwgJh2BYysXVAcCkswNelnTH8h94Ob/tcb2mtiZYLFglkeajSyDbvKtfK6C84leilHso/oe/cMu7/R8pP+"
    "zWZeZNMV23wLSfQd0R/I/aK55/h/X/XT1dLvGrYrJ9GfOjXdNP2qg+1YJmu3X3Ueqfe2zvF9YdPQY4ztMGXPGZsy"
    "L2RbjIWsHso7jze8EEmdsafyIolMpSqT/skmJ33Ik0a9MQeJA1vYrugcdzvPop48h2xTkvTnrcK2pD9pCX1CXbEb"
    "T5pLrcdMzNtZAPxOabBfFrf1UKxWXuB3ZdN2gl/S6w3ebKtFT0X/TJLxUV3mTdXejQTkeWrVfrJ/Irh7FBX39xLI"
    "Uv0xWPmhPzp5G0zW+8Phuj8aHU/z74LR+OD4KF+ubhQ3SnaNf9vqB44G0OL/H38AcNu1Nw=="
)


def test_columns_of_other_lengths_are_refused(tmp_path):
    file = tmp_path / "short.parquet"
    file.write_bytes(zlib.decompress(base64.b64decode(SHORT_COLUMN)))
    with pytest.raises(DataError, match="its column 'image' has 0 values, others have more"):
        read_records(str(file))


# As the fuzzing found it: behind the offsets of its images a part of one more is left over.
ODD_OFFSETS = (
    "eNqdUrFKA0EQnb3bTc6wwiFBAqZIkcJGsLL2EyxtL3AYIYJgilgIfkpKCws/w0/wb9Y3czNxWRDEB7NvZ5g3Mzts"
    "Sik1jqglxoQijShQgxvgPHyC1+D0ehJVsGu9P0KPxIr1C40xAmzTrfqN6CNsLHquytq3QXc8y3Rc9wY2Vf39Q3fX"
    "g/fI/RryA/eZZX1khm675vsnclqoG7xhLJO3+i7nmefFfKvnbf8kMX+Io0Q6d8MMjEinupEoFan20v+DDBP4UbbD"
    "O3unYZcj+sER/R0vygvlK+XbIs/8ufJO2fq+FvnmX2YxX8xJ//DtfSewM9gSdpHNfYAzVIba4A3BoBL9E7XOGrL+"
    "O0FWvmz3i5/kHxF9A08xMxM="
)


def test_offsets_with_bytes_left_over_are_read(tmp_path):
    file = tmp_path / "short.arrow"
    file.write_bytes(zlib.decompress(base64.b64decode(ODD_OFFSETS)))
    records = read_records(str(file))
    assert records
    assert all(record.member is not None for record in records)
