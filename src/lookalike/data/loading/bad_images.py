"""The images that cannot be used: which, why, and what is told about them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping

from lookalike.data.record import Record


class BadImages:
    """The rows whose image cannot be read or decoded, each counted once; safe in threads.

    A loader does not try a row again that is in here, so that one that begins with the reasons of
    an earlier part of the run goes on exactly as it would have.
    """

    def __init__(self, reasons: Mapping[int, str] | None = None) -> None:
        self._reasons = dict(reasons or {})
        self._lock = threading.Lock()

    def add(self, row: int, reason: str) -> bool:
        """Note that `row` failed; whether that is news. The first reason is kept."""
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


def describe_bad(record: Record, reason: str) -> str:
    """`train.txt:17: photos/cat.jpg: truncated`: the line that logs and errors show."""
    origin = f"{record.origin}: " if record.line else ""  # without lines it says less than `place`
    return f"{origin}{record.place}: {reason}"
