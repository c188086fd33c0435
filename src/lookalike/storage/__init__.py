"""Bytes from and to anywhere: local paths and any URI that fsspec knows."""

from lookalike.storage.reading import exists, files_below, is_folder, opened, read_bytes
from lookalike.storage.uri import is_remote, join, local_path, public, resolve, resolver

__all__ = [
    "exists", "files_below", "is_folder", "is_remote", "join", "local_path", "opened", "public",
    "read_bytes", "resolve", "resolver",
]  # fmt: skip
