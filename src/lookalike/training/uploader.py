"""Upload of a run's directory to object storage while it trains.

At a checkpoint the leader of each output directory takes a snapshot of it, mostly hard links, which
outlive the pruning of the directory, and a thread uploads it. The main worker sends small files
first, then its slices of the checkpoint, state.json when the slices of all machines are stored,
then the model, `latest` and `best`, and the mark of the run's end. The leaders on other machines
send the slices that the main worker does not see. A snapshot is taken on all machines or on none:
where one still sends, the checkpoint is left to the next snapshot, or to the one at the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shlex
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lookalike import storage
from lookalike.distributed.world import ALONE, KeyValueStore, World
from lookalike.errors import LookalikeError, RunError, StorageError
from lookalike.log import logger
from lookalike.run import CONFIG, FINISHED, RESOLVED, Run
from lookalike.training import checkpoint, remote_run

_LAST_TRIES = 3
_LONGEST_PAUSE = 60.0
_LOG_SECONDS = 10.0
_HEARTBEAT_SECONDS = 1.0
SILENT_SECONDS = 60.0
_POLL_SECONDS = 0.2
_FIRST = (RESOLVED, CONFIG, "classes.json", "metrics.jsonl", "bad_images.jsonl")


def create_uploader(run: Run, output: str, *, keep: int, world: World) -> Uploader | None:
    """Upload from this worker's directory; None where this worker uploads nothing.

    Called by all workers together. A local `output` has no upload; `keep` is the number of the
    latest checkpoints that stay there, beside the best.
    """
    if not storage.is_remote(output):
        return None
    logger.info("written to %s, and from there to %s", run.path, storage.public(output))
    machines = Machines.of(run, world) if len(world.directory_leaders) > 1 else None
    if not world.is_directory_leader:
        return None
    return Uploader(run, output, keep=keep, world=world, machines=machines)


class PartError(StorageError):
    """Slices of a checkpoint that another machine will not send."""


class Machines:
    """Messages between the uploads of several machines.

    A checkpoint is identified by name and `id`: slices of the same step that an earlier start left
    in the storage are never taken for those to come.

    `names` has host name and directory of each leader, by rank.
    """

    def __init__(self, store: KeyValueStore, names: Mapping[int, tuple[str, str]]) -> None:
        self._store, self._names = store, names
        self._last_heartbeats: dict[int, tuple[Any, float]] = {}
        self._heartbeats = 0

    @classmethod
    def of(cls, run: Run, world: World) -> Machines:
        """Machines of a run; called by all workers together."""
        store = KeyValueStore(world)
        names = world.all_gather_object([platform.node(), str(run.path)])
        return cls(store, {rank: tuple(names[rank]) for rank in world.directory_leaders})

    @property
    def places(self) -> str:
        """Directories of the other machines, as text."""
        texts = [f"{path} of {host}" for rank, (host, path) in self._names.items() if rank]
        return f" and, what the other machines wrote, in {', '.join(texts)}"

    def name(self, rank: int) -> str:
        """Name of a machine in messages."""
        return f"worker {rank} ({self._names[rank][0]})"

    def heartbeat(self, rank: int) -> None:
        """Report that this machine is alive, while it waits for the end of its upload."""
        self._heartbeats += 1
        self._report(f"heartbeat/{rank}", self._heartbeats)

    def sent(self, checkpoint_id: str, rank: int, files: list[str]) -> None:
        """Report the slices of a checkpoint that this machine has stored."""
        self._store.set(f"{checkpoint_id}/{rank}", files)

    def ended(self, rank: int, error: LookalikeError | None) -> None:
        """Report that this machine uploads nothing more."""
        self._report(f"ended/{rank}", {"error": None if error is None else str(error)})

    def _report(self, key: str, value: Any) -> None:
        with contextlib.suppress(RunError):  # the main worker, which would read it, has ended
            self._store.set(key, value)

    def missing(self, checkpoint_id: str, files: set[str], *, ending: bool) -> int | None:
        """Rank of a machine that has yet to store some of `files`; None if all are stored.

        Raises:
            PartError: a file will not be stored any more.
        """
        others = [rank for rank in self._names if rank]
        parts = {rank: self._store.get(f"{checkpoint_id}/{rank}") for rank in others}
        files = files.difference(*(part for part in parts.values() if part is not None))
        if not files:
            return None
        late = [rank for rank, part in parts.items() if part is None]
        if not late:
            raise PartError(f"no machine has {min(files)}")
        for rank in late:
            ended = self._store.get(f"ended/{rank}")
            if ended is not None:
                cause = ended["error"] or "it ended before"
                raise PartError(f"{self.name(rank)} has not sent its part: {cause}")
            if ending:
                self._check_alive(rank)
        return late[0]

    def _check_alive(self, rank: int) -> None:
        heartbeat, now = self._store.get(f"heartbeat/{rank}"), time.monotonic()
        if rank not in self._last_heartbeats or self._last_heartbeats[rank][0] != heartbeat:
            self._last_heartbeats[rank] = (heartbeat, now)
        elif now - self._last_heartbeats[rank][1] > SILENT_SECONDS:
            raise PartError(f"{self.name(rank)}: no heartbeat for {SILENT_SECONDS:g} s")


class Uploader:
    """Remote copy of a run, from the directory of one leader.

    Args:
        keep: number of the latest checkpoints that stay there, beside the best.
        machines: the other directories of the run, if any.
        pause: seconds after the first failed upload; each further one doubles it.
    """

    def __init__(
        self,
        run: Run,
        output: str,
        *,
        keep: int,
        world: World = ALONE,
        machines: Machines | None = None,
        pause: float = 1.0,
    ) -> None:
        self.run, self.output, self.keep, self.pause = run, output, keep, pause
        self.world, self.machines = world, machines
        self._snapshots = run.path / ".upload"
        self._count = 0
        self._next: Path | None = None
        self._busy = False
        self._ending = False
        self._error: LookalikeError | None = None
        self._stored: dict[str, str] = {}  # text of state.json by checkpoint
        self._sent: dict[str, bytes] = {}  # digest by other file
        # A downloaded checkpoint is stored already.
        self._maybe_stored = {path.name for path in run.checkpoints.glob("step-*")}
        self._changed = threading.Condition()
        self._progress = ""
        self._thread = threading.Thread(target=self._work, name="upload", daemon=True)
        shutil.rmtree(self._snapshots, ignore_errors=True)

    def start(self) -> None:
        """Write the first files, so that a wrong place is found before any work.

        The mark of an earlier end is removed.

        Raises:
            StorageError: they cannot be written.
        """
        if self.world.is_main:
            storage.remove_file(self._uri(FINISHED))
            for name in _FIRST[:3]:
                self._send_changed(self.run.path, name)
        else:
            probe = self._uri(f".worker-{self.world.rank:05d}")
            storage.write_bytes(probe, b"may write")
            storage.remove_file(probe)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """True while it sends; False before another try, or while it waits for other machines."""
        return self._busy

    def checkpoint_saved(self) -> None:
        """Upload the directory as it is now, in place of a snapshot that could not be sent."""
        snapshot = self._take()
        with self._changed:
            self._replace_next(snapshot)

    def finish(self) -> None:
        """Upload the directory as it is now, and wait for it.

        Raises:
            StorageError: the upload failed; names the local copy.
        """
        snapshot = self._take() if (self.run.checkpoints / "latest").exists() else None
        with self._changed:
            if snapshot is not None:
                self._replace_next(snapshot)
            self._ending = True
            self._changed.notify_all()
        logged = time.monotonic()
        while self._thread.is_alive():
            self._thread.join(_HEARTBEAT_SECONDS)
            if self.machines is not None:
                self.machines.heartbeat(self.world.rank)
            if self._thread.is_alive() and time.monotonic() - logged > _LOG_SECONDS:
                logged = time.monotonic()
                logger.info("waiting for the upload: %s", self._progress)
        shutil.rmtree(self._snapshots, ignore_errors=True)
        if self._error is not None:
            others = self.machines.places if self.machines and self.world.is_main else ""
            raise StorageError(
                f"{self._error}; the upload is not complete, and nothing is lost: all of it is in "
                f"{self.run.path}{others}. Once the storage is reachable again: lookalike train "
                f"--resume --output {shlex.quote(storage.public(self.output))}"
            )

    def _replace_next(self, snapshot: Path) -> None:
        if self._next is not None:
            shutil.rmtree(self._next)
        self._next, self._busy = snapshot, True
        self._changed.notify_all()

    def _take(self) -> Path:
        """Take a snapshot: links of checkpoints, only `latest` and `best`, and copies of the rest.

        Other machines than the main worker's take checkpoints only.
        """
        self._count += 1
        snapshot = self._snapshots / str(self._count)
        pointers = [self.run.checkpoints / pointer for pointer in ("latest", "best")]
        kept = {path.read_text("utf-8").strip() for path in pointers if path.exists()}
        for path in _files(self.run.path if self.world.is_main else self.run.checkpoints):
            name = path.relative_to(self.run.path)
            in_checkpoints = name.parts[0] == "checkpoints"
            if name.name[0] == "." or (
                in_checkpoints and len(name.parts) > 2 and name.parts[1] not in kept
            ):
                continue
            (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".safetensors" and in_checkpoints:
                os.link(path, snapshot / name)
            else:
                shutil.copyfile(path, snapshot / name)
        return snapshot

    def _work(self) -> None:
        try:
            while True:
                with self._changed:
                    self._busy = self._next is not None
                    self._changed.wait_for(lambda: self._next is not None or self._ending)
                    snapshot, self._next = self._next, None
                if snapshot is None:
                    return
                try:
                    self._upload_with_retries(snapshot)
                except LookalikeError as error:
                    self._error = error
                except Exception as error:  # reported at the end of the run
                    self._error = StorageError(
                        f"{storage.public(self.output)}: upload failed ({type(error).__name__})"
                    )
                else:
                    self._error = None
                finally:
                    shutil.rmtree(snapshot, ignore_errors=True)
        finally:
            if self.machines is not None:
                self.machines.ended(self.world.rank, self._error)

    def _upload_with_retries(self, snapshot: Path) -> None:
        """Upload, again and again during training, unless a newer snapshot waits."""
        pause, last = self.pause, 0
        while True:
            self._busy = True
            try:
                self._upload(snapshot)
                return
            except StorageError as error:
                last += self._ending
                if self._next is not None:
                    logger.warning("%s; the newer checkpoint is next", error)
                    return
                if last >= _LAST_TRIES or isinstance(error, PartError):
                    raise
                logger.warning("%s; the upload is tried again in %.3g s", error, pause)
            self._busy = False
            until = time.monotonic() + pause
            pause = min(2 * pause, _LONGEST_PAUSE)
            with self._changed:
                if not self._ending:
                    self._changed.wait_for(
                        lambda: self._ending or self._next is not None, until - time.monotonic()
                    )
                    continue
            time.sleep(max(0.0, until - time.monotonic()))

    def _upload(self, snapshot: Path) -> None:
        checkpoints = sorted(path.name for path in (snapshot / "checkpoints").glob("step-*"))
        if not self.world.is_main:
            for name in checkpoints:
                self._send_slices(snapshot, name)
            return
        files = [str(p.relative_to(snapshot)) for p in sorted(snapshot.rglob("*")) if p.is_file()]
        for name in (name for name in _FIRST if name in files):
            self._send_changed(snapshot, name)
        for name in checkpoints:
            self._send_checkpoint(snapshot, name)
        rest = [n for n in files if n not in _FIRST and not n.startswith("checkpoints/")]
        rest += [n for n in files if n in ("checkpoints/latest", "checkpoints/best")]
        for name in sorted(rest, key=lambda n: n == FINISHED):  # the mark after all that it is of
            self._send_changed(snapshot, name)
        self._prune(set(checkpoints))

    def _send_checkpoint(self, snapshot: Path, name: str) -> None:
        """Send the main worker's slices, and state.json when those of all machines are stored."""
        place = f"checkpoints/{name}"
        text = (snapshot / place / checkpoint.STATE_FILE).read_text("utf-8")
        if self._stored.get(name) == text:
            return
        self._stored.pop(name, None)
        state = json.loads(text)
        known = name in self._maybe_stored and "id" in state
        if not known or remote_run.state_text(self.output, name) != text:
            missing = set(state["files"]).difference(self._send_slices(snapshot, name))
            if self.machines is not None and missing:
                self._wait_for(_id_of(name, text), missing)
                uri = self._uri(place)
                sizes = storage.sizes_below(uri)
                if fault := checkpoint.size_fault(storage.public(uri), state["files"], sizes):
                    raise StorageError(fault)  # another start of the run removed it
            self._send(snapshot, f"{place}/{checkpoint.STATE_FILE}")
            logger.info("checkpoint %s is stored at %s", name, storage.public(self._uri(place)))
        self._stored[name] = text

    def _send_slices(self, snapshot: Path, name: str) -> list[str]:
        """Send the files of a checkpoint that were written here, and report them."""
        folder, place = snapshot / "checkpoints" / name, f"checkpoints/{name}"
        mine = sorted(path.name for path in folder.glob("*.safetensors"))
        text = (folder / checkpoint.STATE_FILE).read_text("utf-8")
        if not self.world.is_main:
            # A checkpoint that is complete here was downloaded: the main worker has all of it too.
            complete = set(mine) >= set(json.loads(text)["files"])
            if not mine or complete or self._stored.get(name) == text:
                return mine
        # Of the same step before: incomplete from now on.
        storage.remove_file(self._uri(f"{place}/{checkpoint.STATE_FILE}"))
        for file in mine:
            self._send(snapshot, f"{place}/{file}")
        if self.machines is not None and not self.world.is_main:
            self.machines.sent(_id_of(name, text), self.world.rank, mine)
            self._stored[name] = text
        return mine

    def _wait_for(self, checkpoint_id: str, files: set[str]) -> None:
        """Wait until the other machines have stored their slices.

        Raises:
            PartError: they will not, or a newer snapshot waits.
        """
        assert self.machines is not None
        self._busy = False
        while True:
            late = self.machines.missing(checkpoint_id, files, ending=self._ending)
            if late is None:
                return
            self._progress = f"{self.machines.name(late)} is sending its part"
            if self._next is not None and not self._ending:
                raise PartError(f"{self.machines.name(late)} could not send its part")
            time.sleep(_POLL_SECONDS)

    def _send(self, snapshot: Path, name: str) -> None:
        size = (snapshot / name).stat().st_size
        self._progress = f"{name} ({size / 1e6:.1f} MB)"
        storage.write_file(snapshot / name, self._uri(name))

    def _send_changed(self, folder: Path, name: str) -> None:
        """Send a file unless this content was sent under its name."""
        with (folder / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        if self._sent.pop(name, None) != digest:
            self._send(folder, name)
        self._sent[name] = digest

    def _prune(self, sent: set[str]) -> None:
        """Remove older checkpoints; those just sent stay."""
        sizes = storage.sizes_below(self._uri("checkpoints"))
        names = sorted({n.split("/")[0] for n in sizes if n.startswith("step-")}, reverse=True)
        # Complete ones, of earlier starts of the run too; not those after the step it resumed at.
        complete = [n for n in names if f"{n}/{checkpoint.STATE_FILE}" in sizes]
        newest = [name for name in complete if name <= max(sent, default="")][: self.keep]
        if self.machines is not None:  # other machines may be sending slices of newer ones
            names = [name for name in names if name < max(sent, default="")]
        for name in set(names) - set(newest) - sent:
            files = [n for n in sizes if n.startswith(f"{name}/")]
            # The state first: from then on it is no checkpoint.
            for file in sorted(files, key=lambda n: not n.endswith(checkpoint.STATE_FILE)):
                storage.remove_file(self._uri(f"checkpoints/{file}"))
            self._stored.pop(name, None)

    def _uri(self, name: str) -> str:
        return storage.join(self.output, name)


def _id_of(name: str, text: str) -> str:
    return f"{name}/{json.loads(text).get('id', '')}"


def _files(folder: Path) -> list[Path]:
    """All files below `folder` in order, without hidden folders: snapshots are in one."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place) / name for name in files]
    return sorted(found)
