"""What people see while the program works: lines, and a progress bar on a terminal.

Lines go through the standard logger `lookalike`; `start` gives it a console when nobody else
has. Only the main worker speaks.

Information goes to stdout in a training, whose lines are all that it prints, and to stderr in the
commands that print an answer (`keep_stdout`); warnings go to stderr everywhere.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lookalike.errors import ConsoleError

logger = logging.getLogger("lookalike")

_LINE_SECONDS = 10.0

_stdout_is_kept = False


_outlives_console = False


def start(level: int = logging.INFO, *, outlives_console: bool = False) -> None:
    """Send the program's lines to the console, unless the application set up its own logging.

    Args:
        level: the least that is said: ERROR on all workers but the main one.
        outlives_console: go on without a console that was closed or is full.
    """
    global _outlives_console
    _outlives_console = outlives_console
    logger.setLevel(level)
    if not logger.handlers and not logging.getLogger().handlers:
        handler = _ConsoleHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)


@contextmanager
def also_to(path: Path) -> Iterator[None]:
    """Append the program's lines to a file as well, with their times."""
    handler = _FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


def keep_stdout(kept: bool) -> None:
    """Whether stdout carries the answer of a command only: then lines and bars go to stderr."""
    global _stdout_is_kept
    _stdout_is_kept = kept


class Outlet:
    """Standard output or standard error, with every text that a program may say.

    What it cannot encode is written as an escape. When it cannot be written to any more, a program
    that outlives its console goes on without, and any other ends.
    """

    def __init__(self, name: str, stream: TextIO | None = None) -> None:
        """Wrap `sys.stdout` or `sys.stderr`, by name: as it is now, or `stream`."""
        self._name, self._given = name, stream

    @property
    def _stream(self) -> TextIO:
        return self._given or getattr(sys, self._name) or _nowhere()

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._stream, attribute)

    def write(self, text: str) -> int:
        """Write a text.

        Raises:
            ConsoleError: it cannot be written, and the program does not outlive that.
        """
        if not isinstance(text, str):  # typer asks with b"" and "" what kind of stream this is
            raise TypeError(f"a text, and not {type(text).__name__}")
        if not text:
            return 0
        stream = self._stream
        encoding = getattr(stream, "encoding", None) or "utf-8"
        try:
            return stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:
            self._lose(stream, error)
            return len(text)

    def flush(self) -> None:
        """Write what waits.

        Raises:
            ConsoleError: it cannot be written, and the program does not outlive that.
        """
        stream = self._stream
        try:
            stream.flush()
        except OSError as error:
            self._lose(stream, error)

    def _lose(self, stream: TextIO, error: OSError) -> None:
        kind = {"stdout": "output", "stderr": "error"}[self._name]
        failure = ConsoleError(f"standard {kind}", error)
        # Nothing later may fail for it: not the end of Python, which writes what waits. A stream
        # of an application that called us is its own, unless nobody can read it any more.
        if self._given is not None or failure.is_closed:
            with suppress(OSError):  # it has no descriptor
                os.dup2(_nowhere().fileno(), stream.fileno())
        if not _outlives_console:
            raise failure from None
        if self._name not in _lost:
            _lost.add(self._name)
            logger.warning("%s; the run goes on, and its lines are in its log.txt", failure)


_lost: set[str] = set()


@cache
def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # as long as the process


def _stream() -> Outlet:
    return Outlet("stderr" if _stdout_is_kept else "stdout")


def is_terminal() -> bool:
    """Whether a person may be watching."""
    return bool(_stream().isatty())


class Bar:
    """A task's progress: a bar on a terminal, a line every ten seconds elsewhere.

    Use as a context manager; `advance` is cheap enough for every step.
    """

    def __init__(self, what: str, total: int, done: int = 0, *, unit: str, quiet: bool = False):
        """Describe the task.

        Args:
            what: its name.
            total: how many steps it has.
            done: how many were done before (a resumed run).
            unit: what is counted, in plural.
            quiet: show nothing (workers other than the main one).
        """
        self.what, self.total, self.done, self.unit = what, total, done, unit
        self.quiet = quiet
        self._begun_at = done
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._start = self._last_line = time.monotonic()

    def __enter__(self) -> Bar:
        self._start = self._last_line = time.monotonic()
        if not self.quiet and is_terminal():
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=_console(),
                transient=True,
            )
            self._task = self._progress.add_task(
                self.what, total=self.total, completed=self.done, note=""
            )
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more steps; `note` says how it goes (rate, loss)."""
        self.done += count
        if self.quiet:
            return
        if self._progress is not None:
            self._progress.update(self._task, completed=self.done, note=note)
            return
        now = time.monotonic()
        if now - self._last_line >= _LINE_SECONDS:
            self._last_line = now
            rate = (self.done - self._begun_at) / (now - self._start)
            left = duration((self.total - self.done) / rate) if rate else "?"
            logger.info(
                "%s: %d of %d %s, %s left%s",
                self.what, self.done, self.total, self.unit, left, f", {note}" if note else "",
            )  # fmt: skip


def duration(seconds: float) -> str:
    """`3 h 05 min`, `4 min 10 s` or `12 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    if whole >= 60:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole} s"


class _ConsoleHandler(logging.Handler):
    """Lines through rich, which keeps them apart from a live progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        warning = record.levelno >= logging.WARNING
        if not is_terminal():
            stream: Any = Outlet("stderr") if warning else _stream()
            print(text, file=stream, flush=True)  # this is the console
            return
        style = "yellow" if warning else ""
        _console().print(text, style=style, markup=False, highlight=False, soft_wrap=True)


class _FileHandler(logging.FileHandler):
    """Lines into a file of a run, which goes on where the disk refuses them."""

    _refused = False

    def handleError(self, record: logging.LogRecord) -> None:  # logging's name
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._refused:
            self._refused = True
            reason = (error.strerror or "").lower()
            logger.warning("%s: cannot be written: %s", self.baseFilename, reason)


_consoles: dict[bool, Console] = {}


def _console() -> Console:
    if _stdout_is_kept not in _consoles:
        stream: Any = _stream()
        _consoles[_stdout_is_kept] = Console(file=stream)
    return _consoles[_stdout_is_kept]
