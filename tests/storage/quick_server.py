"""Common part of a web server and an object store: GETs, with faults on demand.

In threads of the test's own process; `plan(key, count)` says what goes wrong with a request.
"""

import re
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies, self.counts = {}, {}
        self.plan = lambda key, count: None
        self.delay = 0.0
        self.now = self.most = 0
        self.lock = threading.Lock()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client):
        """Clients that went away are no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or a client that waits for the rest waits 40 ms

    def do_GET(self):
        server, key = self.server, unquote(self.path.partition("?")[0])[1:]
        with server.lock:
            server.counts[key] = count = server.counts.get(key, 0) + 1
            server.now += 1
            server.most = max(server.most, server.now)
        try:
            time.sleep(server.delay)
            fault = server.plan(key, count)
        finally:
            with server.lock:  # before the answer, after which the client may ask again
                server.now -= 1
        self._answer(key, fault)

    def _answer(self, key, fault):
        body, status = self.server.bodies.get(key), 200
        if body is None:
            fault = 404
        if isinstance(fault, int):
            self.send_response(fault)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "reset":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        if part := re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or ""):
            body, status = body[int(part[1]) : int(part[2]) + 1], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        half = len(body) // 2
        self.wfile.write(body[:half])
        if fault == "cut":
            self.close_connection = True
            return
        if fault == "slow":
            time.sleep(0.05)
        self.wfile.write(body[half:])

    def log_message(self, *_):
        """Say nothing."""


@contextmanager
def quick_server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
