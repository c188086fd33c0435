"""`lookalike train`: from a list of labelled images to a proven embedding model.

The file to open first: `train` reads top to bottom as the story of a run.
"""

from __future__ import annotations

import json
import logging
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from lookalike import __version__, log, storage
from lookalike.commands import run_info
from lookalike.commands.plan import plan_memory
from lookalike.commands.report import report_training
from lookalike.commands.summary import (
    say_calibration,
    say_data,
    say_heads,
    say_memory,
    say_needed_memory,
    say_plan,
    say_result,
)
from lookalike.config.config import Config, keys
from lookalike.data.augmentations import create_augmentations
from lookalike.data.catalog import Catalog
from lookalike.data.loading.bad_images import BadImages
from lookalike.distributed.launch import in_worker, launch
from lookalike.distributed.world import World
from lookalike.errors import Interrupted
from lookalike.log import logger
from lookalike.model.embedder import Embedder
from lookalike.reporting import environment
from lookalike.reporting.loggers import Loggers, RunFacts, check_installed
from lookalike.run import Run, write_text
from lookalike.training import several_machines, warm_start
from lookalike.training.bad_image_limit import BadImageLimit
from lookalike.training.build import (
    assemble,
    create_embedder,
    create_learning_rate,
    create_loader,
    create_sampling,
    create_schedule,
    create_source,
    create_step,
    keep_streams,
    open_catalogs,
    resolve,
)
from lookalike.training.build_heads import create_heads, metric_margin
from lookalike.training.build_validation import calibrate_model, create_measure
from lookalike.training.checkpoint import Progress
from lookalike.training.micro_batches import check_micro_batches
from lookalike.training.resume import (
    as_before,
    check_end,
    check_request,
    continued,
    inputs_of,
    open_run,
    place_of,
    restore,
    write_request,
)
from lookalike.training.step import repeatable
from lookalike.training.trainer import Trainer
from lookalike.training.uploader import Mirror
from lookalike.training.uploader_parts import create_mirror


def train(config: Config | None = None, *, resume: bool = False, **settings: Any) -> Run:
    """Train an embedding model.

    Args:
        config: the whole request; None for the defaults. What it leaves open is, with `resume`,
            as the run used it so far.
        resume: go on from the newest checkpoint of the output directory, if there is one.
        settings: values that differ from `config`, by the flag's name (`train`, `val`, `output`,
            `backbone`, `loss`, `epochs`, `workers`), by a key's last part where only one key
            has it (`lr`, `batch_size`), or as `section__key` (`optim__lr`).

    Returns:
        The output directory.

    Raises:
        LookalikeError: anything that the user can mend; see `lookalike.errors`.
    """
    config = Config.of(config, settings)
    check_request(config, resume)
    config = keep_streams(config)
    metric_margin(config)  # fails before work, as the next two do
    create_augmentations(config.data.augment)
    create_sampling(config)
    check_installed(_logger_names(config))
    if config.run.workers > 1 and not in_worker():
        return _train_in_workers(config, resume)

    with ExitStack() as stack:
        world = stack.enter_context(World.from_env(config.run.device))
        # Of this worker's device alone: by default torch saves the state of every GPU of the
        # machine, which starts CUDA where nobody asked for it and warns where there are several.
        devices = [world.device] if world.device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(repeatable(world.device))
        level = logging.INFO if world.is_main else logging.ERROR
        log.start(level, outlives_console=True)
        run, world = open_run(config, resume, world)
        with world.raise_together():
            if world.is_directory_leader:
                stack.enter_context(run.locked())
        if world.is_main:
            stack.enter_context(log.also_to(run.log))
        elif world.is_directory_leader:  # what goes wrong with its upload is told on each machine
            log.start(logging.WARNING, outlives_console=True)
        asked, config = config, as_before(config, run, resume, world)
        source = create_source(config)
        catalog, held_out = open_catalogs(config)
        say_data(catalog, held_out, config)
        torch.manual_seed(config.train.seed)
        embedder = create_embedder(config)
        config = resolve(config, embedder, world, len(catalog.classes))
        if world.is_main:
            need = plan_memory(config, embedder, len(catalog.classes), world)
            say_needed_memory(need, config, asked)
        bad = BadImages()
        loader = create_loader(config, embedder, catalog, bad, world, source)
        check_micro_batches(config, embedder, loader.batch_size, world)
        heads = create_heads(config, catalog, world)
        trained = assemble(config, embedder, heads, world)
        mirror = _mirror(run, config, world)
        quota = _create_quota(config, catalog, bad, run, world)
        inputs = inputs_of(config, loader, catalog, held_out, world)
        restored = restore(run, trained, quota, catalog, resume, world, config)
        if restored is None and config.train.start_from is not None:
            warm_start.begin(config.train.start_from, trained, catalog.classes, world)
        progress = continued(restored or Progress(inputs=inputs), inputs)
        pace = create_schedule(config, loader, progress.shift)
        check_end(config, pace, progress)
        loggers = Loggers()
        with world.raise_together():
            if world.is_main:
                loggers.start(_logger_names(config), _run_facts(run, config))
        trainer = Trainer(
            trained,
            step=create_step(config, trained, world),
            loader=loader,
            schedule=create_learning_rate(config, pace, progress.shift),
            pace=pace,
            folder=run.checkpoints,
            world=world,
            quota=quota,
            measure=create_measure(
                embedder, heads["metric"], held_out, catalog, config, world, source, inputs.val_list
            ),
            keep_model=lambda: _keep(embedder, run) if world.is_main else None,
            record=lambda values: _record(run, loggers, values) if world.is_main else None,
            progress=progress,
            saved=lambda: mirror.saved() if mirror is not None else None,
        )
        say_plan(config, embedder, loader, pace, progress, world)
        say_heads(heads, world)
        if world.is_main:
            write_text(run.classes, catalog.classes.to_json())
            write_request(run, asked, config)
            ran_with = environment.describe(__version__, world.device, world.size)
            write_text(run.environment, json.dumps(ran_with, indent=1) + "\n")
        with world.raise_together():
            if mirror is not None:
                mirror.start()
        finished = False
        try:
            ended_by = trainer.fit()
            if not ended_by:
                if held_out is not None:
                    several_machines.share_model(run, world)
                calibration = calibrate_model(run.model, held_out, catalog, config, world, source)
                if calibration is not None and world.is_main:
                    calibration.save(run.model)
                if config.train.report and world.is_main:
                    report_training(run, config, catalog, held_out, world.device, source)
            finished = not ended_by
        finally:  # what a failed training has saved is uploaded too
            loggers.finish(finished=finished)
            if mirror is not None:
                mirror.finish()
        if ended_by:
            raise Interrupted(ended_by, trainer.progress.step, _shown(config))
        say_memory(world)
        say_result(run, trainer.progress)
        if calibration is not None:
            say_calibration(calibration)
    return run


def _train_in_workers(config: Config, resume: bool) -> Run:
    """The same request again, in as many processes as it asks for."""
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        request = Path(folder) / "config.yaml"
        request.write_text(config.to_yaml(complete=False), "utf-8")
        arguments = ["train", str(request), *(["--resume"] if resume else [])]
        again = f"Go on with: lookalike train --resume --output {_shown(config)}"
        launch(config.run.workers, arguments, folder, again)
    assert config.run.output is not None
    return Run.open(place_of(config))


def _shown(config: Config) -> str:
    return storage.public(str(config.run.output))


def _mirror(run: Run, config: Config, world: World) -> Mirror | None:
    """The upload of a run with a remote output, where this worker does one."""
    output = config.run.output
    if output is None or not storage.is_remote(output):
        return None
    logger.info("written to %s, and from there to %s", run.path, storage.public(output))
    return create_mirror(run, output, keep=config.train.keep_checkpoints, world=world)


def _keep(embedder: Embedder, run: Run) -> None:
    """Make this the run's model; a calibration belongs to other weights."""
    run.calibration.unlink(missing_ok=True)
    embedder.save(run.model)


def _record(run: Run, loggers: Loggers, values: dict[str, Any]) -> None:
    """Write a record to metrics.jsonl, and to the experiment trackers."""
    run.append(run.metrics, values)
    loggers.log(values)


def _logger_names(config: Config) -> list[str]:
    return [*config.train.loggers, *(["tensorboard"] if config.train.tensorboard else [])]


def _run_facts(run: Run, config: Config) -> RunFacts:
    """What experiment trackers are told of the run."""
    shown = config.without_secrets()
    return RunFacts(run_info.name_of(str(run.path)), run.path, {k: shown.get(k) for k in keys()})


def _create_quota(
    config: Config, catalog: Catalog, bad: BadImages, run: Run, world: World
) -> BadImageLimit:
    return BadImageLimit(
        bad,
        catalog,
        limit=config.data.max_bad_images,
        world=world,
        record=lambda found: run.append(run.bad_images, found),
    )
