"""The images of each class, where an image may be of several classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lookalike.losses.shared_classes import share_class
from lookalike.metrics.protocol import Roles, relevant_of

ROWS = 128  # images at a time that are compared with their classes
COLUMNS = 4096  # images of these at a time


@dataclass(frozen=True)
class ClassMembers:
    """The images of each class, where an image may be of several."""

    classes: Tensor  # (N, L) int64, -1 behind the last of each image
    places: Tensor  # (M,) int64, the images class by class
    begins: Tensor  # (C + 1,) int64, where each class begins in them

    @classmethod
    def of(cls, classes: Tensor) -> ClassMembers:
        """The members by the (N, L) classes of all images."""
        place, column = (classes >= 0).nonzero(as_tuple=True)
        label = classes[place, column]
        sizes = label.bincount()
        begins = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        return cls(classes, place[label.argsort(stable=True)], begins)

    def of_classes(self, classes: Tensor) -> Tensor:
        """The images with any of these classes, (t,) int64, ascending, each once."""
        wanted = classes[classes >= 0].unique()
        begins = self.begins[wanted]
        sizes = self.begins[wanted + 1] - begins
        ends = sizes.cumsum(0)
        within = torch.arange(int(ends[-1]), device=begins.device)
        return self.places[within + (begins - ends + sizes).repeat_interleave(sizes)].unique()

    def relevant(self, roles: Roles | None) -> Tensor:
        """The number of other images with a class in common that each may find, (N,) int64."""
        device = self.classes.device
        found = []
        for rows in torch.arange(len(self.classes), device=device).split(ROWS):
            count = torch.zeros_like(rows)
            for column in self.of_classes(self.classes[rows]).split(COLUMNS):
                mine = share_class(self.classes[rows], self.classes[column])
                mine &= column != rows[:, None]
                if roles is not None:
                    mine &= roles.gallery.to(device)[column]
                    sequence = roles.sequence.to(device)
                    own = sequence[rows, None]
                    mine &= (sequence[column] != own) | (own < 0)
                count += mine.sum(1)
            found.append(count)
        return torch.cat(found)


def relevant_images(labels: Tensor, roles: Roles | None) -> Tensor:
    """The number of other images that each of (N,) or (N, L) labels may find, (N,) int64."""
    if labels.ndim == 2:
        return ClassMembers.of(labels).relevant(roles)
    return relevant_of(torch.unique(labels, return_inverse=True)[1], roles)
