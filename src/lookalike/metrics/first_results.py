"""What each query finds first, and what it finds first that is wrong: exactly.

Similarities are those of `lookalike.metrics.exact_similarity`, in float64, so that what is found is
the same for any size of tiles and number of threads and workers. Where a ranking is only a means,
`lookalike.metrics.postprocessing.gallery_neighbours` is many times as fast in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lookalike.distributed.world import World
from lookalike.metrics.exact_similarity import STEPS, unit_integers
from lookalike.metrics.protocol import Roles
from lookalike.metrics.topk import Best

UNIT = float(STEPS) ** 2
"""A cosine of 1 in steps of a similarity."""

_QUERIES = 1024  # rows of a tile of similarities at most
_TILE = 4096  # columns of a tile: 32 MiB


@dataclass(frozen=True)
class Searched:
    """A set of images, to be looked through tile by tile.

    Attributes:
        vectors: (N, D) int32, unit vectors in steps of 2^-26.
        labels: (N,) integers.
        hidden: (N,) bool, who is not searched; None where all are.
        sequences: (N,) int64, images of one number never find each other, -1 meets all; or None.
    """

    vectors: Tensor
    labels: Tensor
    hidden: Tensor | None
    sequences: Tensor | None

    @classmethod
    def of(
        cls, embeddings: Tensor, labels: Tensor, roles: Roles | None, device: torch.device
    ) -> Searched:
        """(N, D) embeddings, finite, with their (N,) labels, on a device that knows float64."""
        unit = unit_integers(embeddings, torch.arange(len(embeddings)), device)
        hidden = sequences = None
        if roles is not None:
            hidden = ~roles.gallery.to(device)
            sequences = roles.sequence.to(device)
        return cls(unit, labels.to(device), hidden, sequences)

    def tiles(self, rows: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Look through all images, a tile of T at a time, for the queries `rows`, (b,).

        Each tile comes as its first image, its similarities, (b, T) float64 in steps of 2^-52,
        -inf where an image may not be found, and whether they are of the query's class, (b, T).
        """
        query = self.vectors[rows].double()  # (b, D)
        for left in range(0, len(self.labels), _TILE):
            tile = slice(left, left + _TILE)
            found = query @ self.vectors[tile].double().T  # (b, T)
            if self.hidden is not None:
                found.masked_fill_(self.hidden[tile], -torch.inf)
            if self.sequences is not None:
                own = self.sequences[rows, None]
                found.masked_fill_((self.sequences[tile] == own) & (own >= 0), -torch.inf)
            inside = ((rows >= left) & (rows < left + found.shape[1])).nonzero()[:, 0]
            found[inside, rows[inside] - left] = -torch.inf
            yield left, found, self.labels[rows, None] == self.labels[tile]

    def batches(self, queries: Tensor) -> Iterator[Tensor]:
        """(Q,) rows in parts that `tiles` takes at a time."""
        yield from queries.to(self.labels.device).split(_QUERIES)


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
    searched = Searched.of(embeddings, labels, roles, device)
    share = world.shard(len(queries))
    parts = [torch.empty(0, 4, dtype=torch.float64, device=device)]
    for rows in searched.batches(queries[share.start : share.stop]):
        first = Best(searched.vectors[rows].double(), 1)
        wrong = Best(searched.vectors[rows].double(), 1)
        for left, found, same in searched.tiles(rows):
            first.add(found, left)
            wrong.add(found.masked_fill_(same, -torch.inf), left)
        parts.append(torch.cat([_columns(first), _columns(wrong)], 1))
    table = torch.cat(world.gather(torch.cat(parts).to(world.device))).cpu()
    return Nearest(table[:, 0].long(), table[:, 1], table[:, 2].long(), table[:, 3])


def _columns(best: Best) -> Tensor:
    """Rows and cosines, (b, 2) float64; -1 and -inf where there is none."""
    none = best.values == -torch.inf
    return torch.cat([best.images.double().masked_fill(none, -1), best.values / UNIT], 1)
