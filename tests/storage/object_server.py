"""moto's S3 on loopback, with faults on demand; OSS's client is content with it too."""

import re
import socket
import threading
import time
from contextlib import contextmanager

from moto.moto_server.werkzeug_app import create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

EXPIRED = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>old</Message></Error>"


class Faults:
    """Faults: `plan(method, path, count)` names that of a request, or None."""

    def __init__(self, application):
        self.application = application
        self.plan = lambda method, path, count: None
        self.delay = 0.0
        self.refused = set()  # ids of keys whose token has expired
        self.counts = {}
        self._lock = threading.Lock()

    def __call__(self, environ, start):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        with self._lock:
            self.counts[method, path] = count = self.counts.get((method, path), 0) + 1
        time.sleep(self.delay)
        fault = self.plan(method, path, count)
        if any(self._asks(environ, key) for key in self.refused):
            fault = "expired"
        if isinstance(fault, int):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start(f"{fault} Bad Moment", [("Content-Length", "0")])
            return [b""]
        if fault == "expired":
            body = EXPIRED % b"ExpiredToken"
            start("403 Forbidden", [("Content-Length", str(len(body)))])
            return [body]
        if fault == "reset":
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionError("reset on purpose")
        return self._answer(environ, start, fault)

    @staticmethod
    def _asks(environ, key):
        """True if a request is signed with this key, in a header or in its URL, for S3 or OSS."""
        said = environ.get("HTTP_AUTHORIZATION", "") + "&" + environ.get("QUERY_STRING", "")
        return any(f"{name}{key}" in said for name in ("Credential=", "OSSAccessKeyId=", "OSS "))

    def _answer(self, environ, start, fault):
        kept = []

        def begin(status, headers, error=None):
            kept[:] = [status, headers]

        body = b"".join(self.application(environ, begin))
        status, headers = kept
        if body.startswith(b"<?xml"):
            body = re.sub(rb' xmlns="[^"]*"', b"", body)
            body = body.replace(b"</Contents>", b"<Type>Normal</Type></Contents>")  # as OSS has it
            headers = [(k, v) for k, v in headers if k.lower() != "content-length"]
            headers.append(("Content-Length", str(len(body))))
        if fault == "cut":
            headers = [*headers, ("Connection", "close")]
            body = body[: len(body) // 2]
        start(status, headers)
        if fault != "slow":
            return [body]
        half = len(body) // 2
        return (piece for piece in (body[:half], time.sleep(0.3) or body[half:]))


class Quiet(WSGIRequestHandler):
    """HTTP/1.1 connections that stay open, and no log."""

    protocol_version = "HTTP/1.1"

    def log(self, *_):
        """Say nothing: faults are on purpose."""


@contextmanager
def object_server():
    """The server's address and its Faults."""
    faults = Faults(create_backend_app("s3"))
    server = make_server("127.0.0.1", 0, faults, threaded=True, request_handler=Quiet)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", faults
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
