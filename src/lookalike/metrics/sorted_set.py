"""A set of images in the order that ranking wants: by the size of the class and by class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lookalike.metrics.protocol import Roles, relevant_of
from lookalike.metrics.tile_scan import Kinds


@dataclass(frozen=True)
class SortedSet:
    """The set, sorted by the size of the class and by class; all but `order` on the device.

    Attributes:
        order: (N,) int64, place to row, on the CPU.
        kinds: the classes and sequences.
        sizes: (N,) int64, how many images the class of each has, itself included.
        begins: (N,) int64, where the class of each begins; it ends `sizes` later.
        relevant: (N,) int64, R of those that ask, 0 for others.
        searched: (G,) int64, the places that are searched, ascending.
        hidden: (N,) bool, those that are not; None where all are.
        searched_of_class: (N,) int64, how many of them are of the class of each.
        everyone: whether all ask and all are searched.
    """

    order: Tensor
    kinds: Kinds
    sizes: Tensor
    begins: Tensor
    relevant: Tensor
    searched: Tensor
    hidden: Tensor | None
    searched_of_class: Tensor
    everyone: bool

    @classmethod
    def of(cls, labels: Tensor, roles: Roles | None, device: torch.device) -> SortedSet:
        """The set of images with these labels, (N,) integers, and roles."""
        _, classes, sizes = torch.unique(labels.cpu(), return_inverse=True, return_counts=True)
        order = torch.argsort(sizes[classes] * len(sizes) + classes, stable=True)  # (N,)
        relevant = relevant_of(classes, roles)
        gallery = torch.ones(len(order), dtype=torch.bool)
        sequences = None
        everyone = True
        if roles is not None:
            relevant = relevant * roles.query
            gallery = roles.gallery
            everyone = bool(roles.query.all() and gallery.all())
            if (roles.sequence >= 0).any():
                sequences = roles.sequence[order].to(device)
        of_class = torch.zeros(len(sizes), dtype=torch.int64).index_add_(0, classes, gallery.long())
        classes, of_class = classes[order], of_class[classes[order]]
        index = torch.arange(len(order))
        is_first = torch.ones(len(order), dtype=torch.bool)
        is_first[1:] = classes[1:] != classes[:-1]
        return cls(
            order=order,
            kinds=Kinds(classes.to(device), sequences),
            sizes=sizes[classes].to(device),
            begins=torch.where(is_first, index, 0).cummax(0).values.to(device),
            relevant=relevant[order].to(device),
            searched=gallery[order].nonzero()[:, 0].to(device),
            hidden=None if bool(gallery.all()) else ~gallery[order].to(device),
            searched_of_class=of_class.to(device),
            everyone=everyone,
        )
