"""The image folder: what is read, in which order, and what is said about the rest."""

import logging
import os
import random

import pytest

from lookalike.data import folder, read_records
from lookalike.data.catalog import open_catalog
from lookalike.errors import DataError, StorageError


def make(root, *paths):
    for path in random.sample(paths, len(paths)):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    return str(root)


def found(uri):
    return [(os.path.relpath(r.uri, uri), r.label) for r in folder.read(uri)]


def test_the_first_folder_is_the_class_and_paths_are_in_order(tmp_path, caplog):
    uri = make(
        tmp_path, "cat/2.JPG", "cat/deep/er/1.png", "cat/notes.txt", "a dog/x.webp", "007/1.gif",
        ".hidden/1.jpg", "cat/.trash/1.jpg", "cat/.x.jpg", "outside.jpg", "cat/10.tiff",
    )  # fmt: skip
    with caplog.at_level(logging.WARNING):
        assert found(uri) == [
            ("007/1.gif", "7"),
            ("a dog/x.webp", "a dog"),
            ("cat/10.tiff", "cat"),
            ("cat/2.JPG", "cat"),
            ("cat/deep/er/1.png", "cat"),
        ]
    assert "1 images are in no class's folder and are left out" in caplog.text
    records = read_records(uri)
    assert records == folder.read(uri)
    assert records[0].origin == uri
    assert open_catalog(uri + "/").classes.names == ("7", "a dog", "cat")
    assert [os.path.exists(r.uri) for r in read_records(uri + "/")] == [True] * 5


def test_links_are_followed_and_loops_end(tmp_path):
    make(tmp_path / "there", "1.jpg")
    uri = make(tmp_path / "photos", "cat/2.jpg")
    os.symlink(tmp_path / "there", tmp_path / "photos" / "dog")
    os.symlink(tmp_path / "photos", tmp_path / "photos" / "cat" / "again")
    assert found(uri) == [("cat/2.jpg", "cat"), ("dog/1.jpg", "dog")]


def test_remote_folders(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in ("/store/photos/b/1.jpg", "/store/photos/a/2.png", "/store/photos/list.txt"):
        memory.pipe(path, b"")
    records = read_records("memory://store/photos")
    assert [(r.uri, r.label) for r in records] == [
        ("memory://store/photos/a/2.png", "a"),
        ("memory://store/photos/b/1.jpg", "b"),
    ]
    assert records == read_records("memory://store/photos/", "folder")
    memory.rm("/store", recursive=True)


def test_what_is_wrong(tmp_path):
    with pytest.raises(DataError, match=r"no images in folders of their classes \(1 outside"):
        folder.read(make(tmp_path / "flat", "1.jpg", "cat/notes.txt"))
    with pytest.raises(DataError, match=r"'cat\\x07/1\.jpg' holds a control character; rename"):
        folder.read(make(tmp_path / "odd", "cat\a/1.jpg", "dog/1.jpg"))
    with pytest.raises(StorageError, match="no such file or directory"):
        folder.read(str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"is a folder, but data\.format=image_list; leave"):
        read_records(make(tmp_path / "a", "cat/1.jpg"), "image_list")
    (tmp_path / "list.txt").write_text("a.jpg 1\n")
    with pytest.raises(DataError, match=r"list\.txt is no folder, but data\.format=folder; leave"):
        read_records(str(tmp_path / "list.txt"), "folder")
