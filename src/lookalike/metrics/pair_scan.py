"""All pairs of a set that are compared, tile by tile, without the matrix of similarities.

A pair is two different images of which one may search the other: any two without roles, otherwise a
query and an image of the gallery; never two of one sequence. Each pair comes once. Similarities are
exact (`exact_similarity`), so that counts of pairs are the same on any number of workers, threads
and devices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lookalike.distributed.world import World
from lookalike.losses.shared_classes import share_class
from lookalike.metrics.exact_similarity import STEPS, unit_integers
from lookalike.metrics.protocol import Roles, first_class

SIDE = 1024
"""Images on a side of a tile at most."""


@dataclass(frozen=True)
class Tile:
    """Some of the pairs."""

    rows: slice  # places of the b images on the left side
    columns: slice  # places of the T images on the right side
    cosines: Tensor  # (b, T) float64
    pairs: Tensor | None  # (b, T) bool, those that are pairs; None where all are
    one_class: bool  # whether there may be pairs of one class among them

    def found(self, only: Tensor | None = None) -> Tensor:
        """The cosines of the pairs, (n,); only of those in `only`, (b, T) bool."""
        if self.pairs is None and only is None:
            return self.cosines.flatten()
        kept = [mask for mask in (self.pairs, only) if mask is not None]
        return self.cosines[kept[0] if len(kept) == 1 else kept[0] & kept[1]]

    def masked(self, only: Tensor | None) -> Tensor:
        """The cosines, (b, T), -inf where there is no pair or it is not in `only`, (b, T) bool."""
        cosines = self.cosines
        for mask in (self.pairs, only):
            if mask is not None:
                cosines = cosines.masked_fill(~mask, -torch.inf)
        return cosines


@dataclass(frozen=True)
class PairSet:
    """A set of images, sorted by class, and its pairs in tiles."""

    vectors: Tensor  # (N, D) int32, unit vectors in steps of 2^-26
    classes: Tensor  # (N,) int64, ascending, from 0 on
    order: Tensor  # (N,) int64 on the CPU, the row of each image in the set as it was given
    roles: Roles | None  # in this order, on the device; None where every image searches all others
    sets: Tensor | None = None  # (N, L) int64, all classes, -1 behind the last; None for one each

    @classmethod
    def of(
        cls,
        embeddings: Tensor,
        labels: Tensor,
        *,
        roles: Roles | None = None,
        device: torch.device,
    ) -> PairSet:
        """Sort (N, D) embeddings, finite, by their (N,) integer labels, or first ones of (N, L)."""
        if device.type == "mps":
            device = torch.device("cpu")  # it has no float64
        labels = labels.cpu()
        _, classes = torch.unique(first_class(labels), return_inverse=True)
        order = classes.argsort(stable=True)
        if roles is not None:
            moved = roles[order]
            roles = Roles(*(x.to(device) for x in (moved.query, moved.gallery, moved.sequence)))
        vectors = unit_integers(embeddings.detach(), order, device)
        sets = labels[order].to(device) if labels.ndim == 2 else None
        return cls(vectors, classes[order].to(device), order, roles, sets)

    def same(self, tile: Tile) -> Tensor:
        """(b, T) bool, True where two images have a class in common."""
        classes = self.classes if self.sets is None else self.sets
        return share_class(classes[tile.rows], classes[tile.columns])

    def __len__(self) -> int:
        return len(self.order)

    def blocks(self) -> list[slice]:
        """Places cut into blocks of up to `SIDE`, at the ends of classes wherever that is possible.

        A class is in one block unless it has more than `SIDE` images.
        """
        ends = self.classes.cpu().bincount().cumsum(0).tolist()
        blocks, begin, last = [], 0, 0
        for end in ends:
            if end - begin > SIDE and last > begin:
                blocks.append(slice(begin, last))
                begin = last
            while end - begin > SIDE:
                blocks.append(slice(begin, begin + SIDE))
                begin += SIDE
            last = end
        if begin < len(self):
            blocks.append(slice(begin, len(self)))
        return blocks

    @torch.no_grad()
    def tiles(self, world: World) -> Iterator[Tile]:
        """This worker's share of the tiles that hold all pairs."""
        blocks = self.blocks()
        number = 0
        for left, rows in enumerate(blocks):
            mine = self.vectors[rows].double()
            for columns in blocks[left:]:
                number += 1
                if number % world.size != world.rank:
                    continue
                cosines = mine @ self.vectors[columns].double().T
                cosines *= STEPS**-2  # a power of two: still exact
                # Classes ascend.
                one_class = bool(self.classes[rows.stop - 1] >= self.classes[columns.start])
                one_class |= self.sets is not None
                yield Tile(rows, columns, cosines, self._pairs(rows, columns), one_class)

    def _pairs(self, rows: slice, columns: slice) -> Tensor | None:
        if rows != columns and self.roles is None:
            return None
        device = self.vectors.device
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        pairs = torch.ones(shape, dtype=torch.bool, device=device)
        if rows == columns:
            pairs = pairs.triu_(1)
        if self.roles is not None:
            query, gallery = self.roles.query, self.roles.gallery
            forward = query[rows, None] & gallery[columns]
            pairs &= forward | (gallery[rows, None] & query[columns])
            own = self.roles.sequence[rows, None]
            pairs &= (own < 0) | (own != self.roles.sequence[columns])
        return pairs
