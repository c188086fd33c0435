"""An HTTP connection with a time limit for its client, and a clean end when the server stops.

uvicorn limits the time between two requests, and `Guard` that of a body. Here are the others: of a
request's head, of what follows a refused head, and of a client that does not read its response.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from lookalike.serving.problems import MEDIA_TYPE, problem_response

STALLED_SECONDS = 10.0
"""For a request's head to arrive, and for a client to read some of its response; up to twice that,
since connections are looked at in these intervals."""

KEEP_ALIVE_SECONDS = 75
"""Between two requests: longer than the 60 s of usual proxies, which then never send a request on a
connection that is being closed."""

_GRACE_SECONDS = 0.5  # at a stop, for a request that is already on its way


class TimedConnection(H11Protocol):
    """Refuses slow heads, ends unread responses, and reads what was sent before a stop."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._before = self._progress()
        self._watch = self.loop.call_later(STALLED_SECONDS, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close at a stop: an idle connection a little later, since a request may be on its way."""
        if self._is_idle:
            self.loop.call_later(_GRACE_SECONDS, self._end)
        else:
            self._end()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP with a problem object, unless an answer has begun."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._refuse(400, "the request is no valid HTTP")
        self.transport.close()

    def _end(self) -> None:
        if not self.transport.is_closing():
            super().shutdown()

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _progress(self) -> tuple[object, int]:
        """Progress of the connection: its request, and the bytes still to be sent."""
        return self.cycle, self.transport.get_write_buffer_size()

    def _check(self) -> None:
        """Close the connection if nothing has changed since the last time and something is due."""
        before, self._before = self._before, self._progress()
        unread = self._before[1]
        if before == self._before:
            if unread:
                self.transport.abort()
                return
            between = self.timeout_keep_alive_task is not None and self.conn.our_state is h11.IDLE
            if self._is_idle and not between:
                if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
                    self._refuse(408, "the head of the request did not arrive in time")
                self.transport.close()
                return
        self._watch = self.loop.call_later(STALLED_SECONDS, self._check)

    def _refuse(self, status: int, detail: str) -> None:
        """Send a problem object, and no more on this connection."""
        body = bytes(problem_response(status, detail).body)
        headers = {
            "content-type": MEDIA_TYPE,
            "content-length": str(len(body)),
            "connection": "close",
        }
        head = h11.Response(status_code=status, headers=list(headers.items()))
        for event in (head, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
