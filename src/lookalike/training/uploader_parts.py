"""The upload of a run whose workers write to several directories, each on a machine of its own.

Each machine sends what its workers wrote of a checkpoint and says so on the board; the mirror of
the main worker waits for that, and sends state.json last. The board is of this start of the run
only, and names a checkpoint by its `id`: slices of the same step that an earlier start left in the
storage are never taken for those that are to come.
"""

from __future__ import annotations

import contextlib
import json
import platform
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from lookalike import storage
from lookalike.distributed.world import KeyValueStore, World
from lookalike.errors import RunError
from lookalike.run import Run
from lookalike.training import checkpoint
from lookalike.training.snapshot import Stages
from lookalike.training.uploader import Mirror, PartError

_POLL_SECONDS = 0.2
_SILENT_SECONDS = 60.0


def create_mirror(run: Run, output: str, *, keep: int, world: World) -> Mirror | None:
    """The upload from this worker's directory; None where another worker does it.

    To be called by all workers together.

    Args:
        run: the directory that this worker writes to.
        output: the URI of the copy.
        keep: how many of the latest checkpoints stay there, beside the best.
        world: the workers.
    """
    if len(world.directory_leaders) == 1:
        return Mirror(run, output, keep=keep) if world.is_main else None
    board = KeyValueStore(world)
    told = world.all_gather_object([platform.node(), str(run.path.absolute())])
    if world.is_main:
        found = OtherMachines(
            board, {rank: tuple(told[rank]) for rank in world.directory_leaders[1:]}
        )
        return Mirror(run, output, keep=keep, others=found)
    return (
        PartMirror(run, output, rank=world.rank, board=board) if world.is_directory_leader else None
    )


class PartMirror(Mirror):
    """The upload of another machine than the main worker's: the slices that were written here.

    Args:
        run: the directory on this machine.
        output: the URI of the copy.
        rank: this worker's.
        board: where the main worker reads what is safe.
    """

    def __init__(self, run: Run, output: str, *, rank: int, board: KeyValueStore) -> None:
        super().__init__(run, output, keep=0)
        self._stages = Stages(run, run.checkpoints)
        self._rank, self._board = rank, board
        self._sent: set[str] = set()
        self._beats = 0

    def start(self) -> None:
        """See that this machine may write there.

        Raises:
            StorageError: it may not.
        """
        probe = self._uri(f".worker-{self._rank:05d}")
        storage.write_bytes(probe, b"may write")
        storage.remove_file(probe)
        self._thread.start()

    def _beat(self) -> None:
        self._beats += 1
        with contextlib.suppress(RunError):  # nobody is left to hear it; the thread says so
            self._board.post(f"beat/{self._rank}", self._beats)

    def _work(self) -> None:
        try:
            super()._work()
        finally:
            with contextlib.suppress(RunError):
                error = None if self._error is None else str(self._error)
                self._board.post(f"done/{self._rank}", {"error": error})

    def _upload(self, stage: Path) -> None:
        self._board.post(f"at/{self._rank}", int(stage.name))
        for folder in sorted((stage / "checkpoints").glob("step-*")):
            state = json.loads((folder / checkpoint.STATE_FILE).read_text("utf-8"))
            mine = sorted(path.name for path in folder.glob("*.safetensors"))
            # One that is whole here was fetched: the main worker has it too, and sends it.
            if not mine or state["id"] in self._sent or set(mine) >= set(state["files"]):
                continue
            place = f"checkpoints/{folder.name}"
            # Of the same step before: not whole from now on. The new one comes after our word.
            storage.remove_file(self._uri(f"{place}/{checkpoint.STATE_FILE}"))
            for name in mine:
                self._send(stage, f"{place}/{name}")
            self._board.post(f"part/{state['id']}/{self._rank}", mine)
            self._sent.add(state["id"])


class OtherMachines:
    """What the main worker's mirror knows of the others.

    Args:
        board: where they say what is safe.
        machines: host name and directory of each, by the rank of the worker that sends it.
    """

    def __init__(self, board: KeyValueStore, machines: Mapping[int, tuple[str, str]]) -> None:
        self._board, self._machines = board, machines

    @property
    def places(self) -> str:
        """Where their copies are, in words."""
        words = [f"{path} of {host}" for host, path in self._machines.values()]
        return f" and, what the other machines wrote, in {', '.join(words)}"

    def wait(
        self, state: Mapping[str, Any], mine: Collection[str], number: int, mirror: Mirror
    ) -> None:
        """Wait until the files of a checkpoint that are not `mine` are safe there.

        Args:
            state: what its state.json says.
            mine: the files that the main worker sends.
            number: of the set of files that is being sent; the same on all machines.
            mirror: that of the main worker.

        Raises:
            PartError: they will not come any more.
        """
        missing = set(state["files"]) - set(mine)
        heard: dict[int, tuple[Any, float]] = {}
        while missing:
            parts = {r: self._board.read(f"part/{state['id']}/{r}") for r in self._machines}
            missing -= {name for part in parts.values() for name in part or ()}
            late = [rank for rank, part in parts.items() if part is None]
            if not missing:
                return
            if not late:
                raise PartError(f"no machine has {min(missing)}", final=not mirror.overtaken)
            for rank in late:
                self._look_after(rank, number, mirror, heard)
            mirror.doing = f"{self._name(late[0])} is sending its part"
            time.sleep(_POLL_SECONDS)

    def _look_after(
        self, rank: int, number: int, mirror: Mirror, heard: dict[int, tuple[Any, float]]
    ) -> None:
        """See that the part of worker `rank` may still come."""
        done, at, beat = (self._board.read(f"{what}/{rank}") for what in ("done", "at", "beat"))
        overtaken, now = mirror.overtaken, time.monotonic()
        if done is not None:
            cause = done["error"] or "it ended before"
            raise PartError(
                f"{self._name(rank)} has not sent its part: {cause}", final=not overtaken
            )
        if at is not None and at > number and (overtaken or mirror.ending):
            raise PartError(
                f"{self._name(rank)} has gone on to a newer checkpoint", final=not overtaken
            )
        if not mirror.ending:
            return
        if rank not in heard or heard[rank][0] != (at, beat):
            heard[rank] = ((at, beat), now)
        elif now - heard[rank][1] > _SILENT_SECONDS:
            raise PartError(
                f"{self._name(rank)} has not been heard of for {_SILENT_SECONDS:g} s", final=True
            )

    def _name(self, rank: int) -> str:
        return f"worker {rank} ({self._machines[rank][0]})"
