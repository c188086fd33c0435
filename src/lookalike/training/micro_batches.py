"""Micro-batches of a run: how small they get, and whether the network can learn from them."""

from __future__ import annotations

from lookalike.config.config import Config
from lookalike.data.image_size import height_width, size_text
from lookalike.distributed.world import World
from lookalike.errors import ConfigError
from lookalike.model.embedder import Embedder
from lookalike.model.trial_pass import single_value_norms


def smallest_part(config: Config, batch_size: int, world: World) -> int:
    """Images of the smallest micro-batch, on the worker that has the fewest.

    Args:
        config: the request.
        batch_size: images of a step of all workers together.
        world: the workers.

    Raises:
        ConfigError: there are none.
    """
    share, parts = batch_size // world.size, config.train.accumulate
    if share < parts:
        raise ConfigError(
            f"train.accumulate={parts} splits the images of a worker into more parts than there "
            f"are: {_batch_words(config, batch_size)} gives {share} to each of {world.size} "
            f"workers; use train.accumulate={share} or less"
        )
    return share // parts


def check_micro_batches(config: Config, embedder: Embedder, batch_size: int, world: World) -> None:
    """See that no batch norm gets a single value of each channel in training: it has no variance.

    Args:
        config: the request, resolved.
        embedder: made for it.
        batch_size: images of a step of all workers together, as the list gives them.
        world: the workers.

    Raises:
        ConfigError: one does.
    """
    synchronised = world.size > 1 and config.train.sync_batchnorm
    if smallest_part(config, batch_size, world) > 1 or synchronised:
        return
    size = config.model.train_size or config.model.image_size
    frozen = config.train.freeze_batchnorm or config.train.freeze_backbone
    found = [] if frozen else single_value_norms(embedder.backbone, size)
    norms = [f"backbone.{name.removeprefix('model.')}" for name in found]
    # These two normalise one vector for each image, whatever the size of its map.
    if embedder.neck.norm is not None:
        norms.append(f"neck.norm (of loss.name={config.loss.name})")
    if config.loss.classification_weight:
        norms.append("branch.norm (of loss.classification_weight)")
    if not norms:
        return
    fixes = _larger_parts(config, batch_size, world)
    if len(found) == len(norms):
        fixes.append("train.freeze_batchnorm=true")
        height, width = height_width(size)
        twice = (2 * height, 2 * width)
        if embedder.backbone.is_convolutional and not single_value_norms(embedder.backbone, twice):
            setting = "model.image_size" if config.model.train_size is None else "model.train_size"
            fixes.append(f"{setting}={2 * height if height == width else list(twice)}")
    elif len(norms) == 1 and config.loss.classification_weight:
        fixes.append("loss.classification_weight=0")
    more = f" and {len(norms) - 1} more" if len(norms) > 1 else ""
    raise ConfigError(
        f"{_batch_words(config, batch_size)}{_parts_words(config, world)} puts one image at a time "
        f"through the network: at {size_text(size)} px that is one value of each channel for the "
        f"batch norm {norms[0]}{more}, which needs two; set {', or '.join(fixes)}"
    )


def _larger_parts(config: Config, batch_size: int, world: World) -> list[str]:
    """Settings that each give every pass two images or the statistics of two."""
    least, fixes = 2 * world.size * config.train.accumulate, []
    if batch_size == config.train.batch_size:
        fixes.append(f"train.batch_size={least} or more")
    elif batch_size < 2:
        fixes.append("a list of more images")
    if config.train.accumulate > 1 and batch_size >= 2 * world.size:
        fixes.append(f"train.accumulate={batch_size // world.size // 2} or less")
    if world.size > 1:
        fixes.append("train.sync_batchnorm=true")
    return fixes


def _batch_words(config: Config, batch_size: int) -> str:
    """The batch size, and what the list makes of it where that has fewer images."""
    asked = f"train.batch_size={config.train.batch_size}"
    return asked if batch_size == config.train.batch_size else f"{asked} ({batch_size} by the list)"


def _parts_words(config: Config, world: World) -> str:
    words = ""
    if config.train.accumulate > 1:
        words += f" with train.accumulate={config.train.accumulate}"
    if world.size > 1:
        words += f" on {world.size} workers with train.sync_batchnorm=false"
    return words
