"""Samplers: draw the images of batches and epochs."""

from __future__ import annotations

import numpy as np

from lookalike.data.samplers.longtail import BalancedSampler, RepeatFactorSampler
from lookalike.data.samplers.pk import PkSampler
from lookalike.data.samplers.repeated import Repeated
from lookalike.data.samplers.sampler import Sampler, Shape, Shuffle
from lookalike.data.samplers.sampling import Sampling, Sizes

__all__ = ["SAMPLERS", "Sampler", "Sampling", "Sizes", "create_sampler", "epoch_shape"]

# To add one, write a class that extends `Sampler` and name it here.
SAMPLERS: dict[str, type[Sampler]] = {
    kind.name: kind for kind in (Shuffle, PkSampler, BalancedSampler, RepeatFactorSampler)
}


def create_sampler(
    class_ids: np.ndarray, *, batch_size: int, seed: int, sampling: Sampling
) -> Sampler:
    """The sampler that `sampling` asks for, of rows of the classes (N,); `batch_size` is global.

    Raises:
        ConfigError: the batch does not fit the sampler.
    """
    sampling.check_batch(batch_size)
    inner = batch_size // sampling.repeats
    kind = SAMPLERS[sampling.name]
    sampler = kind(class_ids, batch_size=inner, seed=seed, sampling=sampling)
    return sampler if sampling.repeats == 1 else Repeated(sampler, sampling.repeats)


def epoch_shape(sizes: Sizes, batch_size: int, sampling: Sampling) -> Shape:
    """Steps of an epoch and images in a step, as `create_sampler` would have them.

    Raises:
        ConfigError: the batch does not fit the sampler.
    """
    sampling.check_batch(batch_size)
    inner = batch_size // sampling.repeats
    steps, batch = SAMPLERS[sampling.name].shape(sizes, inner, sampling)
    return max(1, steps // sampling.repeats), batch * sampling.repeats
