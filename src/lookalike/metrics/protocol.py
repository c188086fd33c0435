"""The protocol of a test set: queries, gallery, and sequences whose images never match."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lookalike.data.record import Details, Record
from lookalike.data.record_block import Distinct
from lookalike.data.record_table import RecordTable


@dataclass(frozen=True)
class Roles:
    """The roles of N images in a measurement."""

    query: Tensor  # (N,) bool, the queries
    gallery: Tensor  # (N,) bool, the images that are searched
    sequence: Tensor  # (N,) int64: two images of the same number never find each other; -1 for none

    @classmethod
    def of(cls, records: Sequence[Record]) -> Roles | None:
        """The roles that records state; None where none of them states any.

        If any record has `is_query`, those without it are no queries; likewise the gallery. If none
        has one of the two, all images have that role. Images of one class and camera are a sequence
        (Zheng et al., Scalable Person Re-identification: A Benchmark, 2015).
        """
        table = RecordTable.of(records)
        stated = [one for one in table.distinct_details() if one is not None]
        moving = any(_sequence("", one) is not None for one in stated)
        flags = [flag for one in stated for flag in (one.is_query, one.is_gallery)]
        if not moving and all(flag is None for flag in flags):
            return None
        details = [one or Details() for one in table.details]
        codes = table.details_codes % len(details)  # -1 is the last
        query = _flags([one.is_query for one in details], codes)
        gallery = _flags([one.is_gallery for one in details], codes)
        sequence = np.full(len(table), -1, np.int64)
        if moving:
            kinds, of_kind = np.unique(
                table.label_codes.astype(np.int64) * len(details) + codes, return_inverse=True
            )
            labels, numbers = table.labels, Distinct[tuple[str, ...] | None]([None])
            names = (divmod(kind, len(details)) for kind in kinds.tolist())
            found = numbers.codes(_sequence(labels[label], details[code]) for label, code in names)
            sequence = found.astype(np.int64)[of_kind] - 1
        return cls(query, gallery, torch.from_numpy(sequence))

    def __getitem__(self, rows: Tensor) -> Roles:
        """The roles of some images, (M,) indices."""
        return Roles(self.query[rows], self.gallery[rows], self.sequence[rows])


def first_class(labels: Tensor) -> Tensor:
    """The first class of each image, (N,), of (N,) or (N, L) labels."""
    return labels if labels.ndim == 1 else labels[:, 0]


def relevant_of(classes: Tensor, roles: Roles | None) -> Tensor:
    """The number of other images of its class that each image may find, (N,) int64.

    `classes` are (N,) int64 from 0 on.
    """
    if roles is None:
        return torch.bincount(classes)[classes] - 1
    searched = roles.gallery.long()
    found = torch.zeros(int(classes.max()) + 1, dtype=torch.int64).index_add(0, classes, searched)
    if bool((roles.sequence < 0).all()):
        return found[classes] - searched  # without the image itself
    # The image itself and all of its sequence are excluded; outside of any sequence, an image is
    # one of its own.
    alone = -1 - torch.arange(len(classes))
    group = torch.where(roles.sequence < 0, alone, roles.sequence)
    _, pairs = torch.unique(torch.stack([classes, group]), dim=1, return_inverse=True)
    kin = torch.zeros(len(classes), dtype=torch.int64).index_add(0, pairs, searched)
    return found[classes] - kin[pairs]


def _sequence(label: str, details: Details) -> tuple[str, ...] | None:
    if details.sequence is not None:
        return (details.sequence,)
    return None if details.camera is None else (label, details.camera)


def _flags(flags: Sequence[bool | None], codes: np.ndarray) -> Tensor:
    """(N,) bool of (N,) indices of flags; all True where none of these is stated."""
    used = np.unique(codes).tolist()
    stated = any(flags[code] is not None for code in used)
    values = np.array([not stated if flag is None else flag for flag in flags])
    return torch.from_numpy(values[codes])
