"""Requests to web servers: the address as given, within a size and a time."""

import contextlib
import re
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from picture_files import write_catalog

import lookalike
from lookalike import storage
from lookalike.config.config import Config
from lookalike.data.loading.bad_images import BadImages
from lookalike.data.loading.image_source import Source
from lookalike.data.loading.preprocess import Preprocess
from lookalike.data.loading.sequential import EvalLoader
from lookalike.data.record import Member, Record
from lookalike.errors import ConfigError, DataError, StorageError
from lookalike.storage import retry
from lookalike.storage.byte_size import in_words
from lookalike.storage.download import sendable

PREPROCESS = Preprocess(24, 0.875, (0.5,) * 3, (0.25,) * 3)


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setitem(retry.FIRST_PAUSE, True, 0.001)


@contextmanager
def raw_server(answer, ranges=None):
    """A server that gives `answer(target, connection)` the target of each request, as it came.

    The last range that was asked for goes into `ranges`, by target.
    """
    listener, targets = socket.create_server(("127.0.0.1", 0)), []

    def serve(connection):
        with connection:
            request = b""
            while b"\r\n\r\n" not in request:
                more = connection.recv(65536)
                if not more:
                    return
                request += more
            method, target, _ = request.split(b"\r\n")[0].split(b" ")
            targets.append(target.decode("latin-1"))
            if ranges is not None:
                found = re.search(rb"(?i)\r\nrange: bytes=(\d+)-(\d+)", request)
                ranges[targets[-1]] = tuple(map(int, found.groups())) if found else None
            with contextlib.suppress(OSError):  # the client went away
                answer(target.decode("latin-1"), connection, method)

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", targets
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@contextmanager
def ranged_server(answer):
    ranges = {}
    with raw_server(answer, ranges) as (address, _):
        yield address, ranges


def say(connection, head, body=b"", method=b"GET"):
    connection.sendall(f"HTTP/1.1 {head}\r\nConnection: close\r\n".encode("latin-1"))
    connection.sendall(f"Content-Length: {len(body)}\r\n\r\n".encode())
    connection.sendall(b"" if method == b"HEAD" else body)


def fine(target, connection, method):
    say(connection, "200 OK", b"body", method)


TARGETS = [
    "/a%27b%40c%2Bd.jpg?X-Amz-Signature=a%2Fb%2B%3D&X-Amz-Date=1",
    "/a'b@c+d!(e)*;=,.jpg",
    "/a%2fb%2F..%2e%c3%a4.jpg",
    "/a/../b/./c//d.jpg",
    "/%61%7Eb~.jpg?x=%7e&y=+&z=%20&&",
    "/{a}|b^`c[d].jpg?q={}|[]",
    "/100%.jpg",
]


@pytest.mark.parametrize("target", TARGETS)
def test_addresses_are_sent_as_given(target, tmp_path):
    with raw_server(fine) as (address, targets):
        assert storage.read_bytes(address + target) == b"body"
        assert storage.read_bytes(address + target, part=(0, 4)) == b"body"
        assert storage.exists(address + target)
        storage.fetch_file(address + target, tmp_path / "here")
        with storage.opened(address + target):
            pass
    assert len(targets) >= 5
    assert set(targets) == {target}


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("/a b\tä.jpg?q=ö ü", "/a%20b%09%C3%A4.jpg?q=%C3%B6%20%C3%BC"),
        ("/a%20b ä%2F.jpg", "/a%20b%20%C3%A4%2F.jpg"),
        ("/a.jpg#part?x", "/a.jpg"),
        ("?x=1", "/?x=1"),
    ],
)
def test_invalid_characters_are_encoded(given, sent):
    assert sendable(f"http://h{given}") == f"http://h{sent}"
    assert sendable(f"HTTPS://Käse.de{given}") == f"https://xn--kse-qla.de{sent}"
    with raw_server(fine) as (address, targets):
        assert storage.read_bytes(address + given) == b"body"
    assert targets == [sent]


@pytest.mark.parametrize("target", [*TARGETS, "next/%27+.jpg?a=%2B", "//{host}/c%2B.jpg"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_as_written(status, target):
    def redirect(asked, connection, method):
        if asked == "/from/here":
            where = (
                target.format(host=address.partition("://")[2]) if "{host}" in target else target
            )
            say(connection, f"{status} Moved\r\nLocation: {where}")
        else:
            fine(asked, connection, method)

    with raw_server(redirect) as (address, targets):
        assert storage.read_bytes(f"{address}/from/here") == b"body"
    path = target.replace("//{host}", "") if "{host}" in target else target
    # RFC 3986, 5.2: of a relative reference the dots are resolved; all else is as it is.
    path = path.replace("/a/../b/./c", "/b/c") if path[0] == "/" else f"/from/{path}"
    assert targets == ["/from/here", path]


def test_absolute_redirects_and_those_that_cannot_be_followed():
    absolute = "/a/../b%2B.jpg?x=%27"

    def redirect(asked, connection, method):
        where = {"/there": address + absolute, "/ftp": "ftp://h/a", "/round": "/round"}.get(asked)
        if where is None:
            fine(asked, connection, method)
        else:
            say(connection, f"302 Found\r\nLocation: {where}")

    with raw_server(redirect) as (address, targets):
        assert storage.read_bytes(f"{address}/there") == b"body"
        assert targets == ["/there", absolute]
        for path, times, words in (("/ftp", 1, "a redirect to an"), ("/round", 11, "more than 10")):
            targets.clear()
            with pytest.raises(StorageError, match=f": {words}"):
                storage.read_bytes(address + path)
            assert len(targets) == times


def endless(target, connection, method):
    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while True:
        connection.sendall(bytes(2**16))


def announced(target, connection, method):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6000000000\r\n\r\n")
    connection.recv(1)  # until the client goes away: it does not wait for the body


def dripping(target, connection, method):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        connection.sendall(b"x")
        time.sleep(0.02)


def silent(target, connection, method):
    connection.recv(1)


def reason_of(uri, limits, *, threads=1, member=None):
    bad = BadImages()
    record = Record(uri, "0", "list.txt", 1, member)
    loader = EvalLoader(
        [record], preprocess=PREPROCESS, batch_size=1, bad=bad,
        source=Source(threads=threads, limits=limits),
    )  # fmt: skip
    assert not list(loader)
    return bad.reasons[0]


@pytest.mark.parametrize("threads", [0, 1])
@pytest.mark.parametrize("answer", [endless, announced])
def test_a_body_that_is_too_large_is_a_bad_image(answer, threads):
    limits = storage.Limits(size=10**6)
    with raw_server(answer) as (address, targets):
        reason = reason_of(f"{address}/a.jpg", limits, threads=threads)
        assert reason == "larger than 1 MB, the most that data.max_image_size allows"
        assert len(targets) == 1
        with pytest.raises(StorageError, match=f"^{address}/a.jpg: larger than 1 MB"):
            storage.read_bytes(f"{address}/a.jpg", limits=limits)


def test_a_part_that_only_comes_with_all_before_it_is_limited():
    """A server that does not know ranges gives an image of a tar file from its beginning on."""
    body = bytes(range(256)) * 8
    with raw_server(lambda _, connection, method: say(connection, "200 OK", body, method)) as (
        address,
        targets,
    ):
        limits, uri = storage.Limits(size=1000), f"{address}/0.tar"
        assert storage.read_bytes(uri, part=(900, 100), limits=limits) == body[900:1000]
        targets.clear()
        with pytest.raises(StorageError, match="sends whole files only, and this part ends at "):
            storage.read_bytes(uri, part=(901, 100), limits=limits)
        assert len(targets) == 1


@pytest.mark.parametrize("threads", [0, 1])
@pytest.mark.parametrize("answer", [dripping, silent])
def test_body_that_never_ends_is_a_bad_image(answer, threads):
    with raw_server(answer) as (address, targets):
        reason = reason_of(f"{address}/a.jpg", storage.Limits(seconds=0.3), threads=threads)
        assert reason == "not read in 0.3 seconds, the most that data.image_timeout allows"
        assert len(targets) == 1


def test_tries_share_one_deadline(monkeypatch):
    monkeypatch.setitem(retry.FIRST_PAUSE, True, 1000)
    with raw_server(lambda target, connection, method: say(connection, "503 Busy")) as (address, _):
        reason = reason_of(f"{address}/a.jpg", storage.Limits(seconds=5))
    assert reason == (
        "not read in 5 seconds, the most that data.image_timeout allows (the storage answers 503)"
    )


@pytest.mark.parametrize("scheme", ["s3", "oss", "memory", "file"])
def test_the_size_is_limited_everywhere(bucket, scheme, tmp_path):
    content = write_catalog(tmp_path, 1).records[0].uri
    data = Path(content).read_bytes()
    uri = f"{scheme}://shop/a.jpg" if scheme != "file" else content
    storage.write_bytes(uri, data)
    fits, small = storage.Limits(size=len(data)), storage.Limits(size=len(data) - 1)
    assert storage.read_bytes(uri, limits=fits) == data
    assert reason_of(uri, small).startswith("larger than ")
    assert reason_of(uri, small, member=Member("a", 0, len(data))).startswith("larger than ")
    assert storage.read_bytes(uri) == data
    storage.write_bytes(uri, b"")
    assert reason_of(uri, small) == "empty file"
    if scheme == "memory":
        storage.remove_file(uri)


def test_read_of_an_endless_device_is_limited():
    with pytest.raises(StorageError, match=r"^/dev/zero: larger than 1 MB"):
        storage.read_bytes("/dev/zero", limits=storage.Limits(size=10**6))


def test_a_single_image_from_the_web_is_limited_too(model, monkeypatch):
    embedder = lookalike.load(model)
    limits = storage.Limits(size=10**6)
    monkeypatch.setattr("lookalike.model.user_images.IMAGE_LIMITS", limits)
    refused = pytest.raises((StorageError, DataError), match=r"/a\.jpg: larger than 1 MB")
    with raw_server(endless) as (address, _), refused:
        embedder.embed([f"{address}/a.jpg"])


def test_the_settings():
    config = Config.load(overrides=["data.max_image_size=1.5GB", "data.image_timeout=3"])
    assert (config.data.max_image_size, config.data.image_timeout) == ("1.5GB", 3.0)
    assert Config().data.max_image_size == "256MB"
    assert Config().data.image_timeout == 120
    with pytest.raises(ConfigError, match=r"data\.max_image_size='much' is no size"):
        Config.load(overrides=["data.max_image_size=much"])
    assert [in_words(size) for size in (256 * 10**6, 1_500_000_000, 1000, 999)] == [
        "256 MB", "1.5 GB", "1 kB", "999 B",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["ranges", "whole", "no size", "empty", "forbidden"])
def test_files_of_all_kinds_of_web_servers(kind, tmp_path):
    """As streams that can seek, as copies, and whether they are there."""
    body = b"" if kind == "empty" else bytes(range(256)) * 4

    def answer(target, connection, method):
        request = wanted[target]
        if kind == "empty" and request:
            say(connection, "416 Range Not Satisfiable\r\nContent-Range: bytes */0")
        elif kind == "forbidden":
            say(connection, "403 Forbidden")
        elif kind == "no size":
            connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)
        elif kind == "ranges" and request:
            first, last = request
            head = f"206 Partial Content\r\nContent-Range: bytes {first}-{last}/{len(body)}"
            say(connection, head, body[first : last + 1])
        else:
            say(connection, "200 OK", body, method)

    with ranged_server(answer) as (address, wanted):
        uri = f"{address}/a.bin"
        if kind == "forbidden":
            with pytest.raises(StorageError, match="the storage answers 403"):
                storage.exists(uri)
            return
        assert storage.exists(uri)
        with storage.opened(uri) as stream:
            stream.seek(-4, 2) if body else stream.seek(0)
            assert stream.read() == body[-4:]
            stream.seek(0)
            assert stream.read(3) == body[:3]
        storage.fetch_file(uri, tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == body
        assert storage.version_of(uri) == storage.version_of(uri)


def test_nothing_is_written_to_web_servers():
    for act in (storage.remove_file, lambda uri: storage.write_bytes(uri, b"x")):
        with pytest.raises(StorageError, match="nothing can be written to a web server"):
            act("http://127.0.0.1:9/a")
