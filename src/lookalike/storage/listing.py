"""What lies where in object storage, asked for so that a part is never taken for the whole.

S3 and OSS are asked page by page through the vendors' own clients, as fsspec's see folders where
there are only keys: ossfs leaves out a folder whose listing fails, and s3fs reads some characters
of a key as something else.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lookalike.storage import s3
from lookalike.storage.clients import filesystem_of, oss_place
from lookalike.storage.get_request import get
from lookalike.storage.uri import scheme_of

_PAGE = 1000  # keys an answer; the most that both give


@dataclass(frozen=True)
class _Object:
    key: str
    size: int
    tag: str
    modified: Any


def sizes_in(uri: str) -> dict[str, int]:
    """The size of each file below a remote folder, by its path relative to it; {} if there is none.

    Raises:
        Exception: what the client raises; never a part of the files.
    """
    try:
        if _has_objects(uri):
            root = _folder(_key(uri))
            return {
                found.key.removeprefix(root): found.size
                for found in _objects(uri, root)
                if not found.key.endswith("/")  # what consoles write to show an empty folder
            }
        filesystem, path = filesystem_of(uri)
        filesystem.invalidate_cache()  # another machine may have written since
        root = path.rstrip("/") + "/"
        entries = filesystem.find(path, detail=True)
    except FileNotFoundError:
        return {}
    # Of a file, fsspec finds itself.
    below = {name: entry["size"] for name, entry in entries.items() if name.startswith(root)}
    return {name.removeprefix(root): size for name, size in below.items()}


def has_below(uri: str) -> bool:
    """Whether `uri` is a remote folder: whether any key begins with it and a `/`.

    Raises:
        Exception: what the client raises.
    """
    if not _has_objects(uri):
        filesystem, path = filesystem_of(uri)
        return bool(filesystem.isdir(path))
    try:
        return any(True for _ in _objects(uri, _folder(_key(uri)), page=1))
    except FileNotFoundError:
        return False


def described(uri: str) -> dict[str, Any]:
    """What the storage says about the remote file `uri`: at least its `size` in bytes.

    Raises:
        FileNotFoundError: there is no such file (fsspec's storages describe folders too).
        Exception: what the client raises.
    """
    if _is_s3(uri):
        return _s3_head(uri)
    if not _has_objects(uri):
        filesystem, path = filesystem_of(uri)
        filesystem.invalidate_cache()
        return dict(filesystem.info(path))
    key = _key(uri)
    # Not HEAD, whose answer has no body that could say why it was refused. Of all keys that
    # begin with `key` it is itself the first.
    first = next(_objects(uri, key, page=1), None)
    if first is None or first.key != key:
        raise FileNotFoundError(key)
    return {"size": first.size, "ETag": first.tag, "LastModified": first.modified}


def _objects(uri: str, prefix: str, page: int = _PAGE) -> Iterator[_Object]:
    """All objects of the bucket of `uri` whose key begins with `prefix`, in their order."""
    return (_s3_objects if _is_s3(uri) else _oss_objects)(uri, prefix, page)


def _oss_objects(uri: str, prefix: str, page: int) -> Iterator[_Object]:
    import oss2.exceptions

    bucket, _ = oss_place(uri)
    marker = ""
    while True:
        try:
            answer = bucket.list_objects(prefix=prefix, marker=marker, max_keys=page)
        except oss2.exceptions.NoSuchBucket as error:
            raise FileNotFoundError(bucket.bucket_name) from error
        for one in answer.object_list:
            yield _Object(one.key, one.size, one.etag, one.last_modified)
        if not answer.is_truncated:
            return
        marker = answer.next_marker


def _s3_objects(uri: str, prefix: str, page: int) -> Iterator[_Object]:
    filesystem, _ = filesystem_of(uri)
    bucket, _ = s3.locate(uri)
    more: dict[str, str] = {}
    while True:
        answer = filesystem.call_s3(
            "list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=page, **more
        )
        for one in answer.get("Contents", ()):
            yield _Object(one["Key"], one["Size"], one.get("ETag", ""), one["LastModified"])
        if not answer.get("IsTruncated"):
            return
        more = {"ContinuationToken": answer["NextContinuationToken"]}


def _s3_head(uri: str) -> dict[str, Any]:
    filesystem, _ = filesystem_of(uri)
    bucket, key = s3.locate(uri)
    if not key:
        raise FileNotFoundError(uri)
    try:
        answer = filesystem.call_s3("head_object", Bucket=bucket, Key=key)
    except FileNotFoundError:
        raise
    except Exception:
        get(uri, (0, 1))  # S3's answer to HEAD has no words that say why; this one has
        raise
    return {
        "size": answer["ContentLength"],
        "ETag": answer.get("ETag", ""),
        "LastModified": answer.get("LastModified"),
    }


def _is_s3(uri: str) -> bool:
    return scheme_of(uri) in ("s3", "s3a")


def _has_objects(uri: str) -> bool:
    return _is_s3(uri) or scheme_of(uri) == "oss"


def _key(uri: str) -> str:
    return s3.locate(uri)[1] if _is_s3(uri) else oss_place(uri)[1]


def _folder(key: str) -> str:
    """The beginning of all keys below `key`; of the whole bucket, nothing."""
    return key if not key or key.endswith("/") else f"{key}/"
