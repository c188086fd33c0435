"""HTTP GETs: addresses sent as given, within limits, redirects followed as they are written."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from lookalike.errors import StorageError
from lookalike.storage.byte_size import in_words
from lookalike.storage.event_loop import session

if TYPE_CHECKING:
    import aiohttp

ByteRange = tuple[int, int] | None
"""Offset and size of the bytes to read; None for all."""

_MOST_REDIRECTS = 10
_BLOCK = 2**18  # bytes
_MOST_WORDS = 4096  # bytes
_REDIRECTS = (301, 302, 303, 307, 308)
_UNSENDABLE = re.compile(r"[^!-~]")  # all but the printable characters of ASCII


@dataclass(frozen=True)
class Limits:
    """Limits on the content of one file.

    Attributes:
        size: bytes; None for any size.
        seconds: until all of it has arrived, all tries together; None for any time.
    """

    size: int | None = None
    seconds: float | None = None

    def check(self, size: int) -> None:
        """Refuse a content of `size` bytes.

        Raises:
            TooLargeError: it is too large.
        """
        if self.size is not None and size > self.size:
            raise TooLargeError(self.size)

    def of_any_size(self) -> Limits:
        """The same time, for parts of a larger file whose size has been checked."""
        return Limits(None, self.seconds)

    def running(self) -> Callable[[], Limits]:
        """A function for these limits with the remaining seconds, counted from now."""
        if self.seconds is None:
            return lambda: self
        end = time.monotonic() + self.seconds
        return lambda: Limits(self.size, max(0.0, end - time.monotonic()))


NO_LIMITS = Limits()


class TooLargeError(StorageError):
    """A file is larger than is allowed."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"larger than {in_words(limit)}, the most that data.max_image_size allows")


class HttpError(OSError):
    """An HTTP status other than success; its text is not for messages."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class TransferError(OSError):
    """A failed transfer; its text is for users."""


class RedirectError(TransferError):
    """A redirect that cannot be followed."""


class WholeOnlyError(TransferError):
    """A part that a server does not send by itself, too far behind in its file."""


def sendable(url: str) -> str:
    """A web address as it is sent: as given, but without fragment and with invalid bytes encoded.

    Those are blanks, control characters and characters outside of ASCII. Nothing is decoded or
    encoded twice: in a signed address every byte counts.
    """
    scheme, mark, rest = url.partition("#")[0].partition("://")
    host, slash, path = rest.partition("/")
    if not slash and "?" in host:
        host, _, query = host.partition("?")
        slash, path = "/", f"?{query}"
    if not host.isascii():
        user, at, name = host.rpartition("@")
        host = user + at + name.encode("idna").decode()
    return f"{scheme.lower()}{mark}{host}{slash}" + _UNSENDABLE.sub(_encoded, path)


def _encoded(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogateescape"))


async def download(url: str, part: ByteRange, limits: Limits, *, explained: bool) -> bytes:
    """The answer to a GET.

    Args:
        url: encoded.
        part: offset and size of the bytes to ask for; None for all.
        limits: on its size; callers measure the time.
        explained: the body of a refusal states the reason, as those of object storage do.

    Raises:
        TooLargeError: more than `limits.size` bytes are announced or arrive.
        OSError: any other answer than success.
    """
    headers = {}
    if part is not None:
        headers["Range"] = f"bytes={part[0]}-{part[0] + part[1] - 1}"
    async with _answer(url, headers, explained) as answer:
        cut = part if answer.status == 200 else None  # from the whole: the server ignores ranges
        if cut is None and answer.content_length is not None:
            limits.check(answer.content_length)
        if cut is not None and limits.size is not None and sum(cut) > limits.size:
            raise WholeOnlyError(
                f"the server sends whole files only, and this part ends at byte {sum(cut):,}, "
                f"beyond the {in_words(limits.size)} of data.max_image_size; copy the file to this "
                "machine"
            )
        pieces, size = [], 0
        async for piece in answer.content.iter_chunked(_BLOCK):
            size += len(piece)
            pieces.append(piece)
            if cut is None:
                limits.check(size)
            elif size >= sum(cut):
                break
        content = b"".join(pieces)
        return content if cut is None else content[cut[0] : sum(cut)]


async def headers_of(url: str, *, explained: bool) -> dict[str, Any]:
    """`size`, `ETag`, `LastModified` of a file, and `ranges`: True if the server sends parts.

    A GET of one byte, since many servers and signed addresses refuse HEAD.
    """
    try:
        async with _answer(url, {"Range": "bytes=0-0"}, explained) as answer:
            whole, ranges = answer.headers.get("Content-Range", "").rpartition("/")[2], True
            if answer.status == 200:
                whole, ranges = answer.headers.get("Content-Length", ""), False
            return {
                "size": int(whole) if whole.isdecimal() else None,
                "ETag": answer.headers.get("ETag"),
                "LastModified": answer.headers.get("Last-Modified"),
                "ranges": ranges,
            }
    except HttpError as error:
        if error.status == 416:  # no first byte
            return {"size": 0, "ranges": True}
        raise


async def download_to(file: IO[bytes], url: str, *, explained: bool) -> None:
    """Write the answer to a GET to `file` as it comes; see `download`."""
    async with _answer(url, {}, explained) as answer:
        async for piece in answer.content.iter_chunked(_BLOCK):
            file.write(piece)


@asynccontextmanager
async def _answer(
    url: str, headers: dict[str, str], explained: bool
) -> AsyncIterator[aiohttp.ClientResponse]:
    """The successful answer to a GET, at the end of all redirects."""
    import yarl

    for _ in range(_MOST_REDIRECTS + 1):
        # Encoded, to yarl, means: leave it as it is.
        request = session().get(yarl.URL(url, encoded=True), headers=headers, allow_redirects=False)
        async with request as answer:
            location = answer.headers.get("Location")
            if answer.status in _REDIRECTS and location:
                url = _redirected(url, location)
                continue
            if answer.status not in (200, 206):
                raise _failed(answer.status, await _words(answer) if explained else b"")
            yield answer
            return
    raise RedirectError(f"more than {_MOST_REDIRECTS} redirects")


async def _words(answer: aiohttp.ClientResponse) -> bytes:
    """The beginning of an answer, with the reason of a refusal."""
    body = b""
    async for piece in answer.content.iter_chunked(_MOST_WORDS):
        body += piece
        if len(body) >= _MOST_WORDS:
            break
    return body


def _redirected(url: str, location: str) -> str:
    """The target of a redirect, relative to `url`."""
    if "://" not in location.partition("?")[0]:
        location = urljoin(url, _UNSENDABLE.sub(_encoded, location))
    target = sendable(location)
    if target.partition("://")[0] not in ("http", "https"):
        raise RedirectError("a redirect to an address that is not http:// or https://")
    old, new = urlsplit(url), urlsplit(target)
    if old.username and not new.username and (old.scheme, old.hostname, old.port) == (
        new.scheme, new.hostname, new.port,
    ):  # fmt: skip
        user = old.netloc.rpartition("@")[0]
        target = target.replace("://", f"://{user}@", 1)
    return target


def _failed(status: int, body: bytes) -> OSError:
    text = body.decode("utf-8", "replace")
    if status == 404:
        return FileNotFoundError(text)
    if status == 403 and "AccessDenied" in text:
        return PermissionError(text)
    return HttpError(status, text)
