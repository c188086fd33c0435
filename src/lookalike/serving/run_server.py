"""Starts and stops an HTTP server: address, log lines, signals."""

from __future__ import annotations

import asyncio
import contextlib
import math
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import uvicorn
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lookalike.errors import ConfigError
from lookalike.log import logger
from lookalike.serving.listening import BACKLOG
from lookalike.serving.timed_connection import KEEP_ALIVE_SECONDS, TimedConnection

_QUIET_TURNS = 3  # of the event loop, from accepting a connection to its transport and beyond
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def address_of(listening: socket.socket) -> str:
    """`http://host:port` of a socket."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_server(
    app: ASGIApp,
    listening: socket.socket,
    *,
    announce: Callable[[str], None],
    stopping: threading.Event | None = None,
    drain_seconds: float = 0.0,
    stop_seconds: float | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; requests that were begun are then finished.

    Args:
        app: the application; its lifespan runs around the serving.
        listening: of `bind`; closed at the end.
        announce: called with the address once requests are served.
        stopping: set at the first signal, or by another thread; a second signal ends all requests.
        drain_seconds: between the signal and the end of accepting connections, in which responses
            close theirs: clients and load balancers turn to other servers without an error.
        stop_seconds: for requests to finish after that; None waits for all.

    Raises:
        ConfigError: the application did not start.
    """
    stopping = threading.Event() if stopping is None else stopping
    config = uvicorn.Config(
        _Closing(app, stopping),
        http=TimedConnection,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        log_config=None,
        log_level="error",  # not a line for each request that is no HTTP
        access_log=False,
        lifespan="on",
        ws="none",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=None if stop_seconds is None else max(1, round(stop_seconds)),
    )
    server = _Server(config, stopping, drain_seconds)
    asyncio.run(_serve(server, listening, announce, stopping))


class _Server(uvicorn.Server):
    """Ends `drain_seconds` after a stop was requested, by a signal or otherwise.

    It leaves the signals to us: uvicorn would raise them again after it has stopped.
    """

    def __init__(
        self, config: uvicorn.Config, stopping: threading.Event, drain_seconds: float
    ) -> None:
        super().__init__(config)
        self._stopping, self._drain_seconds = stopping, drain_seconds
        self._last = math.inf  # time of the end

    async def on_tick(self, counter: int) -> bool:
        """True at the end; called ten times a second."""
        if self._stopping.is_set() and self._last == math.inf:
            self._last = time.monotonic() + self._drain_seconds
        return await super().on_tick(counter) or time.monotonic() >= self._last

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept the connections that wait in the backlog, which closing it would reset.

        asyncio drops a connection that it has accepted in its last turns before the close, so
        these must find nothing to accept.
        """
        quiet = 0
        for _ in range(BACKLOG):
            waiting = sockets and select.select(sockets, [], [], 0)[0]
            quiet = 0 if waiting else quiet + 1
            if quiet > _QUIET_TURNS:
                break
            await asyncio.sleep(0)
        await super().shutdown(sockets)


class _Closing:
    """ASGI middleware that ends connections with their response while the server stops."""

    def __init__(self, app: ASGIApp, stopping: threading.Event) -> None:
        self.app, self.stopping = app, stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and self.stopping.is_set():
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        await self.app(scope, receive, closing if scope["type"] == "http" else send)


async def _serve(
    server: _Server,
    listening: socket.socket,
    announce: Callable[[str], None],
    stopping: threading.Event,
) -> None:
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        if stopping.is_set():
            logger.info("%s again: requests are ended", signal.Signals(number).name)
            server.should_exit = server.force_exit = True
            return
        logger.info("%s: finishing the requests", signal.Signals(number).name)
        stopping.set()

    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in _SIGNALS} if is_main else {}
    for number in before:
        loop.add_signal_handler(number, stop, number)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if server.started:
            announce(address_of(listening))
        await serving
    finally:
        listening.close()
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
    if not server.started and not stopping.is_set():
        raise ConfigError("the server did not start; the log has the reason")
