"""Detection of the workers that write to the same directory, by files that they see there."""

from __future__ import annotations

import contextlib
import platform
import secrets
import time
from dataclasses import replace
from pathlib import Path

from lookalike.distributed.world import World
from lookalike.errors import RunError, reason_of

_TRIES = 6  # a network file system may show a file with a delay
_PAUSE = 0.2


def find_directory_leaders(world: World, folder: Path) -> World:
    """`world` with the leader of each directory that `folder` is; called by all together.

    Each worker creates the folder and a marker file in it, and shares the directory with the
    first worker whose marker it sees.

    Raises:
        RunError: the folder cannot be created or written to.
    """
    if world.local_size == world.size:
        return world
    start = world.broadcast_object(secrets.token_hex(8))
    marker = _marker(folder, start, world.rank)
    try:
        with world.raise_together():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                marker.touch()
            except OSError as error:
                raise RunError(f"{folder}: cannot be written to: {reason_of(error)}") from None
        leader = _first(folder, start, world.rank)
        leaders = sorted(set(world.all_gather_object(leader)))
    finally:
        with contextlib.suppress(OSError):
            marker.unlink()
    return replace(world, directory_leader=leader, directory_leaders=tuple(leaders))


def check_shared(world: World, output: str) -> None:
    """Check that all workers write to one directory; called by all together.

    Raises:
        RunError: they do not.
    """
    hosts = world.all_gather_object(platform.node())
    if len(world.directory_leaders) > 1:
        other = world.directory_leaders[1]
        raise RunError(
            f"run.output={output}: worker {other} ({hosts[other]}) does not see what worker 0 "
            f"({hosts[0]}) writes there; workers on several machines need a directory that they "
            "share, or an output in object storage (oss://..., s3://...)"
        )


def _first(folder: Path, start: str, rank: int) -> int:
    """Rank of the first worker whose marker is visible; this worker's own at last."""
    for _ in range(_TRIES):
        if _marker(folder, start, 0).exists():
            return 0
        time.sleep(_PAUSE)
    return next(other for other in range(rank + 1) if _marker(folder, start, other).exists())


def _marker(folder: Path, start: str, rank: int) -> Path:
    return folder / f".worker-{start}-{rank:05d}"
