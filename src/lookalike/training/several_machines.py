"""Resume, and the model on each machine, of a run on machines that share no directory."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import torch

from lookalike import storage
from lookalike.distributed.world import World
from lookalike.errors import RunError
from lookalike.log import logger
from lookalike.run import Run
from lookalike.training import checkpoint, remote_run


def resume_from(output: str, local: Run, world: World) -> None:
    """Bring the newest checkpoint to each machine; called by all workers together.

    One whose parts are on the machines' disks, because its upload was interrupted, is uploaded
    first; then each machine downloads the files that it lacks. Other incomplete checkpoints are
    removed.

    Raises:
        RunError: there are checkpoints, but none is complete.
        StorageError: the storage does not answer, or a file changed meanwhile.
    """
    with ExitStack() as locks:
        with world.raise_together():
            if world.is_directory_leader:
                locks.enter_context(local.locked())
        _resume_from(output, local, world)


def _resume_from(output: str, local: Run, world: World) -> None:
    _finish_upload(output, local, world)
    with world.raise_together():
        if world.is_main:
            remote_run.resume_from(output, local)
            _complete_best(output, local)
            _tidy(local)
    found, _ = checkpoint.newest(local.checkpoints) if world.is_main else (None, [])
    name = world.broadcast_object(None if found is None else found.name)
    with world.raise_together():
        if world.is_directory_leader and not world.is_main:
            if name is not None:
                remote_run.fetch_checkpoint(output, name, local.checkpoints)
            _tidy(local, but=name)


def share_model(run: Run, world: World) -> None:
    """Copy the model to the directories of the other machines; called by all workers together."""
    world.barrier()  # the main worker has written it
    if len(world.directory_leaders) == 1:
        return
    names = sorted(path.name for path in run.model.iterdir()) if world.is_main else []
    for name in world.broadcast_object(names):
        content = bytearray((run.model / name).read_bytes()) if world.is_main else bytearray()
        size = world.broadcast_object(len(content))
        if not world.is_main:
            content = bytearray(size)
        data = torch.frombuffer(content, dtype=torch.uint8).to(world.device)
        world.broadcast(data)
        if world.is_directory_leader and not world.is_main:
            storage.write_bytes(str(run.model / name), data.cpu().numpy().tobytes())
    world.barrier()


def _finish_upload(output: str, local: Run, world: World) -> None:
    """Upload the newest checkpoint of the machines' disks, if the storage lacks it."""
    name, text = None, ""
    with world.raise_together():
        if world.is_main:
            name, text = _unfinished(output, local)
    name, text = world.broadcast_object([name, text])
    if name is None:
        return
    folder = local.checkpoints / name
    held = world.all_gather_object(_held(folder, text) if world.is_directory_leader else [])
    lacking = set(json.loads(text)["files"]).difference(*held)
    if lacking:
        logger.warning("%s: no machine has %s any more; skipped", folder, min(lacking))
        return
    logger.info("uploading %s, which is not complete there yet", name)
    place = storage.join(output, f"{remote_run.CHECKPOINTS}/{name}")
    state = storage.join(place, checkpoint.STATE_FILE)
    with world.raise_together():
        if world.is_directory_leader:
            storage.remove_file(state)  # of the same step before: incomplete from now on
        for file in set(held[world.rank]).difference(*held[: world.rank]):
            storage.write_file(folder / file, storage.join(place, file))
    with world.raise_together():
        if world.is_main:
            storage.write_file(folder / checkpoint.STATE_FILE, state)
            remote_run.fetch_checkpoint(output, name, local.checkpoints)


def _unfinished(output: str, local: Run) -> tuple[str | None, str]:
    """Newest checkpoint of the main worker's disk and its state.json, if it is not stored."""
    sizes = storage.sizes_below(output)
    there, _ = remote_run.newest(output, sizes)
    for folder in sorted(local.checkpoints.glob("step-*"), reverse=True):
        text = _state(folder)
        if text is None:
            continue
        if there is not None and folder.name < there:
            return None, ""
        if folder.name == there:
            place = f"{remote_run.CHECKPOINTS}/{there}/{checkpoint.STATE_FILE}"
            if storage.read_bytes(storage.join(output, place)) == text.encode():
                return None, ""
        return folder.name, text
    return None, ""


def _state(folder: Path) -> str | None:
    """Text of a state.json; None if it is missing or damaged."""
    try:
        text = (folder / checkpoint.STATE_FILE).read_text("utf-8")
        checkpoint.parse_state(text, folder)
    except (OSError, ValueError, RunError):
        return None
    return text


def _held(folder: Path, text: str) -> list[str]:
    """Undamaged files of a checkpoint here, of the same save."""
    if _state(folder) != text:
        return []
    state = json.loads(text)
    return [name for name in state["files"] if checkpoint.is_as_written(folder, name, state)]


def _complete_best(output: str, local: Run) -> None:
    """Complete the best checkpoint of the main worker's disk from the storage."""
    pointer = local.checkpoints / "best"
    if not pointer.exists():
        return
    best = local.checkpoints / pointer.read_text("utf-8").strip()
    if _is_complete(best):
        return
    there = remote_run.state_text(output, best.name)
    if there is not None and there == _state(best):
        remote_run.fetch_checkpoint(output, best.name, local.checkpoints)
    else:
        logger.warning("%s: a part of it is lost; its model is kept", best)
        pointer.unlink()


def _is_complete(folder: Path) -> bool:
    try:
        checkpoint.read_state(folder)
    except RunError:
        return False
    return True


def _tidy(local: Run, but: str | None = None) -> None:
    """Remove incomplete checkpoints, and with `but` all others too."""
    for folder in sorted(local.checkpoints.glob("step-*")):
        if not _is_complete(folder) or (but is not None and folder.name != but):
            shutil.rmtree(folder)
