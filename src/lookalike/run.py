"""What is on disk: every path of an output directory, and the few ways to write there.

config.yaml            what was asked for, loadable: only the settings that the user gave
resolved.yaml          every setting as it ran
classes.json           label <-> class
metrics.jsonl          one JSON object a line; the file is the truth
bad_images.jsonl       images that could not be read
log.txt                the lines that the console showed
environment.json       versions and devices that it ran with
report.html            how good it is, to look at
checkpoints/step-N/    resumable; written aside, then renamed
checkpoints/latest     the name of the newest one
checkpoints/best       the name of the best one by the primary retrieval metric
model/                 the embedder alone, and what its cosines mean
exports/               what was exported of it
loggers.json           by which ids experiment trackers know the run
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lookalike import storage
from lookalike.errors import RunError
from lookalike.log import logger
from lookalike.storage import Place
from lookalike.storage.local_files import writing

CONFIG = "config.yaml"
RESOLVED = "resolved.yaml"
DOCTOR_JSON = "doctor.json"
DOCTOR_PAGE = "doctor.html"
REPORT = "report.html"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
LOGGERS = "loggers.json"
EXPORTS = "exports"

# A worker that was just killed may take a moment to let go.
_LOCK_SECONDS = 10.0


@dataclass(frozen=True)
class Run:
    """An output directory, which may be given wherever a path is expected.

    Attributes:
        path: the directory, absolute.
    """

    path: Path

    def __post_init__(self) -> None:
        # Absolute: a run that `train` gave stays the same when the program changes its folder.
        object.__setattr__(self, "path", Path(os.path.abspath(self.path)))

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    @classmethod
    def create(cls, output: Place, *, resume: bool = False) -> Run:
        """A directory to write a new run into, or one to go on with.

        Raises:
            RunError: it holds a run already and `resume` is False, or it cannot be made.
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
                f"{output} holds a run already; add --resume to go on with it, "
                "or choose another --output"
            )
        try:
            if run.path.is_dir() and not run.exists():
                run._check_own(resume)
            run.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise RunError(f"{output}: cannot be made: {reason}") from None
        return run

    @classmethod
    def open(cls, path: Place) -> Run:
        """A run that is there.

        Raises:
            RunError: there is none.
        """
        run = cls(storage.path_of(path))
        if not run.exists():
            raise RunError(f"{path}: no run here (config.yaml is missing)")
        return run

    def exists(self) -> bool:
        """Whether a run was begun here."""
        return self.config.exists()

    def began(self) -> bool:
        """Whether there is something to resume: a run, or checkpoints whose config.yaml is lost."""
        return self.exists() or any(self.checkpoints.glob("step-*"))

    def _check_own(self, resume: bool) -> None:
        """See that a folder without a run holds nothing of others.

        What an attempt leaves that found a mistake before it began is no obstacle, and with
        `resume` all that a run writes is none: on other machines than the main worker's, and
        where the settings were lost.

        Raises:
            RunError: it holds something else.
        """
        ours = {self.log, self.lock_file, self.checkpoints, self.bad_images}
        ours |= {self.resolved, self.classes, self.tensorboard}
        ours |= {self.path / LOGGERS, self.path / "wandb"}
        ours |= {self.path / DOCTOR_JSON, self.path / DOCTOR_PAGE}  # a look before the training
        if resume:
            ours |= {self.metrics, self.environment, self.report, self.model}
            ours |= {self.path / EXPORTS, *self.path.glob(".*")}
        foreign = sorted(path.name for path in self.path.iterdir() if path not in ours)
        if not resume and any(self.checkpoints.glob("*")):
            foreign.append(self.checkpoints.name)
        if foreign:
            raise RunError(
                f"{self.path} is not empty and holds no run (it has {foreign[0]}); choose another "
                "--output"
            )

    @property
    def config(self) -> Path:
        """What was asked for: the settings that the user gave."""
        return self.path / CONFIG

    @property
    def resolved(self) -> Path:
        """Every setting as it ran."""
        return self.path / RESOLVED

    @property
    def classes(self) -> Path:
        """The map label <-> class."""
        return self.path / "classes.json"

    @property
    def metrics(self) -> Path:
        """One JSON object a line."""
        return self.path / METRICS

    @property
    def bad_images(self) -> Path:
        """Images that could not be read, one JSON object a line."""
        return self.path / "bad_images.jsonl"

    @property
    def log(self) -> Path:
        """The lines that the console showed."""
        return self.path / "log.txt"

    @property
    def environment(self) -> Path:
        """Versions and devices that it ran with."""
        return self.path / ENVIRONMENT

    @property
    def report(self) -> Path:
        """The page that shows how good it is."""
        return self.path / REPORT

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The embedder alone: what is loaded, exported and deployed."""
        return self.path / "model"

    @property
    def calibration(self) -> Path:
        """What the model's cosines mean; there after a training with a validation set."""
        return self.model / "calibration.json"

    @property
    def tensorboard(self) -> Path:
        """Where TensorBoard looks."""
        return self.path / "tensorboard"

    @property
    def lock_file(self) -> Path:
        """Held by the process that trains into this directory."""
        return self.path / ".lock"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else trains into this directory inside the block.

        Raises:
            RunError: another process does, and did so for the next ten seconds.
        """
        with self.lock_file.open("a") as file:
            deadline = time.monotonic() + _LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise RunError(
                            f"{self.path}: another process is training into this directory; "
                            "stop it first"
                        ) from None
                    time.sleep(0.1)
            yield

    def append(self, file: Path, record: Mapping[str, Any]) -> None:
        """Add one JSON object as a line to `file` of this run: all of it, or nothing.

        Raises:
            StorageError: the disk refuses.
        """
        line = json.dumps({k: _plain(v) for k, v in record.items()}) + "\n"
        with writing(file), file.open("ab", buffering=0) as stream:
            before = stream.seek(0, os.SEEK_END)
            try:
                if stream.write(line.encode()) != len(line):  # a disk that is full after a part
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                stream.truncate(before)
                raise

    def read(self, file: Path) -> Iterator[dict[str, Any]]:
        """The objects of a JSON-lines file of this run, as `read_lines` takes them."""
        if file.exists():
            with file.open(encoding="utf-8", errors="replace") as stream:
                yield from read_lines(stream, str(file))

    def scores(self) -> list[dict[str, Any]]:
        """The evaluations of this run on its newest validation list, in order."""
        records = of_one_list(list(self.read(self.metrics)))
        return [record for record in records if "recall_at_1" in record]

    def forget_after(self, step: int) -> None:
        """Take back the metrics of steps that a resumed run will do again."""
        if step > 0 and not self.metrics.exists():
            logger.warning("%s: is missing; the curves begin at step %d", self.metrics, step)
        kept = [record for record in self.read(self.metrics) if record.get("step", 0) <= step]
        write_text(self.metrics, "".join(json.dumps(record) + "\n" for record in kept))


def read_lines(lines: Iterable[str], place: str) -> Iterator[dict[str, Any]]:
    """The objects of JSON lines.

    A torn last line is left out, and with a warning every line that is no JSON object or whose
    `step` is no number.

    Args:
        lines: with their ends.
        place: where they are from, for the warning.
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
            logger.warning("%s:%d: is broken, and left out: %.40r", place, number, line)


def of_one_list(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of metrics.jsonl without evaluations on another validation list than the last one.

    A run that was resumed with another list has scores of both, which are not to be compared.
    """
    lists = [record["val_list"] for record in records if "val_list" in record]
    return [
        record for record in records if not lists or record.get("val_list", lists[-1]) == lists[-1]
    ]


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_text(path: Path, text: str) -> None:
    """Replace the content of `path` as a whole: a reader sees the old or the new."""
    storage.write_bytes(str(path), text.encode("utf-8", "surrogateescape"))
