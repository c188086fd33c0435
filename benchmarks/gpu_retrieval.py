"""Measuring retrieval on the device: ours beside the whole ranking by hand, and the floor."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from evaluate import SETTINGS, Setting, write
from gpu_measure import Place, compare, matmul_rate
from gpu_record import Record
from lookalike.distributed.world import World
from lookalike.metrics import ranking
from lookalike.metrics.protocol import Roles
from lookalike.metrics.scores import Scores, score
from turns import in_turns, seconds_of

TILE = 4096


def measure_retrieval(place: Place, record: Record) -> None:
    sop = Setting(900, 150, 900, dim=32) if place.dry else SETTINGS["sop"]
    million = Setting(2000, 300, 100, dim=32) if place.dry else SETTINGS["1m"]
    with record.attempt("all pairs of a test set"), tempfile.TemporaryDirectory() as folder:
        _all_pairs(place, record, *_load(place, sop, Path(folder)))
    with record.attempt("a large gallery"), tempfile.TemporaryDirectory() as folder:
        _gallery(place, record, million, *_load(place, million, Path(folder)))


def _load(place: Place, setting: Setting, folder: Path) -> tuple[Tensor, Tensor]:
    vectors, labels = write(setting, folder)
    return (
        torch.from_numpy(np.load(vectors)).to(place.device),
        torch.from_numpy(np.load(labels)),
    )


def _all_pairs(place: Place, record: Record, x: Tensor, labels: Tensor) -> None:
    world = World(device=place.device)
    true = _by_hand(x, labels)
    mine = score(x, labels, world=world)
    record.figure("MAP@R", mine.map_at_r, "", f"{len(x):,} x {x.shape[1]}, all pairs")
    for name, value in (("Recall@1", mine.recall[1]), ("MAP@R", mine.map_at_r)):
        off = abs(value - true[name])
        record.figure(f"{name}: difference to float32 by hand", off, "", "by torch.topk")
        if off > 2e-3:
            raise ArithmeticError(f"{name} is {value}, and {true[name]} by hand")

    def larger() -> Scores:
        with mock.patch.object(ranking, "BLOCK", 4 * ranking.BLOCK):
            return score(x, labels, world=world)

    if larger() != mine:
        raise ArithmeticError("larger tiles give other figures")
    narrow = x.bfloat16()
    contenders = {
        "lookalike": lambda: seconds_of(lambda: score(x, labels, world=world), place.device),
        "lookalike, tiles 4 x as wide": lambda: seconds_of(larger, place.device),
        "all ranks up to R by torch.topk": lambda: seconds_of(
            lambda: _by_hand(x, labels), place.device
        ),
        "bf16 products alone": lambda: seconds_of(lambda: _products(narrow), place.device),
    }
    found = in_turns(contenders, place.pick(5, 3), 15.0)
    how = f"embeddings to figures, {len(x):,} x {x.shape[1]}, all pairs, in turns"
    seconds = compare(record, "all pairs", found, 1.0, "times a second", how)
    floor = 2 * len(x) ** 2 * x.shape[1] / matmul_rate(place, torch.bfloat16)
    record.figure(
        "all pairs: share of the floor", round(floor / seconds, 5), "",
        "the operations of all products at the rate of bf16 matmul, over our time",
    )  # fmt: skip
    if place.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        score(x, labels, world=world)
        extra = torch.cuda.max_memory_allocated() - before
        record.figure("all pairs: memory", extra / 1e9, "GB", "on top of the embeddings, peak")


def _gallery(place: Place, record: Record, setting: Setting, x: Tensor, labels: Tensor) -> None:
    everyone = torch.ones(len(x), dtype=torch.bool)
    asks = torch.arange(len(x)) < setting.queries
    roles = Roles(asks, everyone, torch.full((len(x),), -1))
    world = World(device=place.device)
    times = [
        seconds_of(lambda: score(x, labels, roles=roles, world=world), place.device)
        for _ in range(place.pick(3, 1))
    ]
    record.figure(
        "a large gallery", round(min(times), 4), "s",
        f"{setting.queries:,} queries in {len(x):,} x {x.shape[1]}, the fastest of {len(times)}",
    )  # fmt: skip


def _by_hand(x: Tensor, labels: Tensor) -> dict[str, float]:
    """Recall@1 and MAP@R by float32 products and torch.topk, as one writes them."""
    device = x.device
    x, labels = torch.nn.functional.normalize(x), labels.to(device)
    _, own, sizes = labels.unique(return_inverse=True, return_counts=True)
    relevant = sizes[own] - 1  # (N,)
    most = int(relevant.max())
    number = torch.arange(1, most + 1, device=device)
    first = total = 0.0
    for begin in range(0, len(x), TILE):
        rows = x[begin : begin + TILE]
        found = rows @ x.T  # (b, N)
        found[
            torch.arange(len(rows), device=device), begin + torch.arange(len(rows)).to(device)
        ] = -2
        places = found.topk(most, dim=1).indices
        hit = labels[places] == labels[begin : begin + TILE, None]
        r = relevant[begin : begin + TILE, None]
        first += float(hit[:, 0].sum())
        precision = hit.cumsum(1) / number
        total += float(((precision * hit * (number <= r)).sum(1) / r[:, 0].clamp_min(1)).sum())
    asked = int((relevant > 0).sum())
    return {"Recall@1": first / asked, "MAP@R": total / asked}


def _products(narrow: Tensor) -> None:
    out = torch.empty(TILE * TILE, dtype=narrow.dtype, device=narrow.device)
    for rows in narrow.split(TILE):
        for columns in narrow.split(TILE):
            room = out[: len(rows) * len(columns)].view(len(rows), len(columns))
            torch.mm(rows, columns.T, out=room)
