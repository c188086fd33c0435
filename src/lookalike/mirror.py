"""A run's directory copied to object storage while it trains.

At each checkpoint the main worker makes hard links of what is to go, which cost nothing and
outlive the pruning of the directory, and a thread uploads them: small files first, then the
checkpoint with its state.json last, then `latest`, `best` and the model. One set of links waits
at most: a newer checkpoint takes the place of one whose upload has not begun.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

from lookalike import checkpoint, storage
from lookalike.errors import LookalikeError, StorageError
from lookalike.log import logger
from lookalike.run import Run

_LAST_TRIES = 3
_LONGEST_PAUSE = 60.0
_SAY_SECONDS = 10.0
_FIRST = ("config.yaml", "classes.json", "metrics.jsonl", "bad_images.jsonl")


class Mirror:
    """The remote copy of a run; made on the main worker.

    Args:
        run: the directory on this machine.
        output: the URI of the copy.
        keep: how many of the latest checkpoints stay there, beside the best.
        pause: seconds after the first failed upload; each further one doubles it.
    """

    def __init__(self, run: Run, output: str, *, keep: int, pause: float = 1.0) -> None:
        self.run, self.output, self.keep, self.pause = run, output, keep, pause
        self._staging = run.path / ".upload"
        shutil.rmtree(self._staging, ignore_errors=True)
        self._count = 0
        self._waiting: Path | None = None
        self._ending = False
        self._error: LookalikeError | None = None
        self._safe: set[str] = set()
        self._changed = threading.Condition()
        self._doing = ""
        self._thread = threading.Thread(target=self._work, name="upload", daemon=True)

    def start(self) -> None:
        """Write the first files there, so that a wrong place is known before any work.

        Raises:
            StorageError: they cannot be written.
        """
        for name in _FIRST[:2]:
            storage.write_file(self.run.path / name, self._uri(name))
        self._thread.start()

    def saved(self) -> None:
        """Take the directory as it is, just after a checkpoint, and have it uploaded."""
        stage = self._stage()
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
        self._end(self._stage() if (self.run.checkpoints / "latest").exists() else None)
        if self._error is not None:
            raise StorageError(
                f"{self._error}; the upload is not complete, and nothing is lost: all of it is in "
                f"{self.run.path}. When the storage is well: lookalike train --resume "
                f"--output {storage.public(self.output)}"
            )

    def _end(self, stage: Path | None) -> None:
        with self._changed:
            if stage is not None:
                if self._waiting is not None:
                    shutil.rmtree(self._waiting)
                self._waiting = stage
            self._ending = True
            self._changed.notify_all()
        while self._thread.is_alive():
            self._thread.join(_SAY_SECONDS)
            if self._thread.is_alive():
                logger.info("waiting for the upload: %s", self._doing)
        shutil.rmtree(self._staging, ignore_errors=True)

    def _stage(self) -> Path:
        """The directory as it is now: links of what is replaced as a whole, copies of the rest."""
        self._count += 1
        stage = self._staging / str(self._count)
        names = {
            (self.run.checkpoints / pointer).read_text("utf-8").strip()
            for pointer in ("latest", "best")
            if (self.run.checkpoints / pointer).exists()
        }
        for path in _files(self.run.path):
            name = path.relative_to(self.run.path)
            top = name.parts[0]
            wanted = len(name.parts) < 3 or top != "checkpoints" or name.parts[1] in names
            if not wanted or name.name[0] == ".":
                continue
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".safetensors" and top == "checkpoints":
                os.link(path, stage / name)
            else:
                shutil.copyfile(path, stage / name)
        return stage

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._ending)
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
                last += self._ending
                if self._waiting is not None and not self._ending:
                    logger.warning("%s; the newer checkpoint is next", error)
                    return
                if last >= _LAST_TRIES:
                    raise
                logger.warning("%s; the upload is tried again in %.3g s", error, pause)
            until = time.monotonic() + pause
            pause = min(2 * pause, _LONGEST_PAUSE)
            with self._changed:
                if not self._ending:
                    self._changed.wait_for(
                        lambda: self._ending or self._waiting is not None,
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
        if name in self._safe:
            return
        state = f"{place}/{checkpoint.STATE_FILE}"
        storage.remove_file(self._uri(state))  # of the same step before: not whole from now on
        for path in sorted((stage / place).glob("*.safetensors")):
            self._send(stage, f"{place}/{path.name}")
        self._send(stage, state)
        self._safe.add(name)
        logger.info("checkpoint %s is safe at %s", name, storage.public(self._uri(place)))

    def _send(self, stage: Path, name: str) -> None:
        size = (stage / name).stat().st_size
        self._doing = f"{name} ({size / 1e6:.1f} MB)"
        storage.write_file(stage / name, self._uri(name))

    def _prune(self, wanted: set[str]) -> None:
        """Remove older checkpoints; what was sent just now stays."""
        sizes = storage.sizes_below(self._uri("checkpoints"))
        names = sorted({n.split("/")[0] for n in sizes if n.startswith("step-")}, reverse=True)
        newest = sorted((n for n in names if n in self._safe), reverse=True)[: self.keep]
        for name in set(names) - set(newest) - wanted:
            mine = [n for n in sizes if n.startswith(f"{name}/")]
            # The state first: from then on it is no checkpoint.
            for file in sorted(mine, key=lambda n: not n.endswith(checkpoint.STATE_FILE)):
                storage.remove_file(self._uri(f"checkpoints/{file}"))
            self._safe.discard(name)

    def _uri(self, name: str) -> str:
        return storage.join(self.output, name)


def _files(folder: Path) -> list[Path]:
    """All files below `folder`, in order, but not what lies in hidden folders.

    Among these is the staging folder, which the upload's thread is emptying meanwhile.
    """
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place) / name for name in files]
    return sorted(found)
