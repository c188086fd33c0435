"""Images that cannot be read or decoded, and the reasons."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence

from lookalike.data.record import Record
from lookalike.errors import CredentialsError, DataError, UnavailableError
from lookalike.log import counted, logger
from lookalike.storage import is_remote, local_path, public
from lookalike.storage.retry import MISSING

RELATIVE_PATHS = "Relative paths start at the list's folder, or at data.image_root."
"""Hint of a training where every image that failed is missing."""

_NAMED = 20  # images that are left out and named one by one


class BadImages:
    """Rows whose image cannot be read or decoded, each counted once; safe in threads.

    Loaders do not try these rows again: one that begins with the reasons of an earlier part of
    the run yields the same batches as an uninterrupted one.
    """

    def __init__(self, reasons: Mapping[int, str] | None = None) -> None:
        self._reasons = dict(reasons or {})
        self._lock = threading.Lock()

    def add(self, row: int, reason: str) -> bool:
        """Note that `row` failed; False if it is known already. The first reason is kept."""
        with self._lock:
            if row in self._reasons:
                return False
            self._reasons[row] = reason
            return True

    @property
    def reasons(self) -> dict[int, str]:
        """A copy of row -> reason, in order of rows."""
        with self._lock:
            return dict(sorted(self._reasons.items()))

    def among(self, rows: Iterable[int]) -> dict[int, str]:
        """Row -> reason of those of `rows` that failed."""
        return {row: self._reasons[row] for row in rows if row in self._reasons}

    def __contains__(self, row: int) -> bool:
        return row in self._reasons

    def __len__(self) -> int:
        return len(self._reasons)


def image_fault(error: Exception, record: Record) -> str:
    """The reason why an image is bad, without its URI, with which the storage's messages begin.

    With a hint where a file is missing and its path is one of Windows, GBK read as UTF-8, in
    quotes, or begins with `~`.

    Raises:
        CredentialsError, UnavailableError: `error` itself, where it is no fault of this image and
            every other would fail as well.
    """
    if isinstance(error, (CredentialsError, UnavailableError)):
        raise error
    reason = str(error).removeprefix(f"{public(record.uri)}: ")
    if reason == MISSING and "\\" in record.uri and os.sep == "/":
        reason += "; if \\ separates folders in it, as on Windows, write / in the list"
    elif reason == MISSING and _exists_in_gbk(record.uri):
        reason += "; the list is GBK text; save it as UTF-8"
    elif reason == MISSING and record.uri.endswith(('"', "'")):
        reason += "; quotes are a part of a path in a list of `path label`; remove them"
    elif reason == MISSING and _exists_at_home(record.uri):
        reason += "; ~ is not expanded in a list; write the whole path"
    return reason


def _exists_at_home(uri: str) -> bool:
    """True for `lists/~/a.jpg`, where `~/a.jpg` exists."""
    _, tilde, path = uri.partition("/~/")
    return bool(tilde) and not is_remote(uri) and os.path.exists(os.path.expanduser(f"~/{path}"))


def _exists_in_gbk(uri: str) -> bool:
    """True for a file whose name in GBK is by chance UTF-8 too, as that of `图片`."""
    if uri.isascii() or is_remote(uri):
        return False
    try:
        return os.path.exists(local_path(uri.encode().decode("gb18030")))
    except UnicodeError:
        return False


def warn_left_out(records: Sequence[Record], reasons: Mapping[int, str]) -> None:
    """Log the images that cannot be read: the first by name and reason, then how many more."""
    for row, reason in sorted(reasons.items())[:_NAMED]:
        logger.warning("left out: %s", describe_bad(records[row], reason))
    if len(reasons) > _NAMED:
        more = counted(len(reasons) - _NAMED, "more image")
        logger.warning("left out: %s that cannot be read", more)


def none_readable(
    records: Sequence[Record],
    reasons: Mapping[int, str],
    hint: str = "Relative paths start at the list's folder, or at image_root (--image-root)",
) -> DataError:
    """The error where all images are bad.

    Args:
        reasons: those that this worker found, by row.
        hint: where all images are missing that lists name.
    """
    first, last = records[0].source, records[-1].source
    text = f"{first}: none of its" if first == last else "none of the"
    text += f" {len(records):,} images can be read"
    if reasons:
        row = min(reasons)
        described = describe_bad(records[row], reasons[row])
        text = described if len(records) == 1 else f"{text}; the first: {described}"
    if set(reasons.values()) == {MISSING} and all(records[row].line for row in reasons):
        text += f". {hint}"
    return DataError(text)


def describe_bad(record: Record, reason: str) -> str:
    """`train.txt:17: photos/cat.jpg: truncated`, for logs and errors."""
    origin = f"{record.origin}: " if record.line else ""  # without lines it has less than `place`
    return f"{origin}{record.place}: {reason}"
