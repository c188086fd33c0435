"""Comparison of heads: agreement with a float64 reference, and time in turns."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from head_contender import (
    SCALE,
    Contender,
    Maker,
    NotRunError,
    Shape,
    arcface_cosine,
    make_batch,
)
from turns import in_turns, ratios, seconds_of

CHECK_CLASSES = 5000  # no multiple of any chunk
CHECK_LR = 100.0  # so large that a step shows the gradient, not the rounding of the weight
LEAST_TURN = 0.2  # seconds; shorter steps are timed several at once


@dataclass(frozen=True)
class Agreement:
    """Relative errors against float64 autograd on the same weights.

    Attributes:
        loss: of the loss.
        embeddings: of their gradient, by the Euclidean norm.
        weight: of the change of the weight in a step, by the same.
        absent: of that change where no image is of the class. In bf16 a logit of 10 is rounded
            by 0.02, and so are these classes' gradients, by 2 %, whoever computes them.
    """

    loss: float
    embeddings: float
    weight: float
    absent: float

    @property
    def worst(self) -> float:
        """The largest but `absent`; NaN if one is not a number."""
        errors = (self.loss, self.embeddings, self.weight)
        return math.nan if any(math.isnan(error) for error in errors) else max(errors)


def check(make: Maker, shape: Shape) -> Agreement:
    """Hold one step of a contender against the reference, at `CHECK_CLASSES` classes.

    Raises:
        NotRunError: it cannot run here.
    """
    shape = replace(shape, classes=CHECK_CLASSES, lr=CHECK_LR)
    contender = make(shape)
    embeddings, classes = make_batch(shape)
    generator = torch.Generator(shape.device).manual_seed(2)
    contender.weights().normal_(0, 0.01, generator=generator)
    before = contender.weights().double().clone()
    loss = contender.step(embeddings, classes)
    seen = contender.sample(classes)
    if seen is None:
        seen = torch.arange(shape.classes, device=classes.device)
    change = (contender.weights().double() - before)[seen]

    wide = embeddings.detach().double().requires_grad_()
    weight = before[seen].requires_grad_()
    own = torch.searchsorted(seen, classes)
    true_loss = reference_loss(wide, weight, own, contender)
    true_loss.backward()
    true_change = -shape.lr * (weight.grad + shape.weight_decay * weight.detach())
    absent = torch.ones(len(seen), dtype=torch.bool, device=classes.device)
    absent[own] = False
    return Agreement(
        loss=_error(loss, true_loss.detach()),
        embeddings=_error(embeddings.grad, wide.grad),
        weight=_error(change, true_change),
        absent=_error(change[absent], true_change[absent]),
    )


def reference_loss(
    embeddings: Tensor, weight: Tensor, classes: Tensor, contender: Contender
) -> Tensor:
    """The mean loss as the papers write it, in the dtype of the embeddings."""
    column = classes[:, None]
    if contender.margin == "softmax":
        return F.cross_entropy(embeddings @ weight.t(), classes)
    cos = F.normalize(embeddings) @ F.normalize(weight).t()  # (B, C)
    true = cos.gather(1, column)
    target = arcface_cosine(true)
    if not contender.true_slope:
        target = true + (target - true).detach()
    return F.cross_entropy(cos.scatter(1, column, target) * SCALE, classes)


def _error(value: Tensor, true: Tensor) -> float:
    return float((value.double() - true).norm() / true.norm())


@dataclass(frozen=True)
class Duel:
    """Two contenders in turns.

    Attributes:
        ours, theirs: seconds of a step, the median.
        ratios: theirs / ours of each round.
        difference: of the two losses at full size, and of the gradients of the embeddings where
            both are true ones, the larger relative one; NaN where they are not comparable.
    """

    ours: float
    theirs: float
    ratios: list[float]
    difference: float

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)


def duel(
    ours: Maker, theirs: Maker, shape: Shape, rounds: int, seconds: float, allowed: float
) -> Duel:
    """Take turns A B, B A, ... from the same weights.

    Args:
        rounds, seconds: see `in_turns`.
        allowed: difference between their first steps.

    Raises:
        NotRunError: one cannot run here, or they differ by more than `allowed`.
    """
    embeddings, classes = make_batch(shape)
    a, b = ours(shape), theirs(shape)
    if a.weights().shape == b.weights().shape:
        b.weights().copy_(a.weights())
    difference = _difference(a, b, embeddings, classes)
    if difference > allowed:
        raise NotRunError(f"they differ by {difference:.1e}")

    def turns(side: Contender) -> Callable[[], float]:
        def step() -> Tensor:
            return side.step(embeddings, classes)

        steps = max(1, round(LEAST_TURN / seconds_of(step, shape.device)))
        return lambda: seconds_of(step, shape.device, steps)

    mine, others = in_turns({"ours": turns(a), "theirs": turns(b)}, rounds, seconds).values()
    return Duel(
        statistics.median(mine), statistics.median(others), ratios(others, mine), difference
    )


def _difference(a: Contender, b: Contender, embeddings: Tensor, classes: Tensor) -> float:
    """Do the first step of both and compare."""
    results = []
    for side in (a, b):
        loss = side.step(embeddings, classes)
        gradient = embeddings.grad
        results.append((loss, None if gradient is None else gradient.clone()))
    if a.margin != b.margin or not a.sample_rate == b.sample_rate == 1:
        return math.nan
    (loss, gradient), (true_loss, true_gradient) = results
    errors = [_error(loss, true_loss.double())]
    if a.true_slope and b.true_slope:
        errors.append(_error(gradient, true_gradient.double()))
    return max(errors)


def copy_rate() -> float:
    """Bytes read and written a second, by a copy larger than any cache."""
    source = torch.ones(64 * 2**20)
    target = torch.empty_like(source)
    times = [seconds_of(lambda: target.copy_(source)) for _ in range(5)]
    return 2 * source.numel() * 4 / statistics.median(times[1:])
