"""What lies where in object storage, asked for so that a part is never taken for the whole.

OSS is asked page by page through the vendor's own client: ossfs walks folder by folder, leaves
out a folder whose listing fails, and says that one which may not be looked into is empty.
"""

from collections.abc import Iterator
from typing import Any

from lookalike.storage import oss
from lookalike.storage.clients import account, filesystem_of
from lookalike.storage.getting import get, oss_bucket

_PAGE = 1000  # keys an answer; the most that OSS gives


def sizes_in(uri: str) -> dict[str, int]:
    """The size of each file below a remote folder, by its path relative to it; {} if there is none.

    Raises:
        Exception: what the client raises; never a part of the files.
    """
    try:
        if _is_oss(uri):
            root = _folder(_key(uri))
            return {
                found.key.removeprefix(root): found.size
                for found in _oss_objects(uri, root)
                if not found.key.endswith("/")  # what consoles write to show an empty folder
            }
        filesystem, path = filesystem_of(uri)
        filesystem.invalidate_cache()  # another machine may have written since
        root = path.rstrip("/") + "/"
        found = filesystem.find(path, detail=True)
    except FileNotFoundError:
        return {}
    # Of a file, fsspec finds itself.
    below = {name: entry["size"] for name, entry in found.items() if name.startswith(root)}
    return {name.removeprefix(root): size for name, size in below.items()}


def has_below(uri: str) -> bool:
    """Whether `uri` is a remote folder: whether any key begins with it and a `/`.

    Raises:
        Exception: what the client raises.
    """
    if not _is_oss(uri):
        filesystem, path = filesystem_of(uri)
        return bool(filesystem.isdir(path))
    try:
        return any(True for _ in _oss_objects(uri, _folder(_key(uri)), page=1))
    except FileNotFoundError:
        return False


def described(uri: str) -> dict[str, Any]:
    """What the storage says about the remote file `uri`: at least its `size` in bytes.

    Raises:
        FileNotFoundError: there is no such file (fsspec's storages describe folders too).
        Exception: what the client raises.
    """
    if not _is_oss(uri):
        filesystem, path = filesystem_of(uri)
        filesystem.invalidate_cache()
        try:
            return dict(filesystem.info(path))
        except FileNotFoundError:
            raise
        except Exception:
            if uri.startswith("s3://"):
                get(uri, (0, 1))  # S3's answer to HEAD has no words that say why; this one has
            raise
    key = _key(uri)
    # Not HEAD, whose answer has no body that could say why it was refused. Of all keys that
    # begin with `key` it is itself the first.
    first = next(_oss_objects(uri, key, page=1), None)
    if first is None or first.key != key:
        raise FileNotFoundError(key)
    return {"size": first.size, "ETag": first.etag, "LastModified": first.last_modified}


def _oss_objects(uri: str, prefix: str, page: int = _PAGE) -> Iterator[Any]:
    """All objects of the bucket of `uri` whose key begins with `prefix`, in their order."""
    import oss2.exceptions

    endpoint, name, _ = oss.locate(uri, account().endpoint)
    bucket = oss_bucket(endpoint, name)
    marker = ""
    while True:
        try:
            answer = bucket.list_objects(prefix=prefix, marker=marker, max_keys=page)
        except oss2.exceptions.NoSuchBucket as error:
            raise FileNotFoundError(name) from error
        yield from answer.object_list
        if not answer.is_truncated:
            return
        marker = answer.next_marker


def _is_oss(uri: str) -> bool:
    return uri.startswith("oss://")


def _key(uri: str) -> str:
    return oss.locate(uri, account().endpoint)[2]


def _folder(key: str) -> str:
    """The beginning of all keys below `key`; of the whole bucket, nothing."""
    key = key.rstrip("/")
    return f"{key}/" if key else ""
