"""A local HTTP server that plays a job service: answers by method and path, in order."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


class JobService:
    """Answers by `METHOD /path`, each a list of (status, body); the last one stays.

    Attributes:
        requests: method, path with query, and body of every request.
        tokens: their headers `Authorization`.
    """

    def __init__(self, answers: dict[str, list[tuple[int, Any]]]) -> None:
        self.answers = {key: list(value) for key, value in answers.items()}
        self.requests: list[tuple[str, str, Any]] = []
        self.tokens: set[str | None] = set()
        self.address = ""

    def count(self, key: str) -> int:
        return sum(f"{m} {urlsplit(p).path}" == key for m, p, _ in self.requests)

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        self.requests.append((method, path, body))
        found = self.answers.get(f"{method} {urlsplit(path).path}")
        if not found:
            return 404, {"Code": "NotFound", "Message": f"nothing at {path}"}
        return found.pop(0) if len(found) > 1 else found[0]


@contextmanager
def serving(answers: dict[str, list[tuple[int, Any]]]) -> Iterator[JobService]:
    service = JobService(answers)

    class Handler(BaseHTTPRequestHandler):
        def _reply(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            service.tokens.add(self.headers.get("Authorization"))
            status, body = service.answer(self.command, self.path, json.loads(raw) if raw else None)
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            kind = "text/plain" if isinstance(body, bytes) else "application/json"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _reply

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
