"""A plan as tables."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from lookalike.planning.estimate import Plan
from lookalike.planning.gpus import Machine
from lookalike.planning.timing import DECODE, Speed
from lookalike.storage.byte_size import in_words


def show(plan: Plan, console: Console) -> None:
    """Print all tables of a plan."""
    _print(console, "The run", _run(plan))
    _print(console, "Bytes of a worker", _memory(plan))
    if plan.spec.workers > 1:
        _print(console, "Bytes that a worker sends in a step", _communication(plan))
    if plan.fits is False or (plan.limit is None and plan.changes):
        _changes(plan, console)
    if plan.speed is not None:
        _print(console, f"Seconds ({plan.speed.source})", _speed(plan, plan.speed))
    if plan.machine is not None:
        _print(console, f"From ({plan.machine.source})", _constants(plan.machine))
    for note in plan.notes:
        console.print(note, soft_wrap=True, markup=False, highlight=False)


def duration(seconds: float) -> str:
    """Seconds in the largest unit of which there are two."""
    for unit, factor in (("days", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= 2 * factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"


Lines = Iterable[tuple[str, str, str]]


def _print(console: Console, title: str, lines: Lines) -> None:
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for line in lines:
        table.add_row(*line)
    console.print(table)
    console.print()


def _run(plan: Plan) -> Lines:
    spec, network = plan.spec, plan.network
    yield "classes", f"{spec.classes:,}", f"{spec.share:,} on a worker"
    if spec.images is not None:
        yield "images", f"{spec.images:,}", ""
    yield "workers", f"{spec.workers:,}", ""
    yield "batch", f"{spec.batch:,}", f"{spec.local_batch:,} images on a worker"
    yield "backbone", f"{network.backbone:,}", "parameters"
    yield "neck", f"{network.neck:,}", "parameters"
    if network.branch:
        yield "branch", f"{network.branch:,}", "parameters of the classification branch"
    kind = "weights in all, each held by one worker" if spec.sharded else "weights, on all workers"
    if not spec.weighted_heads:
        kind = "the loss compares images with each other"
    yield "head" if len(spec.head_rows) == 1 else "heads", f"{plan.head_parameters:,}", kind
    flops = network.flops / network.images
    yield "network", f"{flops / 1e9:,.2f}", "GFLOP an image, forward and backward"


def _memory(plan: Plan) -> Lines:
    held, spec = plan.memory, plan.spec
    yield "network weights", in_words(held.network_weights), ""
    yield "network gradients", in_words(held.network_gradients), ""
    yield "network optimizer", in_words(held.network_optimizer), spec.optimizer
    if held.gathered:
        yield (
            "gathered",
            in_words(held.gathered),
            "all weights, while they are measured and saved",
        )
    if held.average:
        yield "average", in_words(held.average), "train.ema, train.average_last"
    kind = "fp32" if spec.weight_bytes == 4 else "bf16"
    if held.memory:
        yield "memory of embeddings", in_words(held.memory), "loss.memory"
    yield "head weights", in_words(held.head_weights), kind
    how = "none: the update is in the backward pass" if spec.fused else "fp32"
    yield "head gradients", in_words(held.head_gradients), how
    yield "head optimizer", in_words(held.head_optimizer), f"{spec.optimizer}, {kind}"
    each = held.activations / plan.network.images
    yield "activations", in_words(held.activations), f"{in_words(each)} an image"
    yield "temporary", in_words(held.transient), "buffers of the network"
    yield "head, saved", in_words(held.head_saved), "for backward: 1 / norms, embeddings"
    yield "head, chunks", in_words(held.chunks), "temporary buffers of the head"
    full = spec.head_batch * sum(spec.head_rows) * 4
    if spec.weighted_heads:
        yield "logits", "0 B", f"never in memory; they would be {in_words(full)}"
    yield "batches", in_words(held.batches), "uint8 images"
    yield "runtime", in_words(held.runtime), "the process without a model"
    yield "peak", in_words(held.peak), "the most at one time; not all of the above are"
    if plan.limit is not None:
        verdict = "fits" if plan.fits else "DOES NOT FIT"
        yield "memory", in_words(plan.limit), f"{verdict}; {held.peak / plan.limit:.0%} of it"
        if plan.classes is not None:
            yield "classes at most", f"{plan.classes:,}", "in that memory, all else the same"


def _communication(plan: Plan) -> Lines:
    sent = plan.communication
    if sent.embeddings:
        yield "embeddings", in_words(sent.embeddings), "all-gather"
        yield "their gradients", in_words(sent.embedding_gradients), "reduce-scatter"
    if sent.statistics:
        what = "three numbers a row" if plan.spec.sharded else "two numbers a proxy"
        yield "statistics", in_words(sent.statistics), what
    if plan.spec.weighted_heads and not plan.spec.sharded:
        yield (
            "head gradients",
            in_words(sent.head_gradients),
            "all-reduce; none with parallel=model",
        )
    how = "all-reduce"
    if plan.spec.shared_network:
        how = "reduce-scatter, and all-gathers of the weights"
    yield "network gradients", in_words(sent.network_gradients), how
    yield "batch norms", in_words(sent.batch_norms), "train.sync_batchnorm"
    yield "together", in_words(sent.total), f"in {sent.collectives:,} collectives"


def _changes(plan: Plan, console: Console) -> None:
    title = "It does not fit: change" if plan.fits is False else "Settings that need less memory"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("setting", overflow="fold")
    for name in ("peak, alone", "peak, with those above"):
        table.add_column(name, justify="right")
    if plan.classes is not None:
        table.add_column("classes at most", justify="right")
    if plan.limit is not None:
        table.add_column("fits")
    for change in plan.changes:
        cells = [change.setting, in_words(change.alone), in_words(change.together)]
        if plan.classes is not None:
            cells.append("any" if change.classes is None else f"{change.classes:,}")
        if plan.limit is not None:
            cells.append("yes" if change.fits else "no")
        table.add_row(*cells)
    console.print(table)
    console.print()


def _speed(plan: Plan, found: Speed) -> Lines:
    if found.network is not None:
        yield "network", duration(found.network), "forward, backward, update"
    if found.head is not None:
        products, moved = found.head_products or 0.0, found.head_bytes or 0.0
        longer = ": the longer counts" if plan.spec.device == "cuda" else ""
        parts = f"products {duration(products)}, bytes {duration(moved)}{longer}"
        yield "head", duration(found.head), parts
    if plan.spec.workers > 1 and found.exchange is not None and found.gradients is not None:
        yield "head collectives", duration(found.exchange), ""
        yield "gradients", duration(found.gradients), "all-reduce, as far as not overlapped"
    yield "step", duration(found.step), ""
    yield "images/s", f"{found.images_per_second:,.0f}", "of all workers"
    if found.epoch is not None:
        yield "epoch", duration(found.epoch), f"{plan.spec.steps_per_epoch:,} steps"
    if found.run is not None:
        yield "run", duration(found.run), f"{plan.spec.steps:,} steps"
    cores = f"cores a worker, at {DECODE:.0f} JPEGs of 375 x 500 a second each"
    yield "decoding", f"{found.decoding_cores:.1f}", cores


def _constants(machine: Machine) -> Lines:
    yield "fp32 products", f"{machine.wide / 1e9:,.0f}", "GFLOP/s"
    yield "bf16 products", f"{machine.narrow / 1e9:,.0f}", "GFLOP/s"
    yield "memory", f"{machine.bandwidth / 1e9:,.1f}", "GB/s"
    yield "between workers", f"{machine.link / 1e9:,.2f}", "GB/s that one sends"
    yield "between machines", f"{machine.network / 1e9:,.2f}", f"{machine.workers} workers each"
    yield "collective", duration(machine.latency), ""
    part = f"{machine.utilisation:.0%}"
    yield "network at", part, "of the products' rate (ResNet-50 and ViT-S, published)"
