"""Asking again what may have been a bad moment, and saying why it failed in the end."""

import time
from collections.abc import Callable
from typing import TypeVar

from lookalike.errors import LookalikeError, StorageError
from lookalike.storage.uri import is_remote, public

# The operating system's answers that asking again does not change.
_FINAL = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)

T = TypeVar("T")


def retrying(action: Callable[[], T], uri: str, retries: int) -> T:
    """What `action` gives; `retries` more tries, with growing pauses, if it may succeed later.

    Raises:
        StorageError: it failed for good, or too often.
    """
    for attempt in range(retries + 1):
        try:
            return action()
        except LookalikeError:
            raise
        except (*_FINAL, ValueError) as error:  # ValueError: a NUL in a path, a broken URL
            raise StorageError(f"{public(uri)}: {cause(error)}") from None
        except Exception as error:
            # A store's client raises what it likes, not only OSError; on this machine anything
            # else is our own mistake.
            if not isinstance(error, OSError) and not is_remote(uri):
                raise
            if attempt == retries:
                raise StorageError(f"{public(uri)}: {cause(error)}") from None
            time.sleep(0.05 * 4**attempt)
    raise AssertionError("unreachable")


def cause(error: Exception) -> str:
    """Why, without the error's own words, which may quote a URL with its secrets."""
    if isinstance(error, ValueError):
        return "not a path or URL that can be opened"
    return (getattr(error, "strerror", None) or type(error).__name__).lower()
