"""Checks of places to write to, before the work whose results go there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from lookalike.errors import ConfigError, StorageError, reason_of
from lookalike.storage.client_registry import check_writable, client_of
from lookalike.storage.retry import refusal, retrying
from lookalike.storage.uri import Place, canonicalizer, is_remote, path_of, public
from lookalike.storage.write import no_such_bucket


def check_output_file(place: Place) -> None:
    """Refuse a place that no file can be written to; what is there may be replaced.

    Raises:
        StorageError: it is a folder or a device, its folder may not be written to or cannot be
            made, or its storage is read-only, has no such bucket, or does not answer.
    """
    if _checked_remote(str(place)):
        return
    path = path_of(place)
    if path.is_dir():
        raise StorageError(f"{place}: is a folder, where a file is to be written; name the file")
    if path.exists() and not path.is_file():
        raise StorageError(f"{place}: is no regular file; give another name")
    _check_folder(path.parent, place)


def check_output_folder(place: Place) -> None:
    """Refuse a place that no folder of results can be written to.

    Raises:
        StorageError: it is a file, or as in `check_output_file`.
    """
    if _checked_remote(str(place)):
        return
    path = path_of(place)
    if path.exists() and not path.is_dir():
        raise StorageError(f"{place}: is a file, where a folder is needed; choose another --output")
    _check_folder(path, place)


def check_distinct(outputs: Iterable[Place], inputs: Iterable[Place | None] = ()) -> None:
    """Refuse to write a file over an input, or over another output, however they are spelled.

    Args:
        outputs: files that the command will write.
        inputs: files or folders that it reads; None stands for none.

    Raises:
        ConfigError: two of them are the same place.
    """
    place_of = canonicalizer()
    read = {place_of(str(place)) for place in inputs if place is not None}
    written = set()
    for output in map(str, outputs):
        place = place_of(output)
        if place in read:
            raise replaced_input(output)
        if place in written:
            raise ConfigError(
                f"{public(output)}: is the place of two results, of which one would replace the "
                "other; choose another place for one of them"
            )
        written.add(place)


def replaced_input(output: str) -> ConfigError:
    """The error of writing a file over an input."""
    return ConfigError(
        f"{public(output)}: is an input of this command, which its results would replace; choose "
        "another place for them"
    )


def _checked_remote(place: str) -> bool:
    """True for a place elsewhere, which is refused where nothing can be written or asked for."""
    if not is_remote(place):
        return False
    check_writable(place)

    def ask() -> None:
        """The storage answers, and takes the credentials; these may be for writing alone."""
        try:
            client_of(place).check_bucket(place)
        except FileNotFoundError:
            raise no_such_bucket(place) from None
        except PermissionError as error:
            if refusal(error):
                raise

    retrying(ask, place, 2)
    return True


def _check_folder(folder: Path, place: Place) -> None:
    """Write to a folder, or to the one above it that is there; nothing of it stays."""
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    shown = public(str(place))
    if not there.is_dir():
        raise StorageError(f"{shown}: cannot be written: {there} is a file, not a folder")
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise StorageError(
            f"{shown}: cannot be written: {there}: {reason_of(error, str(error))}"
        ) from None
