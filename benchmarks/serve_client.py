"""Clients that ask an HTTP server without a pause, each on a connection that is kept open."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field


@dataclass
class Asked:
    """Outcome of the requests.

    Attributes:
        seconds: of each request with status 200.
        refused: by status, requests with another one.
        lost: that were sent and not answered.
        begun: and `ended`: seconds of `time.perf_counter`.
    """

    seconds: list[float] = field(default_factory=list)
    refused: dict[int, int] = field(default_factory=dict)
    lost: int = 0
    begun: float = 0.0
    ended: float = 0.0

    @property
    def rate(self) -> float:
        return len(self.seconds) / (self.ended - self.begun)


def request_of(path: str, kind: str, content: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


async def ask(port: int, requests: list[bytes], clients: int, count: int | None = None) -> Asked:
    """Send requests in turn, `count` in all, or until the server is gone."""
    asked = Asked(begun=time.perf_counter())
    left = iter(range(count)) if count is not None else iter(int, 1)

    async def one() -> None:
        stream = None
        for number in left:
            if stream is None:
                try:
                    stream = await asyncio.open_connection("127.0.0.1", port)
                except ConnectionError:
                    return
            began = time.perf_counter()
            try:
                stream[1].write(requests[number % len(requests)])
                status, is_kept = await _answer(stream[0])
            except (ConnectionError, asyncio.IncompleteReadError):
                asked.lost += 1
                stream = None
                continue
            if status == 200:
                asked.seconds.append(time.perf_counter() - began)
            else:
                asked.refused[status] = asked.refused.get(status, 0) + 1
            if not is_kept:
                stream[1].close()
                stream = None
        if stream is not None:
            stream[1].close()

    await asyncio.gather(*(one() for _ in range(clients)))
    asked.ended = time.perf_counter()
    return asked


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """The status of a response that is read to its end, and whether the connection stays."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
    await reader.readexactly(int(length))
    return int(head.split(b" ", 2)[1]), b"connection: close" not in head
