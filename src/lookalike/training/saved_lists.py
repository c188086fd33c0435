"""Lists and files that the request of a run names: errors of those that are not found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lookalike import storage
from lookalike.config.config import Config
from lookalike.config.setting_paths import INPUTS, is_relative, paths_of
from lookalike.data.readers.path_patterns import is_there
from lookalike.errors import (
    CredentialsError,
    LookalikeError,
    RunError,
    StorageError,
    UnavailableError,
)
from lookalike.storage import Place
from lookalike.training.remote_run import saved_config
from lookalike.training.setting_folders import folders_of


@contextmanager
def lists_named_by(
    run: Place, config: Config, *, instead: str, name: str | None = None
) -> Iterator[None]:
    """Say in errors of a block that reads the lists of `config` that `run` names them.

    Args:
        run: the run.
        config: its settings.
        instead: the flag that takes another list.
        name: the run in messages, if another than `run`.

    Raises:
        StorageError: a list cannot be read; where it is a relative path, with the folder in which
            it would be.
    """
    try:
        yield
    except (CredentialsError, UnavailableError):
        raise
    except (StorageError, RunError) as error:  # a RunError is that of another worker
        named = f"{name or storage.public(str(run))} names it"
        missing = [key for key in _OF_LISTS if _is_missing(key, config)]
        where = _where(run, missing[0]) if missing else "; "
        raise StorageError(f"{error}; {named}{where}give {instead} LIST") from None


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
            if path and path in str(error) and _is_missing(key, config):
                named = f"{storage.public(str(output))} names it in {key}"
                error.args = (f"{error}; {named}{_where(str(output), key)}give {key}=PLACE",)
        raise


def _is_missing(key: str, config: Config) -> bool:
    """True if a setting has a relative path that is not found."""
    return any(is_relative(path) and not is_there(path) for path in paths_of(key, config.get(key)))


def _where(run: Place, key: str) -> str:
    """Part of a message: where the relative path of a setting of a run starts, if it is known."""
    try:
        folder = folders_of(run).get(key)
    except StorageError:
        folder = None
    if folder is None:
        return ", relative to the folder where it was trained: run this there, or "
    return f", relative to {folder}, where it is not found any more: "
