"""Paths and URIs: taking them apart, and what of them may be shown."""

import os
import re
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

_SCHEME = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://")

_SIGNS = re.compile(  # parameters of presigned addresses, and others that are secrets by name
    r"x-(amz|oss|goog|cos|obs)-|(awsaccesskeyid|ossaccesskeyid|googleaccessid|key-pair-id|expires"
    r"|policy|signature|sig|security-?token|(access_?)?token|access_?key(_?id)?|api_?key"
    r"|auth(orization)?|password|passwd|pwd|secret)=",
    re.IGNORECASE,
)


def is_remote(uri: str) -> bool:
    """Whether `uri` names a place that is not a path of this machine."""
    return bool(_SCHEME.match(uri)) and not uri.startswith("file://")


def local_path(uri: str) -> str:
    """The path of a local URI: `file:///a%20b` and plain paths."""
    return unquote(urlsplit(uri).path) if uri.startswith("file://") else uri


def resolve(uri: str, base: str) -> str:
    """`uri` as written in the file `base`: a relative path starts at that file's folder."""
    if _SCHEME.match(uri) or os.path.isabs(uri):
        return uri
    if is_remote(base):
        place, _, query = base.partition("?")
        return place.rsplit("/", 1)[0] + "/" + uri + (f"?{query}" if query else "")
    return os.path.join(os.path.dirname(local_path(base)), uri)


def resolver(base: str) -> Callable[[str], str]:
    """`resolve` for the many URIs of one file: quick for plain relative paths."""
    folder = resolve("", base)
    plain = not (is_remote(base) and "?" in base)

    def place(uri: str) -> str:
        if plain and ":" not in uri and uri[:1] not in ("/", "\\", ""):
            return folder + uri
        return resolve(uri, base)

    return place


def public(uri: str) -> str:
    """`uri` without user info and query, which may hold secrets: for logs and messages."""
    if not is_remote(uri):
        return uri
    scheme, _, rest = uri.partition("://")
    host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{host.rsplit('@', 1)[-1]}{slash}{path}"


def lasting(uri: str) -> str:
    """`uri` as it may be written to a file: without user info and what signs it.

    The rest of its query stays, which may say which image it is.
    """
    if not is_remote(uri):
        return uri
    scheme, _, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    place, mark, query = path.partition("?")
    kept = [part for part in query.split("&") if part and not _SIGNS.match(part)]
    return f"{scheme}://{host.rsplit('@', 1)[-1]}{slash}{place}{mark if kept else ''}" + "&".join(
        kept
    )


def address(uri: str) -> str:
    """`uri`, and to which storage it goes where that is not in it: what its content belongs to."""
    named = {
        "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        "oss": ("OSS_ENDPOINT",),
    }.get(uri.partition("://")[0], ())
    place = next((os.environ[name] for name in named if os.environ.get(name)), None)
    return uri if place is None else f"{uri} at {place}"


def join(folder: str, path: str) -> str:
    """The URI of a file below a folder, as `resolve` makes it from a list that lies there."""
    if not is_remote(folder):
        return os.path.join(local_path(folder), path)
    place, _, query = folder.partition("?")
    return place.rstrip("/") + "/" + path + (f"?{query}" if query else "")
