"""Writing of checkpoints by a thread, while training goes on.

A save copies the state of each worker to host memory and returns. A thread of each worker then
writes its files and brings them to the disk. The main worker collects names, sizes and digests, and
sends the leader of each output directory the text of state.json; the folder gets its name
last. The threads communicate through a key-value store: collectives belong to the training.

One checkpoint is written at a time: a save first waits for the one before. Where memory has no room
for the copy, a save waits for its own files too.
"""

from __future__ import annotations

import json
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from lookalike.distributed.machine import available
from lookalike.distributed.world import KeyValueStore, World
from lookalike.errors import LookalikeError, RunError
from lookalike.log import logger
from lookalike.storage.atomic import partial_path, put_in_place, sync
from lookalike.storage.local_files import digest_of, refused, usual_mode, writing
from lookalike.training.checkpoint import FORMAT, STATE_FILE, Progress, Trained, digest_of_state
from lookalike.training.checkpoint_content import Files, files_of, on_host

_LOG_SECONDS = 10.0
_LONGEST_PAUSE = 0.5  # between two reads of what other workers have published, in seconds
_LOST_SECONDS = 5.0
"""Seconds for the other workers' files after an error that leaves them in doubt."""


@dataclass(frozen=True)
class _Save:
    """A checkpoint to be written.

    Attributes:
        number: of the saves of this writer.
        state: of state.json, what does not follow from the files.
        then: called on the leaders of directories when the folder has its name, with whether no
            worker was occupied.
    """

    number: int
    folder: Path
    files: Files
    state: Mapping[str, Any]
    then: Callable[[bool], None]


def save(folder: Path, trained: Trained, progress: Progress, world: World) -> None:
    """Write `folder`, which appears when it is complete; called by all workers together.

    Raises:
        RunError: writing failed on any worker; all workers raise.
    """
    writer = CheckpointWriter(world)
    writer.save(folder, trained, progress, copied=False)


class CheckpointWriter:
    """Writer of the checkpoints of a run.

    Args:
        occupied: whether this worker cannot take up what follows a checkpoint.
    """

    def __init__(self, world: World, occupied: Callable[[], bool] = lambda: False) -> None:
        self.world = world
        self._is_occupied = occupied
        self._published: dict[str, Any] = {}
        self._store: KeyValueStore | None = None
        self._number = 0
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._timeout = world.timeout
        self._is_logged = False

    def save(
        self,
        folder: Path,
        trained: Trained,
        progress: Progress,
        *,
        then: Callable[[bool], None] = lambda idle: None,
        copied: bool | None = None,
    ) -> None:
        """Begin to write `folder`, which appears when it is complete; called by all together.

        Args:
            then: see `_Save`.
            copied: whether training may go on meanwhile; None where memory has room for it.

        Raises:
            RunError: the checkpoint before, or without a copy this one, could not be written; all
                workers raise.
        """
        self.wait()
        if self._store is None and self.world.size > 1:
            self._store = KeyValueStore(self.world)
        files = dict(files_of(trained, self.world))
        copied = self._has_room(files) if copied is None else copied
        state = {
            "progress": asdict(progress),
            "workers": self.world.size,
            "loss_scale": [trained.scaler.scale, trained.scaler.good_steps],
        }
        self._number += 1
        kept = on_host(files, self.world.device, trained) if copied else files
        work = _Save(self._number, folder, kept, state, then)
        self._thread = threading.Thread(
            target=self._run, args=[work], name="checkpoint", daemon=True
        )
        self._thread.start()
        if not copied:
            self.wait()

    @property
    def busy(self) -> bool:
        """True while a checkpoint is being written."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def failed(self) -> bool:
        """True if the last checkpoint could not be written; `wait` raises the error."""
        return self._error is not None

    def wait(self) -> None:
        """Wait for the checkpoint that is being written; called by all workers together.

        Raises:
            RunError: it could not be written; all workers raise.
        """
        if self._thread is None:
            return
        with self.world.raise_together():
            self._join()
            self._thread, error, self._error = None, self._error, None
            if error is not None:
                raise error

    def close(self, error: BaseException | None) -> None:
        """Wait for the checkpoint that is being written, on this worker alone.

        Its own failure is logged. Not waited for is what other workers do not write any more.

        Args:
            error: that ends the training; None without one.
        """
        if self._thread is None or isinstance(error, KeyboardInterrupt):
            return
        if error is not None and not isinstance(error, LookalikeError):
            self._timeout = _LOST_SECONDS
        self._join()
        if self._error is not None:
            logger.warning("%s", self._error)

    def _join(self) -> None:
        assert self._thread is not None
        logged = time.monotonic()
        while self.busy:
            self._thread.join(1.0)
            if self.busy and time.monotonic() - logged > _LOG_SECONDS:
                logged = time.monotonic()
                logger.info("waiting for the checkpoint to be written")

    def _has_room(self, files: Files) -> bool:
        """True if the machines' memories have room for a copy, and as much again."""
        needed = sum(t.nbytes for tensors, _ in files.values() for t in tensors.values())
        free = available() // self.world.local_size
        lacks = torch.tensor(int(2 * needed > free), device=self.world.device)
        if not self.world.max(lacks):
            return True
        if not self._is_logged:
            self._is_logged = True
            logger.info(
                "training waits while checkpoints are written: memory has no room for a copy of "
                "its state (%.1f GB for this worker, %.1f GB are free)",
                needed / 1e9, free / 1e9,
            )  # fmt: skip
        return False

    def _run(self, work: _Save) -> None:
        try:
            self._write(work)
        except Exception as error:  # raised by `wait`
            self._error = error

    def _write(self, work: _Save) -> None:
        partial, world = partial_path(work.folder), self.world
        mine, cause = self._write_files(work, partial)
        part = {"files": mine, "cause": cause, "occupied": self._is_occupied()}
        self._publish(f"part/{world.rank}", work, part)
        if world.is_main:
            parts = [self._receive(f"part/{rank}", work, rank) for rank in range(world.size)]
            self._publish("state", work, _combined(work, parts))
        result = self._receive("state", work, 0)
        if result["cause"] is not None:
            if world.is_directory_leader:
                shutil.rmtree(partial, ignore_errors=True)
            raise RunError(f"{work.folder}: the checkpoint could not be written: {result['cause']}")
        if world.is_directory_leader:
            with writing(work.folder):
                (partial / STATE_FILE).write_text(result["text"], "utf-8")
                sync(partial / STATE_FILE)
                put_in_place(
                    partial, work.folder
                )  # may be there: of the same step, before a resume
            work.then(not result["occupied"])

    def _write_files(
        self, work: _Save, partial: Path
    ) -> tuple[dict[str, tuple[int, str]], str | None]:
        """Size and digest of each file of this worker, or the cause of a failure."""
        found = {}
        leader = self.world.directory_leader
        if self.world.is_directory_leader:
            self._publish(f"folder/{leader}", work, _create(partial))
        cause = self._receive(f"folder/{leader}", work, leader)
        if cause is not None:
            return {}, str(cause)
        try:
            with ThreadPoolExecutor(1) as pool:  # digests while the disk writes
                for name in list(work.files):
                    _write(partial / name, *work.files.pop(name))
                    found[name] = pool.submit(digest_of, partial / name)
                    sync(partial / name)
                return {
                    name: ((partial / name).stat().st_size, digest.result())
                    for name, digest in found.items()
                }, None
        except (OSError, SafetensorError) as error:
            return {}, refused(error) or str(error)

    def _publish(self, key: str, work: _Save, value: Any) -> None:
        """Report a fact about this checkpoint to the other workers."""
        message = [work.number, value]
        if self._store is None:
            self._published[key] = message
        else:
            self._store.set(key, message)

    def _receive(self, key: str, work: _Save, rank: int) -> Any:
        """Wait for what a worker publishes about this checkpoint.

        Raises:
            RunError: it publishes nothing in time.
        """
        began, pause = time.monotonic(), 0.005
        while True:
            found = self._published.get(key) if self._store is None else self._store.get(key)
            if found is not None and found[0] == work.number:
                return found[1]
            if time.monotonic() - began > self._timeout:
                raise RunError(
                    f"{work.folder}: the checkpoint could not be written: worker {rank} has not "
                    f"written its part in {self._timeout:g} s"
                )
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _create(folder: Path) -> str | None:
    """Create an empty folder; the cause of a failure."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    except OSError as error:
        return refused(error) or str(error)
    return None


def _combined(work: _Save, parts: list[Any]) -> dict[str, Any]:
    """Message of the main worker to all: the text of state.json, or the cause of a failure."""
    causes = [part["cause"] for part in parts if part["cause"] is not None]
    files = dict(sorted((name, each) for part in parts for name, each in part["files"].items()))
    state = {
        "format": FORMAT,
        "id": secrets.token_hex(8),
        **work.state,
        "files": {name: size for name, (size, _) in files.items()},
        "sha256": {name: digest for name, (_, digest) in files.items()},
    }
    state["own_sha256"] = digest_of_state(state)
    return {
        "text": json.dumps(state, indent=2),
        "cause": causes[0] if causes else None,
        "occupied": any(part["occupied"] for part in parts),
    }


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    # No tensors with empty metadata (an optimizer before its first step) is a file that
    # safetensors 0.8 writes and cannot read; without metadata it can.
    with usual_mode(path):
        safetensors.torch.save_file(plain, path, metadata or None)
