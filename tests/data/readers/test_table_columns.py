"""Columns by name and content, lists of other programs, images by id."""

import json

import pytest

from lookalike.data.readers import read_records
from lookalike.data.readers.annotation import UNLABELLED, AnnotationOptions
from lookalike.errors import DataError


def written(tmp_path, text, name="t.csv"):
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def found(uri, options=None, **asked):
    """(path, label) of each record, relative to the list."""
    folder = uri.rpartition("/")[0] + "/"
    records = read_records(uri, options=options or AnnotationOptions(**asked))
    return [(record.uri.removeprefix(folder), record.label) for record in records]


TWO = [("a.jpg", "7"), ("b.jpg", "8")]


@pytest.mark.parametrize(
    "text",
    [
        "path,identity\na.jpg,7\nb.jpg,8\n",
        "Image,Id\na.jpg,7\nb.jpg,8\n",
        "image,species,individual_id\na.jpg,whale,7\nb.jpg,whale,8\n",
        'posting_id,image,image_phash,title,label_group\nx1,a.jpg,ff,"t, u",7\nx2,b.jpg,fe,t,8\n',
        "filename;class\na.jpg;7\nb.jpg;8\n",
        "class_id\tfilepath\n7\ta.jpg\n8\tb.jpg\n",
        "img_path,target\na.jpg,7\nb.jpg,8\n",
        "File Name,Product-ID\na.jpg,7\nb.jpg,8\n",
        "image,chain,hotel_id,timestamp\na.jpg,3,7,2020\nb.jpg,3,8,2021\n",
        "what,is_this\na.jpg,7\nb.jpg,8\n",  # by content
        "id,picture_of_it,item_id\n1,a.jpg,7\n2,b.jpg,8\n",
        "image,mask_flag,pid,camera\na.jpg,no,7,1\nb.jpg,no,8,2\n",
        # Numbers and names of the same classes.
        "path,class_id,class_name\na.jpg,7,cat\nb.jpg,8,dog\n",
        # Without names: by content.
        "a.jpg,7\nb.jpg,8\n",
        "7,a.jpg\n8,b.jpg\n",
        "a.jpg;7\nb.jpg;8\n",
        '"a.jpg","7"\n"b.jpg","8"\n',
    ],
)
def test_columns_by_name_and_by_content(tmp_path, text):
    if "class_id,class_name" in text:
        assert [label for _, label in found(written(tmp_path, text))] == ["cat", "dog"]
    else:
        assert found(written(tmp_path, text)) == TWO


@pytest.mark.parametrize(
    "text",
    [
        "image_id class_id super_class_id path\n1 7 1 a.jpg\n2 8 1 b.jpg\n",  # SOP
        "a.jpg 7\nb.jpg 8\n",  # PaddleClas
        "a.jpg\t7\nb.jpg\t8\n",
        "a.jpg 7 0\nb.jpg 8 1\nb.jpg 8 2\n",  # PaddleClas with numbers of the images
        "0\t7.000000\ta.jpg\n1\t8.000000\tb.jpg\n",  # MXNet's .lst
        "1\ta.jpg\t7\n1\tb.jpg\t8\n",  # InsightFace's .lst
        "7 a.jpg\n8 b.jpg\n",
        "path label\na.jpg 7\nb.jpg 8\n",
        "a.jpg,7\nb.jpg,8\n",
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lists_of_other_programs(tmp_path, text, end):
    uri = written(tmp_path, text.replace("\n", end), "Ebay_train.txt")
    assert found(uri)[:2] == TWO


def test_paths_with_blanks_and_commas(tmp_path):
    text = "image_id class_id super_class_id path\n1 7 1 my  old/a b.jpg\n"
    assert found(written(tmp_path, text, "a.txt")) == [("my  old/a b.jpg", "7")]
    assert found(written(tmp_path, "red, blue/a.jpg 7\nred, x.jpg 8\n", "a.txt")) == [
        ("red, blue/a.jpg", "7"), ("red, x.jpg", "8"),
    ]  # fmt: skip
    paths = "red, blue/a.jpg\nred, blue/b.jpg\n"
    assert found(written(tmp_path, paths, "a.txt"), UNLABELLED)[0] == ("red, blue/a.jpg", "")
    urls = "http://h/a.jpg?x-oss-process=resize,w_100 7\nhttp://h/b.jpg?x=1,2 8\n"
    assert [r[0] for r in found(written(tmp_path, urls, "a.txt"))] == [
        "http://h/a.jpg?x-oss-process=resize,w_100", "http://h/b.jpg?x=1,2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,class,identity\na.jpg,1,2\nb.jpg,1,3\n", r"may be 'class', 'identity'; set data"),
        ("image,file,label\na.jpg,b.jpg,2\n", r"may be 'image', 'file'; set data\.path_"),
        ("path,a,b\na.jpg,1,2\n", r"no column of labels .* 'path', 'a', 'b'; set data\.label"),
        ("a,b,label\n1,2,3\n", r"no column of images .*'b', 'label'; set data\.path"),
        ("a.jpg,1,2\nb.jpg,1,3\n", r":1: 3 columns without names; write a first line"),
        ("0\t1\t2\ta.jpg\n", r":1: 2 labels for one image, but an image has one class"),
    ],
)  # fmt: skip
def test_ambiguous_columns_name_the_candidates_and_the_setting(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as caught:
        read_records(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_settings_name_the_columns(tmp_path):
    text = "image,file,class,identity,split\na.jpg,b.jpg,1,2,train\n"
    uri = written(tmp_path, text)
    assert found(uri, path_column="file", label_column="identity") == [("b.jpg", "2")]
    assert found(uri, path_column="Image", label_column="split") == [("a.jpg", "train")]
    with pytest.raises(DataError, match=r"no column named data\.label_column=breed among 'image',"):
        found(uri, label_column="breed", path_column="file")
    # A text is then a table, whatever its columns are called.
    text = "x y z\n1 a.jpg 7\n"
    assert found(written(tmp_path, text, "a.txt"), path_column="y", label_column="z") == [
        ("a.jpg", "7")
    ]
    with pytest.raises(DataError, match=r"a\.txt:1: no first line with names of columns, but data"):
        found(written(tmp_path, "a.jpg 7\n", "a.txt"), label_column="z")


def test_json_lines_and_a_json_list(tmp_path):
    rows = [{"file_name": "a.jpg", "label": 7}, {"label": 8.0, "file_name": "b.jpg", "note": [1]}]
    for name, text in (
        ("metadata.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n"),
        ("a.json", json.dumps(rows, indent=1)),
        ("a.txt", "\n".join(map(json.dumps, rows))),
    ):
        assert found(written(tmp_path, text, name)) == TWO
    lines = ['{"image": "a.jpg", "Id": "w"}', '{"image": "b.jpg"}', "[1]", '{"image": 3']
    with pytest.raises(DataError) as caught:
        read_records(written(tmp_path, "\n".join(lines), "a.jsonl"))
    assert [line.removeprefix(f"{tmp_path}/") for line in str(caught.value).splitlines()] == [
        "a.jsonl:2: no label; fill it in or remove the row",
        "a.jsonl:3: '[1]' is not a JSON object; write one object a line",
        "a.jsonl:4: '{\"image\": 3' is not JSON (Expecting ',' delimiter at column 12); write one "
        "object a line",
    ]


def test_json_lines_with_commas_between_or_a_broken_first_one(tmp_path):
    lines = [json.dumps({"path": f"{name}.jpg", "label": label}) for name, label in ("a7", "b8")]
    assert found(written(tmp_path, ",\n".join(lines) + ",\n", "a.jsonl")) == TWO
    assert found(written(tmp_path, "\r\n".join(lines) + " , \r\n", "a.jsonl")) == TWO
    with pytest.raises(DataError) as caught:
        read_records(written(tmp_path, "\n".join(['{"path": }', *lines]), "a.jsonl"))
    place, _, message = str(caught.value).removeprefix(f"{tmp_path}/").partition(": ")
    assert place == "a.jsonl:1"
    assert message == (
        "'{\"path\": }' is not JSON (Expecting value at column 10); write one object a line"
    )
    with pytest.raises(DataError, match=r":1: '\{\},,' is not JSON \(Extra data at column 3\)"):
        read_records(written(tmp_path, "\n".join(["{},,", *lines]), "a.jsonl"))


def test_an_image_root_and_images_by_id(tmp_path):
    for name in ("train/0/a1.jpg", "train/b2.png", "test/c3.jpg", "test/c3.png", "train/bare"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"\xff\xd8")
    root = str(tmp_path / "images")
    uri = written(tmp_path, "id,url,landmark_id\na1,http://h/1.jpg,7\nb2,http://h/2.jpg,8\n")
    records = read_records(uri, options=AnnotationOptions(image_root=root, path_column="id"))
    assert [record.uri for record in records] == [f"{root}/train/0/a1.jpg", f"{root}/train/b2.png"]
    listed = written(tmp_path, "train/b2.png 7\ntrain/bare 8\n", "a.txt")
    assert [r.uri for r in read_records(listed, options=AnnotationOptions(image_root=root))] == [
        f"{root}/train/b2.png", f"{root}/train/bare",
    ]  # fmt: skip
    twice = written(tmp_path, "image_id,label\nc3,7\n", "b.csv")
    with pytest.raises(DataError, match=r"b\.csv:2: 'c3' may be test/c3\.\w+ or test/c3\.\w+ in "):
        read_records(twice, options=AnnotationOptions(image_root=root))


def test_tables_without_labels(tmp_path):
    uri = written(tmp_path, "image,note\na.jpg,x\nb.jpg,y\n")
    assert found(uri, UNLABELLED) == [("a.jpg", ""), ("b.jpg", "")]
    assert found(written(tmp_path, "path\na.jpg\nb.jpg\n"), UNLABELLED)[0] == ("a.jpg", "")
