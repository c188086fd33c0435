"""The thread in which all requests to object storage wait: one event loop for the process.

A hundred threads that each wait for a request of Python's fight for its one lock: OSS's signed
URLs took four times the processor time with urllib3 in 128 threads that they take in a loop. The
loop begins with the first request.
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
    """The loop, which runs in a thread of its own."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            name = "lookalike-requests"
            threading.Thread(target=_loop.run_forever, name=name, daemon=True).start()
        return _loop


def waited(work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives in the loop; the calling thread waits for it."""
    future = asyncio.run_coroutine_threadsafe(work, running_loop())
    try:
        return future.result()
    except BaseException:  # Ctrl-C here ends it there too
        future.cancel()
        raise


def session() -> aiohttp.ClientSession:
    """The connections of the process; to be called in the loop."""
    global _session
    if _session is None:
        import aiohttp

        _session = aiohttp.ClientSession(
            # How many there are is for the callers to limit.
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
    """End what still runs, while Python can: connections that are left open would be told of."""
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
    """In a forked child the loop's thread does not exist."""
    global _loop, _session, _lock
    _lock, _loop, _session = threading.Lock(), None, None


os.register_at_fork(after_in_child=_forget)
