"""Issues that `lookalike doctor` finds with a run's model, and the user's corrections of labels.

.lookalike-studio/N/doctor.json         the issues
.lookalike-studio/N/corrections.jsonl   one correction a line, the last one of a row counts
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lookalike import storage
from lookalike.config.config import Config
from lookalike.data.readers.annotation import AnnotationOptions
from lookalike.errors import ConfigError, RunError
from lookalike.inspection.corrected_list import (
    Correction,
    checked_label,
    corrected_suffix,
    write_corrected,
)
from lookalike.run import DOCTOR_JSON, DOCTOR_PAGE
from lookalike.studio.roots import Roots
from lookalike.studio.run_processes import (
    DONE,
    FAILED,
    WORKING,
    RunProcesses,
    StudioProcess,
    WorkState,
    state_of,
)
from lookalike.studio.watched_runs import WatchedRun, WatchedRuns

_COMMAND = "doctor"
_CORRECTIONS = "corrections.jsonl"


@dataclass(frozen=True)
class ListCorrection:
    """A correction of a row of a list; `source` is the list."""

    source: str
    part: str
    correction: Correction


class LabelReview:
    """The checks of runs and the corrections that follow from them."""

    def __init__(self, roots: Roots, processes: RunProcesses, runs: WatchedRuns) -> None:
        self.roots, self.processes, self.runs = roots, processes, runs
        self._writing = threading.Lock()

    def start(self, run: WatchedRun) -> None:
        """Check the lists of a run with its model, in a process of its own.

        Raises:
            ConfigError: a list does not lie below the roots.
            RunError: the run has no model, or its lists are being checked.
        """
        if not run.has_model:
            raise RunError(f"{run.name}: has no model yet")
        self.runs.permitted(run, "data.")
        with self.processes.one_at_a_time():
            if self.state(run).state == WORKING:
                raise RunError(f"{run.name}: its lists are being checked")
            self.processes.launch(
                str(run.path),
                lambda folder: [_COMMAND, "--run", str(run.path), "--output", str(folder)],
            )

    def state(self, run: WatchedRun) -> WorkState:
        """State of the newest check."""
        process = self.processes.newest(_COMMAND, str(run.path))
        found = state_of(process)
        if process is not None and found.state in (DONE, FAILED):
            if (process.folder / DOCTOR_JSON).is_file():
                return WorkState(DONE)
            return WorkState(FAILED, found.text or "it ended early")
        return found

    def issues(self, run: WatchedRun) -> list[dict[str, Any]]:
        """The issues as `doctor.json` has them, the most serious first."""
        file = self._check(run).folder / DOCTOR_JSON
        found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["findings"]
        return found

    def issue(self, run: WatchedRun, kind: str) -> dict[str, Any]:
        """One kind of issue.

        Raises:
            ConfigError: there is none.
        """
        for found in self.issues(run):
            if found["kind"] == kind:
                return found
        raise ConfigError(f"{kind[:40]!r}: no issue of this check")

    def page(self, run: WatchedRun) -> bytes:
        """The page of the check, with all issues."""
        return (self._check(run).folder / DOCTOR_PAGE).read_bytes()

    def corrections(self, run: WatchedRun) -> list[ListCorrection]:
        """The corrections, oldest first."""
        file = self._check(run).folder / _CORRECTIONS
        if not file.is_file():
            return []
        found = map(json.loads, file.read_text(encoding="utf-8").splitlines())
        return [
            ListCorrection(one["source"], one["part"], Correction(**one["correction"]))
            for one in found
        ]

    def correct(
        self, run: WatchedRun, kind: str, group: int, image: int, after: str | None
    ) -> ListCorrection:
        """Note another label for an image of an issue, or None to leave it out.

        Raises:
            DataError: it can be no label.
            ConfigError: there is no such image.
        """
        try:
            if group < 0 or image < 0:
                raise IndexError
            its = self.issue(run, kind)["groups"][group]["images"][image]
        except IndexError:
            raise ConfigError(f"{kind[:40]}: no image {image} in group {group}") from None
        label = None
        if after is not None:
            separator = self.runs.permitted(run, "data.").data.label_separator
            label = checked_label(after, separator)
        made = ListCorrection(
            its["source"], its["list"], Correction(its["line"], its["image"], its["label"], label)
        )
        with self._writing:
            kept = [one for one in self.corrections(run) if _row(one) != _row(made)]
            self._write(run, kept if label == its["label"] else [*kept, made])
        return made

    def undo(self, run: WatchedRun, number: int) -> ListCorrection:
        """Take a correction back, by its place among all.

        Raises:
            ConfigError: there is none.
        """
        with self._writing:
            found = self.corrections(run)
            if not 0 <= number < len(found):
                raise ConfigError(f"no correction {number + 1}")
            gone = found.pop(number)
            self._write(run, found)
        return gone

    def target(self, run: WatchedRun, source: str) -> str:
        """A name for the corrected list that no file has, beside the list or in the first root."""
        config = self.runs.permitted(run, "data.")
        suffix = corrected_suffix(self._absolute(source), config.data.format, _options(config))
        path = self._local(source)
        stem = (path or Path(storage.public(source))).name.removesuffix(".gz")
        stem = stem.removesuffix(Path(stem).suffix) or "list"
        folder = self.roots.folders[0] if path is None else path.parent
        name, number = folder / f"{stem}.corrected{suffix}", 1
        while os.path.lexists(name):
            number += 1
            name = folder / f"{stem}.corrected-{number}{suffix}"
        return self.roots.name(name)

    def save(self, run: WatchedRun, source: str, target: str) -> tuple[str, int, list[str]]:
        """Write a list with its corrections as a new file.

        Returns:
            Its name, the number of its images, and the training lists of the run with it in the
            place of the old one.

        Raises:
            LookalikeError: see `write_corrected`; or a place does not lie below the roots.
        """
        chosen = [one for one in self.corrections(run) if one.source == source]
        corrections = [one.correction for one in chosen]
        if not chosen:
            raise ConfigError(f"{source[:120]!r}: no corrections of this list")
        if self._local(source) is None and not storage.is_remote(source):
            raise ConfigError(f"{source[:120]!r}: not below the roots")
        path = self.roots.resolve(target)
        if not path.parent.is_dir():
            raise RunError(f"{target}: there is no folder {self.roots.name(path.parent)}")
        config = self.runs.permitted(run, "data.")
        options = _options(config, chosen[0].part)
        whole = self._absolute(source)
        count = write_corrected(
            whole,
            [replace(each, image=self._absolute(each.image)) for each in corrections],
            path,
            format=config.data.format, options=options,
        )  # fmt: skip
        train = config.data.train
        lists = [train] if isinstance(train, str) else list(train or ())
        named = [str(path) if storage.public(place) == whole else place for place in lists]
        return self.roots.name(path), count, named

    def _check(self, run: WatchedRun) -> StudioProcess:
        process = self.processes.newest(_COMMAND, str(run.path))
        if process is None or not (process.folder / DOCTOR_JSON).is_file():
            raise RunError(f"{run.name}: its lists have not been checked yet")
        return process

    def _local(self, source: str) -> Path | None:
        """The path of a list below the roots; None for one elsewhere."""
        if storage.is_remote(source) or not self.roots.permits(source):
            return None
        return Path(os.path.realpath(self._absolute(source)))

    def _absolute(self, place: str) -> str:
        """A place as it is from anywhere: the check works in the first root."""
        return place if storage.is_remote(place) else os.path.join(self.roots.folders[0], place)

    def _write(self, run: WatchedRun, corrections: Sequence[ListCorrection]) -> None:
        text = "".join(json.dumps(asdict(one)) + "\n" for one in corrections)
        storage.write_text(self._check(run).folder / _CORRECTIONS, text)


def _options(config: Config, part: str = "") -> AnnotationOptions:
    """Reading options of the lists of a run, or of its training lists."""
    from lookalike.training.request_lists import annotation_options, training_options

    options = annotation_options(config)
    return training_options(config, options) if part == "training" else options


def _row(one: ListCorrection) -> tuple[str, int, str]:
    return one.source, one.correction.line, one.correction.image
