"""What each query finds first, and what it finds first that is wrong."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lookalike.distributed import World
from lookalike.retrieval.fixed_point import STEPS, unit_integers
from lookalike.retrieval.roles import Roles

_QUERIES = 512
_TILE = 4096


@dataclass(frozen=True)
class Nearest:
    """The most similar images of Q queries; row -1 and a cosine of -inf where there is none.

    Attributes:
        rows: (Q,) int64, the most similar image.
        cosines: (Q,) float64.
        wrong_rows: (Q,) int64, the most similar image of another class.
        wrong_cosines: (Q,) float64.
    """

    rows: Tensor
    cosines: Tensor
    wrong_rows: Tensor
    wrong_cosines: Tensor


@torch.no_grad()
def nearest(
    embeddings: Tensor,
    labels: Tensor,
    queries: Tensor,
    *,
    roles: Roles | None = None,
    world: World,
    device: torch.device,
) -> Nearest:
    """Look among what each query may find; of equal cosines the first row counts.

    Args:
        embeddings: (N, D), finite; on all workers the same.
        labels: (N,) integers.
        queries: (Q,) int64, rows.
        roles: who is searched and who never meets; by default all others of everyone.
        world: the workers, who divide the queries and all get all results.
        device: where to compute.
    """
    device = torch.device("cpu") if device.type == "mps" else device  # it has no float64
    vectors = unit_integers(embeddings, torch.arange(len(labels)), device)
    labels = labels.to(device)
    share = world.share(len(queries))
    mine = queries[share.start : share.stop].to(device)
    parts = [torch.empty(0, 4, dtype=torch.float64, device=device)]
    for rows in mine.split(_QUERIES):
        table = torch.tensor([-1.0, -torch.inf] * 2, dtype=torch.float64, device=device)
        table = table.repeat(len(rows), 1)  # (b, 4)
        for begin in range(0, len(labels), _TILE):
            columns = torch.arange(begin, min(begin + _TILE, len(labels)), device=device)
            cosines = vectors[rows].double() @ vectors[columns].double().T
            cosines *= STEPS**-2
            hidden = rows[:, None] == columns
            if roles is not None:
                sequence = roles.sequence.to(device)
                own = sequence[rows, None]
                hidden |= ~roles.gallery.to(device)[columns]
                hidden |= (own >= 0) & (own == sequence[columns])
            _improve(table[:, :2], cosines.masked_fill(hidden, -torch.inf), begin)
            hidden |= labels[rows, None] == labels[columns]
            _improve(table[:, 2:], cosines.masked_fill(hidden, -torch.inf), begin)
        parts.append(table)
    table = torch.cat(world.gather(torch.cat(parts).to(world.device))).cpu()
    return Nearest(table[:, 0].long(), table[:, 1], table[:, 2].long(), table[:, 3])


def _improve(best: Tensor, cosines: Tensor, begin: int) -> None:
    """Put what is better than `best`, (b, 2) rows and cosines, into it."""
    highest = cosines.amax(1)
    place = (cosines == highest[:, None]).byte().argmax(1) + begin  # the first of equal ones
    better = highest > best[:, 1]
    best[better] = torch.stack([place.double(), highest], 1)[better]
