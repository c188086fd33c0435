"""State, curves and facts of the runs below the roots, read from their files.

A run is read the same whether the studio or a command line has started it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lookalike import storage
from lookalike.config.config import Config, keys
from lookalike.errors import ConfigError, RunError
from lookalike.run import (
    CONFIG,
    METRICS,
    RESOLVED,
    STEPS_TO_DO,
    Run,
    ended_well,
    kept_score,
)
from lookalike.storage.file_lock import is_held
from lookalike.studio.component_form import values_of
from lookalike.studio.form_request import read_form
from lookalike.studio.metrics_lines import curve_points, last_and_scores
from lookalike.studio.roots import Roots
from lookalike.studio.run_processes import TRAIN, RunProcesses, StudioProcess, tail
from lookalike.workflow.run_workflow import FOLDER as WORKFLOW_STATES

STARTING, TRAINING, FINISHED, STOPPED, FAILED = (
    "starting", "training", "finished", "stopped", "failed",
)  # fmt: skip

MOST_LISTED = 100
"""Runs on a page of all runs."""

_PROGRESS = re.compile(r"training: ([\d,]+) of ([\d,]+) steps, (?:.*?, )?(.+?) left", re.M)
_MEMORY = re.compile(r"peak memory of [^:]*: ([^\n]+)")
_WARNING = re.compile(r"^\S+ \S+ (?:WARNING|ERROR) (.*)$", re.M)
_ERROR = re.compile(r"^error:\s*(.+)", re.M | re.S)
_INTERRUPTED = re.compile(r"^error: stopped", re.M)


@dataclass
class WatchedRun:
    """A run at one moment.

    Attributes:
        best: scores of its model; None without a validation list.
        workflow: name of the file whose node it is; "" for none. The workflow resumes it.
    """

    name: str
    path: Path
    state: str
    changed: float
    step: int = 0
    steps: int = 0
    left: str = ""
    best: dict[str, Any] | None = None
    facts: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    log: str = ""
    can_stop: bool = False
    can_resume: bool = False
    workflow: str = ""
    has_report: bool = False
    has_model: bool = False

    @property
    def is_live(self) -> bool:
        """True while its process runs."""
        return self.state in (STARTING, TRAINING)

    @property
    def part(self) -> float:
        """Of the steps that are done, from 0 to 1."""
        if self.state == FINISHED:
            return 1.0
        return min(1.0, self.step / self.steps) if self.steps else 0.0

    @property
    def time(self) -> str:
        """Its last change."""
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(self.changed))


class WatchedRuns:
    """The runs below the roots."""

    def __init__(self, roots: Roots, processes: RunProcesses) -> None:
        self.roots, self.processes = roots, processes
        self._read_before: dict[Path, tuple[Hashable, WatchedRun]] = {}  # those that have ended

    def places(self) -> dict[Path, StudioProcess | None]:
        """The directory of each run, the newest first, with the process that the studio started."""
        started = {process.subject: process for process in reversed(self.processes.all())}
        found: dict[Path, StudioProcess | None] = {}
        for folder in self.roots.walk():
            for path in (folder, *_of_workflows(folder)):
                if _is_run(path):
                    found[path] = started.get(str(path))
        for place, process in started.items():
            if not storage.is_remote(place) and self.roots.contains(path := Path(place)):
                found[path] = process
        for path in self._read_before.keys() - found.keys():
            self._read_before.pop(path, None)
        changed = {path: _changed(path, process) for path, process in found.items()}
        return dict(sorted(found.items(), key=lambda item: (-changed[item[0]], item[0])))

    def named(self, part: str = "") -> dict[str, Path]:
        """The directories of all runs, or of those with a part in their name, by name."""
        names = {self.roots.name(path): path for path in self.places()}
        return {name: path for name, path in names.items() if part.lower() in name.lower()}

    def newest(self, part: str = "", start: int = 0) -> tuple[list[WatchedRun], int]:
        """`MOST_LISTED` runs with a part in their name, from a place on, and how many there are."""
        places = self.places()
        kept = [path for path in places if part.lower() in self.roots.name(path).lower()]
        found = []
        for path in kept[start : start + MOST_LISTED]:
            try:
                found.append(self._read(path, places[path]))
            except FileNotFoundError:
                continue  # removed meanwhile
            except OSError as error:
                said = [f"its files cannot be read: {(error.strerror or '').lower()}"]
                found.append(WatchedRun(self.roots.name(path), path, FAILED, 0, warnings=said))
        return found, len(kept)

    def one(self, name: str) -> WatchedRun:
        """The run of a name.

        Raises:
            ConfigError: the name leads out of the roots, or there is no run.
            RunError: its files cannot be read.
        """
        path = self.roots.resolve(name)
        process = self.processes.newest(TRAIN, str(path))
        if process is None and not _is_run(path):
            raise ConfigError(f"{name[:120]!r}: no run here")
        try:
            return self._read(path, process)
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise RunError(f"{name[:120]!r}: its files cannot be read: {reason}") from None

    def settings(self, run: WatchedRun, *, asked: bool = False) -> Config:
        """Settings of a run, all or those that were asked for.

        Raises:
            ConfigError: they are missing or broken.
        """
        for file in (CONFIG,) if asked else (RESOLVED, CONFIG):
            path = self.roots.resolve(str(run.path / file))
            if path.is_file():
                return Config.load(file, content=path.read_bytes())
        raise ConfigError(f"{run.name}: has no {CONFIG} yet")

    def permitted(self, run: WatchedRun, section: str = "") -> Config:
        """The settings that were asked for, or those of one section, with absolute paths.

        Raises:
            ConfigError: they are missing, or a path does not lie below the roots.
        """
        asked = self.settings(run, asked=True)
        saved = {key: asked.get(key) for key in asked.asked() if key.startswith(section)}
        found = read_form({**values_of(saved), "run.output": str(run.path)}, self.roots)
        if found.config is None:
            raise ConfigError("\n".join(found.errors.values()))
        return found.config

    def differing(self, runs: Sequence[WatchedRun]) -> list[tuple[str, list[str]]]:
        """Settings in which runs differ, with the text of each; without secrets."""
        rows = []
        found = [self.settings(run) for run in runs]
        for key in keys():
            texts = [_text(config.get(key)) for config in found]
            if len(set(texts)) > 1:
                rows.append((key, texts))
        return rows

    def curves(self, run: WatchedRun) -> dict[str, Any]:
        """Points of the curves: `{"name", "loss": [[step], [value]], ...}`, thinned out."""
        found: dict[str, Any] = {"name": run.name, "live": run.is_live}
        return found | curve_points(self._file(run, METRICS))

    def _workflow(self, path: Path) -> str:
        """The name of the workflow in whose states a run lies; "" for none."""
        if len(path.parts) < 6 or path.parts[-5] != WORKFLOW_STATES:
            return ""
        places = [path.parents[4] / f"{path.parts[-4]}{suffix}" for suffix in (".yaml", ".yml")]
        return next((self.roots.name(place) for place in places if place.is_file()), "")

    def _file(self, run: WatchedRun, name: str) -> Path:
        return self.roots.resolve(str(run.path / name))

    def _read(self, path: Path, process: StudioProcess | None) -> WatchedRun:
        run = Run(path)
        alive = process is not None and process.is_alive()
        # A log of an earlier attempt is not of a process that is only starting.
        begun = alive or is_held(run.lock_file)
        state = None if begun else _state_of_files(run, process)
        before = self._read_before.get(path)
        if state is not None and before is not None and before[0] == state:
            return before[1]
        found = self._read_anew(run, process, alive, begun)
        if state is not None:
            self._read_before[path] = state, found
        return found

    def _read_anew(
        self, run: Run, process: StudioProcess | None, alive: bool, begun: bool
    ) -> WatchedRun:
        path = run.path
        found = WatchedRun(self.roots.name(path), path, STOPPED, _changed(path, process))
        log_text = tail(self._file(found, "log.txt"), 64 * 1024)
        printed = process.output() if process is not None else ""
        trained, scores = last_and_scores(self._file(found, METRICS))
        if begun:
            found.state = TRAINING if run.exists() else STARTING
        elif ended_well(log_text):
            found.state = FINISHED
        elif not run.exists() or (_ERROR.search(printed) and not _INTERRUPTED.search(printed)):
            found.state = FAILED
        _fill_progress(found, log_text, trained)
        found.best = None if (best := kept_score(scores)) is None else dict(best)
        found.can_stop = alive
        found.workflow = self._workflow(path)
        found.can_resume = (
            not begun and found.state != FINISHED and run.began() and not found.workflow
        )
        found.has_report = run.report.is_file()
        found.has_model = has_model(path)
        found.log = "\n".join((log_text if run.exists() else printed).splitlines()[-200:])
        found.warnings = list(dict.fromkeys(_WARNING.findall(log_text)))[-20:]
        if not begun and (error := _error_of(printed)) and found.state == FAILED:
            found.warnings.append(error)
        return found


def _changed(path: Path, process: StudioProcess | None) -> float:
    """Time of the last change of a run, or of its start, in seconds since 1970."""
    run = Run(path)
    times = [0.0 if process is None else process.began]
    for file in (run.metrics, run.log, run.config):
        with suppress(OSError):
            times.append(file.stat().st_mtime)
    return max(times)


def _state_of_files(run: Run, process: StudioProcess | None) -> Hashable:
    """Changes whenever a run that has ended is to be read again."""
    files = [run.metrics, run.log, run.config, run.report, run.checkpoints]
    files += [run.model / "config.json"]
    files += [process.folder / "output.txt"] if process is not None else []
    return (process, *map(_version, files))


def _version(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_mtime_ns, status.st_size


def _fill_progress(found: WatchedRun, log_text: str, trained: list[dict[str, Any]]) -> None:
    begins = list(STEPS_TO_DO.finditer(log_text))
    attempt = log_text[begins[-1].start() :] if begins else log_text  # the last one
    if progress := _PROGRESS.findall(attempt):
        done, steps, found.left = progress[-1]
        found.step, found.steps = _number(done), _number(steps)
    elif begins:
        found.steps = _number(begins[-1][1])
    if trained:
        last = trained[-1]
        found.step = max(found.step, int(last["step"]))
        if found.steps:  # the log of an older resumed run has only the steps that were left
            found.steps = max(found.steps, found.step)
        found.facts += [
            ("epoch", str(last.get("epoch", ""))),
            ("loss", f"{last['loss']:.4g}" if last.get("loss") is not None else "–"),
            ("images a second", f"{last['images_per_second']:,.1f}"),
            ("waiting for images", f"{100 * (last.get('waiting') or 0):.1f} %"),
            ("learning rate", f"{last.get('lr') or 0:.3g}"),
        ]
        if last.get("skipped"):
            found.facts.append(("steps left out", f"{last['skipped']:,}"))
    if memory := _MEMORY.findall(log_text):
        found.facts.append(("peak memory", memory[-1]))
    if batch := re.findall(r"on each of (\d+) workers?", log_text):
        found.facts.append(("workers", batch[-1]))
    if not found.is_live:
        found.left = ""


def _error_of(printed: str) -> str:
    found = _ERROR.search(printed)
    return found[1].strip() if found else printed.strip().rpartition("\n")[2]


def _of_workflows(folder: Path) -> list[Path]:
    """Folders of runs that are nodes of the workflows in a folder; links are not followed."""
    states = folder / WORKFLOW_STATES
    if states.is_symlink() or not states.is_dir():
        return []
    return [path for path in states.glob("*/*/[0-9]*/run") if Path(os.path.realpath(path)) == path]


def _is_run(path: Path) -> bool:
    """True if a folder holds a run of ours, not another program's config.yaml."""
    return (path / CONFIG).is_file() and (path / "checkpoints").is_dir()


def has_model(path: Path) -> bool:
    """True if a run has written its model."""
    return (Run(path).model / "config.json").is_file()


def _number(text: str) -> int:
    return int(text.replace(",", ""))


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list | tuple):
        return ", ".join(storage.public(str(part)) for part in value) or "–"
    return f"{value:g}" if isinstance(value, float) else storage.public(str(value))
