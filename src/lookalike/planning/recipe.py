"""The recipe: facts about data, network and machine -> settings that the request leaves open.

Each choice has its reason in a sentence, which console, recipe.json and report show. The figures
behind them are in docs/recipe.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from lookalike.config.config import CHOSEN_BY_RECIPE, Config
from lookalike.data.catalog import Catalog
from lookalike.data.loading.image_source import Source
from lookalike.data.samplers.sampling import IMAGES_PER_CLASS
from lookalike.distributed.world import World
from lookalike.errors import ConfigError
from lookalike.log import counted
from lookalike.losses import MARGINS, PAIR_LOSSES
from lookalike.planning.choice import Choice, percent
from lookalike.planning.choices_by_length import BY_LENGTH
from lookalike.planning.choices_by_start import (
    BY_START,
    HELD_OUT_FROM,
    POOLING,
    QUARTERS,
    part_of_long_list,
)
from lookalike.planning.facts import Facts, gather_facts
from lookalike.training.build_heads import metric_loss
from lookalike.training.sampler_choice import sampler_name

RECIPES = ("auto", "component")
"""Recipes by name; any other value of `train.recipe` is the path of a YAML file."""

BEFORE_START = CHOSEN_BY_RECIPE - BY_START - BY_LENGTH
"""Settings that are chosen by the data before the network is built."""


def choose_by_data(
    config: Config,
    catalog: Catalog,
    held_out: Catalog | None,
    source: Source | None,
    world: World,
    **differing: Any,
) -> list[Choice]:
    """`choose` for a run that is about to start; called by all workers together.

    Images are read only where the recipe `auto` has something to choose, and there is a `source`.
    `differing` are `Facts` of a run elsewhere that are not those of the list and of `world`.
    """
    settled = config.asked() >= BEFORE_START and config.train.start_from is None
    if config.train.recipe == "auto" and not settled:
        facts = gather_facts(config, catalog, held_out, source, world)
        return choose(config, replace(facts, **differing))
    return choose(config, None)


def choose(config: Config, facts: Facts | None) -> list[Choice]:
    """Settings for what the request leaves open, in the order of the sections.

    `facts` are those of the recipe `auto`, None where it has nothing to choose.
    """
    if config.train.recipe != "auto" or facts is None:
        return []
    choices = [
        choice
        for section in (_start, _data, _model, _loss, _head, _optim, _train)
        for choice in section(config, facts)
    ]
    choices = list({choice.key: choice for choice in reversed(choices)}.values())[::-1]
    asked = config.asked()
    return [choice for choice in choices if choice.key not in asked]


def choose_by_file(config: Config) -> list[Choice]:
    """Settings of the file that is the recipe, for what the request leaves open.

    They depend on nothing else, and apply before lists and output are opened.

    Raises:
        ConfigError: the file cannot be read, or holds what is no setting.
    """
    name = config.train.recipe
    if name in RECIPES:
        return []
    recipe = Config.load(name)
    if "train.recipe" in recipe.asked():
        raise ConfigError(f"{name}: a recipe does not name another; leave out train.recipe")
    given = config.asked()
    if given & _LENGTHS:  # one of them was requested, and they exclude each other
        given |= _LENGTHS
    if config.data.val is not None:  # in place of the classes that the file holds out
        given.add("data.val_fraction")
    return [Choice(key, recipe.get(key), f"from {name}") for key in sorted(recipe.asked() - given)]


_LENGTHS = {"train.epochs", "train.time_budget"}

_MARGINS = {
    "amsoftmax": 0.2,
    "cosface": 0.2,
    "arcface": 17.0,
    "curricularface": 17.0,
    "large_margin_softmax": 2.0,
    "sphereface": 2.0,
}
"""Margins that go with a scale of 20, by loss, in its unit."""

_SCALE = 20.0

_DIM = 512

_MANY_CLASSES = 50_000
"""Classes above which scale and margin stay those that were published for that many."""

_OF_LOSS = {"loss.name", "loss.margin", "loss.scale", "loss.options"}

IMPLYING = (_OF_LOSS - {"loss.name"}) | {"optim.lr"}
"""Settings that, given, are taken to be meant for a certain loss or optimizer."""

_OF_START = (
    "model.pooling", "model.quarters_stride", "model.embedding_dim", "model.image_size",
    "loss.classification_weight", "loss.nested_dims", "head.centres",
)  # fmt: skip


def _start(config: Config, facts: Facts) -> Iterator[Choice]:
    """Settings that must be those of the run that training starts from."""
    earlier = facts.earlier
    if earlier is None:
        return
    reason = f"as in the run that training starts from: {config.train.start_from}"
    left_out = set[str]()
    if earlier.model.backbone != config.model.backbone:
        left_out = {"model.pooling", "model.quarters_stride"}  # it may lack the maps; refused later
    elif earlier.model.quarters_stride is None or (
        "model.pooling" in config.asked() and "quarters" not in config.model.pooling
    ):
        left_out = {"model.quarters_stride"}
    for key in _OF_START:
        if key not in left_out:
            yield Choice(key, earlier.get(key), reason)


def _data(config: Config, facts: Facts) -> Iterator[Choice]:
    if _holds_out(config, facts):
        part = part_of_long_list(facts.classes)
        held = round(part * facts.classes)
        yield Choice(
            "data.val_fraction",
            part,
            f"{held} of {facts.classes:,} classes are held out: they show whether training "
            "helps, and choose between its start and its end",
        )
    yield Choice("data.min_crop", 0.75, "short trainings learn less from smaller crops")
    sample = facts.sample
    if sample is not None and sample.mirrors_differ:
        yield Choice(
            "data.flip",
            0.0,
            "mirror images look like other classes: of them "
            f"{percent(sample.mirrored_recall)} "
            "have an image of their class as the nearest, of the images as they are "
            f"{percent(sample.recall)}",
        )


def _holds_out(config: Config, facts: Facts) -> bool:
    """True if classes are held out; most must have two images, as a query needs another."""
    if not facts.pretrained or facts.has_validation or config.data.val is not None:
        return False
    if "data.val_fraction" in config.asked():
        return False
    return facts.several >= max(HELD_OUT_FROM, facts.classes / 2)


def _model(config: Config, facts: Facts) -> Iterator[Choice]:
    if facts.convolutional and facts.sample is not None:
        least = 160 if facts.pretrained else 64
        side = min(max(-(-facts.sample.side // 32) * 32, least), 224)
        found = f"shorter sides have {facts.sample.side:,} pixels in the median"
        enlarged = f"pretraining saw larger ones: {found}"
        yield Choice("model.image_size", side, enlarged if side > facts.sample.side + 31 else found)
    if _dim(config) == _DIM:
        yield Choice(
            "model.embedding_dim",
            _DIM,
            "a third of the memory of the component's 1,536: of class weights and vectors",
        )
    if not facts.convolutional:
        pooling = "cls+avg" if facts.class_token else "avg"
        yield Choice(
            "model.pooling",
            "map" if facts.attention_pool else pooling,
            "the network was trained with this pool"
            if facts.attention_pool
            else "its features have both signs: GeM pools positive ones, of convolutions",
        )
    elif facts.quarters and config.model.quarters_stride is not None:
        yield Choice(POOLING, QUARTERS, "model.quarters_stride is given")
    elif facts.quarters and not facts.pretrained:
        reason = "random weights retrieve better with positions"
        yield Choice(POOLING, QUARTERS, reason)
    if facts.pretrained and config.train.start_from is None:
        yield Choice(
            "model.init_from_features",
            True,
            "the start retrieves like the pretrained one",
        )


def _dim(config: Config) -> int:
    """Length of the embedding: `_DIM` where the request leaves it open, and asks for no longer."""
    own = "model.embedding_dim" in config.asked() or max(config.loss.nested_dims, default=0) >= _DIM
    return config.model.embedding_dim if own else _DIM


def _loss(config: Config, facts: Facts) -> Iterator[Choice]:
    name = config.loss.name
    if facts.classes <= _MANY_CLASSES and not _OF_LOSS & config.asked():
        name = "arcface"
        yield Choice("loss.name", name, "retrieves better than a margin in the cosine")
    if name in _MARGINS and facts.classes <= _MANY_CLASSES:
        yield Choice(
            "loss.scale",
            _SCALE,
            f"published ones are for more classes: here {facts.classes:,}; from random weights a "
            "scale of 64 retrieves less",
        )
        yield Choice(
            "loss.margin",
            _MARGINS[name],
            f"fits a scale of {_SCALE:g}: published ones go with 64",
        )
    if config.loss.name in MARGINS and config.loss.weight > 0:
        yield Choice(
            "loss.classification_weight",
            0.0,
            "a second branch doubles the class weights: those of plain softmax",
        )


def _head(config: Config, facts: Facts) -> Iterator[Choice]:
    if config.loss.name in PAIR_LOSSES:  # no class weights
        return
    workers = facts.workers
    state = 4 * facts.classes * _dim(config) * config.head.centres * _COPIES
    if workers > 1 and state > _LARGE_HEAD:
        yield Choice(
            "head.parallel",
            "model",
            f"{_gigabytes(state)} of weights, shared by {workers} workers: with their "
            "optimizer state",
        )
        state //= workers
    if (
        state > _LARGE_HEAD
        and config.loss.name in MARGINS
        and config.head.fused_update is not False  # bf16 needs it
    ):
        yield Choice(
            "head.dtype",
            "bf16",
            f"{_gigabytes(state)} of weights a worker in fp32: with their optimizer state; "
            "half of it in bf16 with stochastic rounding",
        )


_COPIES = 3  # weight and both moments of AdamW
_LARGE_HEAD = 2_000_000_000  # bytes


def _optim(config: Config, facts: Facts) -> Iterator[Choice]:
    asked = config.asked()
    if "optim.name" not in asked and "optim.lr" in asked and config.optim.lr > _LARGEST_OF_ADAMW:
        yield Choice(
            "optim.name",
            "sgd",
            f"optim.lr={config.optim.lr:g} is a rate of SGD: those of AdamW are below "
            f"{_LARGEST_OF_ADAMW:g}",
        )
        return
    if "optim.name" in asked and config.optim.name == "sgd":
        return
    batch = config.train.batch_size if "train.batch_size" in asked else _batch(config, facts)
    rate = round(1e-3 * math.sqrt(max(batch, 64) / 64), 6)
    yield Choice("optim.name", "adamw", "steps do not depend on the gradients' size")
    yield Choice("optim.lr", rate, "1e-3 for up to 64 images a step: by the square root for more")


_LARGEST_OF_ADAMW = 0.005


def _batch(config: Config, facts: Facts) -> int:
    """Images a step, and eight images a micro-batch at least.

    Activations of many fill a CPU's memory. A multiple of what the sampler needs.
    """
    data, loss = config.data, metric_loss(config)
    unit = data.repeats
    if sampler_name(config, loss) == "pk":
        unit *= data.images_per_class or IMAGES_PER_CLASS
    least = max(8 * facts.workers * config.train.accumulate, _preferred_batch(facts))
    if loss.needs_positives:  # and images of another class
        least = max(least, 2 * unit)
    return -(-least // unit) * unit


def _preferred_batch(facts: Facts) -> int:
    """A power of two, for 100 to 200 steps an epoch; random weights need many steps."""
    least, most = 32 if facts.pretrained else 16, 256 if facts.cuda else 64
    return min(max(2 ** math.floor(math.log2(max(facts.images, 1) / 100)), least), most)


def _train(config: Config, facts: Facts) -> Iterator[Choice]:
    batch = _batch(config, facts)
    epochs = _epochs(facts, batch)
    yield Choice(
        "train.batch_size",
        batch,
        f"{counted(facts.images, 'image')} give "
        f"{counted(max(facts.images // batch, 1), 'step')} an epoch",
    )
    if config.train.time_budget is None:
        yield Choice(
            "train.epochs",
            epochs,
            f"for {counted(facts.images, 'image')}, "
            f"{'pretrained' if facts.pretrained else 'random'} weights: train.time_budget=30m sets "
            "another length",
        )
    if facts.pretrained:
        yield Choice(
            "train.freeze_batchnorm",
            True,
            "pretraining's statistics are less noisy: than those of small batches",
        )
        if facts.has_validation or config.data.val_fraction > 0 or _holds_out(config, facts):
            yield Choice(
                "train.interpolate",
                True,
                "keeps the best between start and end: of these and three points between, on "
                "the validation set",
            )


def _epochs(facts: Facts, batch: int) -> int:
    """Pretrained: few, as longer training loses what it began with, in 128 steps at least.

    From random weights fewer for more images: a run of ten times the images is some four times as
    long.
    """
    images = max(facts.images, 1)
    if facts.pretrained:
        return min(max(5, math.ceil(128 * batch / images)), 30)
    return min(max(round(40 * (5000 / images) ** 0.4), 10), 100)


def _gigabytes(number: float) -> str:
    return f"{number / 1e9:.1f} GB"
