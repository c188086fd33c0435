"""Boxes in pixels and in fractions of the picture: recognised, used, and refused with the fix."""

import json

import numpy as np
import pytest
from PIL import Image

from lookalike.data.decoding.crop_box import decode_record, pixel_box
from lookalike.data.loading.bad_images import describe_bad
from lookalike.data.readers import read_records
from lookalike.data.readers.boxes import LEAST_SIDE
from lookalike.errors import DataError
from lookalike.index.new_images import id_of, record_from
from lookalike.storage import read_bytes

HEAD = "path,label,x_1,y_1,x_2,y_2\n"


def written(tmp_path, text, name="t.csv"):
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def parts(uri, size=(100, 200)):
    return [pixel_box(record, size) for record in read_records(uri)]


def test_relative_boxes_are_used_with_the_size_of_each_picture(tmp_path, caplog):
    caplog.set_level("INFO")
    text = HEAD + "a.jpg,0,0.1,0.1,0.9,0.9\nb.jpg,1,0,0,1,1\nc.jpg,1,,,,\nd.jpg,1,0,0.5,0.25,1\n"
    uri = written(tmp_path, text)
    # top, left, height, width of a picture 200 wide and 100 high
    assert parts(uri) == [(10, 20, 80, 160), (0, 0, 100, 200), (0, 0, 100, 200), (50, 0, 50, 50)]
    assert parts(uri, (1000, 1000))[3] == (500, 0, 500, 250)
    assert "boxes are fractions of the width and height" in caplog.text


def test_the_pixels_of_a_relative_box(tmp_path):
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[5:15, 10:30] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    [record] = read_records(written(tmp_path, HEAD + "a.png,1,0.25,0.25,0.75,0.75\n"))
    found = decode_record(record, read_bytes(record.uri))
    assert found.shape == (10, 20, 3)
    assert found.min() == 255


@pytest.mark.parametrize(
    ("columns", "row", "part"),
    [
        ("xmin,ymin,xmax,ymax", "10,20,110,70", (20, 10, 50, 100)),
        ("x1,y1,x2,y2", "10,20,110,70", (20, 10, 50, 100)),
        ("left,top,right,bottom", "0.05,0.2,0.55,0.7", (20, 10, 50, 100)),
        ("x_center,y_center,width,height", "0.3,0.45,0.5,0.5", (20, 10, 50, 100)),
        ("cx,cy,w,h", "60,45,100,50", (20, 10, 50, 100)),
    ],
)
def test_other_names_of_the_columns(tmp_path, columns, row, part):
    assert parts(written(tmp_path, f"path,label,{columns}\na.jpg,1,{row}\n")) == [part]


def test_columns_of_the_picture_size_are_not_a_box(tmp_path):
    [record] = read_records(written(tmp_path, "path,label,width,height\na.jpg,1,640,480\n"))
    assert record.details is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        # Of one pixel or of the whole picture: undecidable.
        (HEAD + "a.jpg,0,0,0,1,1\nb.jpg,0,0,0,1,1\n", "t.csv: the boxes consist of 0 and 1 alone"),
        (HEAD + "a.jpg,0,0.1,0.1,0.4,0.4\nb.jpg,0,5,5,90,90\n", "t.csv:2: the box x 0.1 to 0.4"),
        (HEAD + "a.jpg,0,0.9,0.1,0.1,0.4\n", "t.csv:2: the box x 0.9 to 0.1, .* upside down"),
        (HEAD + "a.jpg,0,50,10,20,40\nb.jpg,0,1,9,9,3\n", "(?s)t.csv:2: .* upside down.*t.csv:3:"),
        (HEAD + "a.jpg,0,-30,0,-10,40\n", "t.csv:2: .* is outside"),
        (HEAD + "a.jpg,0,nan,0,5,inf\n", "t.csv:2: the box is not complete"),
        (HEAD + "a.jpg,0,0,0,5,1e300\n", "t.csv:2: the box .* is larger than any picture"),
        (
            "path,label,x_1,y_1,x_2,y_2,cx,cy,w,h\na.jpg,0,1,2,3,4,1,2,3,4\n",
            "two boxes, x_1",
        ),
    ],
)
def test_boxes_that_are_refused(tmp_path, text, complaint):
    with pytest.raises(DataError, match=complaint):
        read_records(written(tmp_path, text))


def test_boxes_of_a_few_pixels_are_reported_and_bad_images(tmp_path, caplog):
    text = HEAD + "a.jpg,0,10,10,12,90\nb.jpg,0,10,10,90,90\nc.jpg,0,5,5,9,6\n"
    records = read_records(written(tmp_path, text))
    assert f"2 boxes have a side of less than {LEAST_SIDE} pixels" in caplog.text
    assert f"the first in {tmp_path}/t.csv:2" in caplog.text
    with pytest.raises(
        DataError, match="the box x 10 to 12, y 10 to 90 has only 2 x 80 pixels"
    ) as e:
        pixel_box(records[0], (100, 100))
    assert describe_bad(records[0], str(e.value)).startswith(f"{tmp_path}/t.csv:2: ")
    # Of fractions it needs the size of the picture.
    [record] = read_records(written(tmp_path, HEAD + "a.jpg,0,0.5,0.5,0.51,0.9\n"))
    assert pixel_box(record, (1000, 1000)) == (500, 500, 400, 10)
    with pytest.raises(DataError, match="has only 1 x 40 pixels of the picture of 100 x 100"):
        pixel_box(record, (100, 100))


def test_an_index_keeps_the_unit_of_a_box(tmp_path):
    from lookalike.index.new_images import image_place

    uri = written(tmp_path, HEAD + "a.jpg,0,0.1,0.1,0.9,0.9\n")
    [record] = read_records(uri)
    again = record_from(id_of(record), "0", image_place(record, id_of(record)))
    assert again.details == record.details
    assert json.loads(image_place(record, id_of(record)) or "")["relative"] is True


@pytest.mark.parametrize("columns", ["bbox", "x,y,w,h", "bbox_x,bbox_y,bbox_width,bbox_height"])
def test_ambiguous_boxes_are_ignored_with_a_warning(tmp_path, caplog, columns):
    place = tmp_path / "train.csv"
    place.write_text(
        f"path,label,{columns}\na.jpg,boot,{','.join('5' for _ in columns.split(','))}\n"
    )
    assert read_records(str(place))[0].details is None
    assert "looks like a box and is not used" in caplog.text


def test_a_box_with_a_missing_column_is_refused(tmp_path):
    place = tmp_path / "train.csv"
    place.write_text("path,label,xmin,ymin,xmax\na.jpg,boot,1,2,30\n")
    with pytest.raises(DataError, match="ymax missing"):
        read_records(str(place))
