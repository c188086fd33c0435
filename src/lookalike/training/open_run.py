"""Output directory of a training: created for a new run, or resumed from its newest checkpoint."""

from __future__ import annotations

import difflib
import math
from functools import partial
from pathlib import Path

from lookalike import storage
from lookalike.config.config import Config, keys
from lookalike.config.same_setting import same_setting, settings_text
from lookalike.data.catalog import Catalog
from lookalike.data.classes import Classes
from lookalike.data.loading.image_source import Source
from lookalike.distributed import shared_directory
from lookalike.distributed.world import World
from lookalike.errors import ConfigError, RunError
from lookalike.log import logger
from lookalike.model.embedder import WEIGHTS_FILE
from lookalike.run import CONFIG, Run
from lookalike.storage.output_checks import check_output_folder
from lookalike.training import checkpoint, remote_run, several_machines, warm_start
from lookalike.training.bad_image_limit import BadImageLimit
from lookalike.training.checkpoint import Progress, Trained
from lookalike.training.frozen_start import StartFeatures, start_features
from lookalike.training.parts import TrainingParts, TrainingSchedule
from lookalike.training.resolve import RESOLVED_FROM
from lookalike.training.resume_changes import (
    change_of_length,
    changes_of_shape,
    other_changes,
    with_inputs,
)
from lookalike.training.setting_folders import (
    as_written,
    folders_of,
    found_where_it_began,
    write_folders,
)


def check_request(config: Config, resume: bool) -> None:
    """Check that a training list and an output are given, and a new run's length only once.

    Raises:
        ConfigError: one is missing, or both train.epochs and train.time_budget are given.
        RunError: the run to resume does not exist.
        StorageError: nothing can be written to a remote output.
    """
    output = config.run.output
    if output is not None and storage.is_remote(output):
        storage.check_writable(output)
        remote_run.workdir(output, config.run.workdir)  # refuses secrets, before a request
        check_output_folder(output)
    resumed = resume and output is not None
    resumed = resumed and remote_run.saved_config(str(output), asked=True) is not None
    if not resumed:
        check_one_length(config)
    if config.data.train is not None and output is not None:
        return
    if resume and output is None:
        raise ConfigError("nothing to resume: give run.output (--output), the directory of the run")
    if resume and output is not None and not resumed:
        raise RunError(
            f"{storage.public(output)}: no run here to resume ({CONFIG} is missing); "
            f"{_like(output)}check --output, or give --train LIST to begin a run there"
        )
    config.require_list_and_output()


def check_one_length(config: Config) -> None:
    """Check that a new run's length is given only once.

    Raises:
        ConfigError: both train.epochs and train.time_budget are given.
    """
    if "train.epochs" in config.asked() and config.train.time_budget is not None:
        raise ConfigError(
            f"train.epochs={config.train.epochs} and train.time_budget={config.train.time_budget} "
            "exclude each other; give one"
        )


def _like(output: str) -> str:
    """Hint at a run beside `output` with a similar name."""
    path = Path(storage.local_path(output)).absolute()
    if storage.is_remote(output) or not path.parent.is_dir():
        return ""
    runs = [other.name for other in path.parent.iterdir() if Run(other).exists()]
    close = difflib.get_close_matches(path.name, runs, 1, 0.5)
    return f"did you mean {path.parent / close[0]}? Else " if close else ""


def resumed_request(changes: Config, output: str | None) -> Config:
    """The request saved in `output` with these changes; they alone if there is none."""
    saved = None if output is None else remote_run.saved_config(output, asked=True)
    if saved is None:
        return changes
    return saved.with_values({key: changes.get(key) for key in changes.asked()})


def with_files_of_run(config: Config, resume: bool) -> Config:
    """The request with files of the resumed run `found_where_it_began`."""
    output = config.run.output
    used = remote_run.saved_config(str(output)) if resume and output is not None else None
    if used is None:
        return config
    return found_where_it_began(config, used, folders_of(str(output)))


_OF_NEW_RUNS = {
    "train.time_budget": "give train.epochs or train.max_steps for another length",
    "train.recipe": "give the settings to change",
}
"""Settings that others follow from when a run begins, each with what a resumed run takes."""


def as_before(config: Config, run: Run, resume: bool, world: World) -> Config:
    """Request of a resumed run, with the values that the run used so far where it leaves them open.

    These are the values resolved when the run began, and the defaults of the version that began
    it. A value that follows from a setting which the request changes stays open, and so does one
    that was requested before and is not any more. Called by all workers together.
    """
    found: list[str] = []
    folders: dict[str, str] = {}
    with world.raise_together():
        if world.is_main and resume and run.exists() and run.resolved.exists():
            place = str(run.path)
            asked = remote_run.saved_config(place, asked=True)
            used = remote_run.saved_config(place)
            assert asked is not None
            assert used is not None
            found, folders = [asked.to_yaml(complete=False), used.to_yaml()], folders_of(place)
    texts, folders = world.broadcast_object((found, folders))
    if not texts:
        return config
    before, used = (Config.load(run.path, content=text.encode()) for text in texts)
    given = config.asked()
    for key, instead in _OF_NEW_RUNS.items():
        values = config.get(key), used.get(key), folders.get(key, "")
        if key in given and not same_setting(key, *values):
            now, began_with = settings_text(key, *values)
            raise ConfigError(
                f"{key}={now} is for new runs, and {run.path} began with {began_with}: {instead}, "
                "or train into another --output"
            )
    if used.data.val_fraction and config.data.val is not None and used.data.val is None:
        raise RunError(
            f"{run.path}: {used.data.val_fraction:g} of the classes are held out of training, and "
            "with data.val they would be learnt; resume without --val, and measure that list with "
            "lookalike evaluate"
        )

    def changed(key: str) -> bool:
        is_given = key in given | before.asked()
        values = config.get(key), used.get(key), folders.get(key, "")
        return is_given and not same_setting(key, *values)

    kept = {
        key: used.get(key)
        for key in keys()
        if key not in given | before.asked() and not any(map(changed, RESOLVED_FROM.get(key, ())))
    }
    return config.with_values(kept)


def write_request(run: Run, asked: Config, used: Config) -> None:
    """Write config.yaml (as asked) and resolved.yaml (as used), without secrets in addresses.

    The folders of relative paths, by which a resumed run knows them, are in folders.json.
    """
    before = remote_run.saved_config(str(run.path))
    if before is not None:
        folders = folders_of(run)
        asked, used = as_written(asked, before, folders), as_written(used, before, folders)
    written = asked.without_secrets()
    cut = [key for key in sorted(asked.asked()) if asked.get(key) != written.get(key)]
    if cut:
        logger.warning(
            "%s: written without the user info and signature of its address; to resume, give it "
            "again", ", ".join(cut),
        )  # fmt: skip
    public = used.without_secrets()
    write_folders(run, public, before)
    storage.write_text(run.resolved, public.to_yaml())
    storage.write_text(run.config, written.to_yaml(complete=False))  # the last: it makes this a run


def open_run(config: Config, resume: bool, world: World) -> tuple[Run, World]:
    """Output directory of this worker, with the leaders of the directories in `World`.

    Called by all workers together. A remote run is downloaded first where it is resumed.

    Raises:
        RunError: it holds a run and `resume` is False, or it cannot be used.
    """
    output = config.run.output
    assert output is not None
    run = Run(local_output(config))
    world = shared_directory.find_directory_leaders(world, run.path)
    if not storage.is_remote(output):
        shared_directory.check_shared(world, output)
    elif len(world.directory_leaders) > 1 and resume:
        several_machines.resume_from(output, run, world)
    else:
        with world.raise_together():
            if world.is_main:
                _open_remote(output, run, resume)
    with world.raise_together():
        if world.is_directory_leader:
            Run.create(run.path, resume=resume)
    return run, world


def local_output(config: Config) -> Path:
    """Directory of this machine to which the run is written."""
    output = config.run.output
    assert output is not None
    if storage.is_remote(output):
        return remote_run.workdir(output, config.run.workdir)
    return Path(storage.local_path(output))


def start_or_resume(
    run: Run,
    parts: TrainingParts,
    catalog: Catalog,
    config: Config,
    resume: bool,
    world: World,
    source: Source,
    features: StartFeatures | None,
) -> Progress:
    """Load the newest checkpoint of a resumed run, or the weights that a new run starts from.

    `features` are those of the pretrained backbone, where neck and class weights start from them.

    Raises:
        RunError: a checkpoint is missing, damaged or does not fit.
    """
    restored = restore(run, parts.trained, parts.bad_images, catalog, resume, world, config)
    if restored is None and config.train.start_from is not None:
        loaded = partial(
            start_features, catalog=catalog, world=world, source=source,
        )  # fmt: skip
        warm_start.begin(
            config.train.start_from, parts.trained, catalog.classes, world,
            loaded if config.model.init_from_features else None,
        )  # fmt: skip
    elif restored is None and features is not None:
        with parts.trained.whole() as network:
            features.set_class_weights(network.embedder.neck, parts.trained.heads)
    saved = restored or Progress(inputs=parts.inputs)
    progress = with_inputs(saved, parts.inputs)
    if resume and (change := change_of_length(run, config, saved, progress)):
        logger.warning("resumed with another length: %s", change)
    return progress


def has_no_checkpoint(run: Run, resume: bool, world: World) -> bool:
    """True if training begins at its start; called by all workers together."""
    # As the main worker finds it: a slower worker may see files that it writes next.
    found = resume and any(run.checkpoints.glob("step-*"))
    return bool(world.broadcast_object(not found))


def restore(
    run: Run,
    trained: Trained,
    bad_images: BadImageLimit,
    catalog: Catalog,
    resume: bool,
    world: World,
    config: Config,
) -> Progress | None:
    """Load the newest complete checkpoint and unreadable images; None without a checkpoint.

    Raises:
        RunError: no checkpoint is complete, or it does not fit the settings; names those that
            changed.
    """
    # As the main worker finds it: a slower worker may see files that it writes next.
    if not world.broadcast_object(resume and run.began()):
        return None
    name, bad = None, {}
    with world.raise_together():
        if world.is_main:
            name = newest_of(run, catalog)
            found = [(each.get("row"), each.get("reason")) for each in run.read(run.bad_images)]
            bad = {row: str(reason) for row, reason in found if type(row) is int}
    # Other machines may have nothing of the run but this checkpoint.
    name, bad = world.broadcast_object([name, bad])
    with world.raise_together():
        try:
            progress = None if name is None else checkpoint.load(run.checkpoints / name, trained)
        except RunError:
            if changes := changes_of_shape(run, config):
                raise RunError(
                    f"{run.path}: cannot be resumed with {', '.join(changes)}: its checkpoints do "
                    "not fit; keep these settings, or train into another --output (with "
                    f"train.start_from={run.path} to begin with its weights)"
                ) from None
            raise
        if others := other_changes(run, config):
            logger.warning("resumed with changed settings: %s", ", ".join(others))
    bad_images.restore({int(row): reason for row, reason in bad.items()})
    world.barrier()
    if world.is_main:
        # At step 0 the start is measured again, and recorded again.
        run.remove_after(progress.step if progress and progress.step else -1)
    newest = "the start: there is no checkpoint yet" if name is None else run.checkpoints / name
    logger.info("resuming from %s", newest)
    return progress


def check_end(config: Config, schedule: TrainingSchedule, progress: Progress) -> None:
    """Check that a resumed run is not past its end.

    Raises:
        RunError: it is.
    """
    train, inputs, step = config.train, progress.inputs, progress.step
    assert inputs is not None
    if step <= schedule.total_steps:
        if step and step == schedule.total_steps:
            logger.info("nothing is left to train: step %d is the last one", step)
        return
    output = storage.public(str(config.run.output))
    if train.max_steps == schedule.total_steps:
        raise RunError(
            f"{output}: {step} steps are done, more than train.max_steps={train.max_steps}; give "
            f"train.max_steps={step} or more, or train into another --output"
        )
    done = (step + progress.shift) / inputs.steps_per_epoch
    raise RunError(
        f"{output}: {done:.4g} epochs are done, more than train.epochs={train.epochs}; give "
        f"train.epochs={math.ceil(done)} or more, or train into another --output"
    )


def _open_remote(output: str, local: Run, resume: bool) -> None:
    """Download the run at a remote output to resume it, or check that there is none."""
    if resume:
        local.path.mkdir(parents=True, exist_ok=True)
        with local.locked():
            remote_run.resume_from(output, local)
    elif CONFIG in storage.sizes_below(output):
        raise RunError(
            f"{storage.public(output)} holds a run already; add --resume to resume it, "
            "or choose another --output"
        )


def newest_of(run: Run, catalog: Catalog) -> str | None:
    """Name of the newest complete checkpoint of a run of these classes; None if it has none yet.

    Raises:
        RunError: it is a run of other classes, or no checkpoint is complete, or it is finished and
            its checkpoints were removed.
        DataError: its classes.json is broken.
    """
    saved = run.classes.read_bytes() if run.classes.exists() else None
    if saved is not None and saved != catalog.classes.to_json().encode():
        Classes.from_json(saved, storage.public(str(run.classes)))  # a broken file is named as such
        raise RunError(
            f"{run.path}: the classes of the list are not those that the run began with "
            f"({run.classes}); train into another --output"
        )
    newest, faults = checkpoint.newest(run.checkpoints)
    for fault in faults:
        logger.warning("%s; skipped", fault)
    if newest is None and faults:
        raise checkpoint.none_complete(run.path)
    if newest is None and run.is_finished():
        raise RunError(
            f"{run.path}: a finished run without checkpoints, which training from the start would "
            "overwrite; train into another --output (with "
            f"model.pretrained={run.model / WEIGHTS_FILE} to begin with its weights)"
        )
    return None if newest is None else newest.name
