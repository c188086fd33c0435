"""Paths and URIs: their parts and spellings, and secrets cut out of them for logs and files.

In object storage every character after `bucket/` belongs to the key: `//`, `..`, `?`, `#` and `%`
have no meaning there, but for `?endpoint=` at the end of an `oss://` URI, and for what signs an
address, which no message shows. Other addresses have a query and a fragment. Only a relative path
that a file names is resolved as on a disk.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from lookalike.errors import StorageError

Place = str | os.PathLike[str]
"""A path or a URI; a `Run` is one too."""

_SCHEME = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://")
_WEB = ("http", "https")
_WITH_KEYS = ("s3", "s3a", "s3n", "oss", "gs", "gcs")
_OSS_QUERY = re.compile(r"\?endpoint=[^?&#]*$")
_SAME_SCHEME = {"gcs": "gs", "s3a": "s3", "s3n": "s3"}
_SINGLY = 32  # files of a folder that are checked one by one
_PORTS = {"http": ":80", "https": ":443"}
_PLAIN_ESCAPE = re.compile(r"%(2[DdEe]|3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa]|5[Ff]|7[Ee])")

_SIGNS = re.compile(  # parameters of presigned addresses, and others that are secrets by name
    r"x-(amz|oss|goog|cos|obs)-|(awsaccesskeyid|ossaccesskeyid|googleaccessid|key-pair-id|expires"
    r"|policy|signature|sig|access_?key(_?id)?|api_?key|auth(orization)?|password|passwd|pwd|jwt"
    r"|((access|auth|bearer|client|id|refresh|security|session|user)[_-]?)?(token|secret))=",
    re.IGNORECASE,
)
_SECRET = re.compile(rf"(?<=[?&#])(?:{_SIGNS.pattern})[^&#\s\"']*", re.IGNORECASE)
_USER_INFO = re.compile(r"(?<=://)[^/\s\"'@]*@")
_SIGNED = re.compile(rf"[?&#](?={_SIGNS.pattern})", re.IGNORECASE)


def is_remote(uri: str) -> bool:
    """True for a URI that is not a path of this machine."""
    return bool(_SCHEME.match(uri)) and uri[:7].lower() != "file://"


def scheme_of(uri: str) -> str:
    """The scheme of a remote URI in lower case; "" for a path of this machine."""
    return uri.partition("://")[0].lower() if is_remote(uri) else ""


def local_path(uri: str) -> str:
    """The path of a local URI: plain paths, `~/a` and `~user/a`, and `file:///a%20b`."""
    if uri[:1] == "~":
        return os.path.expanduser(uri)
    if uri[:7].lower() == "file://":
        return unquote("/" + uri[7:].partition("/")[2])
    return uri


def absolute(place: str) -> str:
    """The absolute path of a local place; a URI as it is."""
    if is_remote(place):
        return place
    path = local_path(place)
    # Only the file system resolves `link/../a.jpg`.
    return os.path.realpath(path) if ".." in path.split("/") else os.path.abspath(path)


def path_of(place: Place) -> Path:
    """`local_path` as a Path."""
    return Path(local_path(os.fspath(place)))


def split_query(uri: str) -> tuple[str, str]:
    """A remote URI without its query, and the query with its `?`; "" where there is none."""
    scheme = scheme_of(uri)
    if scheme in _WEB:
        place, mark, query = uri.partition("?")
        return place, mark + query
    found = _OSS_QUERY.search(uri) if scheme == "oss" else None
    return (uri, "") if found is None else (uri[: found.start()], found[0])


def resolve(uri: str, base: str) -> str:
    """`uri` as written in the file `base`: a relative path starts at that file's folder.

    `.` and `..` of a relative path are resolved as on a disk; a whole URI is taken as it is.

    Raises:
        StorageError: a relative path leads out of the bucket, or above the web server's root.
    """
    if _SCHEME.match(uri) or os.path.isabs(uri):
        return uri
    if not is_remote(base):
        folder = os.path.dirname(local_path(base))
        return os.path.join(folder or ("." if uri[:1] == "~" else ""), uri)
    place, query = split_query(base)
    scheme, _, rest = place.partition("://")
    root, *folders = rest.split("/")
    path, own = uri, ""
    if scheme.lower() in _WEB:
        path, mark, more = uri.replace("#", "%23").partition("?")
        own = mark + more
    folders = folders[:-1]
    for part in path.split("/"):
        if part == ".." and not folders:
            raise StorageError(
                f"{uri!r} leads out of {public(f'{scheme}://{root}')}: too many '..' for a file "
                f"in {public(place.rsplit('/', 1)[0])}/; correct the path"
            )
        if part == "..":
            folders.pop()
        elif part != ".":
            folders.append(part)
    if own and query:
        query = "&" + query[1:]
    return f"{scheme}://{'/'.join([root, *folders])}{own}{query}"


def resolver(base: str) -> Callable[[str], str]:
    """`resolve` for the many URIs of one file: fast for plain relative paths."""
    folder = resolve("", base)
    remote = is_remote(base)
    plain = not (remote and (scheme_of(base) in _WEB or split_query(base)[1]))

    def place(uri: str) -> str:
        simple = ":" not in uri and uri[:1] not in ("/", "\\", "~", ".", "")
        if plain and simple and not (remote and "/." in uri):
            return folder + uri
        return resolve(uri, base)

    return place


def public(uri: str) -> str:
    """`uri` without user info and query, which may hold secrets: for logs and messages.

    A key of object storage is shown whole, up to the query where it is presigned.
    """
    if not is_remote(uri):
        return uri
    scheme, place = _without_user(split_query(uri)[0])
    has_keys = scheme.lower() in _WITH_KEYS
    shown = _split_signed(place, has_fragment=False)[0] if has_keys else re.split("[?#]", place)[0]
    return f"{scheme}://{shown}"


def unsigned(uri: str) -> str:
    """`uri` as it may be written to a file: without user info and signature.

    The rest of its query and fragment stays, which may identify the image.
    """
    if "://" not in uri or not is_remote(uri):  # the first is faster
        return uri
    scheme, place = _without_user(uri)
    place, query = _split_signed(place, has_fragment=scheme.lower() not in _WITH_KEYS)
    parts = [part for part in re.split("[&#]", query[1:]) if part]
    kept = [part for part in parts if not _SIGNED.search(f"&{part}")]
    return f"{scheme}://{place}{query[: bool(kept)]}{'&'.join(kept)}"


def without_secrets(text: str) -> str:
    """A text that may hold addresses, as a line of a list, without what `unsigned` cuts out."""
    if "://" not in text:
        return text
    return _SECRET.sub("...", _USER_INFO.sub("", text))


def _without_user(uri: str) -> tuple[str, str]:
    """The scheme of a remote URI, and what follows `://` without user and password."""
    scheme, _, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    return scheme, host.rpartition("@")[2] + slash + path


def _split_signed(place: str, *, has_fragment: bool) -> tuple[str, str]:
    """A URI without its scheme, and its query with the `?` if that holds a secret, else "".

    With `has_fragment`, a `#` begins a fragment, which is treated as a query.
    """
    found = _SIGNED.search(place)
    if found is None:
        return place, ""
    if has_fragment:
        start = re.search("[?#]", place).start()  # type: ignore[union-attr]  # of what was found
    else:
        start = place.rfind("?", 0, found.start() + 1)
    return (place, "") if start < 0 else (place[:start], place[start:])


def canonicalizer() -> Callable[[str], str]:
    """A function that gives one text for all spellings of one place: `./a`, `b/../a`, `//`.

    For local files it is the absolute path without symbolic links, also of `file://` and `~`. In
    web addresses, host and plain escapes are normalised as in RFC 3986, 6.2.2, and signatures are
    left out; their dots, and keys of object storage, do not change. Each folder is listed at most
    once.
    """
    folders: dict[str, _Folder] = {}

    def one(uri: str) -> str:
        if is_remote(uri):
            return _canonical_address(uri)
        folder, name = os.path.split(local_path(uri))
        if name in ("", ".", ".."):
            return os.path.realpath(os.path.join(folder, name))
        real = folders.get(folder)
        if real is None:
            real = folders[folder] = _Folder(folder)
        path = os.path.join(real.path, name)
        return os.path.realpath(path) if real.has_link(name) else path

    return one


class _Folder:
    """A folder of this machine and its symbolic links."""

    def __init__(self, folder: str) -> None:
        self.path = os.path.realpath(folder or ".")
        self._asked = 0
        self._links: set[str] | None = None

    def has_link(self, name: str) -> bool:
        """True for a link; after a few files, by one listing instead of a stat of each."""
        if self._links is None:
            self._asked += 1
            if self._asked <= _SINGLY:
                return os.path.islink(os.path.join(self.path, name))
            try:
                with os.scandir(self.path) as entries:
                    self._links = {entry.name for entry in entries if entry.is_symlink()}
            except OSError:  # no folder, no links
                self._links = set()
        return name in self._links


def _canonical_address(uri: str) -> str:
    scheme, _, rest = unsigned(uri).partition("://")
    scheme = scheme.lower()
    host, slash, path = rest.partition("/")
    if scheme not in _WEB:
        return f"{_SAME_SCHEME.get(scheme, scheme)}://{host}{slash}{path}"
    host = host.lower().removesuffix(_PORTS[scheme])
    path, mark, query = path.partition("#")[0].partition("?")
    path = _PLAIN_ESCAPE.sub(lambda found: unquote(found[0]), path)
    return f"{scheme}://{host}/{path}{mark}{query}"


def address(uri: str) -> str:
    """`uri` with the endpoint of its storage, where the environment names one."""
    named = {"s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"), "oss": ("OSS_ENDPOINT",)}.get(
        uri.partition("://")[0], ()
    )
    place = next((os.environ[name] for name in named if os.environ.get(name)), None)
    return uri if place is None else f"{uri} at {place}"


def join(folder: str, path: str) -> str:
    """The URI of a file below a folder; in remote ones, `path` does not change."""
    if not is_remote(folder):
        return os.path.join(local_path(folder), path)
    place, query = split_query(folder)
    return f"{place.removesuffix('/')}/{path}{query}"
