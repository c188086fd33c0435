"""A server of objects that is never the limit: answers GETs of S3 and OSS after a set latency.

    python benchmarks/storage_server.py FOLDER --latency 0.035

moto, against which the tests run, needs some milliseconds of Python for each request; this one
needs some 30 microseconds: one process, one thread, no framework, bodies that lie in memory. It
looks at no signature, and knows no listing. Prints its port.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from pathlib import Path
from urllib.parse import unquote

_RANGE = re.compile(rb"\r\nrange: bytes=(\d+)-(\d+)\r\n", re.IGNORECASE)


class Connection(asyncio.Protocol):
    """One connection; requests come one after the other, without bodies."""

    def __init__(self, bodies: dict[str, bytes], latency: float) -> None:
        self._bodies = bodies
        self._latency = latency
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        """Answer later, when a request is whole."""
        self._head += data
        if self._head.endswith(b"\r\n\r\n"):
            head, self._head = self._head, b""
            if self._latency:
                self._loop.call_later(self._latency, self._answer, head)
            else:
                self._answer(head)

    def _answer(self, head: bytes) -> None:
        method, target, _ = head.split(b" ", 2)
        path = unquote(target.partition(b"?")[0].decode())
        body = self._bodies.get(path.split("/", 2)[-1])
        if body is None:
            self._transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        size, status, more = len(body), b"200 OK", b""
        if part := _RANGE.search(head):
            first, last = int(part[1]), min(int(part[2]), size - 1)
            body = body[first : last + 1]
            status = b"206 Partial Content"
            more = b"Content-Range: bytes %d-%d/%d\r\n" % (first, last, size)
        self._transport.write(
            b"HTTP/1.1 %s\r\nContent-Length: %d\r\n%sContent-Type: image/jpeg\r\n"
            b'ETag: "0"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n'
            % (status, len(body), more)
        )
        if method == b"GET":
            self._transport.write(body)


async def serve(bodies: dict[str, bytes], latency: float) -> None:
    """Serve on a free port of loopback, which is printed, for ever."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(bodies, latency), "127.0.0.1", 0, backlog=1024
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latency", type=float, default=0.035, help="Seconds before an answer.")
    args = parser.parse_args()
    files = [path for path in sorted(args.folder.rglob("*")) if path.is_file()]
    bodies = {str(path.relative_to(args.folder)): path.read_bytes() for path in files}
    asyncio.run(serve(bodies, args.latency))


if __name__ == "__main__":
    main()
