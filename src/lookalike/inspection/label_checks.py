"""What a trained model thinks of the labels: images and classes that lie where they should not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lookalike.data.catalog import Catalog
from lookalike.inspection.issue import Finding, Group, finding
from lookalike.log import counted

_CHUNK = 1 << 24  # cosines in memory together
_SHARE = 0.25  # of the images of two classes that lie nearer to the other one
_CONFUSED = 2  # images that must
_ALIKE = 0.95  # cosine of two centres that are one in any case


@dataclass(frozen=True)
class Suspicion:
    """How the images lie to the centres of the classes; M images, C classes.

    Attributes:
        own: (M,) cosine to the centre of the other images of its class; -1 where it is alone.
        other: (M,) cosine to the nearest centre of another class.
        nearest: (M,) that class.
        judged: (M,) bool, whether its class has other images and there are other classes.
    """

    own: Tensor
    other: Tensor
    nearest: Tensor
    judged: Tensor

    @property
    def margin(self) -> Tensor:
        """(M,) how much nearer the other class is; -inf where nothing can be said."""
        return torch.where(self.judged, self.other - self.own, -torch.inf)


def suspicion(vectors: Tensor, classes: Tensor, num_classes: int) -> tuple[Suspicion, Tensor]:
    """Compare each image with the centres of the classes, its own without itself.

    With itself, the centre of a small class would be drawn to its own wrong image.

    Args:
        vectors: (M, D) float32, unit length.
        classes: (M,) int64.
        num_classes: C.

    Returns:
        The comparison, and the centres (C, D), unit length; zeros for classes without images.
    """
    sums = torch.zeros(num_classes, vectors.shape[1]).index_add_(0, classes, vectors)
    counts = torch.bincount(classes, minlength=num_classes)
    centres = F.normalize(sums, dim=1)
    others = F.normalize(sums[classes] - vectors, dim=1)  # (M, D)
    alone = counts[classes] < 2
    own = (others * vectors).sum(1).masked_fill(alone, -1.0)
    best = torch.full((len(vectors),), -2.0)
    nearest = torch.zeros(len(vectors), dtype=torch.int64)
    step = max(1, _CHUNK // max(num_classes, 1))
    for start in range(0, len(vectors), step):
        part = slice(start, start + step)
        cosines = vectors[part] @ centres.T  # (b, C)
        cosines[:, counts == 0] = -2.0
        cosines.scatter_(1, classes[part, None], -2.0)
        best[part], nearest[part] = cosines.max(1)
    return Suspicion(own, best, nearest, ~alone & (best > -2.0)), centres


def inspect_labels(
    catalog: Catalog, rows: Tensor, vectors: Tensor
) -> tuple[dict[str, float], list[Finding]]:
    """Images whose label is doubtful, and classes that look like one.

    A model can judge if the share of the images that lie closest to the centre of their own class
    is at least halfway from chance, one in as many classes as there are, to all. Of one that
    cannot, nothing but that is said.

    Args:
        catalog: the images and their classes.
        rows: (M,) int64, which record each vector is of.
        vectors: (M, D) float32, unit length.

    Returns:
        Counts, and the findings; each ranked, the worst first.
    """
    classes = torch.from_numpy(catalog.class_ids)[rows]
    found, centres = suspicion(vectors, classes, len(catalog.classes))
    names = catalog.classes.names
    margin = found.margin
    judged, present = int(found.judged.sum()), len(classes.unique())
    right = int((found.judged & (margin <= 0)).sum())
    chance = 1 / max(present, 1)
    needed = (1 + chance) / 2
    facts: dict[str, float] = {"embedded": len(rows), "judged": judged}
    if judged:
        facts |= {
            "nearest_centre_accuracy": round(right / judged, 4),
            "nearest_centre_chance": round(chance, 4),
            "nearest_centre_needed": round(needed, 4),
        }
    if judged and right / judged < needed:
        return facts, _cannot_judge(right, judged, chance, needed)
    ranked = margin.argsort(descending=True, stable=True)
    ranked = ranked[margin[ranked] > 0]
    suspects = [
        Group(
            (int(rows[i]),),
            f"cosine {found.own[i]:.2f} to its class {names[int(classes[i])]}, "
            f"{found.other[i]:.2f} to {names[int(found.nearest[i])]}",
        )
        for i in ranked.tolist()
    ]
    pairs = _pairs(catalog, rows, classes, found, centres)
    facts |= {"suspect_labels": len(suspects), "class_pairs_alike": len(pairs)}
    return facts, [
        *finding(
            "suspect_labels", "doubtful", "images closer to another class than to their own",
            "Look at the first ones: a wrong label, two things in one picture, or two classes "
            "that are one. Correct the list and train again; the last ones are mostly right.",
            suspects,
        ),
        *finding(
            "classes_alike", "doubtful", "pairs of classes that look like one",
            "If they are the same thing under two names, give them one label.", pairs,
        ),
    ]  # fmt: skip


def _cannot_judge(right: int, judged: int, chance: float, needed: float) -> list[Finding]:
    return finding(
        "labels_not_judged", "note", "model that cannot judge the labels of this list",
        "Train longer, or judge with another run. Nothing is said about single labels: most of it "
        "would be mistakes of the model.",
        [
            Group(
                (),
                f"{100 * right / judged:.0f} % of {counted(judged, 'image')} are closest to the "
                f"centre of their own class; by chance {100 * chance:.2g} % are, and "
                f"{100 * needed:.0f} % are needed",
            )
        ],
    )  # fmt: skip


def _pairs(
    catalog: Catalog, rows: Tensor, classes: Tensor, found: Suspicion, centres: Tensor
) -> list[Group]:
    """Pairs of classes, by the share of their images that lie nearer to the other one."""
    names = catalog.classes.names
    counts = torch.bincount(classes, minlength=len(names)).tolist()
    # For each image its class and the nearest other one; a pair may be alike though no image is
    # on the wrong side, so they count as pairs to look at with a share of 0.
    met: Counter[tuple[int, int]] = Counter()
    wrong: Counter[tuple[int, int]] = Counter()
    for a, b, margin in zip(
        classes.tolist(), found.nearest.tolist(), found.margin.tolist(), strict=True
    ):
        if a != b:
            met[min(a, b), max(a, b)] += 1
            wrong[min(a, b), max(a, b)] += margin > 0
    ranked = []
    for a, b in met:
        share = wrong[a, b] / (counts[a] + counts[b])
        cosine = float(centres[a] @ centres[b])
        if (share >= _SHARE and wrong[a, b] >= _CONFUSED) or cosine >= _ALIKE:
            ranked.append((-share, -cosine, a, b))
    ranked.sort()
    wanted = {c for _, _, a, b in ranked for c in (a, b)}
    examples: dict[int, list[int]] = {}
    for row, c in zip(rows.tolist(), classes.tolist(), strict=True):
        if c in wanted and len(examples.setdefault(c, [])) < 3:
            examples[c].append(row)
    return [
        Group(
            (*examples[a], *examples[b]),
            f"{names[a]} and {names[b]}: centres at cosine {-cosine:.2f}, {-share:.0%} of their "
            f"{counts[a] + counts[b]} images lie nearer to the other",
        )
        for share, cosine, a, b in ranked
    ]
