"""One GET of a remote file or a part of it.

A client's own work limits how many small files a process reads in a second, since Python code runs
in one thread at a time. So S3, OSS and web servers are read by aiohttp from signed URLs: a tenth of
the work of the vendors' clients (`benchmarks/storage.py`).
"""

from __future__ import annotations

import asyncio
from typing import IO

from lookalike.storage import fsspec_client
from lookalike.storage.clients import client_of
from lookalike.storage.download import NO_LIMITS, Limits, Part, download, download_to
from lookalike.storage.event_loop import waited
from lookalike.storage.uri import scheme_of

_WEB = ("http", "https")


async def fetch(uri: str, part: Part, limits: Limits = NO_LIMITS) -> bytes:
    """The content of remote `uri`, or its bytes from offset part[0], at most part[1] of them.

    In the loop of `lookalike.storage.event_loop`, where many may wait at a time.

    Raises:
        TooLargeError: it is larger than `limits` allow.
        TimeoutError: it has not arrived in the time that they allow.
        Exception: of the client.
    """
    async with asyncio.timeout(limits.seconds):
        if part is not None:
            limits.check(part[1])
        url = client_of(uri).url(uri)
        if url is None:
            return await fsspec_client.read(uri, part, limits)
        return await download(url, part, limits, explained=scheme_of(uri) not in _WEB)


def copy_to(file: IO[bytes], uri: str) -> None:
    """Write the content of remote `uri` to `file`, as it comes."""
    url = client_of(uri).url(uri)
    if url is None:
        fsspec_client.copy_to(file, uri)
    else:
        waited(download_to(file, url, explained=scheme_of(uri) not in _WEB))
