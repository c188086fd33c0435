"""The sampler of a run: several images of a class in a batch, for losses that compare them."""

from __future__ import annotations

from lookalike.config.config import Config
from lookalike.data.samplers.sampling import IMAGES_PER_CLASS
from lookalike.errors import ConfigError
from lookalike.log import logger
from lookalike.losses.metric_loss import MetricLoss


def sampler_name(config: Config, loss: MetricLoss) -> str:
    """Name of the sampler, `auto` replaced."""
    if config.data.sampler == "auto":
        return "pk" if loss.needs_positives else "shuffle"
    return config.data.sampler


def resolve_sampler(config: Config, loss: MetricLoss, classes: int) -> str:
    """Name of the sampler, checked to give a batch of several classes with several images each.

    Raises:
        ConfigError: it does not.
    """
    data, batch = config.data, config.train.batch_size
    name = sampler_name(config, loss)
    if not loss.needs_positives:
        return name
    needs = f"loss.name={loss.name} compares images of one class within a batch"
    if name == "pk":
        k = (data.images_per_class or IMAGES_PER_CLASS) * data.repeats
        if k < 2:
            raise ConfigError(
                f"{needs}, and data.images_per_class={data.images_per_class} leaves each image "
                f"alone; give 2 or more ({IMAGES_PER_CLASS} by default)"
            )
        if batch < 2 * k:
            each = f"{k} images of each class"
            if data.repeats > 1:
                each = (
                    f"data.images_per_class={k // data.repeats} times data.repeats={data.repeats}"
                )
            raise ConfigError(
                f"{needs} and with those of others, and train.batch_size={batch} with {each} "
                f"holds a single class; give train.batch_size={2 * k} or more"
            )
        if data.sampler == "auto":
            logger.info(
                "data.sampler=pk: %s, so that each batch holds %d classes with %d images each",
                needs, min(batch // k, classes), k,
            )  # fmt: skip
    elif data.repeats == 1 and batch <= classes:
        raise ConfigError(
            f"{needs}, and data.sampler={name} draws {batch} images of {classes:,} classes, "
            "perhaps no two of one; leave data.sampler out for pk, or give data.repeats=2"
        )
    return name
