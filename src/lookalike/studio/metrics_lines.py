"""Records of metrics.jsonl; of a long file only those that a page shows are parsed."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lookalike.run import of_one_list, read_lines

_MOST_POINTS = 1000
_CURVES = ("loss", "recall_at_1", "map_at_r")
_LAST_LINES = 3  # of which one may be broken
_TRAINED = ("step", "images_per_second"), ("loss", "lr", "waiting", "skipped")
_SCORED = ("step", "recall_at_1"), ("map_at_r",)


def curve_points(file: Path) -> dict[str, list[list[Any]]]:
    """Steps and values of each curve, thinned out."""
    found = {}
    for key, lines in _lines_with(file, dict.fromkeys(_CURVES)).items():
        stride = -(-len(lines) // _MOST_POINTS) or 1
        records = list(read_lines([*lines[:-1:stride], *lines[-1:]], str(file)))
        points = [
            (record["step"], record[key])
            for record in (records if key == "loss" else of_one_list(records))
            if isinstance(record.get(key), float | int) and "step" in record
        ]
        found[key] = [[step for step, _ in points], [value for _, value in points]]
    return found


def last_and_scores(file: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The last records of training, and all scores on the last validation list."""
    lines = _lines_with(file, {"images_per_second": _LAST_LINES, "recall_at_1": None})
    trained, scored = (list(read_lines(each, str(file))) for each in lines.values())
    scores = [one for one in scored if "map_at_r" in one and _is_sound(one, *_SCORED)]
    return [one for one in trained if _is_sound(one, *_TRAINED)], of_one_list(scores)


def _lines_with(file: Path, most: Mapping[str, int | None]) -> dict[str, list[str]]:
    """The lines in which each key stands, or the last ones, not parsed yet."""
    found = {key: deque[str](maxlen=count) for key, count in most.items()}
    if file.is_file():
        with file.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                for key, lines in found.items():
                    if f'"{key}"' in line:
                        lines.append(line)
    return {key: list(lines) for key, lines in found.items()}


def _is_sound(record: dict[str, Any], needed: Sequence[str], others: Sequence[str]) -> bool:
    """True if the values are numbers; `others` may be missing."""
    return all(isinstance(record.get(key), int | float) for key in needed) and all(
        isinstance(record.get(key), int | float | None) for key in others
    )
