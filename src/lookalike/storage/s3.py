"""S3: where a URI points to, and GETs that are signed here.

Keys are signed and sent as they are: libraries refuse or rewrite some that S3 allows, as those
with `//` or `..`. The signature is AWS Signature Version 4 in the query:
https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from lookalike.errors import MissingExtraError

SIGNED_FOR = 3600
"""Seconds for which a signed URL can be used."""


class _Access(NamedTuple):
    """How a process reads from S3.

    Attributes:
        endpoint: URL without a slash at the end.
        region: as in signatures.
        keys: botocore's credentials, which renew themselves; None to ask as anybody.
    """

    endpoint: str
    region: str
    keys: Any


def locate(uri: str) -> tuple[str, str]:
    """The bucket and the key of an `s3://` URI."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket.rsplit("@", 1)[-1], key


def signed_url(uri: str) -> str:
    """The URL to GET an object from, encoded; unsigned where there are no credentials."""
    access = _access()
    bucket, key = locate(uri)
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


def forget() -> None:
    """Look for credentials anew at the next request."""
    _access.cache_clear()
    _signing_key.cache_clear()


@lru_cache(maxsize=1)
def _access() -> _Access:
    """Region, endpoint and credentials as botocore finds them.

    Raises:
        MissingExtraError: botocore is not installed.
    """
    try:
        import botocore.session
        from botocore import UNSIGNED
        from botocore.config import Config
    except ImportError:
        raise MissingExtraError("botocore", "s3") from None
    session = botocore.session.get_session()
    keys = session.get_credentials()
    region = session.get_config_variable("region") or "us-east-1"
    config = Config(signature_version=UNSIGNED) if keys is None else None
    # botocore's: also of China, of FIPS, of storage that is not Amazon's
    endpoint = session.create_client("s3", region_name=region, config=config).meta.endpoint_url
    return _Access(endpoint.rstrip("/"), region, keys)


@lru_cache(maxsize=4)
def _signing_key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key
