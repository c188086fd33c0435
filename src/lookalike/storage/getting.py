"""One GET of a remote file or a part of it, by the quickest client of each kind of storage.

Measured by `benchmarks/storage.py`: a client's own work limits how many small files a process
gets in a second, since Python code runs in one thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from lookalike.errors import MissingExtraError
from lookalike.storage import oss
from lookalike.storage.clients import account, filesystem_of

CONNECTIONS = 128
"""To one server at most; more requests than that wait."""

Part = tuple[int, int] | None


def get(uri: str, part: Part) -> bytes:
    """The content of remote `uri`, or its bytes from offset part[0], at most part[1] of them.

    Raises:
        Exception: what the client raises.
    """
    scheme = uri.split("://", 1)[0]
    return _CLIENTS.get(scheme, _by_fsspec)(uri, part)


def forget() -> None:
    """Make the clients anew at the next request, with the credentials of then."""
    _s3_store.cache_clear()
    oss_bucket.cache_clear()


def _by_fsspec(uri: str, part: Part) -> bytes:
    filesystem, path = filesystem_of(uri)
    if part is None:
        return bytes(filesystem.cat_file(path))
    return bytes(filesystem.cat_file(path, start=part[0], end=part[0] + part[1]))


def _by_obstore(uri: str, part: Part) -> bytes:
    """S3: ten times less Python than s3fs, which asks botocore to sign and parse."""
    import obstore

    bucket, _, key = uri.partition("://")[2].partition("/")
    store = _s3_store(bucket)
    if part is None:
        return obstore.get(store, key).bytes().to_bytes()
    return obstore.get_range(store, key, start=part[0], length=part[1]).to_bytes()


def _by_signed_url(uri: str, part: Part) -> bytes:
    """OSS: signed by the vendor's library, fetched by urllib3 without its other layers."""
    endpoint, name, key = oss.locate(uri, account().endpoint)
    bucket, pool = oss_bucket(endpoint, name)
    headers = {"Accept-Encoding": "identity"}
    if part is not None:
        headers["Range"] = f"bytes={part[0]}-{part[0] + part[1] - 1}"
    url = bucket.sign_url("GET", key, 3600, slash_safe=True)
    answer = pool.request("GET", url, headers=headers, retries=False, timeout=60.0)
    if answer.status not in (200, 206):
        raise _answered(answer.status, answer.data)
    return bytes(answer.data)


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
def _s3_store(bucket: str) -> Any:
    """The bucket's client, with region, endpoint and credentials as botocore finds them."""
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
    more: dict[str, Any] = {}
    if "amazonaws.com" not in place:
        more["endpoint"] = place
    if keys is None:
        more["skip_signature"] = True
    else:
        more["credential_provider"] = _frozen(keys)
    return S3Store(
        bucket,
        region=region,
        client_options={
            "allow_http": place.startswith("http://"),
            "timeout": "10m",
            "read_timeout": "60s",
        },
        retry_config={"max_retries": 0},  # `retrying` does that, and says what it does
        **more,
    )


def _frozen(keys: Any) -> Callable[[], dict[str, Any]]:
    """What obstore asks for each few minutes; botocore renews what must be renewed."""

    def now() -> dict[str, Any]:
        from datetime import UTC, datetime, timedelta

        current = keys.get_frozen_credentials()
        return {
            "access_key_id": current.access_key,
            "secret_access_key": current.secret_key,
            "token": current.token,
            "expires_at": datetime.now(UTC) + timedelta(minutes=5),
        }

    return now


@lru_cache(maxsize=64)
def oss_bucket(endpoint: str, name: str) -> tuple[Any, Any]:
    """The vendor's client of a bucket, and the connections by which its signed URLs are fetched.

    Raises:
        MissingExtraError: the client is not installed.
    """
    try:
        import oss2
        import urllib3
    except ImportError:
        raise MissingExtraError("ossfs", "oss") from None
    asks = account()
    if asks.token:
        auth = oss2.StsAuth(asks.key, asks.secret, asks.token)
    elif asks.key:
        auth = oss2.Auth(asks.key, asks.secret)
    else:
        auth = oss2.AnonymousAuth()
    pool = urllib3.PoolManager(maxsize=CONNECTIONS, block=True)
    return oss2.Bucket(auth, endpoint, name), pool


_CLIENTS: dict[str, Callable[[str, Part], bytes]] = {"s3": _by_obstore, "oss": _by_signed_url}
