"""Requests of a hostile client over TCP: each is refused, and the server serves the next one."""

import contextlib
import http.client
import io
import json
import logging
import re
import socket
import struct
import threading
import time
import zlib

import pytest
from conversation import Wire, data_uri, listening, png, small_service
from PIL import Image

from lookalike.serving import run_server, timed_connection
from lookalike.serving.access import Access
from lookalike.serving.service_limits import ServiceLimits

HOST = b"Host: 127.0.0.1\r\n"
JSON = {"content-type": "application/json"}
MAX_BODY = 300_000


@pytest.fixture(scope="module")
def port(model, gallery):
    """A server that waits a fifth of a second for what is slow."""
    service = small_service(
        model, gallery, ServiceLimits(max_images=8, max_pixels=10**6, threads=2)
    )
    access = Access(max_body=MAX_BODY, max_held=2 * MAX_BODY, body_seconds=0.2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timed_connection, "STALLED_SECONDS", 0.2)
        patch.setattr(run_server, "KEEP_ALIVE_SECONDS", 0.5)
        with listening(service, access) as found:
            yield found


@pytest.fixture(autouse=True)
def serves_afterwards(port, caplog):
    """The server is well after each attack, and none was a mistake of ours."""
    yield
    assert ask(port, "GET", "/health/ready")[0] == 200
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]


def ask(port, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()


def embed(port, content, kind="image/png"):
    status, _, text = ask(port, "POST", "/v1/embeddings", content, {"content-type": kind})
    return status, text


def head(length=None, path="/v1/embeddings", kind="image/png"):
    size = "" if length is None else f"Content-Length: {length}\r\n"
    return b"POST %b HTTP/1.1\r\n%bContent-Type: %b\r\n%b" % (
        path.encode(), HOST, kind.encode(), size.encode(),
    )  # fmt: skip


# --- slow and silent -----------------------------------------------------------------------------


def test_a_slow_head_is_refused(port):
    for start in (b"G", b"GET / HTTP/1.1\r\nHost: a\r\n", head() + b"X: " + b"y" * 99):
        with Wire(port) as wire:
            answer = wire.send(start).rest()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == 408


def test_a_head_that_drips_is_refused(port):
    """Each byte comes in time; the whole does not."""
    with Wire(port) as wire:
        for _ in range(20):
            wire.send(b"X")
            time.sleep(0.05)
        assert wire.status() in (0, 408)  # the answer is lost if a byte came after it


def test_a_second_head_on_a_connection_may_not_be_slow_either(port):
    with Wire(port) as wire:
        wire.send(b"GET /health/live HTTP/1.1\r\n" + HOST + b"\r\n")
        assert wire.socket.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert wire.send(b"GET / HT").status() in (0, 408)


def test_a_silent_connection_is_ended(port):
    with Wire(port) as wire:
        assert wire.rest() == b""


def test_a_slow_body_is_refused(port):
    for start in (
        head(1000) + b"\r\nabc",
        head() + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ):
        with Wire(port) as wire:
            assert wire.send(start).status() == 408


def test_a_response_that_is_not_read_is_ended(port):
    with Wire(port) as wire:
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        asked = b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n"
        until = time.monotonic() + 30

        def ask_on():
            while time.monotonic() < until:
                wire.socket.sendall(asked)
                time.sleep(0.001)

        with pytest.raises(ConnectionError):  # the server has ended it, in mid-answer
            ask_on()


# --- truncated and oversized ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        (head(1000), b"\r\nabc"),
        (head() + b"Transfer-Encoding: chunked\r\n\r\n", b"ff\r\nabc"),
        (head(1000, kind="application/json"), b'\r\n{"input": '),
        (head(1000, kind="multipart/form-data; boundary=x"), b"\r\n--x\r\nContent-Dis"),
        (head(1000, "/v2/models/small/infer", "application/json"), b'\r\n{"inputs": ['),
        (head(1000, "/v1/index", "application/json"), b"\r\n{"),
    ],
)
def test_an_upload_that_ends_early_does_no_harm(port, parts):
    with Wire(port) as wire:
        wire.send(*parts)
        wire.socket.shutdown(socket.SHUT_WR)
        wire.rest()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_truncated_image_is_refused(port, format):
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 90).convert("RGB").save(stream, format)
    content = stream.getvalue()
    assert embed(port, content)[0] == 200
    for length in (1, 8, len(content) // 2):
        status, text = embed(port, content[:length])
        assert status == 400, text
        assert "image 0: " in text


def test_a_body_that_is_too_large_is_refused(port):
    with Wire(port) as wire:  # by its length, before it is sent
        assert wire.send(head(10**12), b"\r\n").status() == 413
    with Wire(port) as wire:
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        sent = head() + b"Transfer-Encoding: chunked\r\n\r\n"
        assert wire.send(sent, *[chunk] * 100).status() in (0, 413)
    with Wire(port) as wire:
        assert wire.send(head("9" * 5000), b"\r\n").status() in (400, 413)


def test_bodies_of_many_connections_share_a_limit(port):
    part = b"\r\n" + b"x" * (MAX_BODY - 100)
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(Wire(port)) for _ in range(3)]
        for wire in wires:
            wire.send(head(MAX_BODY), part)
        answers = [wire.rest() for wire in wires]
    assert sorted(int(one[9:12]) for one in answers) == [408, 408, 429]
    [full] = [one for one in answers if one[9:12] == b"429"]
    assert b"retry-after: 1" in full.lower()
    assert embed(port, b"x")[0] == 400  # nothing of them is still held


# --- images that grow ----------------------------------------------------------------------------


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(
        ">I", zlib.crc32(name + content)
    )  # fmt: skip


def png_of(width, height, *chunks):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), *chunks, chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def gif_of_many_frames():
    frames = [Image.new("P", (900, 900), n % 8) for n in range(100)]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:], optimize=False)
    return stream.getvalue()


def jpeg_of(width, height):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "JPEG")
    content = bytearray(stream.getvalue())
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(content)


ZEROS = zlib.compress(bytes(50 * 2**20), 9)
BOMBS = {
    "pixels": (lambda: png(Image.new("1", (10_000, 10_000))), 400),
    "size alone": (lambda: png_of(2**31 - 1, 2**31 - 1), 400),
    "jpeg size": (lambda: jpeg_of(65_535, 65_535), 400),
    "more rows than declared": (lambda: png_of(4, 4, chunk(b"IDAT", ZEROS)), 200),
    "text": (lambda: png_of(4, 4, chunk(b"zTXt", b"a\0\0" + ZEROS), chunk(b"IDAT", b"")), 400),
    "profile": (lambda: png_of(4, 4, chunk(b"iCCP", b"a\0\0" + ZEROS), chunk(b"IDAT", b"")), 400),
    "frames": (gif_of_many_frames, 200),
}


@pytest.mark.parametrize("name", BOMBS)
def test_an_image_bomb_takes_little_memory(port, name):
    make, expected = BOMBS[name]
    content = make()
    assert len(content) < MAX_BODY
    before = peak()
    status, text = embed(port, content)
    assert status == expected, text
    assert peak() - before < 48 * 2**20


def peak():
    """Bytes of memory of this process at most, since the last call."""
    with open("/proc/self/status") as file:
        found = int(re.search(r"VmHWM:\s+(\d+) kB", file.read())[1]) * 1024
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return found


# --- malformed -----------------------------------------------------------------------------------

MALFORMED = [
    b"\0" * 100,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),  # the hello of TLS
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
    b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET / HTTP/1.1\r\n" + HOST + b"A\0B: c\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n c\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + HOST + b"A: " + b"b" * 100_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n" * 20_000 + b"\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    b"BREW /v1/embeddings HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /v1/x HTTP/1.1\r\n" + HOST + b"Upgrade: h2c\r\nConnection: Upgrade\r\n\r\nPRI",
    b"GET /v1/x HTTP/1.1\r\n" + HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    head(-1) + b"\r\n",
    head("1 1") + b"\r\nx",
    head(1) + b"Content-Length: 2\r\n\r\nxx",
    head() + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    head() + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    head() + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n",
    head() + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"e" * 100_000,
    head() + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n",
    head(3) + b"Content-Encoding: gzip\r\n\r\n\x1f\x8b\x08",
]


@pytest.mark.parametrize("content", MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_no_proper_request_is_refused(port, content):
    with Wire(port) as wire:
        wire.send(content)
        answer = wire.rest()
    final = re.search(rb"(?:^|\r\n\r\n)HTTP/1.1 ([45]\d\d) ", answer)
    assert final, answer[:200]
    assert int(final[1]) < 500
    assert b"application/problem+json" in answer


def test_a_second_request_hidden_in_a_body_is_not_answered(port):
    hidden = b"DELETE /v1/index/x HTTP/1.1\r\n" + HOST + b"\r\n"
    body = b"0\r\n\r\n" + hidden
    both = head(len(body)) + b"Transfer-Encoding: chunked\r\n\r\n" + body
    with Wire(port) as wire:
        answer = wire.send(both).rest()
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"HTTP/1.1 400 " in answer


NESTED = b"[" * 100_000


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", NESTED),
        ("/v2/models/small/infer", NESTED),
        ("/v2/models/small/infer", b'{"id": "\\ud800", "inputs": []}'),
        (
            "/v2/models/small/infer",
            b'{"inputs": [{"name": "a", "shape": [1' + b"0" * 9000 + b"]}]}",
        ),
        ("/v1/search", b'{"input": "AAAA", "threshold": NaN}'),
        ("/v1/search", b'{"input": "AAAA", "k": 1e999}'),
        ("/v1/search", b'{"input": "AAAA", "k": ' + b"9" * 9000 + b"}"),
        ("/v1/search", b'{"input": "AAAA", "label": "\\ud800"}'),
        ("/v1/index", b'{"input": "AAAA", "ids": ["\\ud800"]}'),
        ("/v1/index", b'{"input": "AAAA", "ids": ["a\\nb"]}'),
        ("/v1/index", b'{"input": "AAAA", "ids": [""]}'),
        ("/v1/embeddings", b'{"input": "AAAA", "model": "\\ud800"}'),
        ("/v1/embeddings", b'\xef\xbb\xbf{"input": "AAAA"}'),
    ],
)
def test_odd_json_is_refused(port, path, body):
    status, headers, text = ask(port, "POST", path, body, JSON)
    assert 400 <= status < 500, text
    assert headers["content-type"] == "application/problem+json"
    assert len(text) < 2000


# --- names and addresses -------------------------------------------------------------------------

MARKUP = "<script>alert(1)</script>"


def test_markup_in_names_is_never_a_page(port, files, caplog):
    body = json.dumps(
        {"input": data_uri(files[0].read_bytes()), "ids": [MARKUP], "labels": [MARKUP]}
    )
    form = (
        f'--x\r\nContent-Disposition: form-data; name="{MARKUP}"; filename="{MARKUP}.jpg"\r\n'
        f"Content-Type: text/html\r\n\r\n{MARKUP}\r\n--x--\r\n"
    )
    search = json.dumps({"input": data_uri(files[0].read_bytes()), "k": 1, "label": MARKUP})
    answers = [
        ask(port, "POST", "/v1/index", body, JSON),
        ask(port, "POST", "/v1/search", search, JSON),
        ask(
            port,
            "POST",
            "/v1/embeddings",
            form,
            {"content-type": "multipart/form-data; boundary=x"},
        ),
        ask(port, "POST", "/v1/embeddings", "x", {"content-type": MARKUP}),
        ask(port, "POST", "/v1/embeddings", f'{{"input": "AAAA", "model": "{MARKUP}"}}', JSON),
        ask(port, "POST", "/v1/embeddings", f'{{"input": "a", "{MARKUP}": 1}}', JSON),
        ask(port, "GET", "/v2/models/%3Cscript%3Ealert(1)%3C%2Fscript%3E"),
        ask(port, "GET", "/%3Cscript%3Ealert(1)%3C/script%3E", headers={"accept": "text/html"}),
        ask(port, "GET", "/v1/models", headers={"host": MARKUP}),
        ask(port, "DELETE", "/v1/index/%3Cscript%3Ealert(1)%3C%2Fscript%3E"),
        ask(port, "DELETE", "/v1/index/%3Cscript%3Ealert(1)%3C%2Fscript%3E"),
    ]
    assert [one[0] for one in answers] == [200, 200, 400, 415, 404, 422, 404, 404, 421, 200, 404]
    assert json.loads(answers[1][2])["data"][0]["neighbours"][0]["id"] == MARKUP
    for _, headers, _ in answers:
        assert headers["content-type"] in ("application/json", "application/problem+json")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("default-src 'none'")
    assert MARKUP not in caplog.text


def test_an_address_of_a_client_is_never_fetched(port, monkeypatch, tmp_path):
    """Neither over HTTP (a server here counts connections) nor from a file."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(Image.new("RGB", (8, 8))))
    monkeypatch.setattr(
        "lookalike.storage.read_bytes", lambda *given, **more: pytest.fail("a file was read")
    )
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as canary:
        canary.setblocking(False)
        at = f"127.0.0.1:{canary.getsockname()[1]}"
        svg = f'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://{at}/a.png"/></svg>'
        for place in (
            f"http://{at}/a.jpg", f"HTTP://{at}/a.jpg", f" http://{at}/a.jpg", f"//{at}/a.jpg",
            f"http:{at}", f"data:image/png,http://{at}", f"data:text/x-url;base64,http://{at}/a",
            f"s3://{at}/a", f"ftp://{at}/a", f"http://user@{at}/a", f"file://{secret}", f"{secret}",
            f"file:{secret}", f"@{secret}", f"../{secret}", f"zip://{secret}", "/proc/self/environ",
            "\\\\127.0.0.1\\share", svg,
        ):  # fmt: skip
            for body in ({"input": place}, {"input": [place]}, {"input": {"image": place}}):
                for path in ("/v1/embeddings", "/v1/search"):
                    status, _, text = ask(port, "POST", path, json.dumps(body), JSON)
                    assert status == 400, (place, text)
            tensor = {"name": "i", "shape": [1], "datatype": "BYTES", "data": [place]}
            infer = json.dumps({"inputs": [tensor]})
            assert ask(port, "POST", "/v2/models/small/infer", infer, JSON)[0] == 400, place
            assert embed(port, place.encode(), "image/svg+xml")[0] == 400
        form = (
            f'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\nhttp://{at}/a\r\n--x--\r\n'
        )
        kind = {"content-type": "multipart/form-data; boundary=x"}
        assert ask(port, "POST", "/v1/embeddings", form, kind)[0] == 422
        body = json.dumps({"input": {"url": f"http://{at}/a"}})
        assert ask(port, "POST", "/v1/embeddings", body, JSON)[0] == 422
        with pytest.raises(BlockingIOError):
            canary.accept()


def test_ids_are_no_paths(port, tmp_path):
    before = ask(port, "GET", "/v1/models")[2]
    for spelling in (
        "..", "../..", "%2e%2e/%2e%2e", "..%2f..%2fetc%2fpasswd", "%2e%2e%5c", "%252e%252e%252f",
        "/etc/passwd", "//etc/passwd", "%2fetc%2fpasswd", "%00", "a%00.jpg", "file:///etc/passwd",
        "~root", "C:%5cwindows", "%c0%ae%c0%ae/", "%u002e", ".%0a", "a" * 5000, "%ff%fe", "*",
    ):  # fmt: skip
        status, _, text = ask(port, "DELETE", f"/v1/index/{spelling}")
        assert status in (400, 404, 405), (spelling, text)
        assert "root:" not in text
    assert ask(port, "GET", "/v1/models")[2] == before


def test_many_bad_requests_at_a_time(port, files):
    """Good ones among them are answered."""
    good, statuses = files[0].read_bytes(), []

    def one(number):
        if number % 4:
            statuses.append((400, embed(port, good[: number % 97])[0]))
        else:
            statuses.append((200, embed(port, good)[0]))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(1, 65)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(statuses) == 64
    assert all(expected == found for expected, found in statuses)
