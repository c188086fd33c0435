"""CSV and Parquet tables: the columns, every complaint with its line, and what is embedded."""

import base64
import csv
import gzip
import io
import json
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lookalike.data.catalog import open_catalog
from lookalike.data.decoding.crop_box import decode_record
from lookalike.data.readers import csv_table, read_records
from lookalike.data.readers.annotation import Annotation
from lookalike.data.record import Details
from lookalike.data.splits import measured_split, select
from lookalike.errors import DataError, LookalikeError
from lookalike.storage import read_bytes

FULL = """path,label,split,is_query,is_gallery,category,sequence,x_1,y_1,x_2,y_2,colour
a.jpg,shoe,train,,,cloth,,,,,,red
b c.jpg,hat,validation,True,False,cloth,s1,1,2,30,40,blue
"d,e.jpg",hat,val,0,1,cloth,2.0,1.6,2,30.0,40,blue
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))


def written(tmp_path, text, name="t.csv"):
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return str(tmp_path / name)


def png(colour, size=(8, 6)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_all_columns(tmp_path, caplog):
    records = read_records(written(tmp_path, FULL))
    assert [r.uri for r in records] == [str(tmp_path / n) for n in ("a.jpg", "b c.jpg", "d,e.jpg")]
    assert [r.label for r in records] == ["shoe", "hat", "hat"]
    assert [r.origin for r in records] == [f"{tmp_path}/t.csv:{n}" for n in (2, 3, 4)]
    assert records[0].details == Details(split="train", category="cloth")
    assert records[1].details == Details((1, 2, 30, 40), "validation", True, False, "s1", "cloth")
    assert records[2].details == Details((2, 2, 30, 40), "validation", False, True, "2.0", "cloth")
    assert "columns not used: 'colour'" in caplog.text


def test_a_camera(tmp_path):
    records = read_records(written(tmp_path, "path,label,camera\na.jpg,1,c 2\nb.jpg,1,\n"))
    assert records[0].details == Details(camera="c 2")
    assert records[1].details == Details()


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_delimiters_and_line_ends(tmp_path, delimiter, end):
    text = end.join(delimiter.join(row) for row in [("label", "path"), ("007", "x y.jpg")])
    records = read_records(written(tmp_path, text, "list.txt"))
    assert [(r.uri, r.label, r.details) for r in records] == [
        (str(tmp_path / "x y.jpg"), "7", None)
    ]


def test_gzip_byte_order_mark_and_a_cell_of_several_lines(tmp_path):
    text = '\ufeffpath,label,note\na.jpg,1,"two\nlines"\n\nb.jpg,2.0,x\n'
    records = read_records(written(tmp_path, gzip.compress(text.encode()), "t.csv.gz"))
    assert [(r.label, r.line) for r in records] == [("1", 3), ("2", 5)]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("path,label\n", "t.csv: the table holds no rows"),
        ("path,label\na.jpg\n", "t.csv:2: 1 cells, 2 columns"),
        ("path,label\na.jpg,\n", "t.csv:2: no label; fill it in"),
        ("path,label\n,cat\n", "t.csv:2: '' is not the path"),
        ("path,label\nhttp://[x,cat\n", "t.csv:2: 'http://[x' is not the path"),
        ('path,label\na.jpg,"cat\n', "t.csv:2: not CSV"),
        ("path,label,path\na.jpg,1,b.jpg\n", "the column 'path' is there twice"),
        ("path,label,x_1\na.jpg,1,3\n", "y_1, x_2, y_2 missing"),
        ("path,label,sequence,camera\na.jpg,1,2,3\n", "by `sequence` or by `camera`, not by both"),
        ("path,label,split\na.jpg,1,\n", "t.csv:2: the split is missing"),
        ("path,label,is_query\na.jpg,1,maybe\n", "is_query is 'maybe'; write true or false"),
        ("path,label,x_1,y_1,x_2,y_2\na.jpg,1,1,1,9,\n", "the box is not complete"),
        ("path,label,x_1,y_1,x_2,y_2\na.jpg,1,1,1,9,z\n", "'1', '1', '9', 'z' is not four"),
        ("path,label,x_1,y_1,x_2,y_2\na.jpg,1,9,1,9,5\n", "is upside down or empty"),
    ],
)
def test_complaints_name_file_and_line(tmp_path, text, complaint):
    with pytest.raises(DataError) as error:
        read_records(written(tmp_path, text), "csv")
    assert complaint in str(error.value)


def test_missing_columns_are_named_beside_those_there_are(tmp_path):
    with pytest.raises(
        DataError, match=r"column of labels .* among 'path', 'a', 'b'; set data.lab"
    ):
        read_records(written(tmp_path, "path,a,b\na.jpg,x,y\n"), "csv")


def test_splits(tmp_path):
    uri = written(tmp_path, FULL)
    assert open_catalog(uri, split="train").classes.names == ("shoe",)
    assert len(open_catalog(uri, split="Val")) == 2
    assert len(open_catalog(uri)) == 3
    assert measured_split(read_records(uri)) == "validation"
    with pytest.raises(DataError, match="no row is of the split 'test'; there are train, valid"):
        open_catalog(uri, split="test")
    more = read_records(written(tmp_path, FULL + "z.jpg,hat,test,,,,,,,,,\n"))
    with pytest.raises(DataError, match=r"train, validation, test; choose .* --split valid"):
        measured_split(more)
    plain = read_records(written(tmp_path, "a.jpg 1\n", "list.txt"))
    assert len(select(plain, "test")) == 1
    assert measured_split(plain) is None


def test_boxes_cut_the_upright_picture(tmp_path):
    # Left half black, right half white, turned by its EXIF orientation.
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:, 15:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned right by 90 degrees: 30 high, 20 wide, black above
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    text = "path,label,x_1,y_1,x_2,y_2\na.png,1,2,14,99,17\na.png,1,20,0,25,9\na.png,1,,,,\n"
    inside, outside, whole = read_records(written(tmp_path, text))
    data = read_bytes(inside.uri)
    found = decode_record(inside, data)
    assert found.shape == (3, 18, 3)
    assert found[:1].max() == 0
    assert found[1:].min() == 255
    assert decode_record(whole, data).shape == (30, 20, 3)
    with pytest.raises(DataError, match=r"box x 20 to 25, y 0 to 9 lies outside of .* 20 x 30"):
        decode_record(outside, data)


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


def contents(records):
    return [read_bytes(r.uri, part=(r.member.offset, r.member.size)) for r in records]


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
        assert contents(records) == images
        assert [r.label for r in records] == ["cat", "dog"] * 4
        assert [r.line for r in records] == list(range(1, 9))
    # Another content under the same name is not taken for the old one.
    save(hugging_face(images[::-1], [0, 1] * 4), file, kind)
    assert contents(read_records(str(file))) == images[::-1]


def test_rows_without_image_or_label_are_complained_about(tmp_path):
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
        assert len(select(records, measured_split(records))) == 4
    alone = read_records(str(hub / "test-00000-of-00001.parquet"))
    assert all(record.details is None for record in alone)


def test_damaged_tables_are_said_in_a_line(tmp_path):
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


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.lists(st.text(st.characters(codec="utf-8"), max_size=6), min_size=2, max_size=3),
        max_size=5,
    )
)
def test_any_cells_are_read_or_complained_about(rows):
    text = io.StringIO()
    csv.writer(text).writerows([["path", "label", "split"], *rows])
    try:
        records = csv_table.read(Annotation("t.csv", content=text.getvalue()))
    except DataError:
        return
    assert all(record.label and record.uri for record in records)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec="utf-8")))
def test_any_text_is_read_or_complained_about(text):
    for content in (text, "path,label,x_1,y_1,x_2,y_2,is_query\n" + text):
        try:
            csv_table.read(Annotation("t.csv", content=content))
        except DataError as error:
            assert str(error)  # noqa: PT017


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
    content = zlib.decompress(base64.b64decode(SHORT_COLUMN))
    with pytest.raises(DataError, match="its column 'image' has 0 values, others have more"):
        read_records(written(tmp_path, content, "short.parquet"))


# As the fuzzing found it: behind the offsets of its images a part of one more is left over.
ODD_OFFSETS = (
    "eNqdUrFKA0EQnb3bTc6wwiFBAqZIkcJGsLL2EyxtL3AYIYJgilgIfkpKCws/w0/wb9Y3czNxWRDEB7NvZ5g3Mzts"
    "Sik1jqglxoQijShQgxvgPHyC1+D0ehJVsGu9P0KPxIr1C40xAmzTrfqN6CNsLHquytq3QXc8y3Rc9wY2Vf39Q3fX"
    "g/fI/RryA/eZZX1khm675vsnclqoG7xhLJO3+i7nmefFfKvnbf8kMX+Io0Q6d8MMjEinupEoFan20v+DDBP4UbbD"
    "O3unYZcj+sER/R0vygvlK+XbIs/8ufJO2fq+FvnmX2YxX8xJ//DtfSewM9gSdpHNfYAzVIba4A3BoBL9E7XOGrL+"
    "O0FWvmz3i5/kHxF9A08xMxM="
)


def test_offsets_with_bytes_left_over_are_read(tmp_path):
    content = zlib.decompress(base64.b64decode(ODD_OFFSETS))
    records = read_records(written(tmp_path, content, "short.arrow"))
    assert records
    assert all(record.member is not None for record in records)
