"""Log lines and progress bars, on stderr: stdout carries the answer of a command only.

Lines go through the standard logger `lookalike`, to which `start` adds a console handler.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task
from rich.text import Text

from lookalike.errors import ConsoleError, reason_of

logger = logging.getLogger("lookalike")

_LINE_SECONDS = 10.0
_SHORTEST_BAR, _LONGEST_BAR = 8, 40  # characters

_console_optional = False
_disconnected: set[str] = set()  # streams that cannot be written to, and were reported


def start(level: int = logging.INFO, *, console_optional: bool = False) -> None:
    """Log to the console, unless the application set up its own logging.

    Args:
        level: ERROR on all workers but the main one.
        console_optional: continue after the console was closed or is full.
    """
    global _console_optional
    _console_optional = console_optional
    _disconnected.clear()
    logger.setLevel(level)
    if not logger.handlers and not logging.getLogger().handlers:
        handler = _ConsoleHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)


@contextmanager
def also_to_file(path: Path) -> Iterator[None]:
    """Append log lines to a file too, with their times."""
    handler = _FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


class ConsoleStream:
    """Standard output or standard error that takes every text, with escapes where needed.

    Once it cannot be written to, a program with an optional console continues without it, and any
    other ends.
    """

    def __init__(self, name: str, stream: TextIO | None = None) -> None:
        """Wrap the current `sys.stdout` or `sys.stderr`, by name, or `stream`."""
        self._name, self._given = name, stream

    @property
    def _stream(self) -> TextIO:
        return self._given or getattr(sys, self._name) or _null_stream()

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._stream, attribute)

    def write(self, text: str) -> int:
        """Write a text.

        Raises:
            ConsoleError: it cannot be written, and the console is not optional.
        """
        if not isinstance(text, str):  # typer probes with b"" and ""
            raise TypeError(f"a text, and not {type(text).__name__}")
        if not text:
            return 0
        stream = self._stream
        encoding = getattr(stream, "encoding", None) or "utf-8"
        try:
            return stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:
            self._disconnect(stream, error)
            return len(text)

    def flush(self) -> None:
        """Flush the stream.

        Raises:
            ConsoleError: it cannot be written, and the console is not optional.
        """
        stream = self._stream
        try:
            stream.flush()
        except OSError as error:
            self._disconnect(stream, error)

    def _disconnect(self, stream: TextIO, error: OSError) -> None:
        kind = {"stdout": "output", "stderr": "error"}[self._name]
        failure = ConsoleError(f"standard {kind}", error)
        # Nothing later may fail for it, such as the last flush of Python. The stream of an
        # application that called us is its own, unless it is closed.
        if self._given is not None or failure.is_closed:
            with suppress(OSError):  # it has no descriptor
                os.dup2(_null_stream().fileno(), stream.fileno())
        if not _console_optional:
            raise failure from None
        if self._name not in _disconnected:
            _disconnected.add(self._name)
            logger.warning("%s; the run continues, and logs to its log.txt", failure)


@cache
def _null_stream() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # as long as the process


def is_terminal() -> bool:
    """True if stderr is a terminal."""
    return bool(ConsoleStream("stderr").isatty())


class Bar:
    """Context manager for progress: a bar on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, what: str, total: int, done: int = 0, *, unit: str, quiet: bool = False):
        """Describe the task: its name, steps in all and done before, and their unit in plural."""
        self.what, self.total, self.done, self.unit = what, total, done, unit
        self.quiet = quiet
        self.rate = self.note = ""
        self._begun_at = done
        self._progress: Progress | None = None
        self._start = self._last_line = time.monotonic()

    def __enter__(self) -> Bar:
        self._start = self._last_line = time.monotonic()
        if not self.quiet and is_terminal():
            self._progress = Progress(_Line(self), console=_console(), transient=True)
            self._progress.add_task("", total=None)
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def advance(self, count: int = 1, note: str = "", rate: str = "") -> None:
        """Count steps; `note` is shown (the loss), and `rate` in place of steps a second."""
        self.done += count
        self.note = note
        now = time.monotonic()
        per_second = (self.done - self._begun_at) / max(now - self._start, 1e-9)
        self.rate = rate or f"{per_second:,.{0 if per_second >= 10 else 1}f} {self.unit}/s"
        if self.quiet or self._progress is not None or now - self._last_line < _LINE_SECONDS:
            return
        self._last_line = now
        words = [
            f"{self.done:,} of {self.total:,} {self.unit}",
            duration(now - self._start),
            f"{duration(self._left(now))} left" if per_second else "",
            self.rate,
            note,
        ]
        logger.info("%s: %s", self.what, ", ".join(filter(None, words)))

    def _left(self, now: float) -> float:
        """Seconds to the end at the mean rate so far; NaN before the first step."""
        made = self.done - self._begun_at
        return (self.total - self.done) * (now - self._start) / made if made else math.nan

    def line(self, width: int, *, ascii_only: bool = False) -> str:
        """Progress in at most `width` characters, nothing cut: by importance count, elapsed and
        remaining time, rate, note, name, and a bar in the room that is left.
        """
        now = time.monotonic()
        times = [clock(now - self._start), f"{clock(self._left(now))} left"]
        essential = [f"{self.done:,}/{self.total:,}", *times, self.rate]
        gap = "  "
        if len(gap.join(essential)) > width:
            short = f"{self.rate.split()[0]}/s" if self.rate else ""
            essential, gap = [f"{self.done}/{self.total}", *times, short.replace(",", "")], " "
        wanted = [*zip(range(2, 6), essential, strict=True)]
        wanted += [(6, self.note), (6, self.note.partition(",")[0]), (0, self.what)]
        parts: dict[int, str] = {}  # by place in the line
        room = width + len(gap)
        for place, text in wanted:
            if text and place not in parts and len(text) + len(gap) <= room:
                room -= len(text) + len(gap)
                parts[place] = text
        if room >= _SHORTEST_BAR + len(gap):
            full, empty = ("#", "-") if ascii_only else ("\u2501", "\u2500")
            length = min(room - len(gap), _LONGEST_BAR)
            filled = length * self.done // max(self.total, 1)
            parts[1] = full * filled + empty * (length - filled)
        return gap.join(parts[place] for place in sorted(parts))


class _Line(ProgressColumn):
    """A bar's line in the present width of the terminal."""

    def __init__(self, bar: Bar) -> None:
        super().__init__()
        self._bar = bar

    def render(self, task: Task) -> Text:
        console = _console()
        line = self._bar.line(console.width - 1, ascii_only=console.options.ascii_only)
        return Text(line, no_wrap=True, overflow="crop")


def clock(seconds: float) -> str:
    """`0:12`, `59:03`, `23h05m` or `4d07h`; `-:--` for an unknown time."""
    if not math.isfinite(seconds):
        return "-:--"
    whole = max(0, round(seconds))
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    if whole < 100 * 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun, `1 class`, `1,200 classes`; the plural has an s by default."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def duration(seconds: float) -> str:
    """`3 h 05 min`, `4 min 10 s` or `12 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    if whole >= 60:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole} s"


class _ConsoleHandler(logging.Handler):
    """Log lines through rich, which keeps them apart from a live progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if not is_terminal():
            stream: Any = ConsoleStream("stderr")
            print(text, file=stream, flush=True)  # this is the console
            return
        style = "yellow" if record.levelno >= logging.WARNING else ""
        _console().print(text, style=style, markup=False, highlight=False, soft_wrap=True)


class _FileHandler(logging.FileHandler):
    """Log lines in a file of a run, which continues when the disk is full."""

    _refused = False

    def close(self) -> None:
        with suppress(OSError):  # reported already
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # logging's name
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._refused:
            self._refused = True
            reason = reason_of(error)
            logger.warning("%s: cannot be written: %s", self.baseFilename, reason)


@cache
def _console() -> Console:
    stream: Any = ConsoleStream("stderr")
    return Console(file=stream)
