"""The directory that a training writes to: begun, or gone on with from its newest checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from lookalike import checkpoint, cluster, disks, fetched, storage
from lookalike.checkpoint import Progress, Trained
from lookalike.config import Config
from lookalike.data.catalog import Catalog
from lookalike.distributed import World
from lookalike.errors import RunError
from lookalike.log import logger
from lookalike.quota import Quota
from lookalike.run import Run


def open_run(config: Config, resume: bool, world: World) -> tuple[Run, World]:
    """The directory that this worker writes to, and who keeps it."""
    output = config.run.output
    assert output is not None
    run = Run(place_of(config))
    world = disks.find_keepers(world, run.path)
    if not storage.is_remote(output):
        disks.check_shared(world, output)
    elif len(world.keepers) > 1 and resume:
        cluster.resume_from(output, run, world)
    else:
        with world.together():
            if world.is_main:
                _meet(output, run, resume)
    with world.together():
        if world.is_keeper:
            Run.create(run.path, resume=resume)
    return run, world


def place_of(config: Config) -> Path:
    """The directory of this machine that the run is written to."""
    output = config.run.output
    assert output is not None
    if storage.is_remote(output):
        return fetched.workdir(output, config.run.workdir)
    return Path(storage.local_path(output))


def restore(
    run: Run, trained: Trained, quota: Quota, catalog: Catalog, resume: bool, world: World
) -> Progress | None:
    """Go on where the newest whole checkpoint stands; None where there is none yet."""
    # As the main worker finds it, which soon writes what makes it exist for a slower one.
    began = torch.tensor(int(resume and run.exists()), device=world.device)
    if not world.broadcast(began):
        return None
    name, bad = None, {}
    with world.together():
        if world.is_main:
            name = _newest(run, catalog)
            bad = {found["row"]: found["reason"] for found in run.read(run.bad_images)}
    # Other machines may have nothing of the run but this checkpoint.
    name, bad = world.tell([name, bad])[0]
    with world.together():
        progress = None if name is None else checkpoint.load(run.checkpoints / name, trained)
    quota.restore({int(row): reason for row, reason in bad.items()})
    world.barrier()
    if world.is_main:
        # At step 0 the start is measured again, and recorded again.
        run.forget_after(progress.step if progress and progress.step else -1)
    newest = "the start: there is no checkpoint yet" if name is None else run.checkpoints / name
    logger.info("going on from %s", newest)
    return progress


def _meet(output: str, local: Run, resume: bool) -> None:
    """Look at what a remote output holds, and bring it here to go on with it."""
    if resume:
        local.path.mkdir(parents=True, exist_ok=True)
        with local.locked():
            fetched.resume_from(output, local)
    elif "config.yaml" in storage.sizes_below(output):
        raise RunError(
            f"{storage.public(output)} holds a run already; add --resume to go on with it, "
            "or choose another --output"
        )


def _newest(run: Run, catalog: Catalog) -> str | None:
    """The name of the newest whole checkpoint of a run of these classes; None if it has none yet.

    Raises:
        RunError: it is a run of other classes, or no checkpoint is whole.
    """
    saved = run.classes.read_text("utf-8") if run.classes.exists() else None
    if saved is not None and saved != catalog.classes.to_json():
        raise RunError(
            f"{run.path}: the classes of the list are not those that the run began with "
            f"({run.classes}); train into another --output"
        )
    newest, faults = checkpoint.newest(run.checkpoints)
    for fault in faults:
        logger.warning("%s; left aside", fault)
    if newest is None and faults:
        raise RunError(f"{run.path}: no whole checkpoint is left to go on from")
    return None if newest is None else newest.name
