"""`lookalike train`: from a list of labelled images to a measured embedding model.

The file to open first: `train` is a run from top to bottom.
"""

from __future__ import annotations

import json
import logging
import shlex
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lookalike import __version__, log, storage
from lookalike.commands import run_info, summary
from lookalike.commands.network_start import start_network
from lookalike.commands.plan import plan_memory
from lookalike.commands.report import report_training
from lookalike.config.config import Config, keys
from lookalike.config.duration import seconds_of
from lookalike.config.same_setting import same_setting
from lookalike.data.catalog import Catalog
from lookalike.data.held_out_classes import hold_out
from lookalike.data.loading.image_source import Source
from lookalike.data.readers.path_patterns import shown
from lookalike.distributed.launch import command_began, in_worker, launch
from lookalike.distributed.world import World
from lookalike.errors import DataError, Interrupted
from lookalike.log import logger
from lookalike.metrics.calibration import Calibration
from lookalike.model.embedder import Embedder
from lookalike.planning.choice import Choice, with_choices
from lookalike.planning.choices_by_length import FROZEN_EPOCHS, choose_by_length
from lookalike.planning.choices_by_start import part_to_hold_out
from lookalike.planning.recipe import choose_by_data, choose_by_file
from lookalike.reporting import environment
from lookalike.reporting.loggers import Loggers, RunFacts
from lookalike.run import Run
from lookalike.training import build, several_machines
from lookalike.training.checkpoint import Progress
from lookalike.training.frozen_backbone import use_frozen_features
from lookalike.training.open_run import (
    as_before,
    check_end,
    check_request,
    has_no_checkpoint,
    local_output,
    open_run,
    resumed_request,
    start_or_resume,
    with_files_of_run,
    write_request,
)
from lookalike.training.parts import TrainingParts
from lookalike.training.remote_run import saved_config
from lookalike.training.request_lists import (
    check_validation,
    create_source,
    keep_streams,
    open_catalogs,
)
from lookalike.training.resolve import resolve
from lookalike.training.run_output import RunOutput
from lookalike.training.saved_lists import files_named_by, lists_named_by
from lookalike.training.setting_folders import folders_of
from lookalike.training.step import repeatable
from lookalike.training.time_budget import (
    fit_length,
    image_passes,
    reserved_passes,
    seconds_beside_features,
)
from lookalike.training.trainer import Trainer
from lookalike.training.uploader import create_uploader
from lookalike.training.validation import Validator


def train(config: Config | None = None, *, resume: bool = False, **settings: Any) -> Run:
    """Train an embedding model.

    Args:
        config: the request; None for the defaults, or, with `resume` and no training list, for
            the saved request of the output directory.
        resume: continue from the newest checkpoint of the output directory, if there is one.
            Settings that were never given keep the values that the run used so far.
        settings: values that differ from `config`, by the flag's name (`train`, `val`, `output`,
            `backbone`, `loss`, `epochs`, `workers`), by a key's last part where only one key
            has it (`lr`, `batch_size`), or as `section__key` (`optim__lr`).

    Returns:
        The output directory.

    Raises:
        LookalikeError: a mistake that the user can fix; see `lookalike.errors`.
    """
    began = command_began()
    requested = Config.of(config, settings)
    saved = resume and config is None and requested.data.train is None
    if saved:
        output = with_choices(requested, choose_by_file(requested)).run.output
        requested = resumed_request(requested, output)
    requested = with_files_of_run(requested, resume)
    with files_named_by(requested, resume):
        by_file = choose_by_file(requested)
    config = with_files_of_run(with_choices(requested, by_file), resume)
    check_request(config, resume)
    config = keep_streams(config)
    build.check_settings(config)
    if config.run.workers > 1 and not in_worker():
        return _train_in_workers(config, _without(config, by_file), resume)

    with ExitStack() as stack:
        timeout = seconds_of(config.run.timeout)
        world = stack.enter_context(World.from_env(config.run.device, timeout))
        # Only this worker's device: by default torch saves the state of every GPU of the machine,
        # which starts CUDA without need and warns where there are several.
        devices = [world.device] if world.device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(repeatable(world.device))
        run, world = _open(config, resume, world, stack)
        stack.enter_context(files_named_by(config, resume))
        asked, config = config, as_before(config, run, resume, world)

        source = create_source(config)
        with _naming_run(run, config, resume):
            catalog, held_out = open_catalogs(config, world=world)
        choices = choose_by_data(config, catalog, held_out, source, world)
        config = with_choices(config, choices)
        choices = by_file + choices
        if held_out is None and config.data.val_fraction:
            catalog, held_out = hold_out(catalog, config.data.val_fraction, config.train.seed)
        part = part_to_hold_out(config, catalog, held_out)
        if part is None:
            check_validation(config, held_out)
            summary.log_data(catalog, held_out, config)
        torch.manual_seed(config.train.seed)
        loss = build.metric_loss(config)
        begins = has_no_checkpoint(run, resume, world) and config.train.start_from is None
        start = start_network(
            config, loss, catalog, begins=begins, held_out=part, source=source, world=world
        )
        embedder = start.embedder
        choices += start.choices
        config = with_choices(config, start.choices)
        if held_out is None and config.data.val_fraction:
            catalog, held_out = hold_out(catalog, config.data.val_fraction, config.train.seed)
            start = start.of_list(catalog, source=source, world=world)
        if part is not None:
            check_validation(config, held_out)
            summary.log_data(catalog, held_out, config)
        summary.log_choices(choices)
        config = resolve(config, loss, embedder, world, len(catalog.classes))
        if world.is_main:
            needed = plan_memory(config, embedder, len(catalog.classes), world)
            summary.log_needed_memory(needed, config, asked)
        parts = build.build(config, loss, embedder, catalog, held_out, source, run, world)
        uploader = create_uploader(
            run, str(config.run.output), keep=config.train.keep_checkpoints, world=world
        )
        progress = start_or_resume(
            run, parts, catalog, config, resume, world, source, start.features
        )
        use_frozen_features(parts, config, run, progress, world, source)
        config, by_length = _within_budget(
            config, asked, parts, run, progress, world, source, began
        )
        choices += by_length
        schedule = build.create_schedule(config, parts.loader.steps_per_epoch, progress.shift)
        check_end(config, schedule, progress)
        loggers = Loggers()
        with world.raise_together():
            if world.is_main:
                loggers.start(build.logger_names(config), _run_facts(run, config))
        written = RunOutput(run, loggers, uploader, world)
        trainer = Trainer(
            parts,
            schedule=schedule,
            learning_rate=build.create_learning_rate(config, schedule.total_steps + progress.shift),
            output=written,
            world=world,
            progress=progress,
        )
        summary.log_plan(config, embedder, parts.loader, schedule, progress, world)
        summary.log_heads(parts.trained.heads, world)
        if world.is_main:
            _write_facts(run, catalog, _without(asked, by_file), config, choices, world)
        with world.raise_together():
            if uploader is not None:
                uploader.start()
        finished = False
        with written:  # checkpoints of a failed training are uploaded too
            try:
                written.begin()
                stopped_by = trainer.fit()
                if not stopped_by:
                    calibration = _calibrate(run, parts.validator, config, world)
                    if config.train.report and world.is_main:
                        report_training(run, config, catalog, held_out, world.device, source)
                    written.finish(trainer.progress.step)
                finished = not stopped_by
            finally:
                loggers.finish(finished=finished)
        if stopped_by:
            output = storage.public(str(config.run.output))
            raise Interrupted(stopped_by, trainer.progress.step, output)
        summary.log_memory(world)
        summary.log_result(run, trainer.progress)
        if calibration is not None:
            summary.log_calibration(calibration)
    return run


def _within_budget(
    config: Config,
    asked: Config,
    parts: TrainingParts,
    run: Run,
    progress: Progress,
    world: World,
    source: Source,
    began: float,
) -> tuple[Config, list[Choice]]:
    """Request of a new run with the length that fits `train.time_budget`, and what that chooses."""
    train = config.train
    if train.time_budget is None or not world.broadcast_object(not run.resolved.exists()):
        return config, []
    # Epochs with a frozen backbone take less than the others.
    epoch = 0 if train.freeze_backbone else train.freeze_backbone_epochs
    passes = reserved_passes(
        interpolate=bool(train.interpolate), report=train.report, workers=world.size
    )
    fit = partial(fit_length, train.time_budget, parts, run, world, began=began, passes=passes)
    length = fit(frozen=train.freeze_backbone, epoch=epoch)
    epochs, steps = length.epochs, min(length.steps, train.max_steps or length.steps)
    steps_per_epoch = parts.loader.steps_per_epoch
    choices = choose_by_length(config, asked.asked(), length.steps / steps_per_epoch)
    again = image_passes(report=train.report, workers=world.size)
    reserved = None
    if choices:
        reserved = seconds_beside_features(
            train.time_budget, parts, world, epoch=epoch, passes=again, began=began
        )
    if reserved is None:
        choices = []
    else:
        summary.log_choices(choices)
        config = with_choices(config, choices)
        use_frozen_features(parts, config, run, progress, world, source)
        length = fit(
            frozen=True, epoch=0, least=steps_per_epoch, passes=passes - again, seconds=reserved
        )
        epochs = min(length.epochs, FROZEN_EPOCHS)
        steps = min(length.steps, epochs * steps_per_epoch)
    values = {"train.epochs": epochs, "train.max_steps": steps}
    if "train.eval_every" not in asked.asked():
        values["train.eval_every"] = length.eval_every
    return config.with_values(values), choices


def _without(config: Config, choices: Sequence[Choice]) -> Config:
    """Request that leaves open what the recipe chose."""
    return config.only(config.asked() - {choice.key for choice in choices})


def _train_in_workers(config: Config, requested: Config, resume: bool) -> Run:
    """Train in `run.workers` processes; `config` is the request with its recipe."""
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        request = Path(folder) / "config.yaml"
        request.write_text(requested.to_yaml(complete=False), "utf-8")
        arguments = ["train", str(request), *(["--resume"] if resume else [])]
        output = storage.public(str(config.run.output))
        again = f"Resume with: lookalike train --resume --output {shlex.quote(output)}"
        launch(config.run.workers, arguments, folder, again)
    return Run.open(local_output(config))


def _open(config: Config, resume: bool, world: World, stack: ExitStack) -> tuple[Run, World]:
    """Open and lock the output directory, and start the log, until the stack is closed."""
    level = logging.INFO if world.is_main else logging.ERROR
    log.start(level, console_optional=True)
    run, world = open_run(config, resume, world)
    with world.raise_together():
        if world.is_directory_leader:
            stack.enter_context(run.locked())
    if world.is_main:
        stack.enter_context(log.also_to_file(run.log))
    elif world.is_directory_leader:  # each machine logs problems of its own upload
        log.start(logging.WARNING, console_optional=True)
    return run, world


def _naming_run(run: Run, config: Config, resume: bool) -> AbstractContextManager[None]:
    """Name the run in errors of its lists, where a resumed one takes those that it began with."""
    before = saved_config(str(run.path)) if resume else None
    folder = folders_of(run).get("data.train", "")
    if before is None or not same_setting(
        "data.train", config.data.train, before.data.train, folder
    ):
        return nullcontext()
    instead = "--train" if config.data.val is None else "--train LIST and --val"
    output = storage.public(str(config.run.output))
    return lists_named_by(run, config, instead=instead, name=output)


def _run_facts(run: Run, config: Config) -> RunFacts:
    """Facts of the run for experiment trackers."""
    public = config.without_secrets()
    return RunFacts(run_info.name_of(str(run.path)), run.path, {k: public.get(k) for k in keys()})


def _write_facts(
    run: Run,
    catalog: Catalog,
    asked: Config,
    config: Config,
    choices: Sequence[Choice],
    world: World,
) -> None:
    storage.write_text(run.classes, catalog.classes.to_json())
    if choices:  # a resumed run has them already
        chosen = [{**asdict(choice), "value": config.get(choice.key)} for choice in choices]
        storage.write_text(run.recipe, json.dumps(chosen, indent=1) + "\n")
    write_request(run, asked, config)
    ran_with = environment.describe(__version__, world.device, world.size)
    storage.write_text(run.environment, json.dumps(ran_with, indent=1) + "\n")


def _calibrate(
    run: Run, validator: Validator | None, config: Config, world: World
) -> Calibration | None:
    """Calibrate the saved model on the validation set, if that is large enough."""
    if validator is None:
        logger.info("no threshold was measured: there is no validation set")
        return None
    several_machines.share_model(run, world)
    data = config.data
    held = f"{data.val_fraction:g} of the classes of {shown(data.train)}"
    try:
        calibration = validator.calibrate(
            Embedder.load(run.model, world.device), f"validation set: {shown(data.val) or held}"
        )
    except DataError as error:
        logger.warning("%s", error)
        return None
    if world.is_main:
        calibration.save(run.model)
    return calibration
