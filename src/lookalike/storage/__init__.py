"""Bytes from and to anywhere: paths of this machine, object storage and web servers."""

from lookalike.storage.archive import is_archive
from lookalike.storage.client_registry import check_writable
from lookalike.storage.download import NO_LIMITS, Limits
from lookalike.storage.read import (
    exists,
    fetch_bytes,
    files_below,
    is_folder,
    opened,
    read_bytes,
    read_if_exists,
    read_starts,
)
from lookalike.storage.uri import (
    Place,
    absolute,
    address,
    canonicalizer,
    is_remote,
    join,
    local_path,
    path_of,
    public,
    resolve,
    resolver,
    split_query,
    unsigned,
    without_secrets,
)
from lookalike.storage.write import (
    fetch_file,
    remove_file,
    sizes_below,
    version_of,
    write_bytes,
    write_file,
    write_text,
)

__all__ = [
    "NO_LIMITS", "Limits", "Place", "absolute", "address", "canonicalizer", "check_writable",
    "exists", "fetch_bytes", "fetch_file", "files_below", "is_archive", "is_folder", "is_remote",
    "join", "local_path", "opened", "path_of", "public", "read_bytes", "read_if_exists",
    "read_starts", "remove_file", "resolve", "resolver", "sizes_below", "split_query",
    "unsigned", "version_of", "without_secrets", "write_bytes", "write_file",
    "write_text",
]  # fmt: skip
