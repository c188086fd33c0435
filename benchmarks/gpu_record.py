"""Record of the parts of `gpu.py`, written line by line.

A part may be killed at any time: what it wrote until then counts.
"""

from __future__ import annotations

import json
import math
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class NotRunError(Exception):
    """Reason that something cannot be measured here."""


class Record:
    """A file of JSON lines that a part appends to."""

    def __init__(self, path: Path, part: str) -> None:
        self.path, self.part = path, part

    def figure(self, name: str, value: float | str, unit: str, how: str, **more: Any) -> None:
        """One figure: what, how much, in which unit, and how it was measured."""
        self._write({"figure": name, "value": value, "unit": unit, "how": how, **more})

    def not_run(self, name: str, reason: object) -> None:
        """Something that cannot be measured here, and why."""
        self._write({"not_run": name, "reason": str(reason)[:500]})

    def failed(self, name: str, trace: str) -> None:
        self._write({"failure": name, "traceback": trace[-6000:]})

    def event(self, what: str, **more: Any) -> None:
        """`begin` or `end` of the part."""
        self._write({"event": what, **more})

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Note what goes wrong inside the block, and go on behind it."""
        try:
            yield
        except Exception as error:
            # The benchmarks have NotRunErrors of their own.
            if type(error).__name__ == "NotRunError":
                self.not_run(name, error)
            else:
                self.failed(name, traceback.format_exc())
        finally:
            _free()

    def _write(self, line: dict[str, Any]) -> None:
        text = json.dumps({"part": self.part, **line, "at": round(time.time(), 2)}, default=_plain)
        with self.path.open("a") as file:
            file.write(text + "\n")


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)


def _free() -> None:
    """Give back what the block held: the next one may need all of the device."""
    import gc
    import sys

    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def read(path: Path) -> list[dict[str, Any]]:
    """The lines so far; one that is being written is left out."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def collected(lines: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By part: its status, seconds, figures, failures, and what was not run."""
    parts: dict[str, dict[str, Any]] = {}
    for line in lines:
        part = parts.setdefault(
            line.pop("part"),
            {"status": "cut off", "seconds": math.nan, "figures": [], "failures": [],
             "not_run": []},
        )  # fmt: skip
        at = line.pop("at")
        if line.get("event") == "begin":
            part["began"] = at
        elif line.get("event") == "end":
            part["status"] = "failed" if part["failures"] else "done"
        else:
            kind = next(kind for kind in ("figure", "failure", "not_run") if kind in line)
            part[f"{kind}s" if kind != "not_run" else kind].append(line)
        part["seconds"] = round(at - part.get("began", at), 2)
    return parts
