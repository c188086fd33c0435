"""Our class head against its peers on the CPU, side by side in one run.

    python benchmarks/head.py [--classes 100000 400000 1000000] [--partial-fc FOLDER]

Every contender does a whole step: forward, backward, SGD with momentum and weight decay.

1. Agreement: one step of each against float64 autograd. A contender that computes something else
   is not timed; if it is ours, the exit code is 1.
2. Memory: the peak of each in a process of its own, less weight and momentum.
3. Time: two at a time in a process of their own, in turns, so that a noisy machine slows both. A
   figure is the median of the ratios of neighbouring turns, with the lowest and the highest.
4. The floor: our head in turns with the four products alone; and its share of their time and
   that of the bytes that have to be moved beside them, one after the other.

FOLDER holds insightface's recognition/arcface_torch/partial_fc_v2.py and losses.py, which are run
as they are and are no part of this repository.
"""

import argparse
import math
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace

import torch
from rich.console import Console
from rich.table import Table

from head_contender import NotRunError, Shape
from head_measure import Duel, check, copy_rate, duel
from head_memory import answer_peak, free_memory, limit_memory, out_of_memory, peak_in_child
from head_ours import OURS
from head_plan import ALL, DUELS, FLOOR_OF, RATES, tolerance
from process_figures import processor
from turns import shown

Lines = Iterator[tuple[list[str], str]]
"""The cells of each row of a table, which may be fewer than its columns, and a remark."""


def show(console: Console, title: str, columns: list[str], lines: Lines) -> None:
    """Show a table, and its rows on stderr as they come."""
    table = Table(*columns, "", title=title, title_justify="left")
    for cells, remark in lines:
        table.add_row(*cells, *[""] * (len(columns) - len(cells)), remark)
        print("  ", *cells, remark, sep="  ", file=sys.stderr, flush=True)
    console.print(table)


def agreement(names: list[str], shape: Shape, out: dict[str, str]) -> Lines:
    """Table 1; notes in `out` why a head is left out of the others."""
    for name in names:
        try:
            found = check(ALL[name], shape)
        except NotRunError as reason:
            out[name] = str(reason)
            yield [name], f"not run: {reason}"
            continue
        allowed = tolerance(name)
        remark = "" if found.worst <= allowed else f"above {allowed:g}"  # NaN is above
        if not found.worst <= (allowed if name in OURS else 0.1):
            out[name] = f"disagrees with float64 by {found.worst:.1e}"
        yield [name, *(f"{error:.1e}" for error in asdict(found).values())], remark


def memory(names: list[str], shape: Shape, threads: int, need: dict[str, int | str]) -> Lines:
    """Table 2; notes in `need` the bytes that each needs, or why it did not run."""
    for name in names:
        peak = peak_in_child(__file__, name, shape, threads)
        if "not_run" in peak:
            need[name] = peak["not_run"]
            yield [name], f"not run: {peak['not_run']}"
            continue
        held, extra = peak["held"], peak["extra"]
        need[name] = held + extra
        cells = [name, f"{held / 2**30:.2f} GiB", f"{extra / 2**30:.3f} GiB"]
        fp32 = 4 * shape.classes * shape.dim
        yield [*cells, f"{100 * extra / held:.1f} %", f"{extra / fp32:.2f} x"], ""


def duel_in_child(ours: str, theirs: str, shape: Shape, options: argparse.Namespace) -> Duel:
    """`duel` of two by their names, in a process of its own.

    What one contender leaves behind may slow the next: after a collective of gloo, whose threads
    have thread pools too, the threads of OpenMP sleep between operations instead of spinning, and
    each small operation of the process takes 50 us more.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_duel, ours, theirs, shape, options).result()


def _duel(ours: str, theirs: str, shape: Shape, options: argparse.Namespace) -> Duel:
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    allowed = 10 * max(tolerance(ours), tolerance(theirs))
    return duel(ALL[ours], ALL[theirs], shape, options.rounds, options.seconds, allowed)


def compete(
    ours: str, theirs: str, shape: Shape, options: argparse.Namespace,
    need: dict[str, int | str], out: dict[str, str],
) -> Duel:  # fmt: skip
    """A duel.

    Raises:
        NotRunError: there was none.
    """
    for name in (ours, theirs):
        if name in out:
            raise NotRunError(out[name])
        if isinstance(need.get(name), str):
            raise NotRunError(f"{name}: {need[name]}")
    wanted = sum(int(need.get(name, 0)) for name in (ours, theirs))
    free = free_memory()
    if wanted > 0.95 * free:
        raise NotRunError(f"both need {wanted / 2**30:.1f} GiB, {free / 2**30:.1f} are free")
    try:
        return duel_in_child(ours, theirs, shape, options)
    except BrokenProcessPool:
        raise NotRunError("killed, most likely for memory") from None
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise NotRunError("out of memory") from None


def times(
    duels: list[tuple[str, str]], shape: Shape, options: argparse.Namespace,
    need: dict[str, int | str], out: dict[str, str],
) -> Lines:  # fmt: skip
    """Table 3."""
    for ours, theirs in duels:
        try:
            found = compete(ours, theirs, shape, options, need, out)
        except NotRunError as reason:
            yield [ours, theirs], f"not run: {reason}"
            continue
        difference = "-" if math.isnan(found.difference) else f"{found.difference:.1e}"
        yield [
            ours, theirs, f"{1e3 * found.ours:.1f}", f"{1e3 * found.theirs:.1f}",
            shown(found.ratios), str(len(found.ratios)), difference,
        ], ""  # fmt: skip


def floors(
    names: list[str], shape: Shape, options: argparse.Namespace,
    need: dict[str, int | str], out: dict[str, str], rate: float,
) -> Lines:  # fmt: skip
    """Table 4; `rate` is that of copies, bytes a second."""
    for name in names:
        try:
            found = compete(name, FLOOR_OF[name], shape, options, need, out)
        except NotRunError as reason:
            yield [name], f"not run: {reason}"
            continue
        numbers = RATES.get(name, 1.0) * shape.classes * shape.dim
        width = 2 if name.endswith("bf16 weight") else 4
        gflops = 8 * shape.batch * numbers / found.theirs / 1e9
        # The products read w in both passes; beside that m is read, and w and m are written.
        moving = 3 * width * numbers / rate
        with_bytes = found.ratio * (1 + moving / found.theirs)
        low, high = min(found.ratios), max(found.ratios)
        yield [
            name, f"{1e3 * found.ours:.1f}", f"{1e3 * found.theirs:.1f}", f"{gflops:.0f}",
            f"{100 * found.ratio:.0f} %", f"{100 * low:.0f} to {100 * high:.0f} %",
            f"{1e3 * moving:.1f}", f"{100 * with_bytes:.0f} %",
        ], ""  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[100_000])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--seconds", type=float, default=90, help="of a duel; three rounds at least"
    )
    parser.add_argument("--partial-fc", help="folder of insightface's partial_fc_v2.py")
    parser.add_argument("--only", default="", help="contenders with this in their name, and ours")
    parser.add_argument("--skip", nargs="*", default=[], choices=("memory", "times", "floor"))
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    options = parse()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    shape = Shape(options.batch, options.dim, options.classes[0], partial_fc=options.partial_fc)
    if options.peak:
        answer_peak(ALL[options.peak], shape)
        return 0
    limit_memory()
    console = Console(width=max(Console().width, 140))
    console.print(
        f"{processor()} x {os.cpu_count()}, {options.threads} threads, torch {torch.__version__}: "
        f"batch {shape.batch}, {shape.dim} dimensions"
    )
    duels = [
        (ours, theirs)
        for ours, others in DUELS
        for theirs in others
        if options.only in theirs or (theirs in OURS and options.only in ours)
    ]
    names = list(dict.fromkeys(name for pair in duels for name in pair))
    mine = [name for name in names if name in FLOOR_OF]
    out: dict[str, str] = {}
    show(
        console,
        "Agreement with float64: relative errors of one step",
        ["head", "loss", "gradient of embeddings", "change of weight", "of absent classes"],
        agreement(names, shape, out),
    )
    rate = copy_rate()
    for classes in options.classes:
        shape = replace(shape, classes=classes)
        need: dict[str, int | str] = {}
        if "memory" not in options.skip:
            show(
                console,
                f"Peak memory of a step, {classes:,} classes",
                ["head", "weight, momentum", "on top", "of both", "of a fp32 weight"],
                memory([name for name in names if name not in out], shape, options.threads, need),
            )
        if "times" not in options.skip:
            show(
                console,
                f"Time of a step, {classes:,} classes",
                ["ours", "peer", "ours ms", "peer ms", "ratio", "n", "difference"],
                times(duels, shape, options, need, out),
            )
        if "floor" not in options.skip:
            show(
                console,
                f"Share of the floor, {classes:,} classes (copy: {rate / 1e9:.1f} GB/s)",
                [
                    "head",
                    "ours ms",
                    "products ms",
                    "GFLOP/s",
                    "share",
                    "spread",
                    "bytes ms",
                    "of both",
                ],
                floors(mine, shape, options, need, out, rate),
            )
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return int(any(name.startswith("ours") for name in out))


if __name__ == "__main__":
    sys.exit(main())
