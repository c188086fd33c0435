"""CSV tables: columns, splits, and errors with their line."""

import csv
import gzip
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lookalike.data.catalog import open_catalog
from lookalike.data.decoding.crop_box import decode_record
from lookalike.data.readers import csv_table, read_records
from lookalike.data.readers.annotation import Annotation
from lookalike.data.record import Details
from lookalike.data.splits import measured, select
from lookalike.errors import DataError
from lookalike.storage import read_bytes

FULL = """path,label,split,is_query,is_gallery,category,sequence,x_1,y_1,x_2,y_2,colour
a.jpg,shoe,train,,,cloth,,,,,,red
b c.jpg,hat,validation,True,False,cloth,s1,1,2,30,40,blue
"d,e.jpg",hat,val,0,1,cloth,2.0,1.6,2,30.0,40,blue
"""


def written(tmp_path, text, name="t.csv"):
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return str(tmp_path / name)


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


@pytest.mark.parametrize("text", ["path,label\ra.jpg,1\rb.jpg,2", "a.jpg 1\rb.jpg 2"])
@pytest.mark.parametrize("end", ["", "\r", "\n", "\r\n"])
@pytest.mark.parametrize("name", ["a.csv", "a.txt"])
def test_line_ends_of_an_old_mac(tmp_path, text, end, name):
    records = read_records(written(tmp_path, text + end, name))
    assert [(r.uri, r.label) for r in records] == [
        (str(tmp_path / "a.jpg"), "1"), (str(tmp_path / "b.jpg"), "2"),
    ]  # fmt: skip
    first = 1 + text.startswith("path")
    assert [r.line for r in records] == [first, first + 1]


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
        ('path,label\n"b.jpg,dog\nc.jpg,cat\n', "t.csv:2: not CSV (a quote is not closed)"),
        ("path,label,path\na.jpg,1,b.jpg\n", "the column 'path' occurs twice"),
        ("path,label,x_1\na.jpg,1,3\n", "y_1, x_2, y_2 missing"),
        ("path,label,sequence,camera\na.jpg,1,2,3\n", "by `sequence` or by `camera`, not by both"),
        ("path,label,split\na.jpg,1,\n", "t.csv:2: the split is missing"),
        ("path,label,is_query\na.jpg,1,maybe\n", "is_query is 'maybe'; write true or false"),
        ("path,label,x_1,y_1,x_2,y_2\na.jpg,1,1,1,9,\n", "the box is not complete"),
        ("path,label,x_1,y_1,x_2,y_2\na.jpg,1,1,1,9,z\n", "'1', '1', '9', 'z' is not four"),
        ("path,label,x_1,y_1,x_2,y_2\na.jpg,1,9,1,9,5\n", "is upside down or empty"),
    ],
)
def test_errors_name_file_and_line(tmp_path, text, complaint):
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
    assert len(read_records(uri)) == 3
    assert len(open_catalog(uri)) == 2
    with pytest.raises(DataError, match="no row is of the split 'test'; there are train, valid"):
        open_catalog(uri, split="test")
    more = read_records(written(tmp_path, FULL + "z.jpg,hat,test,,,,,,,,,\n"))
    with pytest.raises(DataError, match=r"train, validation, test; choose .* --split valid"):
        measured(more)
    plain = read_records(written(tmp_path, "a.jpg 1\n", "list.txt"))
    assert len(select(plain, "train", required=False)) == 1
    assert len(measured(plain)) == 1
    for asked in (select, measured):
        with pytest.raises(DataError, match=r"list.txt: no row names a split, so none is of .*'te"):
            asked(plain, "test")


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


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.lists(st.text(st.characters(codec="utf-8"), max_size=6), min_size=2, max_size=3),
        max_size=5,
    )
)
def test_any_cells_are_read_or_refused(rows):
    text = io.StringIO()
    csv.writer(text).writerows([["path", "label", "split"], *rows])
    try:
        records = csv_table.read(Annotation("t.csv", content=text.getvalue()))
    except DataError:
        return
    assert all(record.label and record.uri for record in records)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec="utf-8")))
def test_any_text_is_read_or_refused(text):
    for content in (text, "path,label,x_1,y_1,x_2,y_2,is_query\n" + text):
        try:
            csv_table.read(Annotation("t.csv", content=content))
        except DataError as error:
            assert str(error)  # noqa: PT017
