"""Access: hosts, origins, tokens, bytes and time of a request."""

import asyncio

import httpx2
import pytest
from fastapi import FastAPI, Request

from lookalike.errors import ConfigError, MissingFileError
from lookalike.serving.access import COOKIE, Access, read_token
from lookalike.serving.guard import Guard
from lookalike.serving.problems import Problem, install

TOKEN = "0123456789abcdef-long"
LOCAL = {"host": "127.0.0.1:8000"}


def application(access):
    app = FastAPI()
    install(app)
    seen = []

    @app.post("/change")
    async def change(request: Request):
        seen.append(len(await request.body()))
        return {"bytes": seen[-1]}

    @app.get("/page")
    async def page():
        return {}

    @app.get("/health/live")
    async def live():
        return {}

    @app.get("/missing")
    async def missing():
        raise MissingFileError("a.jpg: no such file")

    @app.get("/busy")
    async def busy():
        raise Problem(429, "full", retry_after=0.2)

    @app.get("/broken")
    async def broken():
        raise ZeroDivisionError("secret of the program")

    app.state.seen = seen
    return Guard(app, access)


def ask(app, method, path, headers=LOCAL, content=None):
    async def one():
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as c:
            return await c.request(method, path, headers=headers, content=content)

    return asyncio.run(one())


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("[::1]:8000", 200),
        ("LOCALHOST.:80", 200),
        ("search.example:443", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost@evil.example", 421),
        ("localhost:evil", 421),
        ("localhost, evil.example", 421),
        ("", 421),
    ],
)
def test_a_name_that_was_not_permitted_is_refused(host, status):
    app = application(Access(names=("search.example",)))
    assert ask(app, "GET", "/page", {"host": host}).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://127.0.0.1:8000"}, 200),
        ({"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1:8000"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "unheard-of"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:8001"}, 403),
        ({"origin": "http://127.0.0.1:8000.evil.example"}, 403),
        ({"origin": "http://127.0.0.1:8000@evil.example"}, 403),
        ({"origin": "file://127.0.0.1:8000"}, 403),
        ({"origin": "http://[bad"}, 403),
    ],
)
def test_a_page_of_another_origin_changes_nothing(headers, status):
    app = application(Access())
    answer = ask(app, "POST", "/change", {**LOCAL, **headers}, b"x")
    assert answer.status_code == status
    assert len(app.app.state.seen) == (status == 200)


def test_another_site_may_link_to_a_page_and_not_read_a_stream():
    app = application(Access())
    cross = {**LOCAL, "sec-fetch-site": "cross-site"}
    assert ask(app, "GET", "/page", {**cross, "sec-fetch-mode": "navigate"}).status_code == 200
    assert ask(app, "GET", "/page", {**cross, "sec-fetch-mode": "cors"}).status_code == 403
    assert ask(app, "GET", "/page", {**LOCAL, "origin": "http://evil.example"}).status_code == 403


def test_the_token_is_demanded_in_a_header_or_as_a_session():
    access = Access(host="0.0.0.0", token=TOKEN)
    app = application(access)
    session = access.session_cookie()
    assert TOKEN not in session
    assert "HttpOnly" in session
    assert "SameSite=Strict" in session
    cookie = session.split(";")[0]
    for headers, status in [
        ({}, 401),
        ({"authorization": f"Bearer {TOKEN}"}, 200),
        ({"authorization": f"bearer {TOKEN}"}, 200),
        ({"authorization": f"Bearer {TOKEN}x"}, 401),
        ({"authorization": f"Basic {TOKEN}"}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"cookie": cookie}, 200),
        ({"cookie": f"a=b; {cookie}"}, 200),
        ({"cookie": f"{COOKIE}={TOKEN}"}, 401),
        ({"cookie": f'{COOKIE}="\\777"; =;'}, 401),
    ]:
        answer = ask(app, "GET", "/page", {**LOCAL, **headers})
        assert answer.status_code == status, headers
        assert TOKEN not in answer.text
    assert ask(app, "GET", "/health/live").status_code == 200
    assert ask(app, "GET", "/page", {**LOCAL, "accept": "text/html"}).status_code == 401


def test_a_browser_without_a_session_is_sent_to_the_login():
    access = Access(host="0.0.0.0", token=TOKEN, login_path="/login")
    answer = ask(application(access), "GET", "/page", {**LOCAL, "accept": "text/html,*/*"})
    assert answer.status_code == 303
    assert answer.headers["location"] == "/login?next=/page"


def test_another_host_or_a_short_token_is_refused_before_serving():
    for host in ("0.0.0.0", "192.168.0.7", "::", "shop.example"):
        with pytest.raises(ConfigError, match="--token-file"):
            Access(host=host)
    with pytest.raises(ConfigError, match="at least 16"):
        Access(token="short")
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        Access(host=host)


def test_a_token_file_holds_one_word(tmp_path):
    file = tmp_path / "token"
    file.write_text(f"\n{TOKEN}\n")
    assert read_token(file) == TOKEN
    for content in (b"", b" \n", b"two words", b"a\nb", b"\xff\xfe"):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match="one word"):
            read_token(file)


def test_a_large_body_is_refused_with_and_without_its_length():
    app = application(Access(max_body=10))
    assert ask(app, "POST", "/change", content=b"x" * 10).json() == {"bytes": 10}
    assert ask(app, "POST", "/change", content=b"x" * 11).status_code == 413

    async def chunks():
        for _ in range(11):
            yield b"x"

    assert ask(app, "POST", "/change", content=chunks()).status_code == 413
    assert app.app.state.seen == [10]


def test_a_slow_body_is_refused():
    # The transport of the test waits for the content itself, so the messages are made by hand.
    async def run():
        sent, waiting = [], [{"type": "http.request", "body": b"x", "more_body": True}]

        async def receive():
            if waiting:
                return waiting.pop()
            await asyncio.sleep(60)
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/change",
            "raw_path": b"/change",
            "query_string": b"",
            "headers": [(b"host", b"localhost")],
        }
        await application(Access(body_seconds=0.05))(scope, receive, send)
        return sent

    assert asyncio.run(run())[0]["status"] == 408


def test_errors_are_problem_objects_and_pages_carry_the_headers():
    app = application(Access())
    answer = ask(app, "GET", "/missing")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "a.jpg: no such file",
    }
    assert ask(app, "GET", "/busy").headers["retry-after"] == "1"
    for path, status in [("/nothing", 404), ("/change", 405), ("/broken", 500)]:
        answer = ask(app, "GET", path)
        assert answer.status_code == answer.json()["status"] == status
        assert "secret" not in answer.text
    found = ask(app, "GET", "/page").headers
    assert "default-src 'none'" in found["content-security-policy"]
    assert found["x-content-type-options"] == "nosniff"
    assert found["cache-control"] == "no-store"


def test_websockets_are_refused():
    async def run():
        sent = []

        async def send(message):
            sent.append(message)

        await application(Access())({"type": "websocket", "headers": []}, None, send)
        return sent

    assert asyncio.run(run()) == [{"type": "websocket.close", "code": 1008}]
