"""The image list: lines, errors and their messages."""

import gzip
import os
import random
import re

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lookalike.data import FORMAT_ALIASES
from lookalike.data.catalog import Record
from lookalike.data.decoding.image_formats import IMAGE_SUFFIXES
from lookalike.data.readers import NOT_TEXT, READERS, image_list, read_records
from lookalike.data.readers.annotation import Annotation, AnnotationOptions, is_missing
from lookalike.errors import ConfigError, DataError, StorageError


def write(folder, content, name="train.txt") -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def read(uri):
    return read_records(uri, "image_list")


def pairs(uri) -> list[tuple[str, str]]:
    """(path relative to the list, label) of each record."""
    folder = os.path.dirname(uri) + "/"
    return [(record.uri.removeprefix(folder), record.label) for record in read(uri)]


def complaint(uri) -> str:
    with pytest.raises(DataError) as caught:
        read(uri)
    return str(caught.value).replace(os.path.dirname(uri) + "/", "")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a.jpg cat", ("a.jpg", "cat")),
        ("a.jpg\tcat", ("a.jpg", "cat")),
        ("a.jpg \t  cat", ("a.jpg", "cat")),
        ("  a.jpg cat \t", ("a.jpg", "cat")),
        ("my  old\tphotos/cat 1.jpg   7", ("my  old\tphotos/cat 1.jpg", "7")),
        ("a b\tc d", ("a b\tc", "d")),
        ("a.jpg 007", ("a.jpg", "7")),
        ("a.jpg 000", ("a.jpg", "0")),
        ("a.jpg -7", ("a.jpg", "-7")),
        ("a.jpg 1.50", ("a.jpg", "1.50")),
        ("a.jpg 0x10", ("a.jpg", "0x10")),
        ("a.jpg ٣", ("a.jpg", "٣")),  # a digit to Python, but no integer here
        ("a.jpg " + "0" * 9 + "1" * 5000, ("a.jpg", "1" * 5000)),
        ("猫/一.jpg 黒\u3000猫", ("猫/一.jpg", "黒\u3000猫")),
        ("a.jpg #1", ("a.jpg", "#1")),
        ("a.jpg x.jpg", ("a.jpg", "x.jpg")),
        ("../a.jpg cat", ("../a.jpg", "cat")),
        ("{a}.jpg cat", ("{a}.jpg", "cat")),
    ],
)
def test_lines(tmp_path, line, expected):
    assert pairs(write(tmp_path, line)) == [expected]
    assert pairs(write(tmp_path, f"\ufeff# list\n\n \t\n{line}\r\nb 1\r\n")) == [
        expected,
        ("b", "1"),
    ]


def test_places_are_resolved_against_the_list(tmp_path, monkeypatch):
    kept = [
        "/abs/a.jpg",
        "oss://bucket.oss-cn-hangzhou.aliyuncs.com/a b.jpg",
        "s3://bucket/a[1].jpg",
        "file:///a%20b.jpg",
    ]
    uri = write(tmp_path, "".join(f"{place} 1\n" for place in [*kept, "a:b.jpg", "sub/c.jpg"]))
    assert [record.uri for record in read(uri)] == [
        *kept, f"{tmp_path}/a:b.jpg", f"{tmp_path}/sub/c.jpg",
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert read("train.txt")[-1] == Record("sub/c.jpg", "1", "train.txt", 6)
    assert read("train.txt")[-1].origin == "train.txt:6"


def test_remote_lists_hide_their_secrets_and_resolve_beside_themselves(tmp_path):
    import fsspec

    with fsspec.open("memory://bucket/lists/train.txt", "wb") as file:
        file.write(b"a.jpg 1\n")
    record = read("memory://bucket/lists/train.txt")[0]
    assert record.uri == "memory://bucket/lists/a.jpg"
    assert record.origin == "memory://bucket/lists/train.txt:1"


def test_gzipped_lists(tmp_path):
    uri = write(tmp_path, gzip.compress(b"a.jpg 1\n"), "train.txt.gz")
    assert pairs(uri) == [("a.jpg", "1")]
    damaged = write(tmp_path, gzip.compress(os.urandom(200))[:-50], "bad.gz")
    assert complaint(damaged).startswith("bad.gz: damaged gzip file (")


def test_bad_lines_are_reported_together(tmp_path):
    uri = write(tmp_path, "good.jpg 1\na.jpg\nmy cat.jpg\n# note\nb\0.jpg 2\nhttp://[b.jpg 3\n")
    assert complaint(uri) == (
        "train.txt:2: 'a.jpg' has no label; write: path label\n"
        "train.txt:3: 'my cat.jpg' has no label; write: path label\n"
        "train.txt:5: 'b\\x00.jpg 2' holds a control character; remove it\n"
        "train.txt:6: 'http://[b.jpg' is not a valid URI; correct it"
    )


def test_the_first_ten_bad_lines_in_full(tmp_path):
    lines = complaint(write(tmp_path, "a.jpg 1\n" + "b.jpg\n" * 10)).split("\n")
    assert len(lines) == 10
    lines = complaint(write(tmp_path, "a.jpg 1\n" + "b.jpg\n" * 1234)).split("\n")
    assert lines[9] == "train.txt:11: 'b.jpg' has no label; write: path label"
    assert lines[10:] == ["and 1,224 more"]


def test_long_values_are_cut(tmp_path):
    assert complaint(write(tmp_path, "x" * 10_000)) == (
        f"train.txt:1: '{'x' * 77}...' has no label; write: path label"
    )


@pytest.mark.parametrize("content", ["", "\ufeff", "\n \n", "# only\n  # comments"])
def test_an_empty_list(tmp_path, content):
    assert complaint(write(tmp_path, content)) == (
        "train.txt: the list holds no images; write one a line: path label"
    )


def test_text_that_is_not_utf8(tmp_path):
    assert complaint(write(tmp_path, b"a.jpg 1\nb.jpg 2\n\xc3\xa8.jpg \xe8\n")) == (
        "train.txt:3: byte 0xe8 is not UTF-8 text; save the file as UTF-8"
    )
    assert complaint(write(tmp_path, "a.jpg 1".encode("utf-16"))) == (
        "train.txt: UTF-16 text; save the file as UTF-8"
    )


def test_a_missing_list():
    with pytest.raises(StorageError, match=r"^nowhere/train\.txt: no such file or directory$"):
        read("nowhere/train.txt")


def test_formats_and_their_names(tmp_path):
    uri = write(tmp_path, "a.jpg 1\n")
    assert set(READERS) == {"image_list", "itag", "csv", "json", *NOT_TEXT}
    assert set(NOT_TEXT) == {"folder", "webdataset", "parquet", "recordio"}
    assert set(FORMAT_ALIASES) == {"ClsSourceImageList", "ClsSourceItag"}
    for name in ("auto", "image_list", "ClsSourceImageList"):
        assert read_records(uri, name) == read(uri)
    with pytest.raises(DataError, match=r"train\.txt:1: 'a\.jpg 1' is not JSON"):
        read_records(uri, "ClsSourceItag")
    with pytest.raises(ConfigError) as caught:
        read_records(uri, "tsv")
    assert str(caught.value) == (
        "data.format='tsv' is not one of auto, image_list, itag, csv, json, folder, webdataset, "
        "parquet, recordio, ClsSourceImageList, ClsSourceItag"
    )


FUZZ = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
PIECES = ["a.jpg", "b.png", " ", "\t", "\n", "\r", "\r\n", "#", "7", "007", "cat", "\0", "\x85"]
PIECES += ["\u2028", "\u3000", "\ufeff", "\ud800", "oss://", "http://[", "file://", "/", "\\", "{"]


def check(uri: str, content: bytes) -> None:
    try:
        records = read_records(uri)
    except DataError as error:
        lines = str(error).split("\n")
        assert 1 <= len(lines) <= 11
        assert all(line.startswith((uri, "and ")) for line in lines)
        assert all(line.isprintable() for line in lines)
        return
    assert records
    numbers = [record.line for record in records]
    assert numbers == sorted(set(numbers))
    ends = content.count(b"\n")
    if ends == 0 or (ends == 1 and content.endswith(b"\n")):  # then \r alone ends lines too
        ends += content.count(b"\r")
    assert numbers[-1] <= ends + 1
    for record in records:
        assert record.source == uri
        assert record.uri
        assert record.label
        assert not set(record.label) & set(" \t\n\r\0")
        (record.uri + record.label).encode()
        assert "\0" not in record.uri


@FUZZ
@given(st.one_of(st.lists(st.sampled_from(PIECES)).map("".join), st.text()))
@example("a\ud800.jpg 1")
@example("a.jpg\t\t")
@example("a.jpg a.jpg\ra.jpg a.jpg")
def test_any_text(tmp_path, text):
    content = text.encode("utf-8", "surrogatepass")
    check(write(tmp_path, content), content)


@FUZZ
@given(st.binary())
@example(b"\x1f\x8b")
@example(b"\x1f\x8b\x08\x00")
@example(gzip.compress(b"a 1")[:-4])
def test_any_bytes(tmp_path, content):
    check(write(tmp_path, content), content)


NAMES = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=8).filter(
    # see my cat.jpg, above
    lambda name: not name.lower().endswith(IMAGE_SUFFIXES) and not is_missing(name)
)


def written(label: str) -> str:
    """`007` and `7.0` are 7, `-0.0` is 0."""
    if whole := re.fullmatch(r"(-?)(\d+)\.0+", label):
        label = whole[1] + whole[2] if whole[2].strip("0") else "0"
    return str(int(label)) if re.fullmatch("[0-9]+", label) else label


@FUZZ
@example([(["a"], "0.0"), (["b"], "-0.00"), (["c"], "007.0"), (["d"], "1.50")])
@given(st.lists(st.tuples(st.lists(NAMES, min_size=1, max_size=3), NAMES), min_size=1))
def test_written_lists_are_read_back(tmp_path, items):
    items = [("/" + " ".join(words), label) for words, label in items]
    text = "".join(f"{path}{' ' * (i % 3 + 1)}{label}\n" for i, (path, label) in enumerate(items))
    expected = [(path, written(label)) for path, label in items]
    found = read(write(tmp_path, text))
    assert [(record.uri, record.label) for record in found] == expected


def test_lines_read_at_once_are_those_read_one_by_one():
    """Plain lines take a short way; with a comment at their end all take the long way."""

    def found(text, options):
        try:
            return list(image_list.read(Annotation("l.txt", options, text)))
        except DataError as error:
            return str(error)

    draw = random.Random(3)
    pieces = ["a.jpg", "/b/c.png", "oss://k/d.jpg", "d", "7", "007", "cat", "a.b", "nan", " ", "\t"]
    pieces += ["#", "[", "\u00e9", "\u3000", "\x07", "x|y", "http://[x", "\r", ""]
    plain = 0
    for labelled, separator in ((True, None), (False, None), (True, "|")):
        options = AnnotationOptions(labelled=labelled, label_separator=separator)
        for _ in range(2000):
            lines = [
                "".join(draw.choice(pieces) + draw.choice(["", " "]) for _ in range(2))
                + draw.choice(["7", "cat", "007", "a.jpg"])
                for _ in range(draw.randint(1, 2))
            ]
            text = "\n".join(lines) + draw.choice(["", "\n"])
            records = found(text, options)
            assert records == found(f"{text}\n# a comment", options)
            plain += isinstance(records, list) and len(records) == len(lines)
    assert plain > 500


def test_a_label_behind_a_tab_may_hold_blanks(tmp_path):
    content = (
        "a b.png\tred  boot\nb.JPG \t 7\nc\td.jpg shoe\ne.webp\tl\nf.jpg\tg.jpg x\nname\tred boot\n"
    )
    assert pairs(write(tmp_path, content)) == [
        ("a b.png", "red  boot"),
        ("b.JPG", "7"),
        ("c\td.jpg", "shoe"),  # the tab is a part of the name
        ("e.webp", "l"),
        ("f.jpg", "g.jpg x"),
        ("name\tred", "boot"),
    ]


def test_a_carriage_return_within_a_line_is_named(tmp_path):
    assert complaint(write(tmp_path, "a.jpg 1\rb.jpg 2\nc.jpg 3\n")) == (
        "train.txt:1: 'a.jpg 1\\rb.jpg 2' holds a carriage return; save the list with \\n or "
        "\\r\\n as line ends"
    )
