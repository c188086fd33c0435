"""Output directory of a run: its paths, and writing to them.

config.yaml            the request, loadable: only the settings that the user gave
resolved.yaml          every setting as it ran
folders.json           where relative paths among the settings start, by setting
recipe.json            settings that the recipe chose, each with its reason
classes.json           label <-> class
metrics.jsonl          training records and scores, one JSON object a line
bad_images.jsonl       images that could not be read
log.txt                the lines that the console showed
environment.json       versions and devices that it ran with
report.html            scores, curves and images
finished.json          the last step, once the run has come to its end
checkpoints/step-N/    resumable; written under another name, then renamed
checkpoints/latest     name of the newest one
checkpoints/best       name of the best one by the primary retrieval metric
model/                 the embedder alone, and its calibration
start/                 the embedder before training, where the model lies between both
exports/               exported models
loggers.json           ids of the run in experiment trackers
.features/             features of a frozen backbone (train.cache_features); not uploaded
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lookalike import storage
from lookalike.errors import RunError, reason_of
from lookalike.log import logger
from lookalike.storage import Place
from lookalike.storage.file_lock import locked
from lookalike.storage.local_files import writing

CONFIG = "config.yaml"
RESOLVED = "resolved.yaml"
FOLDERS = "folders.json"
DOCTOR_JSON = "doctor.json"
DOCTOR_PAGE = "doctor.html"
REPORT = "report.html"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
RECIPE = "recipe.json"
LOGGERS = "loggers.json"
EXPORTS = "exports"
FINISHED = "finished.json"

STEPS_TO_DO = re.compile(r"([\d,]+) steps? to do")
"""Line of log.txt at the beginning of each attempt."""


class _PathBelow:
    """Path of a file or folder in the output directory; on the class, relative to it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: Run | None, owner: type[Run]) -> Path:
        return Path(self.name) if run is None else run.path / self.name


@dataclass(frozen=True)
class Run:
    """An output directory, which may be given wherever a path is expected.

    Attributes:
        path: the directory, absolute; the other paths are those at the top of this file.
    """

    path: Path

    config = _PathBelow(CONFIG)
    resolved = _PathBelow(RESOLVED)
    folders = _PathBelow(FOLDERS)
    recipe = _PathBelow(RECIPE)
    classes = _PathBelow("classes.json")
    metrics = _PathBelow(METRICS)
    bad_images = _PathBelow("bad_images.jsonl")
    log = _PathBelow("log.txt")
    environment = _PathBelow(ENVIRONMENT)
    report = _PathBelow(REPORT)
    finished = _PathBelow(FINISHED)
    checkpoints = _PathBelow("checkpoints")
    model = _PathBelow("model")
    start = _PathBelow("start")
    calibration = _PathBelow("model/calibration.json")
    tensorboard = _PathBelow("tensorboard")
    features = _PathBelow(".features")
    timing = _PathBelow(".timing")
    lock_file = _PathBelow(".lock")

    def __post_init__(self) -> None:
        # Absolute: the run stays the same when the program changes its working directory.
        object.__setattr__(self, "path", Path(os.path.abspath(self.path)))

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    @classmethod
    def create(cls, output: Place, *, resume: bool = False) -> Run:
        """Create the directory of a new run, or open that of one to resume.

        Raises:
            RunError: it holds a run already and `resume` is False, or it cannot be created.
        """
        if storage.is_remote(str(output)):
            raise RunError(
                f"run.output={storage.public(str(output))}: results are written to a directory of "
                "this machine; give one (a mounted bucket will do)"
            )
        if not str(output):
            raise RunError("run.output is empty; give --output DIR")
        run = cls(storage.path_of(output))
        if run.exists() and not resume:
            raise RunError(
                f"{output} holds a run already; add --resume to resume it, "
                "or choose another --output"
            )
        try:
            if run.path.is_dir() and not run.exists():
                run._check_own(resume)
            run.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{output}: cannot be made: {reason_of(error)}") from None
        return run

    @classmethod
    def open(cls, path: Place) -> Run:
        """Open an existing run.

        Raises:
            RunError: there is none.
        """
        run = cls(storage.path_of(path))
        if not run.exists():
            raise RunError(f"{path}: no run here (config.yaml is missing)")
        return run

    def exists(self) -> bool:
        """True if the directory holds a run."""
        return self.config.exists()

    def began(self) -> bool:
        """True if there is something to resume or keep: a run, or what is left of one."""
        return self.exists() or self.finished.exists() or any(self.checkpoints.glob("step-*"))

    def is_finished(self) -> bool:
        """True after the end of training, which earlier versions noted in log.txt alone."""
        if self.finished.exists() or not self.log.is_file():
            return self.finished.exists()
        return ended_well(self.log.read_text("utf-8", "replace"))

    def _check_own(self, resume: bool) -> None:
        """Check that a directory without a run holds no foreign files.

        Files of an attempt that failed before its first step are allowed, and with `resume` all
        files of a run: on other machines than the main worker's, and where config.yaml was lost.
        """
        ours = {self.log, self.lock_file, self.checkpoints, self.bad_images}
        ours |= {self.resolved, self.folders, self.recipe, self.classes, self.tensorboard}
        ours |= {self.features, self.timing, *self.path.glob("..timing.*partial")}
        beside = (LOGGERS, "wandb", DOCTOR_JSON, DOCTOR_PAGE)  # doctor may run before training
        ours |= {self.path / name for name in beside}
        if resume:
            ours |= {self.metrics, self.environment, self.report, self.model, self.start}
            ours |= {self.finished}
            ours |= {self.path / EXPORTS, *self.path.glob(".*")}
        foreign = sorted(path.name for path in self.path.iterdir() if path not in ours)
        if not resume and any(self.checkpoints.glob("*")):
            foreign.append(self.checkpoints.name)
        if foreign:
            raise RunError(
                f"{self.path} is not empty and holds no run (it has {foreign[0]}); choose another "
                "--output"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the directory against other trainings inside the block.

        Raises:
            RunError: another process holds the lock for ten seconds.
        """
        busy = f"{self.path}: another process is training into this directory; stop it first"
        with locked(self.lock_file, busy, error=RunError):
            yield

    def append(self, file: Path, record: Mapping[str, Any]) -> None:
        """Append one JSON object as a line to `file` of this run: all of it, or nothing.

        Raises:
            StorageError: the line cannot be written.
        """
        line = json.dumps({k: _plain(v) for k, v in record.items()}) + "\n"
        with writing(file), file.open("ab", buffering=0) as stream:
            before = stream.seek(0, os.SEEK_END)
            try:
                if stream.write(line.encode()) != len(line):  # a disk that fills up within the line
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                stream.truncate(before)
                raise

    def read(self, file: Path) -> Iterator[dict[str, Any]]:
        """Objects of a JSON-lines file of this run; see `read_lines`."""
        if file.exists():
            with file.open(encoding="utf-8", errors="replace") as stream:
                yield from read_lines(stream, str(file))

    def scores(self) -> list[dict[str, Any]]:
        """Scores of this run that can be compared with the newest one, in order."""
        records = of_one_list(list(self.read(self.metrics)))
        return [record for record in records if "recall_at_1" in record]

    def remove_after(self, step: int) -> None:
        """Remove the metrics of steps that a resumed run repeats."""
        if step > 0 and not self.metrics.exists():
            logger.warning("%s: is missing; the curves begin at step %d", self.metrics, step)
        kept = [record for record in self.read(self.metrics) if record.get("step", 0) <= step]
        storage.write_text(self.metrics, "".join(json.dumps(record) + "\n" for record in kept))


def ended_well(log_text: str) -> bool:
    """True if the last attempt in a log came to its end."""
    ends = [place.start() for place in re.finditer(r" INFO done: ", log_text)]
    begins = [place.start() for place in STEPS_TO_DO.finditer(log_text)]
    return bool(ends) and (not begins or ends[-1] > begins[-1])


def read_lines(lines: Iterable[str], place: str) -> Iterator[dict[str, Any]]:
    """Objects of JSON lines, which include their line ends.

    A torn last line is skipped, and with a warning, which names `place`, every line that is no
    JSON object or whose `step` is no number.
    """
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            return
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict) and type(found.get("step", 0)) is int:
            yield found
        else:
            logger.warning("%s:%d: is broken, and skipped: %.40r", place, number, line)


def of_one_list(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of metrics.jsonl without scores that cannot be compared with the last one.

    They are on another validation list, or by another `scoring` (image size, pooling), from before
    the run was resumed.
    """
    for key in ("val_list", "scoring"):
        found = [record[key] for record in records if key in record]
        records = [each for each in records if not found or each.get(key, found[-1]) == found[-1]]
    return records


def kept_score(scores: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Scores of the model that the run kept; None without any.

    Those of the highest MAP@R, the first of several, until the end of training chose weights
    between start and end, and again where a resumed training surpassed that highest.
    """
    best: Mapping[str, Any] | None = None
    kept: Mapping[str, Any] | None = None
    for each in scores:
        if each["map_at_r"] is None:
            continue
        if "interpolation" in each:
            kept = each
        elif best is None or each["map_at_r"] > best["map_at_r"]:
            best = kept = each
    return kept


def _plain(value: Any) -> Any:
    """Value for JSON, which has no NaN and no infinity: they become null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
