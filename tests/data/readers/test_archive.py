"""ZIP archives: image folders, paths in lists, and hostile archives."""

import io
import os
import struct
import zipfile

import numpy as np
import pytest
from picture_files import encode, picture

from lookalike import storage
from lookalike.data.decoding.decode import decode, load_image
from lookalike.data.inputs import read_places
from lookalike.data.loading.read_ahead import ReadAhead
from lookalike.data.readers import read_records
from lookalike.data.readers.annotation import AnnotationOptions
from lookalike.errors import DataError, StorageError
from lookalike.storage import archive

JPEG = encode(picture(30, 40), "JPEG")
PNG = encode(picture(20, 30), "PNG")


def write(path, files, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return str(path)


def content_of(path, files, compression=zipfile.ZIP_DEFLATED):
    write(path, files, compression)
    return path.read_bytes()


def named(records):
    return [(record.uri.partition(".zip/")[2], record.label) for record in records]


FILES = {"cat/1.jpg": JPEG, "cat/deep/2": PNG, "dog/3.jpg": JPEG, "dog/notes.txt": b"none"}
FOUND = [("cat/1.jpg", "cat"), ("cat/deep/2", "cat"), ("dog/3.jpg", "dog")]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_is_an_image_folder(tmp_path, compression):
    uri = write(tmp_path / "photos.ZIP", FILES, compression)
    records = read_records(uri)
    assert [(r.uri[len(uri) + 1 :], r.label) for r in records] == FOUND
    assert records == read_records(uri, "folder")
    for record, content in zip(records, (JPEG, PNG, JPEG), strict=True):
        assert storage.read_bytes(record.uri) == content
        np.testing.assert_array_equal(load_image(record.uri), decode(content))
    assert storage.read_bytes(records[0].uri, part=(3, 5)) == JPEG[3:8]
    assert storage.read_bytes(uri)[:4] == b"PK\3\4"  # the file itself


def test_a_single_folder_around_the_classes_is_left_out(tmp_path):
    around = {f"photos/{name}": content for name, content in FILES.items()}
    uri = write(tmp_path / "a.zip", {**around, "__MACOSX/photos/._1.jpg": b"1"})
    assert named(read_records(uri)) == [(f"photos/{name}", label) for name, label in FOUND]
    assert read_records(uri + "/photos/") == [
        record.__class__(record.uri, record.label, uri + "/photos", 0)
        for record in read_records(uri)
    ]
    with pytest.raises(DataError, match=r"no images in folders of their classes"):
        read_records(uri + "/photos/dog")


def test_paths_into_archives_in_lists(tmp_path):
    write(tmp_path / "photos.zip", FILES)
    os.mkdir(tmp_path / "folder.zip")
    (tmp_path / "folder.zip" / "4.jpg").write_bytes(PNG)
    (tmp_path / "list.txt").write_text(
        "photos.zip/cat/1.jpg a\n./photos.zip/cat/deep/2 b\nfolder.zip/4.jpg a\n"
    )
    records = read_records(str(tmp_path / "list.txt"))
    assert [storage.read_bytes(record.uri) for record in records] == [JPEG, PNG, PNG]
    for missing in ("photos.zip/cat/9.jpg", "photos.zip/../photos.zip", "photos.zip/cat"):
        with pytest.raises(StorageError, match="no such file"):
            storage.read_bytes(str(tmp_path / missing))
    assert not storage.exists(str(tmp_path / "photos.zip/cat/9.jpg"))
    assert storage.exists(str(tmp_path / "photos.zip/cat/1.jpg"))


def test_paths_into_archives_on_a_command_line(tmp_path):
    uri = write(tmp_path / "photos.zip", FILES)
    write(tmp_path / "more.zip", {"5.jpg": JPEG})
    assert named(read_places([uri])) == FOUND
    assert named(read_places([uri + "/cat"])) == [("cat/1.jpg", ""), ("cat/deep/2", "deep")]
    assert named(read_places([uri + "/cat/deep/2"])) == [("cat/deep/2", "")]
    both = read_places([str(tmp_path / "*.zip")])
    assert named(both) == [("5.jpg", ""), *FOUND]
    with pytest.raises(DataError, match="no such file or folder"):
        read_places([uri + "/none.jpg"])


def test_remote_archives(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe(
        "/zips/photos.zip", (write(tmp_path / "a.zip", FILES), tmp_path / "a.zip")[1].read_bytes()
    )
    memory.pipe("/zips/keys.zip/cat/1.jpg", PNG)  # a key, not an archive
    records = read_records("memory://zips/photos.zip")
    assert named(records) == FOUND
    assert storage.read_bytes(records[1].uri) == PNG
    assert storage.read_bytes("memory://zips/keys.zip/cat/1.jpg") == PNG
    requests = ReadAhead(2)
    pending = [requests.fetch(record) for record in records]
    assert [each.result(timeout=30) for each in pending] == [JPEG, PNG, JPEG]
    memory.rm("/zips", recursive=True)


def test_a_replaced_archive_is_read_again(tmp_path):
    uri = write(tmp_path / "a.zip", {"cat/1.jpg": JPEG})
    assert storage.read_bytes(uri + "/cat/1.jpg") == JPEG
    write(tmp_path / "a.zip", {"cat/1.jpg": PNG, "dog/2.jpg": JPEG})
    assert storage.read_bytes(uri + "/cat/1.jpg") == PNG


def test_files_that_are_not_archives_are_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(JPEG)
    for place in ("a.zip", "a.zip/cat"):
        with pytest.raises(StorageError, match=r"a\.zip: not a whole ZIP archive"):
            read_records(str(tmp_path / place))
    whole = content_of(tmp_path / "b.zip", FILES)
    (tmp_path / "b.zip").write_bytes(whole[:-30])
    with pytest.raises(StorageError, match="not a whole ZIP archive"):
        read_records(str(tmp_path / "b.zip"))


def test_an_empty_archive_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"empty\.zip"):
        read_records(write(tmp_path / "empty.zip", {}))


def test_entries_without_a_name_are_ignored(tmp_path):
    whole = content_of(tmp_path / "a.zip", {**FILES, "x": PNG})
    # The name of one byte becomes one of none, and the byte a comment, in the central directory.
    entry = whole.rindex(b"PK\x01\x02")
    assert whole[entry + 28] == 1
    changed = bytearray(whole)
    changed[entry + 28], changed[entry + 32] = 0, 1
    (tmp_path / "a.zip").write_bytes(changed)
    assert named(read_records(str(tmp_path / "a.zip"))) == FOUND


@pytest.mark.parametrize("other", ["cat\\1.jpg", "./cat/1.jpg", "cat//1.jpg"])
def test_two_spellings_of_one_path_are_refused(tmp_path, other):
    names = {"cat/1.jpg": JPEG, "dog/1.jpg": JPEG}
    uri = write(tmp_path / "a.zip", names | {other: PNG})
    with pytest.raises(StorageError) as caught:
        read_records(uri)
    assert str(caught.value).startswith(
        f"{uri}: the entries 'cat/1.jpg' and {other!r} are one path; "
    )


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_last_entry_of_one_name_counts(tmp_path):
    uri = write(tmp_path / "a.zip", {"cat\\1.jpg": JPEG, "dog/1.jpg": JPEG})
    with zipfile.ZipFile(uri, "a") as opened:
        opened.writestr("cat\\1.jpg", PNG)
    assert named(read_records(uri)) == [("cat/1.jpg", "cat"), ("dog/1.jpg", "dog")]
    assert storage.read_bytes(f"{uri}/cat/1.jpg") == PNG


def test_names_that_lead_out_of_the_archive_are_skipped(tmp_path):
    names = {"cat/1.jpg": JPEG, "dog/1.jpg": JPEG}
    bad = {
        "../../evil.jpg": JPEG,
        "/etc/evil.jpg": JPEG,
        "cat/../../evil2.jpg": JPEG,
        "..\\evil3.jpg": JPEG,
    }
    uri = write(tmp_path / "a.zip", names | dict.fromkeys(bad, JPEG))
    skipped: list = []
    assert named(read_records(uri, options=AnnotationOptions(skipped=skipped))) == [
        ("cat/1.jpg", "cat"),
        ("dog/1.jpg", "dog"),
    ]
    assert [(each.kind, each.count) for each in skipped] == [
        ("with a name that leads out of the archive", 4)
    ]
    (tmp_path / "evil2.jpg").write_bytes(PNG)
    with pytest.raises(StorageError, match="no such file"):
        storage.read_bytes(uri + "/cat/../../evil2.jpg")
    assert sorted(os.listdir(tmp_path)) == ["a.zip", "evil2.jpg"]  # nothing was unpacked


def test_bombs_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    uri = write(tmp_path / "a.zip", {"cat/1.jpg": bytes(3_000_000), "cat/2.jpg": JPEG})
    monkeypatch.setattr(archive, "MOST_BYTES", 1_000_000)
    with pytest.raises(StorageError, match=r"cat/1\.jpg: unpacks to 3 MB, more than 0 MB"):
        storage.read_bytes(uri + "/cat/1.jpg")
    monkeypatch.undo()
    content = bytearray((tmp_path / "a.zip").read_bytes())
    # The directory states less than the entry unpacks to.
    place = content.index(b"PK\1\2") + 24
    content[place : place + 4] = struct.pack("<I", 1000)
    (tmp_path / "b.zip").write_bytes(content)
    with pytest.raises(StorageError, match="damaged in the archive"):
        storage.read_bytes(str(tmp_path / "b.zip/cat/1.jpg"))
    assert storage.read_bytes(str(tmp_path / "b.zip/cat/2.jpg")) == JPEG


def test_entries_that_share_bytes_are_refused(tmp_path):
    content = bytearray(
        (write(tmp_path / "a.zip", {"1.jpg": JPEG, "2.jpg": JPEG}), tmp_path / "a.zip")[
            1
        ].read_bytes()
    )
    second = content.index(b"PK\1\2", content.index(b"PK\1\2") + 4)
    content[second + 42 : second + 46] = struct.pack("<I", 0)  # both at the same header
    (tmp_path / "b.zip").write_bytes(content)
    with pytest.raises(StorageError, match="entries overlap"):
        storage.read_bytes(str(tmp_path / "b.zip/1.jpg"))


@pytest.mark.parametrize(
    ("compression", "words"),
    [(zipfile.ZIP_BZIP2, "compressed by bzip2"), (zipfile.ZIP_LZMA, "compressed by lzma")],
)
def test_other_compressions_are_refused_with_the_fix(tmp_path, compression, words):
    uri = write(tmp_path / "a.zip", {"cat/1.jpg": JPEG}, compression)
    with pytest.raises(StorageError, match=words + ".*write it stored or deflated"):
        storage.read_bytes(uri + "/cat/1.jpg")


def test_encrypted_and_damaged_entries_are_refused(tmp_path):
    whole = (write(tmp_path / "a.zip", {"1.jpg": JPEG}, zipfile.ZIP_STORED), tmp_path / "a.zip")[
        1
    ].read_bytes()
    for change, words in ((8, "encrypted"), (0, "wrong checksum")):
        content = bytearray(whole)
        if change:
            content[content.index(b"PK\1\2") + change] |= 1
        else:
            content[60] ^= 255
        (tmp_path / "b.zip").write_bytes(content)
        os.utime(tmp_path / "b.zip", ns=(change, change))
        with pytest.raises(StorageError, match=words):
            storage.read_bytes(str(tmp_path / "b.zip/1.jpg"))


def test_entries_with_sizes_after_their_content(tmp_path):
    class Unseekable(io.RawIOBase):
        def __init__(self):
            self.parts = []

        def writable(self):
            return True

        def write(self, data):
            self.parts.append(bytes(data))
            return len(data)

    stream = Unseekable()
    with zipfile.ZipFile(stream, "w") as opened:
        for name, content in FILES.items():
            opened.writestr(
                name, content, zipfile.ZIP_DEFLATED if "1" in name else zipfile.ZIP_STORED
            )
    (tmp_path / "a.zip").write_bytes(b"".join(stream.parts))
    records = read_records(str(tmp_path / "a.zip"))
    assert [storage.read_bytes(record.uri) for record in records] == [JPEG, PNG, JPEG]
