"""The plan of a run: its figures, and settings to change where it does not fit."""

from __future__ import annotations

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
        setting: as it is written.
        alone: peak bytes of a worker with this change alone.
        together: the same with this and all changes above it.
        classes: the most that then fit; None where the memory is not known.
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
        memory: bytes of a worker.
        traffic: bytes that a worker sends in a step.
        limit: bytes of memory that a worker has; None where not known.
        classes: the most that fit; None where the memory is not known.
        changes: other settings, the cheapest first.
        machine: whose published figures the seconds are from; None for none.
        speed: None where nothing was timed.
        notes: sentences about what the figures leave out.
    """

    setup: RunSpec
    network: NetworkProfile
    memory: Memory
    traffic: Communication
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
        setup = self.setup
        whole = setup.classes * setup.dim * (setup.centres + setup.heads - 1)
        return whole + setup.classes * setup.centres * sum(setup.nested)

    def to_dict(self) -> dict[str, Any]:
        """All figures, in bytes and seconds, for JSON."""
        tree = asdict(self)
        tree["fits"], tree["head_parameters"] = self.fits, self.head_parameters
        tree["setup"] |= {"local_batch": self.setup.local_batch, "share": self.setup.share}
        tree["setup"]["steps"] = self.setup.steps
        return tree


def make_plan(
    setup: RunSpec,
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
    network = profile(setup)
    sent = communication(setup, network)
    return Plan(
        setup=setup,
        network=network,
        memory=memory(setup, network, runtime),
        traffic=sent,
        limit=limit,
        classes=None if limit is None else most_classes(setup, network, runtime, limit),
        changes=tuple(_changes(setup, profile, runtime, limit)),
        machine=machine,
        speed=None if machine is None else speed_on(setup, network, sent, machine),
        notes=notes,
    )


def most_classes(setup: RunSpec, network: NetworkProfile, runtime: int, limit: int) -> int:
    """The most classes with which a worker needs `limit` bytes at most; 0 when none do."""

    def fits(classes: int) -> bool:
        return memory(replace(setup, classes=classes), network, runtime).peak <= limit

    if not fits(1):
        return 0
    low, high = 1, 2
    while fits(high) and high < _MOST_CLASSES:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _changes(setup: RunSpec, profile: Profile, runtime: int, limit: int | None) -> Iterator[Change]:
    together = setup
    for name, change in _ladder(setup, profile, runtime, limit):
        alone = change(setup)
        together = change(together)
        network = profile(together)
        peak = memory(together, network, runtime).peak
        yield Change(
            setting=name,
            alone=memory(alone, profile(alone), runtime).peak,
            together=peak,
            classes=None if limit is None else most_classes(together, network, runtime, limit),
            fits=None if limit is None else peak <= limit,
        )


def _ladder(
    setup: RunSpec, profile: Profile, runtime: int, limit: int | None
) -> Iterator[tuple[str, Callable[[RunSpec], RunSpec]]]:
    """Settings and their effects, the cheapest for quality first."""
    if not setup.fused:
        yield "head.fused_update=true", lambda s: replace(s, fused=True)
    if setup.weight_bytes == 4:
        yield "head.dtype=bf16", lambda s: replace(s, weight_bytes=2, fused=True)
    workers = _workers(setup, profile, runtime, limit)
    if not setup.sharded or workers > setup.workers:
        dropped = " (and without the classification branch)" if setup.heads > 1 else ""
        yield (
            f"head.parallel=model, {workers} workers{dropped}",
            lambda s: replace(s, sharded=True, workers=workers, heads=1),
        )
    if setup.sample_rate == 1:
        yield "head.sample_rate=0.1", lambda s: replace(s, sample_rate=0.1, fused=True)
    if setup.dim >= 128:
        half = setup.dim // 2
        yield f"model.embedding_dim={half}", lambda s: replace(s, dim=half)
    if setup.batch >= 4 * setup.workers * setup.accumulate:  # two images for each batch norm
        less = setup.batch // 2
        yield f"train.batch_size={less}", lambda s: replace(s, batch=max(less, s.workers))


def _workers(setup: RunSpec, profile: Profile, runtime: int, limit: int | None) -> int:
    """Workers that share the classes: enough for them to fit, twice as many at least."""
    workers = max(2, setup.workers if not setup.sharded else 2 * setup.workers)
    if limit is None:
        return workers
    start = replace(setup, sharded=True, fused=True, weight_bytes=2, heads=1)
    network = profile(start)  # an upper bound: a worker will have fewer images
    while workers < _MOST_WORKERS and workers < setup.batch:
        tried = replace(start, workers=workers)
        if memory(tried, network, runtime).peak <= limit:
            break
        workers *= 2
    return min(workers, max(setup.batch, 1))
