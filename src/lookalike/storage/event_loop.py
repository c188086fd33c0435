"""The event loop of all requests to remote storage, in a thread of its own.

In a hundred threads instead, which compete for the interpreter lock, requests took four times the
processor time (urllib3 in 128 threads). The loop begins with the first request.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.request import getproxies

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")

_CLOSING_SECONDS = 2.0
_CONNECT_SECONDS, _SILENT_SECONDS = 10.0, 60.0

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_session: aiohttp.ClientSession | None = None


def running_loop() -> asyncio.AbstractEventLoop:
    """The loop, started if necessary."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            name = "lookalike-requests"
            threading.Thread(target=_loop.run_forever, name=name, daemon=True).start()
        return _loop


def waited(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work` in the loop; blocks the calling thread."""
    future = asyncio.run_coroutine_threadsafe(work, running_loop())
    try:
        return future.result()
    except BaseException:  # Ctrl-C here ends it there too
        future.cancel()
        raise


def session() -> aiohttp.ClientSession:
    """The HTTP session of the process; to be called in the loop."""
    global _session
    if _session is None:
        import aiohttp

        _session = aiohttp.ClientSession(
            # Callers limit the number of connections.
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENT_SECONDS
            ),
            auto_decompress=False,
            headers={"Accept-Encoding": "identity"},
            trust_env=bool(getproxies()),  # asked only where there are some: it is slow
        )
    return _session


@atexit.register
def _close() -> None:
    """Cancel pending requests and close connections at exit, without warnings of either."""
    if _loop is None:
        return

    async def end() -> None:
        mine = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not mine]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if _session is not None:
            await _session.close()

    with contextlib.suppress(TimeoutError):
        asyncio.run_coroutine_threadsafe(end(), _loop).result(_CLOSING_SECONDS)


def _forget() -> None:
    """Start anew in a forked child, which has no thread of the loop."""
    global _loop, _session, _lock
    _lock, _loop, _session = threading.Lock(), None, None


os.register_at_fork(after_in_child=_forget)
