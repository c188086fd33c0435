"""The image folder: images, their order, and skipped files."""

import errno
import logging
import os
import random

import pytest

from lookalike.data.catalog import open_catalog
from lookalike.data.decoding.pillow_plugins import has_plugin
from lookalike.data.inputs import read_places
from lookalike.data.readers import image_folder, read_records
from lookalike.data.readers.annotation import DEFAULT, UNLABELLED, Annotation, AnnotationOptions
from lookalike.errors import DataError, StorageError


def make(root, *paths):
    for path in random.sample(paths, len(paths)):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    return str(root)


def read(uri, options=DEFAULT):
    return read_records(uri, "folder", options)


def found(uri):
    return [(os.path.relpath(r.uri, uri), r.label) for r in read(uri)]


def test_a_folder_of_a_class_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "photos/cats").mkdir(parents=True)
    real = os.scandir

    def scandir(path):
        if str(path).endswith("cats"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(StorageError, match=f"^{tmp_path}/photos/cats: permission denied$"):
        read_records(str(tmp_path / "photos"))


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
    assert (
        "5 files skipped: 1 outside of all folders of classes (e.g. outside.jpg), "
        "3 hidden or left by another program (e.g. .hidden/1.jpg), 1 .txt (e.g. cat/notes.txt)"
    ) in caplog.text
    records = read_records(uri)
    assert records == read(uri)
    assert records[0].origin == uri
    assert open_catalog(uri + "/").classes.names == ("7", "a dog", "cat")
    assert [os.path.exists(r.uri) for r in read_records(uri + "/")] == [True] * 5


def test_links_are_followed_and_loops_end(tmp_path):
    make(tmp_path / "there", "1.jpg")
    uri = make(tmp_path / "photos", "cat/2.jpg")
    os.symlink(tmp_path / "there", tmp_path / "photos" / "dog")
    os.symlink(tmp_path / "photos", tmp_path / "photos" / "cat" / "again")
    assert found(uri) == [("cat/2.jpg", "cat"), ("dog/1.jpg", "dog")]


def test_a_link_to_itself_is_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "a.jpg").symlink_to("a.jpg")
    assert [os.path.basename(one.uri) for one in read(make(tmp_path, "b/b.jpg"), UNLABELLED)] == [
        "a.jpg", "b.jpg"
    ]  # fmt: skip


def test_a_folder_named_as_an_image_is_a_folder(tmp_path):
    folder = make(tmp_path / "photos.jpg", "b/b.jpg")
    assert [one.uri for one in read_places([folder])] == [f"{folder}/b/b.jpg"]


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


def test_invalid_folders(tmp_path):
    expected = r"no images in folders of their classes \(2 files skipped: 1 outside of all folders"
    with pytest.raises(DataError, match=expected):
        read(make(tmp_path / "flat", "1.jpg", "cat/notes.txt"))
    with pytest.raises(DataError, match=r"'cat\\x07/1\.jpg' holds a control character; rename"):
        read(make(tmp_path / "odd", "cat\a/1.jpg", "dog/1.jpg"))
    with pytest.raises(
        DataError, match=r"'cat/1\\udcff\.jpg' is a name that is not UTF-8; rename it"
    ):
        read(make(tmp_path / "bytes", "cat/1\udcff.jpg", "dog/1.jpg"))
    with pytest.raises(StorageError, match="no such file or directory"):
        image_folder.read(Annotation(str(tmp_path / "none")))
    with pytest.raises(DataError, match=r"is a folder, but data\.format=image_list; leave"):
        read_records(make(tmp_path / "a", "cat/1.jpg"), "image_list")
    (tmp_path / "list.txt").write_text("a.jpg 1\n")
    with pytest.raises(
        DataError, match=r"list\.txt is not a folder, but data\.format=folder; leave"
    ):
        read_records(str(tmp_path / "list.txt"), "folder")


def test_images_without_a_known_suffix_are_found_by_content(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("lookalike.data.decoding.pillow_plugins.find_spec", lambda name: None)
    jpeg, heic = b"\xff\xd8\xff\xe0", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    for path, content in {
        "cat/a.jfif": jpeg, "cat/b.JPG_large": jpeg, "cat/c": b"\x89PNG\r\n", "cat/d.dat": b"GIF8",
        "cat/e.heic": heic, "cat/f.heic": heic, "cat/g": heic, "cat/h.svg": b"<svg/>", "cat/i": b"",
        "cat/j.mp4": b"\0\0\0\x18ftypisom", "cat/k.bin": b"\1\2\3", "cat/l.json": b"{}",
        "cat/Thumbs.db": b"1", "cat/._a.jpg": b"1", "__MACOSX/cat/a.jpg": b"1",
        "cat/m.jpg.part": b"1",
    }.items():  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    skipped: list = []
    with caplog.at_level(logging.INFO):
        records = read_records(str(tmp_path), options=AnnotationOptions(skipped=skipped))
    names = [os.path.basename(record.uri) for record in records]
    assert names == ["a.jfif", "b.JPG_large", "c", "d.dat"]
    counts = {(each.kind, each.is_loss): each.count for each in skipped}
    assert counts == {
        (".heic", True): 2, ("without a suffix", True): 1, (".svg", True): 1, (".mp4", True): 1,
        ("hidden or left by another program", False): 4, (".bin", False): 1, (".json", False): 1,
        ("without a suffix", False): 1,
    }  # fmt: skip
    assert sum(counts.values()) + len(records) == 16
    assert "12 files skipped: 2 .heic (e.g. cat/e.heic: a HEIC image; install its" in caplog.text
    assert caplog.records[-1].levelno == logging.WARNING
    monkeypatch.undo()
    if has_plugin("HEIC"):
        names = [os.path.basename(record.uri) for record in read_records(str(tmp_path))]
        assert {"e.heic", "f.heic", "g"} < set(names)


def test_skipped_side_files_are_logged_without_a_warning(tmp_path, caplog):
    uri = make(tmp_path, "cat/1.jpg", "cat/1.txt", "cat/.DS_Store")
    with caplog.at_level(logging.INFO):
        read(uri)
    assert [record.levelno for record in caplog.records] == [logging.INFO]
    assert "2 files skipped: 1 hidden or left by another program" in caplog.text


def test_remote_images_are_found_by_content(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    for path, content in (("a/1", b"\xff\xd8\xff"), ("a/2", b""), ("b/3.dat", b"GIF89a")):
        memory.pipe(f"/unnamed/{path}", content)
    skipped: list = []
    records = read("memory://unnamed", AnnotationOptions(skipped=skipped))
    assert [record.uri for record in records] == [
        "memory://unnamed/a/1",
        "memory://unnamed/b/3.dat",
    ]
    assert [(each.count, each.reason) for each in skipped] == [(1, "empty or unreadable")]
    memory.rm("/unnamed", recursive=True)
