"""Hosts, token and limits of requests to the service and the studio, from the arguments of each.

Without a token a program listens on the loopback interface only. `lookalike.serving.guard` refuses
requests by them; nothing here needs the packages of the extras, so that arguments are checked
without them.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lookalike import storage
from lookalike.errors import ConfigError
from lookalike.storage import Place

if TYPE_CHECKING:
    from starlette.datastructures import Headers

COOKIE = "lookalike_session"

LOOPBACK = "127.0.0.1"

_SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class Access:
    """Requests that a program accepts.

    Attributes:
        host: the address or name it listens on.
        token: demanded in each request but those for `open_paths`; None on the loopback interface
            only.
        names: more names that the `Host` header may have, as behind a proxy.
        max_body: bytes of a request's body.
        max_held: bytes of the bodies of all requests at a time; more are answered with 429.
        larger: paths with a larger body, and its bytes.
        body_seconds: for a request's body to arrive.
        open_paths: paths without a token; one that ends in "/" stands for all below it.
        login_path: where a browser without a session is sent; None refuses it.

    Raises:
        ConfigError: another host without a token, or a short token.
    """

    host: str = LOOPBACK
    token: str | None = None
    names: tuple[str, ...] = ()
    max_body: int = 64 * 2**20
    max_held: int = 2**30
    larger: tuple[tuple[str, int], ...] = ()
    body_seconds: float = 60.0
    open_paths: tuple[str, ...] = ("/health/live", "/health/ready")
    login_path: str | None = None

    def __post_init__(self) -> None:
        if self.token is None and not is_loopback(self.host):
            raise ConfigError(
                f"--host {self.host}: other machines can reach it, so requests need a token; give "
                f"--token-file FILE with at least {_SHORTEST_TOKEN} characters, or --host "
                f"{LOOPBACK}"
            )
        if self.token is not None and len(self.token) < _SHORTEST_TOKEN:
            raise ConfigError(
                f"the token has {len(self.token)} characters; it needs at least {_SHORTEST_TOKEN}, "
                "as of: openssl rand -hex 32"
            )

    def is_permitted_name(self, host: str) -> bool:
        """True if a `Host` header is an address, this machine's name or a permitted name."""
        name = _hostname(host)
        if name is None:
            return False
        if _address(name) is not None:
            return True
        own = {"localhost", self.host, *self.names}
        if not is_loopback(self.host):
            own.add(socket.gethostname())
        return name in {each.lower().rstrip(".") for each in own}

    def is_token(self, given: str) -> bool:
        """Compare in constant time."""
        return self.token is not None and hmac.compare_digest(given.encode(), self.token.encode())

    def session_cookie(self, *, secure: bool = False) -> str:
        """Value of `Set-Cookie` for a browser that has shown the token; it does not hold it."""
        flags = "; Path=/; HttpOnly; SameSite=Strict" + ("; Secure" if secure else "")
        return f"{COOKIE}={self._session()}{flags}"

    def is_authorized(self, headers: Headers) -> bool:
        """True without a token to show, or if the headers have it, or the cookie of a session."""
        if self.token is None:
            return True
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self.is_token(given.strip()):
            return True
        cookies: SimpleCookie = SimpleCookie()
        try:
            cookies.load(headers.get("cookie", ""))
        except CookieError:
            return False
        found = cookies.get(COOKIE)
        return found is not None and hmac.compare_digest(
            found.value.encode(), self._session().encode()
        )

    def most_bytes(self, path: str) -> int:
        return dict(self.larger).get(path, self.max_body)

    def is_open(self, path: str) -> bool:
        """True if a path needs no token."""
        own = self.open_paths if self.login_path is None else (*self.open_paths, self.login_path)
        return any(path.startswith(each) if each.endswith("/") else path == each for each in own)

    def _session(self) -> str:
        assert self.token is not None
        return hmac.new(self.token.encode(), b"lookalike session", hashlib.sha256).hexdigest()


def read_token(file: Place) -> str:
    """The token in a file, without the white space around it.

    Raises:
        ConfigError: it is empty, or has characters that a header cannot carry.
        StorageError: it cannot be read.
    """
    try:
        token = storage.read_bytes(storage.local_path(str(file))).decode("ascii").strip()
    except UnicodeDecodeError:
        token = ""
    if not token or not token.isprintable() or " " in token:
        raise ConfigError(f"{file}: a token is one word of ASCII letters and digits")
    return token


def is_loopback(host: str) -> bool:
    """True if only this machine reaches a host."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def _hostname(host: str) -> str | None:
    """The name in a `Host` header, in lower case; None if it is malformed."""
    if any(sign in host for sign in "/@?#\\ ,") or not host:
        return None
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return None
    return (parts.hostname or "").rstrip(".") or None


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
