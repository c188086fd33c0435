"""One GET of a remote file or a part of it, by the quickest client of each kind of storage.

Measured by `benchmarks/storage.py`: a client's own work limits how many small files a process
gets in a second, since Python code runs in one thread at a time. So S3 and OSS are asked by URLs
that a library of theirs signs (obstore for S3, the vendor's for OSS), fetched by aiohttp, as
those of web servers are: a tenth of the work of s3fs and oss2, and as little as obstore's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from lookalike.errors import MissingExtraError
from lookalike.storage import oss
from lookalike.storage.clients import account, filesystem_of
from lookalike.storage.loop import session, waited

_SIGNED_FOR = timedelta(hours=1)
_THREADS = 32  # for what only fsspec reads, and not as coroutines

Part = tuple[int, int] | None


def get(uri: str, part: Part) -> bytes:
    """The content of remote `uri`, or its bytes from offset part[0], at most part[1] of them.

    Raises:
        Exception: what the client raises.
    """
    if uri.split("://", 1)[0] in _URLS:
        return waited(fetch(uri, part))
    return _by_fsspec(uri, part)


async def fetch(uri: str, part: Part) -> bytes:
    """The same in the loop of `lookalike.storage.loop`, where many may wait at a time."""
    signed = _URLS.get(uri.split("://", 1)[0])
    if signed is not None:
        return await _download(signed(uri), part, told=signed is not _plain)
    filesystem, path = filesystem_of(uri)
    if not filesystem.async_impl:
        return await asyncio.get_running_loop().run_in_executor(_pool(), _by_fsspec, uri, part)
    answer = asyncio.run_coroutine_threadsafe(
        filesystem._cat_file(path, **_range(part)), filesystem.loop
    )
    return bytes(await asyncio.wrap_future(answer))


def forget() -> None:
    """Make the clients anew at the next request, with the credentials of then."""
    _s3_store.cache_clear()
    oss_bucket.cache_clear()


async def _download(url: str, part: Part, *, told: bool) -> bytes:
    """The answer to a GET.

    Args:
        url: encoded as it is to be sent.
        part: which bytes of it.
        told: whether the answer's own words say why it is refused, as those of object storage do.
    """
    import yarl

    headers = {}
    if part is not None:
        headers["Range"] = f"bytes={part[0]}-{part[0] + part[1] - 1}"
    async with session().get(yarl.URL(url, encoded=told), headers=headers) as answer:
        content = await answer.read()
        if answer.status == 200 and part is not None:  # it does not know ranges
            return content[part[0] : part[0] + part[1]]
        if answer.status not in (200, 206):
            raise _answered(answer.status, content if told else b"")
    return content


def _by_fsspec(uri: str, part: Part) -> bytes:
    filesystem, path = filesystem_of(uri)
    return bytes(filesystem.cat_file(path, **_range(part)))


def _range(part: Part) -> dict[str, int]:
    return {} if part is None else {"start": part[0], "end": part[0] + part[1]}


def _s3_url(uri: str) -> str:
    import obstore

    bucket, _, key = uri.partition("://")[2].partition("/")
    store, place = _s3_store(bucket)
    if store is None:
        return f"{place}/{quote(key, safe='/-_.~')}"
    return obstore.sign(store, "GET", key, _SIGNED_FOR)


def _oss_url(uri: str) -> str:
    endpoint, name, key = oss.locate(uri, account().endpoint)
    seconds = int(_SIGNED_FOR.total_seconds())
    return str(oss_bucket(endpoint, name).sign_url("GET", key, seconds, slash_safe=True))


def _plain(uri: str) -> str:
    return uri


class _Answer(OSError):
    """An HTTP status that is no success; its text stays inside."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def _answered(status: int, body: bytes) -> OSError:
    text = body[:2000].decode("utf-8", "replace")
    if status == 404:
        return FileNotFoundError(text)
    if status == 403 and "AccessDenied" in text:
        return PermissionError(text)
    return _Answer(status, text)


@lru_cache(maxsize=64)
def _s3_store(bucket: str) -> tuple[Any, str]:
    """What signs for the bucket, with region, endpoint and credentials as botocore finds them.

    Returns:
        The store, None where there are no credentials; and the bucket's URL.
    """
    try:
        import botocore.session
        from botocore import UNSIGNED
        from botocore.config import Config
        from obstore.store import S3Store
    except ImportError:
        raise MissingExtraError("obstore", "s3") from None
    session = botocore.session.get_session()
    keys = session.get_credentials()
    region = session.get_config_variable("region") or "us-east-1"
    config = Config(signature_version=UNSIGNED) if keys is None else None
    place = session.create_client("s3", region_name=region, config=config).meta.endpoint_url
    url = f"{place.rstrip('/')}/{bucket}"
    if keys is None:
        return None, url
    store = S3Store(
        bucket,
        region=region,
        endpoint=place,  # botocore's: also of China, of FIPS, of storage that is not Amazon's
        client_options={"allow_http": place.startswith("http://")},
        credential_provider=_frozen(keys),
    )
    return store, url


def _frozen(keys: Any) -> Any:
    """What obstore asks for each few minutes; botocore renews what must be renewed."""

    def now() -> dict[str, Any]:
        from datetime import UTC, datetime

        current = keys.get_frozen_credentials()
        return {
            "access_key_id": current.access_key,
            "secret_access_key": current.secret_key,
            "token": current.token,
            "expires_at": datetime.now(UTC) + timedelta(minutes=5),
        }

    return now


@lru_cache(maxsize=64)
def oss_bucket(endpoint: str, name: str) -> Any:
    """The vendor's client of a bucket.

    Raises:
        MissingExtraError: the client is not installed.
    """
    try:
        import oss2
    except ImportError:
        raise MissingExtraError("ossfs", "oss") from None
    asks = account()
    if asks.token:
        auth = oss2.StsAuth(asks.key, asks.secret, asks.token)
    elif asks.key:
        auth = oss2.Auth(asks.key, asks.secret)
    else:
        auth = oss2.AnonymousAuth()
    return oss2.Bucket(auth, endpoint, name)


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS, "lookalike-requests")


_URLS: dict[str, Callable[[str], str]] = {
    "s3": _s3_url,
    "oss": _oss_url,
    "http": _plain,
    "https": _plain,
}
