"""Files of other formats given as a list: recognised, with the fix."""

import io
import json
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pytest
from PIL import Image

from lookalike.data.readers import read_records
from lookalike.errors import DataError


def _of(write) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def _workbook(stream):
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 5\n", "git lfs pull"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML, often the error message"),
        (b"SQLite format 3\0" + bytes(80), "SQLite data"),
        (_of(lambda s: np.save(s, np.zeros(3))), "NumPy data; .* measure .* evaluate --embeddings"),
        (_of(lambda s: Image.new("RGB", (9, 9)).save(s, "JPEG")), r"a picture \(JPEG\)"),
        (_of(_workbook), "an office document; save the sheet as CSV"),
        (b"PAR1" + bytes(20) + b"PAR1", "the suffix .parquet"),
    ],
)
def test_other_files_are_recognised(tmp_path, content, said):
    place = tmp_path / "train.csv"
    place.write_bytes(content)
    with pytest.raises(DataError, match=f"train.csv: not a list, but .*{said}"):
        read_records(str(place))


@pytest.mark.parametrize("first", ["BMW/1.jpg", "P1 2.jpg", "FLV/ä.jpg", "GIF8/a.jpg"])
def test_a_list_may_begin_as_a_format_does(tmp_path, first):
    place = tmp_path / "train.txt"
    place.write_text(f"{first} boot\n", encoding="utf-8")
    assert read_records(str(place))[0].uri == str(tmp_path / first)


@pytest.mark.parametrize(
    ("whole", "said"),
    [
        ({"a.jpg": "boot", "b.jpg": "shoe"}, "one JSON object"),
        ({"data": [{"path": "a.jpg", "label": "boot"}]}, "one JSON object"),
        ({"images": [], "annotations": [], "categories": []}, "COCO's format, which is not read"),
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_one_json_object_for_all_images_is_refused(tmp_path, whole, said, indent):
    place = tmp_path / "train.json"
    place.write_text(json.dumps(whole, indent=indent))
    with pytest.raises(DataError, match=said):
        read_records(str(place))


def test_a_feather_file_is_a_table(tmp_path):
    place = tmp_path / "train.feather"
    pyarrow.feather.write_feather(pa.table({"path": ["a.jpg"], "label": ["boot"]}), str(place))
    assert [(r.uri, r.label) for r in read_records(str(place))] == [
        (str(tmp_path / "a.jpg"), "boot")
    ]
