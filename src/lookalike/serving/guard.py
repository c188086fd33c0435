"""Access to the service and the studio: host, origin, token, bytes and time of a request.

Three checks keep web pages out that are open in a browser on the same machine: the `Host` header
is an address or a permitted name (DNS rebinding gives an attacker's name), a browser's request
comes from our own pages (CSRF), and a strict content security policy lets our pages load nothing
from elsewhere.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lookalike.serving.access import Access
from lookalike.serving.problems import Problem, problem_response

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
"""The content security policy of a response that sets none of its own."""

_HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}
_SAFE = ("GET", "HEAD", "OPTIONS")


class Guard:
    """ASGI middleware that refuses requests by an `Access`, and adds the security headers.

    Websockets are refused; neither program has any.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access
        self.held = 0  # bytes of the bodies of requests that are served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False
        body = _Body(self.access.most_bytes(scope["path"]))

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._check(scope)
            if self._needs_login(scope):
                back = quote(_page_of(scope), safe="/")
                where = f"{self.access.login_path}?next={back}"
                await RedirectResponse(where, 303)(scope, receive, guarded)
                return
            await self.app(scope, self._limited(body, receive), guarded)
        except Problem as refusal:
            if started:
                raise
            response = problem_response(refusal.status_code, refusal.detail, refusal.headers)
            await response(scope, receive, guarded)
        finally:
            self.held -= body.size

    def _needs_login(self, scope: Scope) -> bool:
        """True for a browser's navigation without a session.

        Raises:
            Problem: another request without the token.
        """
        headers = Headers(scope=scope)
        if self.access.is_open(scope["path"]) or self.access.is_authorized(headers):
            return False
        is_page = "text/html" in headers.get("accept", "") and "hx-request" not in headers
        if self.access.login_path is not None and is_page:
            return True
        refusal = Problem(401, "this needs the token: Authorization: Bearer TOKEN")
        refusal.headers = {"WWW-Authenticate": "Bearer"}
        raise refusal

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self.access.is_permitted_name(hosts[0]):
            raise Problem(
                421, f"Host {_shown(hosts)}: not a name of this server; --allowed-host NAME adds it"
            )
        if not _same_origin(scope["method"], headers, hosts[0]):
            raise Problem(403, "the request comes from a page of another site")
        length = headers.get("content-length")
        if length is not None and "transfer-encoding" in headers:
            # A proxy may follow the other one, and forward a second request inside the body.
            refusal = Problem(400, "a body has either Content-Length or Transfer-Encoding")
            refusal.headers = {"connection": "close"}
            raise refusal
        most = self.access.most_bytes(scope["path"])
        if length is not None and length.isdecimal() and int(length[:20]) > most:
            raise _too_large(most)

    def _limited(self, body: _Body, receive: Receive) -> Receive:
        """`receive` that refuses a large or slow body, and one for which there is no memory."""
        end = time.monotonic() + self.access.body_seconds

        async def limited() -> Message:
            if body.is_complete:  # what follows is the end of the connection, whenever it comes
                return await receive()
            try:
                async with asyncio.timeout(max(0.0, end - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                seconds = self.access.body_seconds
                raise Problem(408, f"the body did not arrive in {seconds:g} seconds") from None
            more = len(message.get("body", b""))
            if body.size + more > body.most:
                raise _too_large(body.most)
            if self.held + more > self.access.max_held:
                raise Problem(
                    429,
                    f"the bodies of all requests have more than {self.access.max_held:,} bytes; "
                    "try again later",
                    retry_after=1.0,
                )
            body.size += more
            self.held += more
            body.is_complete = not message.get("more_body", False)
            return message

        return limited


@dataclass
class _Body:
    """Bytes of a request that have arrived, and that may."""

    most: int
    size: int = 0
    is_complete: bool = False


def _too_large(most: int) -> Problem:
    return Problem(413, f"the body has more than {most:,} bytes")


def _page_of(scope: Scope) -> str:
    """The address of a page below the host; the first page in place of what a form was sent to."""
    if scope["method"] != "GET":
        return "/"
    query = scope.get("query_string", b"").decode("latin-1")
    return quote(scope["path"]) + (f"?{query}" if query else "")


def _same_origin(method: str, headers: Headers, host: str) -> bool:
    """True unless a browser says that a page of another origin sends the request.

    Following a link from elsewhere is permitted; it changes nothing.
    """
    site = headers.get("sec-fetch-site", "none")
    is_navigation = headers.get("sec-fetch-mode") == "navigate" and method in _SAFE
    if site not in ("same-origin", "none") and not is_navigation:
        return False
    origins = headers.getlist("origin")
    return all(_authority(origin) == host.lower() for origin in origins)


def _authority(origin: str) -> str | None:
    """`host:port` of an origin, as a `Host` header has it; None of anything else."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    is_plain = parts.scheme in ("http", "https") and not (parts.path or parts.query)
    return parts.netloc.lower() if is_plain else None


def _shown(hosts: Iterable[str]) -> str:
    return repr(", ".join(hosts)[:80])
