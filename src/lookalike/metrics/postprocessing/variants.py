"""Variants of postprocessing, measured on the same embeddings.

A variant is a sequence of steps joined by `+`, as `flip+whiten+dims=128`. Steps run in a fixed
order, however they are written: embedding (flip, whiten, dims), storage (int8, binary), preparation
of the gallery (augment) and search (expand, rerank).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from lookalike.errors import ConfigError
from lookalike.log import counted, logger
from lookalike.losses.shared_classes import have_common
from lookalike.metrics.class_members import relevant_images
from lookalike.metrics.postprocessing.quantization import from_bits, from_int8, to_bits, to_int8
from lookalike.metrics.postprocessing.query_expansion import augment, expand
from lookalike.metrics.postprocessing.reranking import rerank
from lookalike.metrics.postprocessing.whitening import project, truncation, whitening
from lookalike.metrics.protocol import Roles, first_class
from lookalike.metrics.rank_metrics import RECALL, RankMetrics
from lookalike.metrics.scores import PerQuery, measure_queries

STEPS = {
    "flip": "the mean of the vectors of an image and its mirror image (twice the time to embed)",
    "whiten": "principal axes, all of the same variance, fitted on other images; whiten=N keeps N",
    "dims": "dims=N: only the first N dimensions",
    "int8": "one byte a dimension",
    "binary": "one bit a dimension, in the gallery and in the query",
    "binary_gallery": "one bit a dimension in the gallery, float queries",
    "augment": "database augmentation of the gallery, beforehand",
    "expand": "query expansion, and a second search (twice the time to search)",
    "rerank": "k-reciprocal re-ranking of the results (many times the time to search)",
}
"""The steps of variants, in the order in which they run."""

KEPT = ("flip", "whiten", "dims")
"""The steps that can be saved with a model."""

_STORES = ("int8", "binary", "binary_gallery")


@dataclass(frozen=True)
class Variant:
    """Postprocessing steps with their numbers, and their name, both in the order of `STEPS`."""

    name: str
    steps: dict[str, int | None]

    @classmethod
    def parse(cls, text: str) -> Variant:
        """`flip+dims=64` and the like.

        Raises:
            ConfigError: a step is unknown, written twice, or lacks its number.
        """
        found: dict[str, int | None] = {}
        for part in text.split("+"):
            name, equals, number = part.strip().partition("=")
            if name not in STEPS:
                raise ConfigError(f"{part!r} is not one of {', '.join(STEPS)}")
            if name in found:
                raise ConfigError(f"{text!r} has {name} twice")
            if (equals or name == "dims") and name not in ("dims", "whiten"):
                raise ConfigError(f"{part!r}: {name} takes no number")
            if (equals or name == "dims") and not re.fullmatch("[1-9][0-9]*", number):
                raise ConfigError(f"{part!r}: write a whole number, {name}=64")
            found[name] = int(number) if equals else None
        if len(stores := [name for name in _STORES if name in found]) > 1:
            raise ConfigError(f"{text!r}: {' and '.join(stores)} exclude each other")
        steps = {name: found[name] for name in STEPS if name in found}
        shown = [name if count is None else f"{name}={count}" for name, count in steps.items()]
        return cls("+".join(shown), steps)

    def check_dims(self, full: int) -> None:
        """Raise a ConfigError where `dims` or `whiten` is larger than D, `full`."""
        for step in ("dims", "whiten"):
            if (self.steps.get(step) or 0) > full:
                raise ConfigError(f"{self.name}: the embedding has {full} dimensions only")

    def projection(self, full: int, fit: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """The linear map of this variant, mean and matrix; None where it has none.

        Args:
            full: D.
            fit: (M, D) unit vectors of other images, for whitening.

        Raises:
            ConfigError: as in `check_dims`, or there is nothing to fit on.
        """
        self.check_dims(full)
        dims = self.steps.get("dims")
        if "whiten" in self.steps:
            if fit is None or len(fit) < 2:
                raise ConfigError(
                    f"{self.name}: whitening is fitted on images that are not measured on; give "
                    "them (--fit LIST)"
                )
            wanted = min(self.steps["whiten"] or full, dims or full)
            found = whitening(fit, wanted)
            if self.steps["whiten"] is not None and len(found[1]) < wanted:
                logger.warning(
                    "%s: the %d images that whitening is fitted on span %s only",
                    self.name, len(fit), counted(len(found[1]), "axis", "axes"),
                )  # fmt: skip
            return found
        return None if dims is None else truncation(full, dims)

    def bytes_of(self, dim: int) -> int:
        """Bytes of a stored vector of `dim` dimensions."""
        if "binary" in self.steps or "binary_gallery" in self.steps:
            return -(-dim // 8)
        return dim if "int8" in self.steps else 4 * dim


@dataclass(frozen=True)
class Split:
    """Disjoint queries and gallery.

    A query must not have changed the gallery (as `augment` would let it), so a set whose images are
    queries and gallery is divided: of the images of a class, every second one is a query.
    """

    labels: Tensor  # (N,) int64, the class of each image; (N, L) where it may have several
    queries: Tensor  # (Q,) int64, rows of the set
    gallery: Tensor  # (G,) int64, rows of the set
    groups: Tensor  # (N,) int64; images of one group never find each other

    @classmethod
    def of(cls, labels: Tensor, roles: Roles | None) -> Split:
        """By the roles if they are disjoint, else by halves."""
        count = len(labels)
        groups = torch.arange(count)
        query = searched = torch.ones(count, dtype=torch.bool)
        if roles is not None:
            groups = torch.where(roles.sequence >= 0, roles.sequence + count, groups)
            query, searched = roles.query, roles.gallery
        if not bool((query & searched).any()):
            return cls(labels, query.nonzero()[:, 0], searched.nonzero()[:, 0], groups)
        _, classes = torch.unique(first_class(labels), return_inverse=True)
        order = torch.argsort(classes, stable=True)
        begins = torch.searchsorted(classes[order], torch.arange(int(classes.max()) + 1))
        place = torch.empty(count, dtype=torch.int64)
        place[order] = torch.arange(count) - begins[classes[order]]
        second = place % 2 == 1
        queries, gallery = query & (second | ~searched), searched & ~(second & query)
        return cls(labels, queries.nonzero()[:, 0], gallery.nonzero()[:, 0], groups)


def measure_variant(
    variant: Variant, vectors: Tensor, split: Split, projection: tuple[Tensor, Tensor] | None
) -> PerQuery:
    """The metrics of the queries with this variant; `rows` are those of the whole set.

    `vectors` are (N, D) float32 unit vectors; with `flip`, those of both views.
    """
    if projection is not None:
        vectors = project(vectors, *projection)
    queries, gallery = vectors[split.queries], vectors[split.gallery]
    if "int8" in variant.steps:
        queries, gallery = from_int8(to_int8(queries)), from_int8(to_int8(gallery))
    if "binary" in variant.steps:
        queries = from_bits(to_bits(queries), queries.shape[1])
    if "binary" in variant.steps or "binary_gallery" in variant.steps:
        gallery = from_bits(to_bits(gallery), gallery.shape[1])
    if "augment" in variant.steps:
        gallery = augment(gallery)
    own, groups = split.groups[split.queries], split.groups[split.gallery]
    if "expand" in variant.steps:
        queries = expand(queries, gallery, groups=own, gallery_groups=groups)
    if "rerank" in variant.steps:
        return _measure_reranked(queries, gallery, split)
    rows, roles = _joined(split)
    found = measure_queries(torch.cat([queries, gallery]), split.labels[rows], roles=roles)
    return PerQuery(rows[found.rows], found.relevant, found.values)


def _joined(split: Split) -> tuple[Tensor, Roles]:
    """The rows of queries and gallery, one behind the other, and their roles."""
    rows = torch.cat([split.queries, split.gallery])
    is_query = torch.arange(len(rows)) < len(split.queries)
    return rows, Roles(is_query, ~is_query, split.groups[rows])


def _measure_reranked(queries: Tensor, gallery: Tensor, split: Split) -> PerQuery:
    """The metrics of re-ranked lists."""
    own, groups = split.groups[split.queries], split.groups[split.gallery]
    labels, gallery_labels = split.labels[split.queries], split.labels[split.gallery]
    rows, roles = _joined(split)
    relevant = relevant_images(split.labels[rows], roles)[: len(queries)]
    metrics = RankMetrics()
    most = int(relevant.max())
    ranked = rerank(queries, gallery, max(most, *RECALL), query_groups=own, gallery_groups=groups)
    if labels.ndim == 1:
        labels, gallery_labels = labels[:, None], gallery_labels[:, None]
    found_labels = gallery_labels[ranked.clamp(min=0)]  # (Q, K, L)
    hits = have_common(labels[:, None], found_labels) & (ranked >= 0)  # (Q, K)
    ranks = torch.where(hits, torch.arange(1, hits.shape[1] + 1), 2**40).sort(1).values
    found = relevant > 0
    table = metrics.of_ranks(ranks[found][:, : max(most, 1)], relevant[found])
    values = dict(zip(metrics.names, table.T.contiguous(), strict=True))
    return PerQuery(split.queries[found], relevant[found], values)
