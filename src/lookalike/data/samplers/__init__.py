"""Samplers: draw the images of batches and epochs."""

from __future__ import annotations

import numpy as np

from lookalike.data.samplers.longtail import BalancedSampler, RepeatFactorSampler
from lookalike.data.samplers.pk import PkSampler
from lookalike.data.samplers.repeated import Repeated, repeated_steps
from lookalike.data.samplers.sampler import Sampler, Shape, Shuffle
from lookalike.data.samplers.sampling import Sampling, Sizes
from lookalike.errors import ConfigError

__all__ = ["SAMPLERS", "Sampler", "Sampling", "Sizes", "create_sampler", "epoch_shape"]

# To add one, write a class that extends `Sampler` and name it here.
SAMPLERS: dict[str, type[Sampler]] = {
    kind.name: kind for kind in (Shuffle, PkSampler, BalancedSampler, RepeatFactorSampler)
}


def create_sampler(
    class_ids: np.ndarray, *, batch_size: int, seed: int, sampling: Sampling
) -> Sampler:
    """The sampler that `sampling` asks for.

    Args:
        class_ids: (N,) the class of each row, at least one.
        batch_size: global, in images.
        seed: at least 0.

    Raises:
        ConfigError: there is no such sampler, or the batch does not fit it.
    """
    kind = _kind(sampling, batch_size)
    inner = batch_size // sampling.repeats
    sampler = kind(class_ids, batch_size=inner, seed=seed, sampling=sampling)
    return sampler if sampling.repeats == 1 else Repeated(sampler, sampling.repeats)


def epoch_shape(sizes: Sizes, batch_size: int, sampling: Sampling) -> Shape:
    """Steps of an epoch and images in a step, as `create_sampler` would have them.

    Raises:
        ConfigError: there is no such sampler, or the batch does not fit it.
    """
    kind = _kind(sampling, batch_size)
    steps, batch = kind.shape(sizes, batch_size // sampling.repeats, sampling)
    if sampling.repeats == 1:
        return steps, batch
    return repeated_steps(steps, sampling.repeats), batch * sampling.repeats


def _kind(sampling: Sampling, batch_size: int) -> type[Sampler]:
    if sampling.name not in SAMPLERS:
        raise ConfigError(f"data.sampler={sampling.name!r} is not one of {', '.join(SAMPLERS)}")
    sampling.check_batch(batch_size)
    return SAMPLERS[sampling.name]
