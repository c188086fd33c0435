"""WebDataset shards: samples, errors, and images read in place."""

import io
import json
import random
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lookalike.data.loading.image_source import read_twice
from lookalike.data.readers import read_records
from lookalike.data.readers.path_patterns import expand_ranges
from lookalike.errors import DataError, StorageError


def write(path, members, mode="w", format=tarfile.PAX_FORMAT):
    with tarfile.open(path, mode, format=format) as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return str(path)


def pictures(count):
    return [random.randbytes(random.randrange(1, 3000)) for _ in range(count)]


def found(uri):
    return [(r.member.name, r.label) for r in read_records(uri)]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_images_are_read_in_place(tmp_path, format):
    contents = pictures(4)
    long = "d" * 60 + "/" + "x" * 90  # in USTAR a prefix, in the others a header of its own
    uri = write(
        tmp_path / "a.tar",
        [
            ("0001.jpg", contents[0]), ("0001.cls", b"007\n"),
            ("0002.json", json.dumps({"label": "cat", "width": 3}).encode()),
            ("0002.seg.npy", b"..."), ("0002.PNG", contents[1]),
            (f"{long}.webp", contents[2]), (f"{long}.txt", b" a dog "),
            ("deep/0001.jpg", contents[3]), ("deep/0001.txt", b"a photo of a cat"),
            ("deep/0001.cls", b"3"),
        ],
        format=format,
    )  # fmt: skip
    records = read_records(uri)
    assert [r.label for r in records] == ["7", "cat", "a dog", "3"]
    for record, content in zip(records, contents, strict=True):
        assert read_twice(record, bytes) == content
        assert record.origin == uri
    assert records[3].place == f"{uri}: deep/0001.jpg"
    assert records == read_records(uri, "webdataset")


def test_hard_links_are_the_files_that_they_name(tmp_path, caplog):
    """As `tar` writes two names of one file."""
    contents = pictures(1)
    uri = write(tmp_path / "a.tar", [("0.jpg", contents[0]), ("0.cls", b"cat")])
    with tarfile.open(uri, "a") as archive:
        for name, target, kind in (
            ("1.jpg", "0.jpg", tarfile.LNKTYPE), ("1.cls", "0.cls", tarfile.LNKTYPE),
            ("2.jpg", "0.jpg", tarfile.SYMTYPE),
        ):  # fmt: skip
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            archive.addfile(entry)
    assert found(uri) == [("0.jpg", "cat"), ("1.jpg", "cat")]
    assert all(read_twice(record, bytes) == contents[0] for record in read_records(uri))
    assert "1 member that is no file" in caplog.text


def test_several_shards_in_order(tmp_path):
    contents = pictures(12)
    for number in range(12):
        write(
            tmp_path / f"s-{number:03d}.tar",
            [("0.jpg", contents[number]), ("0.cls", str(number % 2).encode())],
        )
    records = read_records(str(tmp_path / "s-{002..011}.tar"))
    assert [read_twice(r, bytes) for r in records] == contents[2:]
    assert expand_ranges("{0..1}/{08..10}.tar") == [
        "0/08.tar", "0/09.tar", "0/10.tar", "1/08.tar", "1/09.tar", "1/10.tar",
    ]  # fmt: skip
    with pytest.raises(StorageError, match=r"s-012\.tar: no such file"):
        read_records(str(tmp_path / "s-{010..012}.tar"))
    with pytest.raises(DataError, match="is empty; turn it around"):
        read_records(str(tmp_path / "s-{3..1}.tar"))


def test_remote_shards(tmp_path):
    import fsspec

    contents = pictures(2)
    path = write(tmp_path / "a.tar", [
        ("0.jpg", contents[0]), ("0.cls", b"1"), ("1.jpg", contents[1]), ("1.cls", b"2"),
    ])  # fmt: skip
    memory = fsspec.filesystem("memory")
    with open(path, "rb") as file:
        memory.pipe("/shards/a.tar", file.read())
    records = read_records("memory://shards/a.tar")
    assert [read_twice(r, bytes) for r in records] == contents
    memory.pipe("/shards/a.tar", b"short")
    with pytest.raises(StorageError, match=r"a\.tar: ends at .* changed since it was indexed"):
        read_twice(records[1], bytes)
    memory.rm("/shards", recursive=True)


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ([("0.jpg", b"x"), ("1.cls", b"1")], "0: no label; add .cls or .label or .json or .txt"),
        ([("0.cls", b"1")], "0: no images among .cls; write one image for each name"),
        ([("0.jpg", b"x"), ("0.png", b"x"), ("0.cls", b"1")], "0: 2 images among .jpg, .png, .cls"),
        ([("0.jpg", b"x"), ("0.cls", b"\xff")], "'0.cls' is not UTF-8 text"),
        ([("0.jpg", b"x"), ("0.cls", b" ")], "'0.cls': no label; fill it in or remove the row"),
        ([("0.jpg", b"x"), ("0.json", b'{"label": null}')], "'0.json': no label; fill it in or"),
        ([("0.jpg", b"x"), ("0.json", b'{"label": {}}')], "'0.json' has no text or integer under"),
        ([("0.jpg", b"x"), ("0.txt", b"a\nb")], r"label 'a\nb' of '0.txt' is not one line of text"),
        ([("0.jpg", b"x"), ("0.json", b"{")], "'0.json' is not JSON"),
        ([("0.jpg", b"x"), ("0.json", b"[1]")], "'0.json' has no text or integer under label or"),
        ([("0.jpg", b"x"), ("0.cls", b"1" * 2**21)], "'0.cls' is too large for a label"),
        ([], "no samples; expected NAME.jpg and NAME.cls one after the other"),
    ],
)
def test_bad_samples(tmp_path, members, complaint):
    uri = write(tmp_path / "a.tar", members)
    with pytest.raises(DataError) as caught:
        read_records(uri)
    assert complaint in str(caught.value)
    assert str(caught.value).startswith(f"{uri}: ")


def test_files_that_are_not_tar_files_are_refused(tmp_path):
    members = [("0.jpg", b"x" * 2000), ("0.cls", b"1")]
    gzipped = write(tmp_path / "a.tar.gz", members, "w:gz")
    with pytest.raises(DataError, match=r"a\.tar\.gz: not an uncompressed tar file .*gunzip"):
        read_records(gzipped)
    table = tmp_path / "part-00000.snappy.parquet"  # clip-retrieval #393
    pq.write_table(pa.table({"path": ["a.jpg"], "label": ["cat"]}), table)
    with pytest.raises(DataError, match=r"holds Parquet data: leave data.format out"):
        read_records(str(table), "webdataset")
    whole = Path(write(tmp_path / "a.tar", members)).read_bytes()
    for cut in (0, 100, 512, 1500, 2600, 3200):
        (tmp_path / "cut.tar").write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"cut\.tar: "):
            read_records(str(tmp_path / "cut.tar"))
    with pytest.raises(StorageError, match="no such file"):
        read_records(str(tmp_path / "none.tar"))


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_shards_are_read_or_refused(tmp_path, data):
    path = tmp_path / "f.tar"
    write(path, [("0.jpg", b"x" * 700), ("0.cls", b"1"), ("1.jpg", b"y"), ("1.json", b"{}")])
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, 4095))
        content[place] = data.draw(st.sampled_from([0, 32, 48, 55, 56, 128, 255, ord("L")]))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        records = read_records(str(path))
    except (DataError, StorageError):
        return
    assert records
