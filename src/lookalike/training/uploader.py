"""A run's directory copied to object storage while it trains.

At each checkpoint the main worker makes hard links of what is to go, which cost nothing and
outlive the pruning of the directory, and a thread uploads them: small files first, then the
checkpoint with its state.json last, then `latest`, `best` and the model. One set of links waits
at most: a newer checkpoint takes the place of one whose upload has not begun.

Where several machines have directories of their own, the workers of the others write slices that
the main worker does not see. `uploader_parts` sends them, and says here when they are safe.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from lookalike import storage
from lookalike.errors import LookalikeError, StorageError
from lookalike.log import logger
from lookalike.run import CONFIG, RESOLVED, Run
from lookalike.training import checkpoint
from lookalike.training.snapshot import Stages

_LAST_TRIES = 3
_LONGEST_PAUSE = 60.0
_SAY_SECONDS = 10.0
_BEAT_SECONDS = 1.0
_FIRST = (RESOLVED, CONFIG, "classes.json", "metrics.jsonl", "bad_images.jsonl")


class PartError(StorageError):
    """A checkpoint cannot become whole there: what another machine has of it does not come."""

    def __init__(self, message: str, *, final: bool) -> None:
        super().__init__(message)
        self.final = final


class Others(Protocol):
    """The other machines that send their slices of each checkpoint."""

    @property
    def places(self) -> str:
        """Where their copies are, in words."""

    def wait(
        self, state: Mapping[str, Any], mine: Collection[str], number: int, mirror: Mirror
    ) -> None:
        """Wait until the files of a checkpoint that are not `mine` are safe there.

        Raises:
            PartError: they will not come any more.
        """


class Mirror:
    """The remote copy of a run; made on the main worker.

    Args:
        run: the directory on this machine.
        output: the URI of the copy.
        keep: how many of the latest checkpoints stay there, beside the best.
        pause: seconds after the first failed upload; each further one doubles it.
        others: other machines that send slices too.
    """

    def __init__(
        self,
        run: Run,
        output: str,
        *,
        keep: int,
        pause: float = 1.0,
        others: Others | None = None,
    ) -> None:
        self.run, self.output, self.keep, self.pause = run, output, keep, pause
        self.others = others
        self._stages = Stages(run, run.path)
        self._waiting: Path | None = None
        self.ending = False
        self._error: LookalikeError | None = None
        self._safe: set[str] = set()
        self._changed = threading.Condition()
        self.doing = ""
        self._thread = threading.Thread(target=self._work, name="upload", daemon=True)

    def start(self) -> None:
        """Write the first files there, so that a wrong place is known before any work.

        Raises:
            StorageError: they cannot be written.
        """
        for name in _FIRST[:3]:
            storage.write_file(self.run.path / name, self._uri(name))
        self._thread.start()

    def saved(self) -> None:
        """Take the directory as it is, just after a checkpoint, and have it uploaded."""
        stage = self._stages.take()
        latest = (stage / "checkpoints/latest").read_text("utf-8").strip()
        with self._changed:
            self._safe.discard(latest)  # the same step again, after a resume
            if self._waiting is not None:
                shutil.rmtree(self._waiting)
            self._waiting = stage
            self._changed.notify_all()

    def finish(self) -> None:
        """Wait until all is there.

        Raises:
            StorageError: it is not; says where the local copy is.
        """
        self._end(self._stages.take() if (self.run.checkpoints / "latest").exists() else None)
        if self._error is not None:
            others = self.others.places if self.others is not None else ""
            raise StorageError(
                f"{self._error}; the upload is not complete, and nothing is lost: all of it is in "
                f"{self.run.path}{others}. When the storage is well: lookalike train --resume "
                f"--output {storage.public(self.output)}"
            )

    @property
    def overtaken(self) -> bool:
        """Whether a newer checkpoint waits for the one that is being sent."""
        return self._waiting is not None

    def _end(self, stage: Path | None) -> None:
        with self._changed:
            if stage is not None:
                if self._waiting is not None:
                    shutil.rmtree(self._waiting)
                self._waiting = stage
            self.ending = True
            self._changed.notify_all()
        said = time.monotonic()
        while self._thread.is_alive():
            self._thread.join(_BEAT_SECONDS)
            self._beat()
            if self._thread.is_alive() and time.monotonic() - said > _SAY_SECONDS:
                said = time.monotonic()
                logger.info("waiting for the upload: %s", self.doing)
        self._stages.clear()

    def _beat(self) -> None:
        """Called each second while the end waits for the upload."""

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self.ending)
                stage, self._waiting = self._waiting, None
            if stage is None:
                return
            try:
                self._insist(stage)
            except LookalikeError as error:
                self._error = error
            except Exception as error:  # the end of the run must know, whatever it was
                self._error = StorageError(
                    f"{storage.public(self.output)}: upload failed ({type(error).__name__})"
                )
            else:
                self._error = None
            finally:
                shutil.rmtree(stage, ignore_errors=True)

    def _insist(self, stage: Path) -> None:
        """Upload, again and again while training goes on, unless a newer one waits."""
        pause, last = self.pause, 0
        while True:
            try:
                self._upload(stage)
                return
            except StorageError as error:
                if isinstance(error, PartError) and error.final:
                    raise
                last += self.ending
                # At the end what waits is the same once more, or newer by a last step.
                if self.overtaken and (not self.ending or isinstance(error, PartError)):
                    logger.warning("%s; the newer checkpoint is next", error)
                    return
                if last >= _LAST_TRIES:
                    raise
                logger.warning("%s; the upload is tried again in %.3g s", error, pause)
            until = time.monotonic() + pause
            pause = min(2 * pause, _LONGEST_PAUSE)
            with self._changed:
                if not self.ending:
                    self._changed.wait_for(
                        lambda: self.ending or self._waiting is not None,
                        until - time.monotonic(),
                    )
                    continue
            time.sleep(max(0.0, until - time.monotonic()))

    def _upload(self, stage: Path) -> None:
        files = [str(p.relative_to(stage)) for p in sorted(stage.rglob("*")) if p.is_file()]
        for name in (name for name in _FIRST if name in files):
            self._send(stage, name)
        folders = sorted(path.name for path in (stage / "checkpoints").glob("step-*"))
        for name in folders:
            self._send_checkpoint(stage, name)
        rest = [n for n in files if n not in _FIRST and not n.startswith("checkpoints/")]
        for name in [*rest, *(n for n in files if n in ("checkpoints/latest", "checkpoints/best"))]:
            self._send(stage, name)
        self._prune(set(folders))

    def _send_checkpoint(self, stage: Path, name: str) -> None:
        place = f"checkpoints/{name}"
        if name in self._safe or self._is_there(stage, place):
            self._safe.add(name)
            return
        state = f"{place}/{checkpoint.STATE_FILE}"
        storage.remove_file(self._uri(state))  # of the same step before: not whole from now on
        mine = [path.name for path in sorted((stage / place).glob("*.safetensors"))]
        for file in mine:
            self._send(stage, f"{place}/{file}")
        if self.others is not None:
            said = json.loads((stage / state).read_text("utf-8"))
            self.others.wait(said, mine, int(stage.name), self)
            self._check(place, said["files"])
        self._send(stage, state)
        self._safe.add(name)
        logger.info("checkpoint %s is safe at %s", name, storage.public(self._uri(place)))

    def _is_there(self, stage: Path, place: str) -> bool:
        """Whether this very checkpoint lies there whole, as one that was fetched does."""
        text = (stage / place / checkpoint.STATE_FILE).read_text("utf-8")
        state = json.loads(text)
        sizes = storage.sizes_below(self._uri(place)) if "id" in state else {}
        if any(sizes.get(name) != size for name, size in state["files"].items()):
            return False
        there = checkpoint.STATE_FILE in sizes
        said = storage.read_bytes(self._uri(f"{place}/{checkpoint.STATE_FILE}")) if there else b""
        return said == text.encode()

    def _check(self, place: str, files: Mapping[str, int]) -> None:
        """See that all files of a checkpoint are there: nobody took away what others sent."""
        sizes = storage.sizes_below(self._uri(place))
        for name, size in files.items():
            if sizes.get(name) != size:
                raise StorageError(
                    f"{storage.public(self._uri(place))}: {name} has {sizes.get(name, 'no')} "
                    f"bytes instead of {size}"
                )

    def _send(self, stage: Path, name: str) -> None:
        size = (stage / name).stat().st_size
        self.doing = f"{name} ({size / 1e6:.1f} MB)"
        storage.write_file(stage / name, self._uri(name))

    def _prune(self, wanted: set[str]) -> None:
        """Remove older checkpoints; what was sent just now stays."""
        sizes = storage.sizes_below(self._uri("checkpoints"))
        names = sorted({n.split("/")[0] for n in sizes if n.startswith("step-")}, reverse=True)
        newest = sorted((n for n in names if n in self._safe), reverse=True)[: self.keep]
        if self.others is not None:  # of newer ones the others may be sending their slices
            names = [name for name in names if name < max(wanted, default="")]
        for name in set(names) - set(newest) - wanted:
            mine = [n for n in sizes if n.startswith(f"{name}/")]
            # The state first: from then on it is no checkpoint.
            for file in sorted(mine, key=lambda n: not n.endswith(checkpoint.STATE_FILE)):
                storage.remove_file(self._uri(f"checkpoints/{file}"))
            self._safe.discard(name)

    def _uri(self, name: str) -> str:
        return storage.join(self.output, name)
