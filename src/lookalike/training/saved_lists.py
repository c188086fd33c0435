"""Lists and files that the request of a run names: errors of those that are not found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lookalike import storage
from lookalike.config.config import Config
from lookalike.config.setting_paths import INPUTS, is_relative, paths_of
from lookalike.errors import (
    CredentialsError,
    LookalikeError,
    RunError,
    StorageError,
    UnavailableError,
)
from lookalike.training.remote_run import saved_config


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


_FILES = tuple(key for key in INPUTS if not key.startswith("data."))
_OF_LISTS = tuple(key for key in INPUTS if key.startswith("data."))


@contextmanager
def files_named_by(config: Config, resume: bool) -> Iterator[None]:
    """Say in errors about a relative path of `config` that the run to resume names it.

    Of the recipe, and of those files that training starts from; see `lists_named_by` for lists.
    """
    output = config.run.output
    before = saved_config(str(output), asked=True) if resume and output is not None else None
    try:
        yield
    except LookalikeError as error:
        for key in _FILES:
            place = config.get(key)
            if before is None or not isinstance(place, str) or place != before.get(key):
                continue
            [path] = paths_of(key, place) or [""]
            if path and path in str(error) and is_relative(path) and not storage.exists(path):
                fix = f"run this there, or give {key}=PLACE"
                named = f"{storage.public(str(output))} names it in {key}"
                error.args = (
                    f"{error}; {named}, relative to the folder where it was trained: {fix}",
                )
        raise


def _has_relative_paths(config: Config) -> bool:
    return any(is_relative(path) for key in _OF_LISTS for path in paths_of(key, config.get(key)))
