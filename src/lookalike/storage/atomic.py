"""Files and folders of this machine that appear whole: written beside their place, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lookalike.storage.local_files import usual_mode


def partial_path(path: Path) -> Path:
    """The name of an unfinished file or folder."""
    return path.with_name(f".{path.name}.partial")


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # a file system that syncs no folders
            raise
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """A path to write a new `path` at, which replaces it on the disk at the end of the block.

    After an error `path` is as it was before.

    Args:
        path: a file; its folder is made.
        shared: several threads or processes may write it at the same time. Otherwise the partial
            file of a killed writer is overwritten by the next.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    if shared:
        partial = partial.with_suffix(f".{os.getpid()}-{threading.get_ident()}.partial")
    try:
        partial.unlink(missing_ok=True)  # it may be a link
        with usual_mode(partial):
            yield partial
        sync(partial)
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # it could not be made
            partial.unlink()
        raise
    sync(path.parent)


def put_in_place(partial: Path, path: Path) -> None:
    """Give a finished file or folder its name; a folder of that name is removed afterwards."""
    replaced = path.with_name(f".{path.name}.replaced.partial")
    if path.is_dir():
        shutil.rmtree(replaced, ignore_errors=True)
        path.rename(replaced)
    partial.replace(path)
    sync(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)
