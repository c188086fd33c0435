"""Several lists as one: names, patterns, standard input; and images that two lists share."""

import errno
import io
import logging
import os
import sys

import fsspec
import pytest

from lookalike.config.config import Config
from lookalike.data.catalog import build_catalog
from lookalike.data.inputs import read_places
from lookalike.data.readers import read_records, streams
from lookalike.data.record import Details, Record
from lookalike.errors import ConfigError, DataError, StorageError
from lookalike.inspection.list_checks import images_in_both
from lookalike.training.request_lists import annotation_options, keep_streams, open_catalogs


@pytest.fixture
def lists(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text(f"{name}1.jpg {name}\n{name}2.jpg {name}\n")
    return tmp_path


def paths(records):
    return [record.uri for record in records]


@pytest.mark.parametrize(
    ("place", "names"),
    [
        ("{b,a}.txt", "ba"),
        ("*.txt", "abc"),
        ("[ab].txt", "ab"),
        ("{a,[bc]}.txt", "abc"),
        (["c.txt", "a.txt"], "ca"),
        (["{a,b}.txt", "c.txt"], "abc"),
        ("./{a..b}.txt", None),
        ("{a,b}.tx?", "ab"),
    ],
)
def test_lists_joined_in_order(lists, place, names):
    if names is None:
        with pytest.raises(Exception, match="no such file"):
            read_records(place)
        return
    assert paths(read_records(place)) == [f"{name}{i}.jpg" for name in names for i in (1, 2)]
    if isinstance(place, str):
        assert paths(read_places([place])) == paths(read_records(place))


def test_patterns_in_storage_and_ranges_of_numbers(lists):

    for number in (8, 9, 10):
        with fsspec.open(f"memory://joined/{number:02}.txt", "wb") as file:
            file.write(b"%d.jpg cat\n" % number)
    expected = [f"memory://joined/{number}.jpg" for number in (8, 9, 10)]
    assert paths(read_records("memory://joined/*.txt")) == expected
    assert paths(read_records("memory://joined/{08..10}.txt")) == expected
    assert paths(read_records("memory://joined/{08,10}.txt")) == expected[::2]
    with pytest.raises(DataError, match="a web server does not list its files"):
        read_records("https://example.org/*.txt")


def test_existing_files_are_not_patterns(lists):
    (lists / "{a,b}[1].txt").write_text("x.jpg 1\n")
    assert paths(read_records("{a,b}[1].txt")) == ["x.jpg"]
    with pytest.raises(DataError, match=r"d\*\.txt: no images or lists match this pattern"):
        read_records("d*.txt")
    (lists / "x.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"matches images, as x\.jpg, where lists or folders"):
        read_records("x*")


def test_bad_rows_of_all_lists_are_reported_together(lists):
    (lists / "b.txt").write_text("b1.jpg\n")
    (lists / "c.txt").write_text("c1.jpg nan\n")
    with pytest.raises(DataError) as caught:
        read_records("*.txt")
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [
        "b.txt:1",
        "c.txt:1",
    ]


def test_lists_of_several_forms_and_splits(lists):
    (lists / "t.csv").write_text("path,label,split\nx.jpg,a,train\ny.jpg,b,val\ny2.jpg,b,val\n")
    (lists / "u.csv").write_text("path,label,split\nz.jpg,c,train\nv.jpg,b,val\n")
    train, val = open_catalogs(Config().with_settings({"train": ["t.csv", "u.csv"]}))
    assert paths(train.records) == ["x.jpg", "z.jpg"]
    assert paths(val.records) == ["y.jpg", "y2.jpg", "v.jpg"]


def fed(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_standard_input(lists, monkeypatch):
    fed(monkeypatch, b"x.jpg 1\nsub/y.jpg 2\n")
    assert [(r.uri, r.label, r.origin) for r in read_records("-")] == [
        ("x.jpg", "1", "standard input:1"), ("sub/y.jpg", "2", "standard input:2"),
    ]  # fmt: skip
    fed(monkeypatch, b"x.jpg\n")
    with pytest.raises(DataError, match=r"standard input:1: 'x\.jpg' has no label"):
        read_records("-")
    fed(monkeypatch, b"x y.jpg\n")
    assert paths(read_places(["-"])) == ["x y.jpg"]
    fed(monkeypatch, b"")
    with pytest.raises(DataError, match="standard input: the list holds no images"):
        read_records("-")


def test_a_list_from_standard_input_is_kept_for_workers_and_later(lists, monkeypatch):
    text = b'path,label,split,x_1,y_1,x_2,y_2,camera\n"a,1.jpg",007,train,0.1,0.2,0.3,0.4,c\n'
    text += b"s3://b/c.jpg,cat,val,,,,,\n"
    places = []
    for _ in range(2):
        fed(monkeypatch, text)
        config = keep_streams(Config().with_settings({"train": "-"}))
        places.append(config.data.train)
    assert places[0] == places[1]
    assert places[0].startswith(str(lists / "cache" / "lists"))
    monkeypatch.chdir("/")
    first, second = read_records(places[0])
    assert (first.uri, first.label) == (str(lists / "a,1.jpg"), "7")
    box = Details((0.1, 0.2, 0.3, 0.4), "train", camera="c", relative=True)
    assert first.details == box
    assert (second.uri, second.label) == ("s3://b/c.jpg", "cat")
    assert second.details.split == "validation"
    fed(monkeypatch, b"file,who,label\na.jpg,7,x\n")
    settings = {"train": "-", "path_column": "file", "label_column": "who", "format": "csv"}
    config = keep_streams(Config().with_settings(settings))
    [record] = read_records(config.data.train, config.data.format, annotation_options(config))
    assert (record.uri, record.label) == ("/a.jpg", "7")
    with pytest.raises(ConfigError, match="both standard input"):
        keep_streams(Config().with_settings({"train": "-", "val": "-"}))


def test_images_that_validation_shares_with_training(lists):
    (lists / "link").symlink_to(lists)
    train = build_catalog(read_records("a.txt"))
    (lists / "v.txt").write_text(f"./a2.jpg a\nlink/a1.jpg a\n{lists}/b/../a1.jpg a\nb1.jpg a\n")
    both = images_in_both(train, build_catalog(read_records("v.txt")))
    assert [(one.origin, two.origin) for one, two in both] == [
        ("a.txt:2", "v.txt:1"), ("a.txt:1", "v.txt:2"), ("a.txt:1", "v.txt:3"),
    ]  # fmt: skip


def test_training_warns_of_images_that_validation_shares(lists, caplog):
    from lookalike.commands.summary import log_data

    caplog.set_level(logging.WARNING)
    config = Config().with_settings({"train": ["a.txt", "b.txt"], "val": "{a,c}.txt"})
    log_data(*open_catalogs(config), config)
    assert "2 images of the validation set are in the training set too" in caplog.text
    assert "the first at a.txt:1 and a.txt:1" in caplog.text
    caplog.clear()
    config = config.with_settings({"val": "c.txt"})
    log_data(*open_catalogs(config), config)
    assert "in the training set too" not in caplog.text


def test_training_warns_where_each_class_has_a_single_image(lists, caplog):
    from lookalike.commands.summary import log_data

    (lists / "ids.txt").write_text("a1.jpg 1\na2.jpg 2\n")
    for train, warned in (("ids.txt", True), (["ids.txt", "a.txt"], False)):
        caplog.clear()
        config = Config().with_settings({"train": train})
        log_data(*open_catalogs(config), config)
        assert ("each class has a single image" in caplog.text) is warned


def test_a_full_disk_leaves_no_partial_list(tmp_path, monkeypatch):
    def refuse(*places):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path))
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StorageError, match="no space left on device; set LOOKALIKE_CACHE"):
        streams.keep_list([Record("a.jpg", "1", "standard input", 1)])
    assert list((tmp_path / "lists").iterdir()) == []


@pytest.mark.parametrize("pattern", ["[z-a]*.jpg", "[]*.jpg"])
def test_wrong_patterns_in_storage_are_one_line(pattern):
    with fsspec.open("memory://patterns/a.jpg", "wb") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="patterns/"):
        read_places([f"memory://patterns/{pattern}"])
