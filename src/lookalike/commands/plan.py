"""`lookalike plan`: bytes, communication and seconds of a run before it starts."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any, Literal

import numpy as np
import torch

from lookalike.commands.summary import log_choices
from lookalike.config.config import Config
from lookalike.config.same_setting import setting_text
from lookalike.data.held_out_classes import hold_out
from lookalike.data.image_size import height_width
from lookalike.data.loading.image_source import Source
from lookalike.data.samplers import Sizes, epoch_shape
from lookalike.distributed.machine import installed, resident
from lookalike.distributed.world import ALONE, World
from lookalike.errors import ConfigError, StorageError
from lookalike.log import logger
from lookalike.losses.chunk_products import CPU_LOGIT_CACHE
from lookalike.losses.margin import Margin
from lookalike.losses.metric_loss import MetricLoss
from lookalike.losses.pairs.pair_loss import PairLoss
from lookalike.model.dry_run import sharing_copy
from lookalike.model.embedder import Embedder
from lookalike.model.training_network import TrainingNetwork
from lookalike.planning.choice import Choice, with_choices
from lookalike.planning.choices_by_start import left_to_start, part_to_hold_out
from lookalike.planning.estimate import Plan, Profile, make_plan
from lookalike.planning.facts import network_facts
from lookalike.planning.gpus import Machine, known_machine, read_machine
from lookalike.planning.list_needs import list_needs
from lookalike.planning.network_profile import NetworkProfile
from lookalike.planning.network_profile import measure as measure_network
from lookalike.planning.recipe import choose, choose_by_data, choose_by_file
from lookalike.planning.run_spec import RunSpec
from lookalike.planning.timing import time_steps
from lookalike.storage import Place
from lookalike.storage.byte_size import in_bytes
from lookalike.training.build import create_embedder, create_sampling
from lookalike.training.build_heads import DTYPES, metric_loss
from lookalike.training.build_network import create_network, keeps_statistics
from lookalike.training.open_run import check_one_length
from lookalike.training.request_lists import create_source, open_catalogs
from lookalike.training.resolve import check_micro_batches, half_precision, resolve

CUDA_RUNTIME = 1_500_000_000
"""Assumed bytes of the CUDA context and the workspaces of cuBLAS, cuDNN and NCCL."""

FIRST_STEP = 100_000_000
"""Bytes of code and caches that torch loads on a CPU when it first trains (measured)."""

_IMAGES_A_CLASS = 10
"""Assumed where the number of images is not known."""

_MOST_OF_PIXEL = 4000  # bytes of activations for each pixel of an image, at most, roughly

_OF_MEMORY = {
    "head.parallel", "head.dtype", "train.batch_size", "model.embedding_dim", "model.image_size",
}  # fmt: skip

_STORED = (
    "Steps take stored features (train.cache_features). Before the first one, each image passes "
    "through the backbone once, which is not in the seconds."
)

_NOT_TIMED = (
    "No seconds: the run does not fit into the memory of this machine, on which steps are timed; "
    "--gpu and --machine give those of others."
)


def plan(
    config: Config | None = None,
    *,
    classes: int | None = None,
    images: int | None = None,
    memory: str | int | None = None,
    gpu: str | None = None,
    machine: Place | None = None,
    measure: bool = True,
    **settings: Any,
) -> Plan:
    """Bytes, communication and seconds of a run, for each worker; nothing is trained or downloaded.

    With a list and the recipe `auto`, some of its images are read, as `lookalike.train` does.

    Args:
        config: the request; None for the defaults.
        classes: in place of those of the list, which is then not read.
        images: in place of those of the list.
        memory: of a worker, in bytes or as `80GB`, `24GiB`; by default that of the machine.
        gpu: plan for such accelerators, a key of `lookalike.planning.gpus.MACHINES`.
        machine: plan for the machine that this YAML file describes.
        measure: without `gpu` and `machine`, time real steps on this machine, some seconds long;
            otherwise the plan has no seconds.
        settings: values that differ from `config`, as in `lookalike.train`.

    Raises:
        LookalikeError: settings, list or machine file are wrong.
    """
    config = Config.of(config, settings)
    config = with_choices(config, choose_by_file(config))
    check_one_length(config)
    for name, number in (("classes", classes), ("images", images)):
        if number is not None and number < 1:
            raise ConfigError(f"--{name} {number}: not a number above 0")
    if gpu is not None and machine is not None:
        raise ConfigError("--gpu and --machine exclude each other; give one")
    limit = None if memory is None else parse_bytes(memory)
    base = resident()
    place: Machine | None = None
    if gpu is not None:
        place = known_machine(gpu)
    elif machine is not None:
        place = read_machine(machine)
    device = _device(config, place)
    sizes: Sizes | None
    if classes is None and config.data.train is not None:
        config, classes, sizes = _of_list(config, images, device)
    else:
        config, classes, sizes = _of_counts(config, classes, images, device)
    config, embedder = _resolved(config, place, classes)
    device = _device(config, place)
    spec = _run_spec(config, classes, sizes, device)
    world = World(size=spec.workers, device=torch.device(device))
    check_micro_batches(config, embedder, spec.batch, world)
    if limit is None:
        limit = _memory_of(place, spec)
    runtime = base + FIRST_STEP if spec.device == "cpu" else CUDA_RUNTIME
    found = make_plan(
        spec, _profiles(config, embedder), runtime=runtime, limit=limit, machine=place,
        notes=(*_notes(spec), *_notes_of(config)),
    )  # fmt: skip
    if place is not None or not measure:
        return found
    if found.memory.peak > (_memory_of(None, spec) or 0):
        return replace(found, notes=(*found.notes, _NOT_TIMED))
    logger.info("timing real steps on this machine")
    return replace(found, speed=time_steps(config, spec))


def plan_memory(
    config: Config, embedder: Embedder, classes: int, world: World, limit: int | None = None
) -> Plan | None:
    """Bytes of a worker of a run that is about to start; None where they plainly are few.

    Random state and embedder are left unchanged.

    Args:
        config: resolved.
        limit: bytes of memory of this worker; None for what it has.
    """
    cuda = world.device.type == "cuda"
    if limit is None and cuda:
        limit = int(torch.cuda.mem_get_info(world.device)[1])
    elif limit is None:
        limit = installed() // world.local_size
    config = config.with_values({"run.workers": world.size})
    spec = _run_spec(config, classes, None, world.device.type)
    height, width = height_width(spec.image_size)
    parameters = sum(value.numel() for value in embedder.parameters())
    heads = 12 * sum(spec.head_rows) * spec.dim  # weight, gradient and momentum
    images = spec.micro_batch * height * width * _MOST_OF_PIXEL
    runtime = CUDA_RUNTIME if cuda else resident() + FIRST_STEP
    if runtime + heads + 16 * parameters + images < limit / 4:
        return None
    with torch.random.fork_rng(devices=[]):
        return make_plan(spec, _profiles(config, embedder), runtime=runtime, limit=limit)


def parse_bytes(text: str | int) -> int:
    """`80GB` (80e9), `24GiB` (24 x 2^30), or a number of bytes.

    Raises:
        ConfigError: it is neither.
    """
    try:
        return in_bytes(str(text))
    except ValueError:
        raise ConfigError(f"--memory {text}: not a size; write e.g. 80GB or 24GiB") from None


def _of_list(config: Config, images: int | None, device: str) -> tuple[Config, int, Sizes]:
    """The request with the recipe's choices, and the classes and their sizes that it trains on."""
    catalog, held_out = open_catalogs(config)
    elsewhere: dict[str, Any] = {"workers": config.run.workers, "cuda": device == "cuda"}
    if images is not None:
        elsewhere["images"] = images
    try:
        source: Source | None = create_source(config)
        choices = choose_by_data(config, catalog, held_out, source, ALONE, **elsewhere)
    except StorageError as error:  # the run may be for machines that reach them
        logger.warning("%s; planned without looking at the images", error)
        choices = choose_by_data(config, catalog, held_out, None, ALONE, **elsewhere)
    config = _with_choices(config, choices)
    left = left_to_start(config)
    if part_to_hold_out(config, catalog, held_out):
        left |= {"data.val_fraction"}
    if left:
        values = (f"{key}={setting_text(config.get(key))}" for key in sorted(left))
        logger.info("chosen when training begins; planned with %s", ", ".join(values))
    if held_out is None and config.data.val_fraction:
        catalog, _ = hold_out(catalog, config.data.val_fraction, config.train.seed)
    classes = len(catalog.classes)
    if images is not None:
        return config, classes, Sizes.even(images, classes)
    return config, classes, Sizes.of(np.bincount(catalog.sampling_ids()))


def _of_counts(
    config: Config, classes: int | None, images: int | None, device: str
) -> tuple[Config, int, Sizes | None]:
    """As `_of_list`, without a list: as far as the recipe needs no images."""
    given = f"data.num_classes={config.data.num_classes}"
    if classes is not None:
        given = f"--classes {classes}"
    classes = classes or config.data.num_classes
    if classes is None:
        raise ConfigError(
            "how many classes? give --classes N, or data.train, a list to count them in"
        )
    if classes < 2:
        raise ConfigError(f"{given}: training needs at least 2 classes")
    sizes = None if images is None else Sizes.even(images, classes)
    facts = network_facts(
        config,
        images=_IMAGES_A_CLASS * classes if sizes is None else sizes.total,
        classes=classes,
        has_validation=config.data.val is not None or config.data.val_fraction > 0,
        workers=config.run.workers,
        cuda=device == "cuda",
    )
    return _with_choices(config, choose(config, facts)), classes, sizes


def _with_choices(config: Config, choices: list[Choice]) -> Config:
    """The request with the choices of the recipe; logs those that its memory follows from."""
    log_choices([choice for choice in choices if choice.key in _OF_MEMORY])
    return with_choices(config, choices)


def _device(config: Config, place: Machine | None) -> str:
    if place is not None:
        return place.device
    cuda = torch.cuda.is_available() and config.run.device != "cpu"
    return "cuda" if cuda else "cpu"


def _resolved(config: Config, place: Machine | None, classes: int) -> tuple[Config, Embedder]:
    """The request as the run will resolve it on that machine, and its network."""
    device = _device(config, place)
    config = config.with_values({"model.pretrained": False})
    if place is not None and device == "cuda" and config.train.precision == "auto":
        config = config.with_values({"train.precision": half_precision(place.bfloat16)})
    margin = metric_loss(config)
    embedder = create_embedder(config, margin)
    world = World(size=config.run.workers, device=torch.device(device))
    return resolve(config, margin, embedder, world, classes), embedder


def _run_spec(config: Config, classes: int, sizes: Sizes | None, device: str) -> RunSpec:
    head, optim, train = config.head, config.optim, config.train
    sampling, steps, batch = create_sampling(config), None, train.batch_size
    if sizes is not None:
        steps, batch = epoch_shape(sizes, batch, sampling)
    if batch < config.run.workers:
        raise ConfigError(
            f"a batch of {batch} images cannot be shared by {config.run.workers} workers"
        )
    loss = metric_loss(config)
    return RunSpec(
        classes=classes,
        images=None if sizes is None else sizes.total,
        steps_per_epoch=steps,
        epochs=None if train.time_budget is not None else train.epochs,
        max_steps=train.max_steps,
        workers=config.run.workers,
        batch=batch,
        accumulate=train.accumulate,
        image_size=config.model.train_size or config.model.image_size,
        dim=config.model.embedding_dim,
        counted=classes if loss.uses_count else int(isinstance(loss, Margin)),
        heads=2 if config.loss.classification_weight else 1,
        nested=config.loss.nested_dims,
        centres=head.centres,
        sharded=head.parallel == "model",
        shared_network=train.shard_backbone and config.run.workers > 1,
        fused=bool(head.fused_update),
        weight_bytes=2 if head.dtype == "bf16" else 4,
        product_bytes=2 if head.precision == "bf16" else 4,
        narrow_network=train.precision != "fp32",
        logit_cache=CPU_LOGIT_CACHE if device == "cpu" else 0.0,
        sample_rate=head.sample_rate,
        optimizer=optim.name,
        momentum=optim.momentum > 0,
        ema=train.ema > 0 or train.average_last > 0,
        shared_norms=train.sync_batchnorm and config.run.workers > 1,
        device="cuda" if device == "cuda" else "cpu",
        compared=_compared(loss),
        remembered=config.loss.memory,
        positives=sampling.k * sampling.repeats if isinstance(loss, PairLoss) and loss.ranks else 1,
    )


def _compared(loss: MetricLoss) -> Literal["classes", "proxies", "images"]:
    if isinstance(loss, PairLoss):
        return "images"
    return "classes" if isinstance(loss, Margin) else "proxies"


def _profiles(config: Config, embedder: Embedder) -> Profile:
    """Profiles of the network by batch and embedding, each measured once."""

    @cache
    def network(dim: int, branch: bool) -> TrainingNetwork:
        trunk = sharing_copy(embedder)  # the run's own goes without what is done to this one
        if dim != embedder.embedding_dim:
            other = config.with_values({"model.embedding_dim": dim})
            trunk = create_embedder(other, metric_loss(other))
        found = create_network(config, trunk, branch=branch)
        if trunk.backbone.is_convolutional:
            found.to(memory_format=torch.channels_last)
        return found

    @cache
    def measured(dim: int, branch: bool, images: int) -> NetworkProfile:
        return measure_network(
            network(dim, branch),
            images=images,
            image_size=config.model.train_size or config.model.image_size,
            precision=DTYPES[config.train.precision],
            frozen=config.train.freeze_backbone,
            freeze_batchnorm=keeps_statistics(config),
            stored=_stored(config),
        )

    # A batch norm cannot take one image alone; with several workers it sees those of all.
    return lambda spec: measured(spec.dim, spec.heads > 1, max(2, spec.micro_batch))


def _stored(config: Config) -> bool:
    """True if all steps take stored features of the frozen backbone."""
    return bool(config.train.freeze_backbone and config.train.cache_features)


def _memory_of(place: Machine | None, spec: RunSpec) -> int | None:
    """Bytes of one worker; None where not known."""
    if place is not None:
        return int(place.memory) or None
    if spec.device == "cuda":
        return int(torch.cuda.mem_get_info()[1])
    return installed() // spec.workers


def _notes_of(config: Config) -> list[str]:
    notes = [_STORED] if _stored(config) else []
    if config.train.time_budget is not None:
        notes.append(
            f"The run ends within train.time_budget={config.train.time_budget}; its steps are "
            "counted when it begins, by the time of its first ones."
        )
    return notes


def _notes(spec: RunSpec) -> tuple[str, ...]:
    notes = []
    if spec.images is not None and spec.images >= 10**7:
        notes.append(list_needs(spec.images, spec.classes))
    if spec.device == "cuda":
        notes.append(
            "Not in the bytes: what the caching allocator cannot use again, a few per cent."
        )
    return tuple(notes)
