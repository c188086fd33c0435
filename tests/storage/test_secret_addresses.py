"""Addresses that hold a password or a signature: used, and written nowhere."""

import json
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from quick_server import Server

import lookalike
from lookalike import cli, storage
from lookalike.data.readers import read_records
from lookalike.errors import DataError

SECRETS = ("PASSWD", "SECRETSIG")


@pytest.mark.parametrize(
    ("uri", "kept"),
    [
        ("https://me:PASSWD@h/a.jpg?X-Amz-Date=1&X-Amz-Signature=SECRETSIG", "https://h/a.jpg"),
        ("https://h/show?id=7&sig=SECRETSIG&size=2", "https://h/show?id=7&size=2"),
        ("https://h/show?id=7&signature_of=them", "https://h/show?id=7&signature_of=them"),
        ("https://b.oss/k?OSSAccessKeyId=x&Expires=1&Signature=SECRETSIG", "https://b.oss/k"),
        ("https://h/a?b=1#access_token=SECRETSIG", "https://h/a?b=1"),
        ("https://h/a.jpg#token=SECRETSIG", "https://h/a.jpg"),
        ("https://h/a.jpg#page=2&id_token=SECRETSIG", "https://h/a.jpg#page=2"),
        ("https://h/a.jpg#/app?client_secret=SECRETSIG", "https://h/a.jpg"),
        ("memory://run#token=SECRETSIG", "memory://run"),
        ("s3://b/a#token=1.jpg", "s3://b/a#token=1.jpg"),
        ("https://h?sig=SECRETSIG&id=1", "https://h?id=1"),
        ("s3://b/k?X-Amz-Signature=SECRETSIG&x=a?b", "s3://b/k?x=a?b"),
        ("s3://b/k?sig=SECRETSIG&x=a?token=SECRETSIG", "s3://b/k"),
        ("oss://b/k?Signature=SECRETSIG&endpoint=e.com", "oss://b/k?endpoint=e.com"),
        ("oss://b/k?endpoint=e.com", "oss://b/k?endpoint=e.com"),
        ("/photos/a?sig=1.jpg", "/photos/a?sig=1.jpg"),
    ],
)
def test_addresses_without_secrets(uri, kept):
    assert storage.unsigned(uri) == kept


@pytest.mark.parametrize("scheme", ["s3", "oss", "gs", "https"])
def test_messages_show_no_secret_of_any_scheme(scheme):
    uri = f"{scheme}://me:PASSWD@b/k/a.jpg?X-Amz-Date=1&X-Amz-Signature=SECRETSIG"
    assert storage.public(uri) == f"{scheme}://b/k/a.jpg"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("memory://me:PASSWD@b/run?key=SECRETSIG", "memory://b/run"),
        ("sftp://h/a?code=SECRETSIG#b", "sftp://h/a"),
        ("https://h?code=SECRETSIG", "https://h"),
        ("https://me:PA#PASSWD@h/a", "https://h/a"),
        ("s3://b/a?b.jpg", "s3://b/a?b.jpg"),
        ("gs://b/a?b=c&d#e.jpg", "gs://b/a?b=c&d#e.jpg"),
        ("s3a://b/a?b?token=SECRETSIG&x=c?d", "s3a://b/a?b"),
    ],
)
def test_only_keys_of_object_storage_are_shown_with_their_question_marks(uri, shown):
    assert storage.public(uri) == shown


@pytest.mark.parametrize(
    "line",
    [
        "https://me:PASSWD@h/a.jpg?X-Amz-Date=1&X-Amz-Signature=SECRETSIG",
        "https://h/a.jpg#token=SECRETSIG",
        "https://me:PASSWD@[h/a.jpg?size=2&sig=SECRETSIG 3",
        "https://h/a\x07.jpg?sig=SECRETSIG 3",
    ],
)
def test_a_line_that_is_refused_is_quoted_without_secrets(tmp_path, line):
    (tmp_path / "list.txt").write_text(f"{line}\n")
    with pytest.raises(DataError, match=r"list\.txt:1: 'https://") as refused:
        read_records(str(tmp_path / "list.txt"))
    assert not any(secret in str(refused.value) for secret in SECRETS)


@pytest.fixture
def addresses(shapes, tmp_path):
    """A list of images on a web server, by addresses with secrets."""
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    files = sorted((shapes / "images").glob("10*.jpg"))[:8]
    server.bodies = {file.name: file.read_bytes() for file in files}
    place = server.address.replace("://", "://user:PASSWD@")
    marks = ("?X-Amz-Signature=", "#token=")
    lines = [f"{place}/{file.name}{marks[row % 2]}SECRETSIG" for row, file in enumerate(files)]
    (tmp_path / "list.txt").write_text("".join(f"{line}\n" for line in lines))
    yield lines
    server.shutdown()
    server.server_close()


def written(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_pages_indexes_and_vectors_hold_no_secrets(model, addresses, tmp_path, monkeypatch, capfd):
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(out / "cache"))
    listed = str(tmp_path / "list.txt")
    lookalike.embed(model, listed, out / "v.npy")
    lookalike.embed(model, listed, out / "v.parquet")
    assert len(np.load(out / "v.npy")) == len(addresses)
    assert len(set(pq.read_table(out / "v.parquet")["path"].to_pylist())) == len(addresses)
    query = addresses[0]
    for more in ([], ["--json"]):
        words = [str(model), query, "--gallery", listed, "--html", str(out / "page.html"), *more]
        monkeypatch.setattr("sys.argv", ["lookalike", "search", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
    told = capfd.readouterr()
    page = (out / "page.html").read_text()
    assert page.count("data:image") > len(addresses)  # the pictures are there all the same
    [answer] = [json.loads(line) for line in told.out.splitlines() if line.startswith("{")]
    assert len(answer["neighbours"]) == len(addresses)
    for secret in SECRETS:
        assert secret not in told.out + told.err
        assert secret.encode() not in written(out)


def test_labels_of_an_earlier_output_are_removed(model, shapes, tmp_path):
    files = sorted((shapes / "images").glob("10*.jpg"))[:6]
    labelled, plain = tmp_path / "labelled.txt", tmp_path / "plain.txt"
    labelled.write_text("".join(f"{file} {row // 2}\n" for row, file in enumerate(files)))
    plain.write_text("".join(f"{file}\n" for file in reversed(files)))
    lookalike.embed(model, labelled, tmp_path / "v.npy")
    assert (tmp_path / "v.labels.txt").read_text().split() == list("001122")
    lookalike.embed(model, plain, tmp_path / "v.npy")
    assert not (tmp_path / "v.labels.txt").exists()
    assert (tmp_path / "v.paths.txt").read_text().splitlines() == [*map(str, reversed(files))]
