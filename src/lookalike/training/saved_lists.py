"""Lists that the request of a run names: errors of those that are not found."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from lookalike import storage
from lookalike.config.config import Config
from lookalike.errors import CredentialsError, RunError, StorageError, UnavailableError


@contextmanager
def lists_named_by(run: str, config: Config, *, instead: str) -> Iterator[None]:
    """Say in errors of a block that reads the lists of `config` that `run` names them.

    Args:
        run: the run, for messages.
        config: its settings.
        instead: the flag that takes another list.

    Raises:
        StorageError: a list cannot be read; where it is a relative path, with the folder in which
            it would be.
    """
    try:
        yield
    except (CredentialsError, UnavailableError):
        raise
    except (StorageError, RunError) as error:  # a RunError is that of another worker
        fix = f"{run} names it; give {instead} LIST"
        if _has_relative_paths(config):
            fix = (
                f"{run} names it, relative to the folder where it was trained: run this there, or "
                f"give {instead} LIST"
            )
        raise StorageError(f"{error}; {fix}") from None


def _has_relative_paths(config: Config) -> bool:
    data = config.data
    lists = [[each] if isinstance(each, str) else each or [] for each in (data.train, data.val)]
    files = [name for name in (data.classes, data.hierarchy, data.weights) if isinstance(name, str)]
    return any(
        not storage.is_remote(place) and not os.path.isabs(storage.local_path(place))
        for place in (*lists[0], *lists[1], *files)
    )
