"""Interpolation of the weights between the pretrained start and the end of training.

theta(a) = (1 - a) start + a end is often better than both, and a safeguard where fine-tuning
ends below its start (Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from lookalike.data.loading.batch import Batch
from lookalike.distributed.world import World
from lookalike.errors import RunError, one_line
from lookalike.log import counted, logger
from lookalike.model.batchnorm import measure_statistics
from lookalike.model.embedder import WEIGHTS_FILE, Embedder
from lookalike.model.lora import unadapted
from lookalike.run import Run
from lookalike.training import checkpoint
from lookalike.training.checkpoint import Progress
from lookalike.training.parts import TrainingParts
from lookalike.training.run_output import RunOutput

STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Weights of the end, for which retrieval is measured."""

_CHANCE = 0.6
"""Two standard deviations of a query's change from point to point, in the mean of both scores."""

_MOST_CHANCE = 0.1
"""A larger gain counts, of however few queries."""

STATISTICS = 32
"""Batches that the statistics of batch norms are measured on."""


@dataclass(frozen=True)
class Point:
    """Scores at one point between start and end.

    Attributes:
        weight: of the end; 0 is the start, 1 the end.
    """

    weight: float
    recall_at_1: float
    map_at_r: float

    @property
    def mean(self) -> float:
        """Of both scores."""
        return (self.recall_at_1 + self.map_at_r) / 2


def best_point(points: Sequence[Point], queries: int) -> Point:
    """The point of the highest mean score of those not below the start in either score.

    Half a point, or one of few `queries`, is no difference; of equal points, the later. Where the
    best is above the start by no more than chance, the point half-way, if its mean is not below
    the start's: few queries tell the points apart no better than that guess.

    Args:
        points: begin with the start.
    """
    allowed = _not_below_the_start(points, queries)
    best = max(allowed, key=lambda point: (point.mean, point.weight))
    start = points[0]
    if best.mean - start.mean >= min(_CHANCE / math.sqrt(queries), _MOST_CHANCE):
        return best
    middle = [point for point in allowed if point.weight == 0.5 and point.mean >= start.mean]
    return middle[0] if middle else best


def _not_below_the_start(points: Sequence[Point], queries: int) -> list[Point]:
    start, same = points[0], max(0.005, 1 / queries) + 1e-9
    return [
        point
        for point in points
        if point.recall_at_1 >= start.recall_at_1 - same and point.map_at_r >= start.map_at_r - same
    ]


@contextmanager
def interpolated(module: nn.Module, start: Mapping[str, Tensor], weight: float) -> Iterator[None]:
    """Give the module the weights and statistics between `start` and its own, inside the block.

    Raises:
        KeyError: `start` lacks a tensor of the module.
    """
    own = {name: value.detach().clone() for name, value in module.state_dict().items()}
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.lerp(start[name].to(value), own[name], weight))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in module.state_dict().items():
                value.copy_(own[name])


def keep_weights_between(
    parts: TrainingParts,
    output: RunOutput,
    progress: Progress,
    world: World,
    *,
    weight: float | None = None,
) -> None:
    """Save weights between start and end of a run as its model, and record their scores.

    The end is the checkpoint of the best measurement during training, or the last where that is the
    start, or where there is no validation set. Does nothing for a run that is resumed at its end
    and has recorded scores.

    Args:
        weight: of the end; None for the best, which needs a validation set.

    Raises:
        RunError: the weights of the start or the end cannot be read.
    """
    validator, run, shards = parts.validator, output.run, parts.trained.shards
    end = progress.best_step or progress.step
    mine = run.scores() if world.is_main else []
    scores: list[Mapping[str, Any]] = world.broadcast_object(mine)
    if scores and "interpolation" in scores[-1] and scores[-1]["step"] == progress.step:
        return
    measured = {score["step"]: score for score in scores if "interpolation" not in score}
    known = {weight: measured[step] for weight, step in ((0.0, 0), (1.0, end)) if step in measured}
    position, folder = progress.step + progress.shift, run.checkpoints / checkpoint.folder_name(end)

    with parts.trained.whole() as network, ExitStack() as stack:
        embedder = network.embedder
        weights = shared_weights(embedder, lambda: checkpoint.embedder_weights(folder), world)
        stack.enter_context(interpolated(embedder, weights, 0.0))
        start = shared_weights(embedder, lambda: read_start(run), world)
        frozen = world.broadcast_object(_have_one_backbone(start, weights))

        def prepare() -> None:
            parts.step.prepare(frozen=frozen)
            if shards is not None:
                shards.copy_modes()
            stored = validator is not None and validator.has_features_of(embedder)
            epoch = position // parts.loader.steps_per_epoch
            with closing(parts.loader.epoch(epoch, stored=stored)) as batches:
                _measure_statistics(network, batches, world)

        record = None
        if validator is None:
            assert weight is not None
            kept = weight
            logger.info("the model is %.0f %% of the way from start to end, unmeasured", 100 * kept)
        else:
            point, record = interpolate(
                embedder, start, lambda: validator.measure(embedder), known, prepare, weight
            )
            kept = point.weight
        with interpolated(embedder, start, kept):
            if 0 < kept < 1:
                prepare()
            output.save_model(embedder)
    if record is not None:
        epoch = -(-position // parts.loader.steps_per_epoch)
        output.record({**record, "step": progress.step, "epoch": epoch, "end": end})


def _have_one_backbone(start: Mapping[str, Tensor], end: Mapping[str, Tensor]) -> bool:
    """True if weights and statistics of the backbone are the same at the start and at the end."""
    return all(
        torch.equal(value, end[name])
        for name, value in start.items()
        if name.startswith("backbone.")
    )


def _measure_statistics(network: nn.Module, batches: Iterable[Batch], world: World) -> None:
    """Measure the statistics of those batch norms anew that learn them in training."""
    images = (batch.images.to(world.device) for batch in islice(batches, STATISTICS))
    measure_statistics(network, images, world)


def interpolate(
    embedder: Embedder,
    start: Mapping[str, Tensor],
    measure: Callable[[], tuple[float, dict[str, Any]]],
    known: Mapping[float, Mapping[str, Any]],
    prepare: Callable[[], None] | None = None,
    weight: float | None = None,
) -> tuple[Point, dict[str, Any]]:
    """Measure the points between `start` and the embedder's weights, and choose one.

    Args:
        embedder: with the weights of the end; unchanged afterwards.
        start: its weights before training.
        measure: scores of the embedder, as `Validator.measure` returns them.
        known: records of points that were measured before.
        prepare: called with the weights of a point between both in place, before it is measured.
        weight: of the point to choose, None for the best; it alone is measured between both.

    Returns:
        The chosen point, and its record with all `points` as (weight, Recall@1, MAP@R).
    """
    records: dict[float, Mapping[str, Any]] = {}
    for step in STEPS if weight is None else (0.0, weight, 1.0):
        if step in known:
            records[step] = known[step]
            continue
        with interpolated(embedder, start, step):
            if prepare is not None and 0 < step < 1:
                prepare()
            records[step] = measure()[1]
    points = [
        Point(step, float(record["recall_at_1"]), float(record["map_at_r"]))
        for step, record in records.items()
    ]
    queries = int(records[1.0]["queries"])
    chosen = best_point(points, queries) if weight is None else points[1]
    for point in points:
        logger.info(
            "%3.0f %% of the way from start to end: Recall@1 %.1f %%, MAP@R %.1f %%%s",
            100 * point.weight, 100 * point.recall_at_1, 100 * point.map_at_r,
            " (kept)" if point is chosen else "",
        )  # fmt: skip
    if weight is None and any(
        point.mean > chosen.mean for point in _not_below_the_start(points, queries)
    ):
        logger.info(
            "half-way is kept: %s are too few to tell which point is best",
            counted(queries, "query", "queries"),
        )
    listed = [[point.weight, point.recall_at_1, point.map_at_r] for point in points]
    return chosen, {**records[chosen.weight], "interpolation": chosen.weight, "points": listed}


def read_start(run: Run) -> dict[str, Tensor]:
    """Weights of the model before training.

    Raises:
        RunError: they are missing or broken.
    """
    file = run.start / WEIGHTS_FILE
    try:
        return dict(safetensors.torch.load_file(file))
    except (OSError, safetensors.SafetensorError) as error:
        raise RunError(
            f"{file}: the weights of the start cannot be read ({one_line(error)}); set "
            "train.interpolate=false to end without them"
        ) from None


def shared_weights(
    embedder: Embedder, read: Callable[[], Mapping[str, Tensor]], world: World
) -> dict[str, Tensor]:
    """Weights that the main worker reads, on the CPU of each; called by all workers together.

    Low-rank matrices that it does not find are those of an unadapted network, such that the
    weights between it and `embedder` are, merged, those between the merged ones.

    Raises:
        RunError: they cannot be read, or are those of another network.
    """
    own = embedder.state_dict()
    found: Mapping[str, Tensor] = {}
    with world.raise_together():
        if world.is_main:
            found = {**unadapted(own), **read()}
            for name, value in own.items():
                if name not in found or found[name].shape != value.shape:
                    raise RunError(
                        f"the weights at the start or end of training do not fit this network "
                        f"({name}); set train.interpolate=false to end without them"
                    )
    if world.size == 1:
        return {name: found[name] for name in own}
    return {
        name: world.broadcast(
            found[name].to(value) if world.is_main else torch.empty_like(value)
        ).cpu()
        for name, value in own.items()
    }
