"""One GET of a remote file or a part of it, by the quickest client of each kind of storage.

Measured by `benchmarks/storage.py`: a client's own work limits how many small files a process
gets in a second, since Python code runs in one thread at a time. So S3 and OSS are asked by signed
URLs that aiohttp fetches, as those of web servers are: a tenth of the work of s3fs and oss2.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import IO

from lookalike.storage import oss, s3
from lookalike.storage.clients import filesystem_of, oss_account, oss_bucket
from lookalike.storage.download import NO_LIMITS, Limits, Part, download, download_to, sendable
from lookalike.storage.event_loop import waited
from lookalike.storage.uri import scheme_of

_THREADS = 32  # for what only fsspec reads, and not as coroutines
_WEB = ("http", "https")
_NOT_SATISFIABLE = 416  # a range of what is empty


def get(uri: str, part: Part, limits: Limits = NO_LIMITS) -> bytes:
    """The content of remote `uri`, or its bytes from offset part[0], at most part[1] of them.

    Raises:
        TooLargeError: it is larger than `limits` allow.
        TimeoutError: it has not arrived in the time that they allow.
        Exception: what the client raises.
    """
    return waited(fetch(uri, part, limits))


def copy_to(file: IO[bytes], uri: str) -> None:
    """Write the content of remote `uri` to `file`, as it comes.

    Raises:
        Exception: what the client raises.
    """
    scheme = scheme_of(uri)
    if scheme in _URLS:
        waited(download_to(file, _URLS[scheme](uri), explained=scheme not in _WEB))
        return
    filesystem, path = filesystem_of(uri)
    filesystem.invalidate_cache()
    filesystem.get_file(path, file)


async def fetch(uri: str, part: Part, limits: Limits = NO_LIMITS) -> bytes:
    """The same in the loop of `lookalike.storage.event_loop`, where many may wait at a time."""
    async with asyncio.timeout(limits.seconds):
        if part is not None:
            limits.check(part[1])
        scheme = scheme_of(uri)
        if scheme in _URLS:
            return await download(_URLS[scheme](uri), part, limits, explained=scheme not in _WEB)
        filesystem, path = filesystem_of(uri)
        span = _range(part, limits)
        try:
            if filesystem.async_impl:
                answer = asyncio.wrap_future(
                    asyncio.run_coroutine_threadsafe(
                        filesystem._cat_file(path, **span), filesystem.loop
                    )
                )
            else:
                loop = asyncio.get_running_loop()
                answer = loop.run_in_executor(_pool(), lambda: filesystem.cat_file(path, **span))
            content = bytes(await answer)
        except Exception as error:
            if part is None and span and getattr(error, "status", None) == _NOT_SATISFIABLE:
                return b""
            raise
        if part is None:
            limits.check(len(content))
        return content


def forget() -> None:
    """Make the clients anew at the next request, with the credentials of then."""
    s3.forget()
    oss_bucket.cache_clear()


def _range(part: Part, limits: Limits) -> dict[str, int]:
    if part is not None:
        return {"start": part[0], "end": part[0] + part[1]}
    return {} if limits.size is None else {"start": 0, "end": limits.size + 1}


def _oss_url(uri: str) -> str:
    endpoint, name, key = oss.locate(uri, oss_account().endpoint)
    return str(oss_bucket(endpoint, name).sign_url("GET", key, s3.SIGNED_FOR, slash_safe=True))


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS, "lookalike-requests")


_URLS: dict[str, Callable[[str], str]] = {
    "s3": s3.signed_url,
    "s3a": s3.signed_url,
    "oss": _oss_url,
    "http": sendable,
    "https": sendable,
}
