"""Who asks, who is searched, and who never meets: the protocol of a test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lookalike.data.record import Details, Record


@dataclass(frozen=True)
class Roles:
    """The part that each of N images has in a measurement.

    Attributes:
        query: (N,) bool, it asks.
        gallery: (N,) bool, it is searched.
        sequence: (N,) int64: two images of the same number never find each other; -1 meets all.
    """

    query: Tensor
    gallery: Tensor
    sequence: Tensor

    @classmethod
    def of(cls, records: Sequence[Record]) -> Roles | None:
        """The roles that records state; None where none of them says anything.

        Where any record says whether it asks, one that does not say so does not; so with the
        gallery. Where none says anything of one of the two, all do. Images of one camera stay
        apart where they are of one class too: a sequence for each class and camera (Zheng et al.,
        Scalable Person Re-identification: A Benchmark, 2015).
        """
        nothing = Details()
        details = [record.details or nothing for record in records]
        numbers: dict[tuple[str, ...], int] = {}
        names = [_apart(record.label, one) for record, one in zip(records, details, strict=True)]
        sequence = [
            -1 if name is None else numbers.setdefault(name, len(numbers)) for name in names
        ]
        query = [one.is_query for one in details]
        gallery = [one.is_gallery for one in details]
        if not numbers and not any(flag is not None for flag in (*query, *gallery)):
            return None
        return cls(_flags(query), _flags(gallery), torch.tensor(sequence))

    def __getitem__(self, rows: Tensor) -> Roles:
        """The roles of some images, (M,) indices."""
        return Roles(self.query[rows], self.gallery[rows], self.sequence[rows])


def relevant_of(classes: Tensor, roles: Roles | None) -> Tensor:
    """How many other images of its class each image may find, (N,) int64.

    Args:
        classes: (N,) int64 from 0 on.
        roles: of the N images.
    """
    if roles is None:
        return torch.bincount(classes)[classes] - 1
    searched = roles.gallery.long()
    found = torch.zeros(int(classes.max()) + 1, dtype=torch.int64).index_add(0, classes, searched)
    if bool((roles.sequence < 0).all()):
        return found[classes] - searched  # the image itself is out of reach
    # Of these, the image itself and all of its sequence are out of reach; outside of any
    # sequence, an image is one of its own.
    alone = -1 - torch.arange(len(classes))
    group = torch.where(roles.sequence < 0, alone, roles.sequence)
    _, pairs = torch.unique(torch.stack([classes, group]), dim=1, return_inverse=True)
    kin = torch.zeros(len(classes), dtype=torch.int64).index_add(0, pairs, searched)
    return found[classes] - kin[pairs]


def _apart(label: str, details: Details) -> tuple[str, ...] | None:
    """The name of those who never find each other; None for who meets all."""
    if details.sequence is not None:
        return (details.sequence,)
    return None if details.camera is None else (label, details.camera)


def _flags(flags: Sequence[bool | None]) -> Tensor:
    said = any(flag is not None for flag in flags)
    return torch.tensor([not said if flag is None else flag for flag in flags])
