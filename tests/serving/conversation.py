"""A service in this process, and a client of it."""

import asyncio
import base64
import contextlib
import io
import queue
import re
import socket
import threading

import httpx2

from lookalike.commands.serve import open_service
from lookalike.serving.access import Access
from lookalike.serving.listening import bind
from lookalike.serving.run_server import run_server
from lookalike.serving.service import create_app
from lookalike.serving.service_limits import ServiceLimits


def data_uri(content):
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()


def png(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def talk(service, conversation, access=None):
    """Run `conversation(client)` with a started service."""

    async def run():
        app = create_app(service, access or Access())
        service.started = True
        await service.batcher.start()
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        try:
            async with httpx2.AsyncClient(
                transport=transport, base_url="http://127.0.0.1", timeout=60
            ) as client:
                return await conversation(client)
        finally:
            await service.batcher.stop()

    return asyncio.run(run())


def small_service(model, index=None, limits=None, **more):
    return open_service(model, index=index, limits=limits or ServiceLimits(threads=2), **more)


@contextlib.contextmanager
def listening(service, access=None):
    """The port of a service that a thread of this process serves over TCP."""
    started = queue.Queue()
    access = access or Access()
    bound = bind("127.0.0.1", 0)

    def serve():
        try:
            run_server(
                create_app(service, access), bound, announce=started.put, stopping=service.stopping
            )
        finally:
            started.put(None)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield int(started.get(timeout=60).rpartition(":")[2])
    finally:
        service.stopping.set()
        thread.join(60)
    assert not thread.is_alive()


class Wire:
    """A TCP connection on which bytes are sent as they are."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.socket.close()

    def send(self, *parts):
        with contextlib.suppress(ConnectionError):  # refused before everything was sent
            for part in parts:
                self.socket.sendall(part)
        return self

    def rest(self):
        """All bytes until the server ends the connection."""
        parts = []
        with contextlib.suppress(ConnectionError):
            while part := self.socket.recv(65536):
                parts.append(part)
        return b"".join(parts)

    def status(self):
        """Of the first response; 0 if the connection was ended without one."""
        found = re.match(rb"HTTP/1.1 (\d{3}) ", self.rest())
        return int(found[1]) if found else 0
