"""Label scores by a trained model: doubtful labels, and classes that look like one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from lookalike.data.catalog import Catalog
from lookalike.inspection.issue import Group, Issue, issues_of
from lookalike.log import counted

_CHUNK = 1 << 24  # cosines in memory at once
# Two classes look like one if that share of their images, and that many, are closer to the other
# centre, or if the cosine of their centres is as high.
_SHARE = 0.25
_CONFUSED = 2
_ALIKE = 0.95


@dataclass(frozen=True)
class LabelScores:
    """Cosines of M images to the centres of the classes.

    Attributes:
        own: (M,) cosine to the centre of the other images of its class; -1 without any.
        other: (M,) cosine to the nearest centre of another class.
        nearest: (M,) that class.
        judged: (M,) bool, its class has other images and there are other classes.
    """

    own: Tensor
    other: Tensor
    nearest: Tensor
    judged: Tensor

    @property
    def margin(self) -> Tensor:
        """(M,) cosine to the other class minus that to its own; -inf where not judged."""
        return torch.where(self.judged, self.other - self.own, -torch.inf)


def label_scores(vectors: Tensor, classes: Tensor, num_classes: int) -> tuple[LabelScores, Tensor]:
    """Scores of (M, D) unit vectors of (M,) classes, and the (C, D) unit centres.

    An image is left out of the centre of its own class: it would draw that of a small class to
    itself. The centre of a class without images is zero.

    Images may have several classes, (M, L) with -1 behind the last: `own` is then the highest
    cosine to one of them, and none of them is another class.
    """
    each = classes if classes.ndim == 2 else classes[:, None]  # (M, L)
    real = each >= 0
    each = each.where(real, each[:, :1])
    rows, columns = real.nonzero(as_tuple=True)
    sums = torch.zeros(num_classes, vectors.shape[1])
    sums.index_add_(0, each[rows, columns], vectors[rows])
    counts = torch.bincount(each[real], minlength=num_classes)
    centres = F.normalize(sums, dim=1)
    own = torch.full((len(vectors),), -1.0)
    alone = torch.ones(len(vectors), dtype=torch.bool)
    for column in each.unbind(1):
        others = F.normalize(sums[column] - vectors, dim=1)  # (M, D)
        known = counts[column] > 1
        own = torch.where(known, (others * vectors).sum(1).maximum(own), own)
        alone &= ~known
    best = torch.full((len(vectors),), -2.0)
    nearest = torch.zeros(len(vectors), dtype=torch.int64)
    step = max(1, _CHUNK // max(num_classes, 1))
    for start in range(0, len(vectors), step):
        part = slice(start, start + step)
        cosines = vectors[part] @ centres.T  # (b, C)
        cosines[:, counts == 0] = -2.0
        cosines.scatter_(1, each[part], -2.0)
        best[part], nearest[part] = cosines.max(1)
    return LabelScores(own, best, nearest, ~alone & (best > -2.0)), centres


def check_labels(
    catalog: Catalog, rows: Tensor, vectors: Tensor
) -> tuple[dict[str, float], list[Issue]]:
    """Counts, and issues of doubtful labels and classes, each with the worst first.

    A model can judge if the share of images closest to the centre of their own class is at least
    halfway from chance, 1 / C, to all. Otherwise the only issue is that it cannot.

    Args:
        catalog: images and classes.
        rows: (M,) int64, record of each vector.
        vectors: (M, D) float32, unit length.
    """
    classes = torch.from_numpy(catalog.all_ids)[rows].reshape(len(rows), -1)  # (M, L)
    scores, centres = label_scores(vectors, classes, len(catalog.classes))
    each = [[c for c in row if c >= 0] for row in classes.tolist()]
    names = catalog.classes.names
    margin = scores.margin
    judged, present = int(scores.judged.sum()), len({c for row in each for c in row})
    right = int((scores.judged & (margin <= 0)).sum())
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
    # A list may write a class by its row instead of its name. Labels of classes that were held out
    # are no classes here.
    written: dict[int, str] = {}
    for row, found in zip(rows.tolist(), each, strict=True):
        labels = catalog.records[row].labels
        written |= zip(found, labels if len(found) == len(labels) else labels[:1], strict=False)
    suspects = [
        Group(
            (int(rows[i]),),
            f"cosine {scores.own[i]:.2f} to its {_named([names[c] for c in each[i]])}, "
            f"{scores.other[i]:.2f} to {names[int(scores.nearest[i])]}",
            written.get(int(scores.nearest[i]), names[int(scores.nearest[i])]),
        )
        for i in ranked.tolist()
    ]
    pairs = _pairs(catalog, rows, each, scores, centres)
    facts |= {"suspect_labels": len(suspects), "class_pairs_alike": len(pairs)}
    return facts, [
        *issues_of(
            "suspect_labels", "doubtful", "images closer to another class than to their own",
            "Check the first ones: a wrong label, two things in one image, or two classes that are "
            "one. Correct the list and train again; the last ones are mostly right.",
            suspects,
        ),
        *issues_of(
            "classes_alike", "doubtful", "pairs of classes that look like one",
            "If they are one thing under two names, give them one label.", pairs,
        ),
    ]  # fmt: skip


def _cannot_judge(right: int, judged: int, chance: float, needed: float) -> list[Issue]:
    return issues_of(
        "labels_not_judged", "note", "model too weak to judge the labels of this list",
        "Train longer, or judge with another run. Single labels are not listed: most would be "
        "mistakes of the model.",
        [
            Group(
                (),
                f"{100 * right / judged:.0f} % of {counted(judged, 'image')} are closest to the "
                f"centre of their own class; by chance {100 * chance:.2g} % are, and "
                f"{100 * needed:.0f} % are needed",
            )
        ],
    )  # fmt: skip


def _named(classes: Sequence[str]) -> str:
    return f"{'class' if len(classes) == 1 else 'classes'} {', '.join(classes)}"


def _pairs(
    catalog: Catalog,
    rows: Tensor,
    classes: Sequence[Sequence[int]],
    scores: LabelScores,
    centres: Tensor,
) -> list[Group]:
    """Pairs of classes that look like one, by the share of images closer to the other centre.

    Two that an image has together are no such pair: the list holds them apart.
    """
    names = catalog.classes.names
    counts = Counter(chain.from_iterable(classes))
    together = {pair for found in classes for pair in combinations(sorted(found), 2)}
    # Candidates: the classes of each image and the nearest other one, though no image may be closer
    # to the other centre.
    wrong: Counter[tuple[int, int]] = Counter()
    for found, b, margin in zip(
        classes, scores.nearest.tolist(), scores.margin.tolist(), strict=True
    ):
        for a in found:
            pair = min(a, b), max(a, b)
            if a != b and pair not in together:
                wrong[pair] += margin > 0
    ranked = []
    for a, b in wrong:
        share = wrong[a, b] / (counts[a] + counts[b])
        cosine = float(centres[a] @ centres[b])
        if (share >= _SHARE and wrong[a, b] >= _CONFUSED) or cosine >= _ALIKE:
            ranked.append((-share, -cosine, a, b))
    ranked.sort()
    wanted = {c for _, _, a, b in ranked for c in (a, b)}
    examples: dict[int, list[int]] = {}
    for row, found in zip(rows.tolist(), classes, strict=True):
        for c in found:
            if c in wanted and len(examples.setdefault(c, [])) < 3:
                examples[c].append(row)
    return [
        Group(
            (*examples[a], *examples[b]),
            f"{names[a]} and {names[b]}: centres at cosine {-cosine:.2f}, {-share:.0%} of their "
            f"{counts[a] + counts[b]} images are closer to the other",
        )
        for share, cosine, a, b in ranked
    ]
