"""Requests of a hostile page or client: each is refused, and none is a mistake of ours."""

import asyncio
import io
import logging
import os
import re
from collections import Counter
from pathlib import Path

import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from starlette.responses import JSONResponse
from starlette.routing import Route
from studio_client import ADDRESS, Client

from lookalike.errors import ConfigError
from lookalike.serving.access import Access
from lookalike.studio import workflow_runs
from lookalike.studio.roots import Roots
from lookalike.studio.studio_access import LARGER, MAX_BODY
from lookalike.studio.studio_app import create_app

PATHS = [
    "../secret.txt",
    "lists/../../secret.txt",
    "./../secret.txt",
    "..",
    "/etc/passwd",
    "//etc/passwd",
    "/proc/self/environ",
    "~/.ssh/id_rsa",
    "%2e%2e/secret.txt",
    "..%2fsecret.txt",
    "%252e%252e%252fsecret.txt",
    "..\\secret.txt",
    "..%5csecret.txt",
    "train.txt\0.jpg",
    "train.txt\n../secret.txt",
    "file:///etc/passwd",
    "FILE:/etc/passwd",
    "memory://secret",
    "http://127.0.0.1/secret",
    "C:/Windows/win.ini",
    "link.txt",
    "linked/secret.txt",
    "a/" * 3000,
    "a" * 300,
]


HTML = "<img src=x onerror=alert(1)>"

OF_RUNS = [
    "/watch/stop",
    "/watch/resume",
    "/look/prepare",
    "/look/search",
    "/look/labels/check",
    "/look/labels/correct",
    "/look/labels/undo",
    "/look/labels/save",
]

POSTS = sorted(
    re.sub(r"\{\w+\}", "doctor", path)
    for path, found in create_app([Path(__file__).parent], Access()).app.openapi()["paths"].items()
    if "post" in found
)
"""All that change something."""

GETS = [
    "/train",
    "/watch/live?run=runs/one",
    "/watch/curves?run=runs/one",
    "/look/state?run=runs/one&gallery=validation",
    "/look/labels?run=runs/one",
]


@pytest.fixture(autouse=True)
def no_mistake(caplog):
    """No answer was an error of the program."""
    yield
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]


@pytest.fixture
def linked(root):
    (root / "link.txt").symlink_to(root.parent / "secret.txt")
    (root / "linked").symlink_to(root.parent)
    return root


@pytest.fixture
def run(root):
    """A run whose model is not read."""
    folder = root / "runs/one"
    for name in ("checkpoints", "model"):
        (folder / name).mkdir(parents=True)
    (folder / "model/config.json").write_text("{}")
    data = {"train": f"{root}/train.txt", "val": f"{root}/val.txt"}
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    return folder


@pytest.mark.parametrize("text", PATHS)
def test_a_path_out_of_the_roots_is_refused(linked, text):
    with pytest.raises(ConfigError):
        Roots([linked]).resolve(text)


@pytest.mark.parametrize("text", PATHS)
def test_no_request_reads_lists_or_writes_it(client, linked, started, text):
    asked = {
        "/browse": {"folder": text, "field": "data.train"},
        "/watch/run": {"run": text},
        "/watch/live": {"run": text},
        "/watch/report": {"run": text},
        "/watch/curves": {"run": text},
        "/train?preset=auto": {"start_from": text},
        "/train": {"preset": f"run:{text}"},
        "/train?": {"preset": f"file:{text}"},
        "/look": {"run": text},
        "/look/galleries": {"run": text},
        "/look/state": {"run": text, "gallery": text},
        "/look/labels": {"run": text},
        "/look/labels/report": {"run": text},
        "/look/labels/issue": {"run": text, "kind": text},
        "/workflow/canvas": {"file": text},
        "/workflow/graph": {"file": text},
        "/workflow/state": {"file": text},
        "/workflow/log": {"file": text, "node": text},
        "/workflow/result": {"file": text, "node": text, "port": text},
    }
    for path, params in asked.items():
        answer = client.get(path, params=params)
        assert answer.status_code in (400, 404), (path, answer.text)
    for key in ("data.train", "run.output", "model.pretrained", "data.cache", "train.start_from"):
        answer = client.post(
            "/train/start", {"data.train": "train.txt", "run.output": "r"} | {key: text}
        )
        assert answer.status_code == 422, (key, text)
    for path in OF_RUNS:
        answer = client.post(path, {"run": text, "gallery": text, "image": text})
        assert answer.status_code in (400, 404), path
    assert started == []
    assert not (linked / ".lookalike-studio").exists()


@pytest.mark.parametrize("text", PATHS)
def test_a_config_of_a_run_names_no_path_elsewhere(client, linked, run, started, text):
    (run / "config.yaml").write_text(yaml.safe_dump({"data": {"train": text, "val": text}}))
    one = {"run": "runs/one"}
    for gallery in ("validation", "training"):
        assert client.post("/look/prepare", {**one, "gallery": gallery}).status_code == 400
    for path in ("/look/labels/check", "/watch/resume"):
        assert client.post(path, one).status_code == 400
    assert started == []


def test_the_table_has_all_routes():
    assert {*OF_RUNS, "/train/start", "/train/example"} < set(POSTS)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": ADDRESS.replace("8080", "8081")},
        {"origin": f"{ADDRESS}.evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
    ],
)
def test_a_page_of_another_site_changes_nothing(client, run, started, headers):
    values = {"data.train": "train.txt", "run.output": "run", "run": "runs/one"}
    values |= {"gallery": "validation"}
    for path in POSTS:
        assert client.post(path, values, headers=headers).status_code == 403, path
    assert started == []


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    ],
)
def test_a_page_of_another_site_reads_nothing(client, run, headers):
    for path in GETS:
        assert client.get(path, headers=headers).status_code == 403, path


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "localhost@evil.example",
     "localhost:80:80", "evil.example, 127.0.0.1", "[::1", "", "127.0.0.1/x", "xn--lcalhost-n4a"],
)  # fmt: skip
def test_a_name_that_was_bound_anew_reaches_nothing(client, run, started, host):
    for path in (*GETS, *POSTS):
        method = "POST" if path in POSTS else "GET"
        answer = client.ask(method, path, headers={"host": host})
        assert answer.status_code == 421, path
    assert started == []


def test_there_are_no_websockets(client):
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "websocket", "path": "/watch/live", "headers": [(b"host", b"127.0.0.1")]}
    asyncio.run(client.app(scope, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def bomb(size, kind, **more):
    stream = io.BytesIO()
    Image.new("1" if kind in ("PNG", "TIFF") else "L", size).save(stream, kind, **more)
    return stream.getvalue()


def damaged(content):
    return content[: len(content) // 2]


UPLOADS = {
    "nothing": b"",
    "text": b"<script>alert(1)</script>",
    "png bomb": bomb((8000, 8000), "PNG"),
    "tiff bomb": bomb((8000, 8000), "TIFF", compression="tiff_deflate"),
    "gif bomb": bomb((8000, 8000), "GIF"),
    "webp bomb": bomb((16000, 4000), "WEBP", lossless=True),
    "long png": bomb((2**24, 4), "PNG"),
    "half a jpeg": damaged(bomb((600, 400), "JPEG")),
    "half a png": damaged(bomb((600, 400), "PNG")),
    "zip": b"PK\3\4" + bytes(100),
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
}


@pytest.mark.parametrize("name", UPLOADS)
def test_an_upload_that_is_no_picture_is_refused(client, run, name):
    asked = {"run": "runs/one", "gallery": "validation"}
    answer = client.post("/look/search", asked, files={"picture": ("x.jpg", UPLOADS[name])})
    assert answer.status_code == 400, answer.text
    assert "Traceback" not in answer.text


BOUNDARY = {"content-type": "multipart/form-data; boundary=b"}
PART = b'--b\r\nContent-Disposition: form-data; name="picture"; filename="x"\r\n\r\n'
FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize(
    ("path", "content", "headers"),
    [
        ("/look/search", PART + b"half", BOUNDARY),
        ("/look/search", b"", BOUNDARY),
        ("/look/search", b"--b--", BOUNDARY),
        ("/look/search", b"x" * 1000, BOUNDARY),
        ("/look/search", PART + b"x\r\n" + PART + b"y\r\n--b--\r\n", BOUNDARY),
        ("/look/search", b"x", {"content-type": "multipart/form-data"}),
        ("/look/search", b"\xff\xfe=%ff", FORM),
        ("/train/check", b"&".join(b"a%d=1" % n for n in range(2000)), FORM),
        ("/train/start", PART + b"x\r\n--b--\r\n", BOUNDARY),
        ("/train/start", b"data.train=%00%ff&run.output=\xff", FORM),
        ("/train/start", b"{}", {"content-type": "application/json"}),
        ("/look/labels/save", b"run=%ff%fe", FORM),
    ],
)
def test_a_broken_form_is_refused(client, run, started, path, content, headers):
    answer = client.ask("POST", path, content=content, headers=headers)
    assert 400 <= answer.status_code < 500, answer.text
    assert started == []


def test_bodies_are_limited_in_bytes_and_time(root):
    access = Access(max_body=MAX_BODY, larger=LARGER, body_seconds=0.2)
    client = Client(create_app([root], access))

    async def large(begin):
        yield begin
        for _ in range(40):
            yield bytes(2**20)

    async def slow():
        yield b"run="
        await asyncio.sleep(30)

    for (path, most), begin, kind in (
        (("/train/start", MAX_BODY), b"run=", FORM),
        (LARGER[0], PART, BOUNDARY),
    ):
        told = {"content-length": str(most + 1)}
        assert client.ask("POST", path, content=b"x", headers=told).status_code == 413
        assert client.ask("POST", path, content=large(begin), headers=kind).status_code == 413
        answer = client.ask("POST", path, content=slow(), headers=FORM)
        assert answer.status_code == 408


def test_names_labels_and_logs_are_shown_as_text(client, root, run, started):
    folder = root / f"runs/{HTML}"
    run.rename(folder)
    (folder / "log.txt").write_text(f"2026-11-29 07:00:02,000 WARNING {HTML}\n")
    (root / f"{HTML}.txt").write_text("a.jpg 0\n")
    data = {"train": f"{root}/{HTML}.txt", "val": f"{root}/{HTML}.txt"}
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    one = {"run": f"runs/{HTML}"}
    client.post("/look/prepare", {**one, "gallery": "validation"})
    assert len(started) == 1
    pages = [
        client.get(path, params=params)
        for path, params in (
            ("/watch", {}),
            ("/watch/run", one),
            ("/watch/live", one),
            ("/watch/compare", one),
            ("/look", one),
            ("/look/state", {**one, "gallery": "validation"}),
            ("/look/labels", one),
            ("/train", {"preset": f"run:runs/{HTML}"}),
            ("/train", {"train": HTML}),
            ("/browse", {"field": "data.train", "folder": ""}),
        )
    ]
    pages.append(client.post("/train/check", {"data.train": HTML}))
    for answer in pages:
        assert answer.status_code == 200, answer.text
        assert HTML not in answer.text
    assert sum("&lt;img src=x" in answer.text for answer in pages) >= 9
    for path in ("/watch/run", "/look", "/browse"):
        wrong = client.get(
            path, params={"run": HTML, "field": HTML}, headers={"accept": "text/html"}
        )
        assert wrong.status_code >= 400
        assert HTML not in wrong.text


@pytest.fixture
def described(client, run, started, monkeypatch):
    """The studio's description, with the fields of its forms; no command is run."""
    monkeypatch.setattr(workflow_runs, "ask", lambda words, seconds: (0, "asked"))
    app = client.app.app
    description = app.openapi()
    fields = ["run", "other", "gallery", "image", "kind", "group", "number", "source", "target"]
    fields += ["what", "label", "data.train", "run.output", "optim.lr", "train.epochs"]
    form = {"type": "object", "properties": {name: {"type": "string"} for name in fields}}
    body = {"content": {kind: {"schema": form} for kind in (FORM["content-type"],)}}
    for operations in description["paths"].values():
        if "post" in operations:
            operations["post"].setdefault("requestBody", body)  # workflows describe theirs
    app.routes.insert(0, Route("/description", lambda request: JSONResponse(description)))
    guarded = create_app_named(app)
    return schemathesis.openapi.from_asgi("/description", guarded)


def create_app_named(app):
    """The application behind its checks, under the name that schemathesis uses."""
    from lookalike.serving.guard import Guard

    return Guard(app, Access(max_body=MAX_BODY, names=("testserver",)))


def test_no_request_is_a_mistake_of_ours(described):
    """LOOKALIKE_REQUESTS=10000 makes so many."""
    operations = [one.ok() for one in described.get_all_operations()]
    drawn = [one.as_strategy() for one in operations]
    drawn += [
        one.as_strategy(GenerationMode.NEGATIVE)
        for one in operations
        if one.body or any(one.iter_parameters())
    ]

    requests = int(os.environ.get("LOOKALIKE_REQUESTS", "60"))
    answers = Counter()

    @given(case=st.one_of(drawn))
    @settings(
        max_examples=requests,
        phases=(Phase.explicit, Phase.generate),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    def ask(case):
        answers[case.call_and_validate(checks=[not_a_server_error]).status_code] += 1

    ask()
    print(f"answers by status: {dict(sorted(answers.items()))}")
    assert sum(answers.values()) >= requests


def test_every_answer_forbids_scripts_of_others(client, run):
    for path in [*GETS, "/nothing", "/static/look.js"]:
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert not re.search("unsafe|https?:|\\*", headers["content-security-policy"]), path


@pytest.mark.parametrize(
    ("next", "back"),
    [
        ("/watch/run?run=runs/one", "/watch/run?run=runs/one"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example", "/"),
        ("/login?next=/login", "/"),
        ("/a\r\nset-cookie: x", "/"),
    ],
)
def test_a_login_leads_back_to_a_page_of_ours(root, next, back):
    token = "0123456789abcdef-long"
    client = Client(create_app([root], Access(token=token, login_path="/login")))
    html = {"accept": "text/html"}
    asked = client.get("/watch/run?run=runs/one", headers=html)
    assert asked.headers["location"] == "/login?next=/watch/run%3Frun%3Druns/one"
    assert 'value="/watch/run?run=runs/one"' in client.get(asked.headers["location"]).text
    assert client.post("/train/start", headers=html).headers["location"] == "/login?next=/"
    assert client.post("/train/start").status_code == 401
    wrong = client.post("/login", {"token": "wrong", "next": next})
    assert wrong.status_code == 401
    answer = client.post("/login", {"token": token, "next": next})
    assert answer.headers["location"] == back
