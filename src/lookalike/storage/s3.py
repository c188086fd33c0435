"""Amazon S3 and storages with its protocol, through boto3; GETs are signed here.

boto3 finds region, endpoint and credentials, lists, writes and removes. Signing a GET with it takes
ten times as long as here, which would limit how many small files a process reads in a second; and
keys such as `a//b` or `a/../b` are signed and sent as they are. The signature is AWS Signature
Version 4 in the query:
https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from lookalike.errors import MissingExtraError
from lookalike.storage.client import SIGNED_FOR, BucketClient

_IN_PARTS, _PART = 100 * 2**20, 50 * 2**20
"""Bytes from which on a file is uploaded in parts, and of these."""

_CONNECTIONS = 32
_MISSING = ("404", "NoSuchBucket", "NoSuchKey", "NotFound")
_FORBIDDEN = ("403", "AccessDenied")


class _Access(NamedTuple):
    """Access to S3 from this process.

    Attributes:
        client: of boto3.
        endpoint: URL without a slash at the end.
        region: as in signatures.
        keys: botocore's credentials, which renew themselves; None for anonymous requests.
    """

    client: Any
    endpoint: str
    region: str
    keys: Any


class S3(BucketClient):
    """Buckets of S3."""

    def url(self, uri: str) -> str:
        """The URL of an object; unsigned where there are no credentials."""
        access = _access()
        bucket, key = locate(uri)
        if not key:  # a GET of the bucket would list it
            raise FileNotFoundError(uri)
        path = f"/{quote(bucket, safe='-_.~')}/{quote(key, safe='/-_.~')}"
        if access.keys is None:
            return access.endpoint + path
        now = access.keys.get_frozen_credentials()
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        scope = f"{stamp[:8]}/{access.region}/s3/aws4_request"
        given = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"{now.access_key}/{scope}",
            "X-Amz-Date": stamp,
            "X-Amz-Expires": str(SIGNED_FOR),
            "X-Amz-SignedHeaders": "host",
        }
        if now.token:
            given["X-Amz-Security-Token"] = now.token
        query = urlencode(sorted(given.items()), quote_via=quote, safe="-_.~")
        host, _, below = access.endpoint.partition("://")[2].partition("/")
        path = f"/{below}{path}" if below else path
        request = f"GET\n{path}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD"
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
        key_of_day = _signing_key(now.secret_key, stamp[:8], access.region)
        signature = hmac.new(key_of_day, text.encode(), hashlib.sha256).hexdigest()
        scheme = access.endpoint.partition("://")[0]
        return f"{scheme}://{host}{path}?{query}&X-Amz-Signature={signature}"

    def key_of(self, uri: str) -> str:
        return locate(uri)[1]

    def objects(self, uri: str, prefix: str, page: int) -> Iterator[tuple[str, int]]:
        more = {"Bucket": locate(uri)[0], "Prefix": prefix}
        while True:
            with _translated() as client:
                answer = client.list_objects_v2(MaxKeys=page, **more)
            for one in answer.get("Contents", ()):
                yield one["Key"], one["Size"]
            if not answer.get("IsTruncated"):
                return
            more["ContinuationToken"] = answer["NextContinuationToken"]

    def upload(self, local: str, uri: str, size: int) -> None:
        bucket, key = locate(uri)
        with _translated() as client:
            if size < _IN_PARTS:
                with open(local, "rb") as file:
                    client.put_object(Bucket=bucket, Key=key, Body=file)
                return
            from boto3.s3.transfer import TransferConfig

            config = TransferConfig(multipart_threshold=_IN_PARTS, multipart_chunksize=_PART)
            client.upload_file(local, bucket, key, Config=config)

    def remove(self, uri: str) -> None:
        bucket, key = locate(uri)
        with _translated() as client:
            client.delete_object(Bucket=bucket, Key=key)

    def forget(self, uri: str) -> None:
        _access.cache_clear()
        _signing_key.cache_clear()


def locate(uri: str) -> tuple[str, str]:
    """The bucket and the key of an `s3://` URI."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket.rsplit("@", 1)[-1], key


@contextmanager
def _translated() -> Iterator[Any]:
    """The client of boto3, its errors as those of files, where there are such."""
    client = _access().client
    from boto3.exceptions import S3UploadFailedError
    from botocore.exceptions import ClientError

    try:
        yield client
    except (ClientError, S3UploadFailedError) as error:
        cause: Any = error if isinstance(error, ClientError) else error.__context__
        code = str(getattr(cause, "response", {}).get("Error", {}).get("Code", ""))
        if code in _MISSING:
            raise FileNotFoundError(code) from error
        if code in _FORBIDDEN:
            raise PermissionError(code) from error
        raise


@lru_cache(maxsize=1)
def _access() -> _Access:
    """Region, endpoint and credentials as boto3 finds them."""
    try:
        from boto3.session import Session
        from botocore import UNSIGNED
        from botocore.config import Config
    except ImportError:
        raise MissingExtraError("boto3", "s3") from None
    session = Session()
    keys = session.get_credentials()
    region = session.region_name or "us-east-1"
    config = Config(max_pool_connections=_CONNECTIONS)
    if keys is None:
        config = config.merge(Config(signature_version=UNSIGNED))
    client = session.client("s3", region_name=region, config=config)
    # boto3's: also of China, of FIPS, of storage that is not Amazon's
    return _Access(client, client.meta.endpoint_url.rstrip("/"), region, keys)


@lru_cache(maxsize=4)
def _signing_key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


os.register_at_fork(after_in_child=_access.cache_clear)  # connections are not shared with a child
