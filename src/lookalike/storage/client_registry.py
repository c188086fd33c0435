"""The clients of all kinds of storage, by the scheme of a URI."""

import asyncio
import threading
from collections import Counter

from lookalike.storage.client import Client
from lookalike.storage.download import NO_LIMITS, ByteRange, Limits
from lookalike.storage.fsspec_client import FsspecClient
from lookalike.storage.oss import Oss
from lookalike.storage.s3 import S3
from lookalike.storage.uri import is_remote, scheme_of
from lookalike.storage.web import Web, read_only

_S3, _WEB, _FSSPEC = S3(), Web(), FsspecClient()
_CLIENTS: dict[str, Client] = {
    "s3": _S3, "s3a": _S3, "oss": Oss(), "http": _WEB, "https": _WEB,
}  # fmt: skip

_lock = threading.Lock()
_credentials: Counter[str] = Counter()
"""Times that credentials were read again, by scheme: fsspec has its own for each."""


def client_of(uri: str) -> Client:
    """The client of a remote URI; fsspec's for all schemes without one of ours."""
    return _CLIENTS.get(scheme_of(uri), _FSSPEC)


async def fetch(uri: str, part: ByteRange, limits: Limits = NO_LIMITS) -> bytes:
    """The content of remote `uri`, or its bytes from offset part[0], at most part[1] of them.

    In the loop of `lookalike.storage.event_loop`, where many may wait at a time.

    Raises:
        TooLargeError, TimeoutError: it exceeds `limits`.
        Exception: of the client.
    """
    async with asyncio.timeout(limits.seconds):
        if part is not None:
            limits.check(part[1])
        return await client_of(uri).fetch(uri, part, limits)


def check_writable(uri: str) -> None:
    """Refuse a URI that no file can be written to, before the work whose result goes there.

    Raises:
        StorageError: `uri` is of a web server, or of a storage that is not supported.
    """
    client = client_of(uri)
    if client is _FSSPEC and is_remote(uri):
        _FSSPEC.check_scheme(uri)
    if client is _WEB:
        raise read_only(uri)


def credentials_number(uri: str) -> int:
    """A number that grows whenever credentials for storage like that of `uri` are read again."""
    return _credentials[scheme_of(uri)]


def forget_credentials(uri: str, number: int) -> None:
    """Read the credentials for `uri` again at the next request, as they were refused.

    Of many requests that are refused with the credentials of one `number`, only the first acts.
    """
    scheme = scheme_of(uri)
    with _lock:
        if number == _credentials[scheme]:
            _credentials[scheme] += 1
            client_of(uri).forget(uri)
