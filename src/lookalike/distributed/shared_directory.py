"""Which workers write to the same directory: found out by looking, whatever the machines share."""

from __future__ import annotations

import contextlib
import platform
import secrets
import time
from dataclasses import replace
from pathlib import Path

from lookalike.distributed.world import World
from lookalike.errors import RunError

_TRIES = 6  # a network's file system may show a file a moment later
_PAUSE = 0.2


def find_keepers(world: World, folder: Path) -> World:
    """`world`, with the workers that make and tidy `folder` on each disk.

    Each worker makes the folder where it is not there, writes a file of a new name into it and
    looks for those of the others: it shares the directory with the first worker that it finds.

    To be called by all workers together.

    Raises:
        RunError: the folder cannot be made or written to.
    """
    if world.local_size == world.size:
        return world
    start = world.tell(secrets.token_hex(8))[0]
    mine = _trace(folder, start, world.rank)
    try:
        with world.together():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                mine.touch()
            except OSError as error:
                reason = (error.strerror or "").lower()
                raise RunError(f"{folder}: cannot be written to: {reason}") from None
        keeper = _first(folder, start, world.rank)
        keepers = sorted(set(world.tell(keeper)))
    finally:
        with contextlib.suppress(OSError):
            mine.unlink()
    return replace(world, keeper=keeper, keepers=tuple(keepers))


def check_shared(world: World, output: str) -> None:
    """See that all workers write to one directory.

    To be called by all workers together.

    Raises:
        RunError: they do not.
    """
    hosts = world.tell(platform.node())
    if len(world.keepers) > 1:
        other = world.keepers[1]
        raise RunError(
            f"run.output={output}: worker {other} ({hosts[other]}) does not see what worker 0 "
            f"({hosts[0]}) writes there; workers on several machines need a directory that they "
            "share, or an output in object storage (oss://..., s3://...)"
        )


def _first(folder: Path, start: str, rank: int) -> int:
    """The first worker whose file is to be seen here; in the end, this one."""
    for _ in range(_TRIES):
        if _trace(folder, start, 0).exists():
            return 0
        time.sleep(_PAUSE)
    return next(other for other in range(rank + 1) if _trace(folder, start, other).exists())


def _trace(folder: Path, start: str, rank: int) -> Path:
    return folder / f".worker-{start}-{rank:05d}"
