"""The plan of a run: its figures, and settings to change where it does not fit."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from lookalike.planning.communication import Communication, communication
from lookalike.planning.gpus import Machine
from lookalike.planning.memory import Memory, memory
from lookalike.planning.network_profile import NetworkProfile
from lookalike.planning.run_spec import RunSpec
from lookalike.planning.timing import Speed, speed_on

Profile = Callable[[RunSpec], NetworkProfile]
"""The network's profile for the local batch and embedding dimensions of a run."""

_MOST_CLASSES = 10**12
_MOST_WORKERS = 2**16


@dataclass(frozen=True)
class Change:
    """Effect of another setting.

    Attributes:
        alone: peak bytes of a worker with this change alone.
        together: the same with this and all changes above it.
        classes: the most that then fit; None where the memory is not known or classes need none.
        fits: the run, then; None where the memory is not known.
    """

    setting: str
    alone: int
    together: int
    classes: int | None
    fits: bool | None


@dataclass(frozen=True)
class Plan:
    """Needs of a run.

    Attributes:
        communication: bytes that a worker sends in a step.
        limit: bytes of memory that a worker has; None where not known.
        classes: the most that fit; None where the memory is not known or classes need none.
        changes: other settings, the cheapest first.
        machine: whose published figures the seconds are from; None for none.
        speed: None where nothing was timed.
        notes: sentences about what the figures leave out.
    """

    spec: RunSpec
    network: NetworkProfile
    memory: Memory
    communication: Communication
    limit: int | None
    classes: int | None
    changes: tuple[Change, ...]
    machine: Machine | None
    speed: Speed | None
    notes: tuple[str, ...]

    @property
    def fits(self) -> bool | None:
        """True if a worker's memory holds it; None where that is not known."""
        return None if self.limit is None else self.memory.peak <= self.limit

    @property
    def head_parameters(self) -> int:
        """Class weights over all workers, each counted once."""
        spec = self.spec
        metric = 0 if spec.compared == "images" else spec.centres * sum(spec.metric_dims)
        return spec.classes * (metric + spec.dim * (spec.heads - 1))

    def to_dict(self) -> dict[str, Any]:
        """All figures, in bytes and seconds, for JSON."""
        names = {"spec": "setup", "communication": "traffic"}  # older names, which scripts read
        tree = {names.get(name, name): value for name, value in asdict(self).items()}
        tree["fits"], tree["head_parameters"] = self.fits, self.head_parameters
        tree["setup"] |= {"local_batch": self.spec.local_batch, "share": self.spec.share}
        tree["setup"]["steps"] = self.spec.steps
        return tree


def make_plan(
    spec: RunSpec,
    profile: Profile,
    *,
    runtime: int,
    limit: int | None = None,
    machine: Machine | None = None,
    notes: tuple[str, ...] = (),
) -> Plan:
    """Plan a run.

    Args:
        runtime: bytes of a process before it has a model.
        limit: bytes of memory that a worker has.
        machine: to predict seconds for.
    """
    network = profile(spec)
    sent = communication(spec, network)
    return Plan(
        spec=spec,
        network=network,
        memory=memory(spec, network, runtime),
        communication=sent,
        limit=limit,
        classes=_most(spec, network, runtime, limit),
        changes=tuple(_changes(spec, profile, runtime, limit)),
        machine=machine,
        speed=None if machine is None else speed_on(spec, network, sent, machine),
        notes=notes,
    )


def most_classes(spec: RunSpec, network: NetworkProfile, runtime: int, limit: int) -> int:
    """The most classes with which a worker needs `limit` bytes at most; 0 when none do."""

    def too_many(classes: int) -> bool:
        return memory(replace(spec, classes=classes), network, runtime).peak > limit

    return bisect_left(range(1, _MOST_CLASSES), True, key=too_many)


def _most(spec: RunSpec, network: NetworkProfile, runtime: int, limit: int | None) -> int | None:
    if limit is None or not spec.weighted_heads:
        return None
    return most_classes(spec, network, runtime, limit)


def _changes(spec: RunSpec, profile: Profile, runtime: int, limit: int | None) -> Iterator[Change]:
    together = spec
    for name, change in _ladder(spec, profile, runtime, limit):
        alone = change(spec)
        together = change(together)
        network = profile(together)
        peak = memory(together, network, runtime).peak
        yield Change(
            setting=name,
            alone=memory(alone, profile(alone), runtime).peak,
            together=peak,
            classes=_most(together, network, runtime, limit),
            fits=None if limit is None else peak <= limit,
        )


def _ladder(
    spec: RunSpec, profile: Profile, runtime: int, limit: int | None
) -> Iterator[tuple[str, Callable[[RunSpec], RunSpec]]]:
    """Settings and their effects, the cheapest for quality first."""
    chunked = spec.weighted_heads > 0 and spec.compared != "proxies"
    if chunked and not spec.fused:
        yield "head.fused_update=true", lambda s: replace(s, fused=True)
    if chunked and spec.weight_bytes == 4:
        yield "head.dtype=bf16", lambda s: replace(s, weight_bytes=2, fused=True)
    workers = _workers(spec, profile, runtime, limit)
    if spec.compared == "images":
        if spec.heads > 1:
            yield "loss.classification_weight=0", lambda s: replace(s, heads=1, sharded=False)
    elif not spec.sharded or workers > spec.workers:
        dropped = " (and without the classification branch)" if spec.heads > 1 else ""
        yield (
            f"head.parallel=model, {workers} workers{dropped}",
            lambda s: replace(s, sharded=True, workers=workers, heads=1),
        )
    if spec.workers > 1 and not spec.shared_network and _is_large(spec, profile, runtime):
        yield "train.shard_backbone=true", lambda s: replace(s, shared_network=True)
    if chunked and spec.sample_rate == 1:
        yield "head.sample_rate=0.1", lambda s: replace(s, sample_rate=0.1, fused=True)
    if spec.remembered >= 2:
        less_memory = spec.remembered // 2
        yield f"loss.memory={less_memory}", lambda s: replace(s, remembered=less_memory)
    if spec.dim >= 128:
        half = spec.dim // 2
        yield f"model.embedding_dim={half}", lambda s: replace(s, dim=half)
    if spec.batch >= 4 * spec.workers * spec.accumulate:  # two images for each batch norm
        less = spec.batch // 2
        yield f"train.batch_size={less}", lambda s: replace(s, batch=max(less, s.workers))


def _is_large(spec: RunSpec, profile: Profile, runtime: int) -> bool:
    """True if gradients and optimizer state of the network take a quarter of what training adds."""
    needed = memory(spec, profile(spec), runtime)
    added = needed.peak - needed.runtime
    return 4 * (needed.network_gradients + needed.network_optimizer) >= added


def _workers(spec: RunSpec, profile: Profile, runtime: int, limit: int | None) -> int:
    """Workers that share the classes: enough for them to fit, twice as many at least."""
    workers = max(2, spec.workers if not spec.sharded else 2 * spec.workers)
    if limit is None:
        return workers
    start = replace(spec, sharded=True, fused=True, weight_bytes=2, heads=1)
    network = profile(start)  # an upper bound: a worker will have fewer images
    while workers < _MOST_WORKERS and workers < spec.batch:
        tried = replace(start, workers=workers)
        if memory(tried, network, runtime).peak <= limit:
            break
        workers *= 2
    return min(workers, max(spec.batch, 1))
