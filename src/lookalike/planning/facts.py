"""Facts about data, network and machine that the recipe chooses settings by."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from lookalike import storage
from lookalike.config.config import Config
from lookalike.data.catalog import Catalog
from lookalike.data.loading.image_source import Source
from lookalike.distributed.world import World
from lookalike.errors import ModelError
from lookalike.model.architecture import find_architecture
from lookalike.model.backbone import Backbone
from lookalike.planning.image_sample import SampleFacts, sample_facts
from lookalike.training.checkpoint import STATE_FILE
from lookalike.training.remote_run import saved_config

_ANY_SIZE = 224


@dataclass(frozen=True)
class Facts:
    """Facts that the recipe chooses by.

    Attributes:
        several: classes with two images or more.
        pretrained: False where the network starts from random weights.
        earlier: settings of the run that training starts from, None without one.
        convolutional: True for a network of convolutions, which takes images of any size.
        class_token: True if the network has one.
        attention_pool: True if it has an attention pool of its own.
        quarters: True if it has earlier maps, whose quarters can be averaged.
        sample: facts of some images; None where none were read.
    """

    images: int
    classes: int
    several: int
    pretrained: bool
    convolutional: bool
    class_token: bool
    has_validation: bool
    workers: int
    attention_pool: bool = False
    quarters: bool = False
    cuda: bool = False
    sample: SampleFacts | None = None
    earlier: Config | None = None


def gather_facts(
    config: Config, catalog: Catalog, held_out: Catalog | None, source: Source | None, world: World
) -> Facts:
    """Facts of a run that is about to start; called by all workers together.

    No images are read without a `source`.

    Raises:
        ModelError: there is no such backbone.
    """
    sample = None
    with world.raise_together():
        if world.is_main and source is not None:
            sample = sample_facts(catalog, source=source)
    found = world.broadcast_object(None if sample is None else asdict(sample))
    return network_facts(
        config,
        images=len(catalog),
        classes=len(catalog.classes),
        several=int((np.bincount(catalog.class_ids) > 1).sum()),
        has_validation=held_out is not None,
        workers=world.size,
        cuda=world.device.type == "cuda",
        sample=None if found is None else SampleFacts(**found),
    )


def network_facts(
    config: Config,
    *,
    images: int,
    classes: int,
    several: int | None = None,
    has_validation: bool,
    workers: int,
    cuda: bool = False,
    sample: SampleFacts | None = None,
) -> Facts:
    """Facts with those of the network, which is built without memory for its weights.

    `several` is None where the sizes of the classes are not known.
    """
    backbone = _described(config)
    return Facts(
        images=images,
        classes=classes,
        several=classes if several is None else several,
        pretrained=config.model.pretrained is not False or config.train.start_from is not None,
        convolutional=backbone.is_convolutional,
        class_token=backbone.has_class_token,
        attention_pool=not backbone.is_convolutional and _has_attention_pool(config.model.backbone),
        quarters=backbone.has_quarters,
        has_validation=has_validation,
        workers=workers,
        cuda=cuda,
        sample=sample,
        earlier=_earlier(config.train.start_from),
    )


def has_quarters(config: Config) -> bool:
    """True if the network has earlier maps, whose quarters can be averaged."""
    return _described(config).has_quarters


def _described(config: Config) -> Backbone:
    """The backbone without memory for its weights."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return Backbone(find_architecture(config.model.backbone), config.model.image_size)


def with_network(facts: Facts, config: Config) -> Facts:
    """The facts of the same list with the network and the start of another request."""
    return network_facts(
        config,
        images=facts.images,
        classes=facts.classes,
        several=facts.several,
        has_validation=facts.has_validation,
        workers=facts.workers,
        cuda=facts.cuda,
        sample=facts.sample,
    )


def _has_attention_pool(backbone: str) -> bool:
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            Backbone(find_architecture(backbone), _ANY_SIZE, attention_pool=True)
    except ModelError:
        return False
    return True


def _earlier(start_from: str | None) -> Config | None:
    """Settings of `train.start_from`, a run or a checkpoint in one; faults are found later."""
    if start_from is None or storage.is_remote(start_from):
        return None
    given = Path(storage.local_path(start_from)).absolute()
    run = given.parent.parent if (given / STATE_FILE).exists() else given
    return saved_config(str(run))
