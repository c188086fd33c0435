"""Start of neck and class weights from the features of the frozen pretrained backbone.

The projections of the neck become the principal axes of the features: of all projections to as
many dimensions, those keep the inner products of the features best (Eckart and Young, 1936), so
that the start retrieves like the backbone alone. The class weights become the mean embeddings of
their classes (Qi et al., Low-Shot Learning with Imprinted Weights, CVPR 2018), so that the first
gradients do not pull the features towards random directions (Kumar et al., Fine-Tuning can
Distort Pretrained Features, ICLR 2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lookalike.data.catalog import Catalog
from lookalike.data.loading.bad_images import BadImages
from lookalike.data.loading.image_source import PLAIN, Source
from lookalike.data.loading.sequential import EvalLoader
from lookalike.distributed.world import ALONE, World
from lookalike.log import Bar
from lookalike.losses.class_weights import ClassWeights
from lookalike.metrics.scores import Scores, score
from lookalike.model.embedder import Embedder
from lookalike.model.frozen_features import pooled_features, pooled_width
from lookalike.model.inference import BATCH_SIZE, gathered
from lookalike.model.neck import Neck
from lookalike.training.build_heads import LEVEL

MOST_IMAGES = 8192
"""Images whose features are computed: 67 MB for 2,048 channels and one pooling."""


@dataclass(frozen=True)
class StartFeatures:
    """Features of training images by the backbone before training.

    Attributes:
        pooled: (M, C) float32 on the CPU by pooling, C as a projection of it takes.
        classes: (M,) int64; (M, L) where images may have several, -1 behind the last.
    """

    pooled: dict[str, Tensor]
    classes: Tensor

    @torch.no_grad()
    def set_neck(self, neck: Neck, world: World = ALONE) -> None:
        """Make the projections of the neck the principal axes of the features."""
        for pooling, projection in zip(neck.poolings, neck.projections, strict=True):
            features, weight = self.pooled[pooling], projection.weight
            assert isinstance(weight, Tensor)
            # Of a wide neck the random one keeps all angles already.
            if weight.shape[0] < weight.shape[1] and world.is_main:
                weight.copy_(principal_axes(features, weight.shape[0]))
            # NCCL takes tensors of its devices only.
            weight.copy_(world.broadcast(weight.detach().to(world.device)))

    @torch.no_grad()
    def embeddings(self, neck: Neck) -> Tensor:
        """Vectors (M, D) float32 on the CPU by the projections of the neck, not of unit length."""
        found = []
        for pooling, projection in zip(neck.poolings, neck.projections, strict=True):
            features, weight = self.pooled[pooling], projection.weight
            assert isinstance(weight, Tensor)
            found.append(F.normalize(features @ weight.float().cpu().T, dim=1))
        return torch.cat(found, dim=1)

    def scores(self, neck: Neck, world: World = ALONE) -> Scores | None:
        """Retrieval among these images; None if no class has two of them."""
        counts = self.classes[self.classes >= 0].bincount()
        if not (counts > 1).any():
            return None
        vectors = F.normalize(self.embeddings(neck), dim=1).to(world.device)
        return score(vectors, self.classes, world=world)

    def set_class_weights(self, neck: Neck, heads: Mapping[str, ClassWeights]) -> None:
        """Make class weights the mean embeddings of their classes, where there are images.

        Those of coarser classes keep their random ones.
        """
        vectors = self.embeddings(neck)
        for name, head in heads.items():
            if name != "classification" and not name.startswith(LEVEL):
                rows, classes = _each_class(self.classes)
                imprint(head, vectors[rows, : head.dim], classes)


def start_features(
    embedder: Embedder,
    catalog: Catalog,
    *,
    poolings: Sequence[str] | None = None,
    world: World = ALONE,
    source: Source = PLAIN,
) -> StartFeatures:
    """Features of a class-balanced sample of up to `MOST_IMAGES` images, on every worker.

    Called by all workers together. Unreadable images are left out. `poolings` are those of the
    neck where None.
    """
    rows = _rows(catalog.sampling_ids(), MOST_IMAGES)
    before = embedder.device
    embedder.to(world.device)
    kinds = embedder.neck.poolings if poolings is None else tuple(poolings)
    pooled, read = _pooled_features(embedder, catalog, rows, kinds, world, source)
    embedder.to(before)
    return StartFeatures(pooled, torch.from_numpy(catalog.all_ids[rows[read.numpy()]]))


def principal_axes(features: Tensor, count: int) -> Tensor:
    """The first principal axes (count, C) of unit rows of features (N, C), not centred.

    Their signs are such that the largest number of each is positive.
    """
    unit = F.normalize(features.double(), dim=1)
    _, axes = torch.linalg.eigh(unit.T @ unit)  # ascending
    found = axes.T.flip(0)[:count]
    largest = found.gather(1, found.abs().argmax(dim=1, keepdim=True))
    return (found * largest.sign()).float()


@torch.no_grad()
def imprint(head: ClassWeights, vectors: Tensor, classes: Tensor) -> None:
    """Set the weights of the classes to the directions of their mean embeddings.

    Their lengths stay: with cosine losses a step turns a weight by lr / length^2. With several
    centres a class, each is the mean of every other image.

    Args:
        head: changed in place.
        vectors: (N, D).
        classes: (N,) int64.
    """
    unit = F.normalize(vectors.float(), dim=1)
    weight = head.weight.unflatten(0, (len(head.rows), head.centres))  # (c, K, D), same memory
    for centre in range(head.centres):
        mine = (classes >= head.rows.start) & (classes < head.rows.stop)
        if head.centres > 1:
            mine &= _occurrence(classes) % head.centres == centre
        rows = classes[mine] - head.rows.start
        sums = torch.zeros(len(head.rows), unit.shape[1]).index_add_(0, rows, unit[mine])
        known = torch.zeros(len(head.rows), dtype=torch.bool)
        known[rows] = True
        known &= sums.norm(dim=1) > 0
        there = known.to(weight.device)
        lengths = weight[there, centre].float().norm(dim=1, keepdim=True)
        means = F.normalize(sums[known], dim=1).to(weight.device)
        weight[there, centre] = (means * lengths).to(weight.dtype)


def _each_class(classes: Tensor) -> tuple[Tensor, Tensor]:
    """Row and class of each class of each image, (n,), of (M,) or (M, L) classes."""
    if classes.ndim == 1:
        return torch.arange(len(classes)), classes
    rows, columns = (classes >= 0).nonzero(as_tuple=True)
    return rows, classes[rows, columns]


def _occurrence(classes: Tensor) -> Tensor:
    """Number of the images of the same class before each one, (N,)."""
    order = torch.argsort(classes, stable=True)
    ordered = classes[order]
    starts = torch.searchsorted(ordered, ordered)
    found = torch.empty_like(classes)
    found[order] = torch.arange(len(classes)) - starts
    return found


def _rows(class_ids: np.ndarray, most: int) -> np.ndarray:
    """Up to `most` rows, ascending: the first two images of each class, then two more, ...

    Two, as retrieval among them needs pairs; of too many classes, those of the lowest numbers.
    """
    if len(class_ids) <= most:
        return np.arange(len(class_ids))
    pair = _occurrence(torch.from_numpy(class_ids)).numpy() // 2
    return np.sort(np.lexsort((class_ids, pair))[:most])


def _pooled_features(
    embedder: Embedder,
    catalog: Catalog,
    rows: np.ndarray,
    poolings: tuple[str, ...],
    world: World,
    source: Source,
) -> tuple[dict[str, Tensor], Tensor]:
    """(M, C) float32 on the CPU by pooling, and (M,) positions in `rows`; on each worker."""
    records = [catalog.records[row] for row in rows.tolist()]
    numbers = range(-(-len(records) // BATCH_SIZE))[world.rank :: world.size]
    found = [torch.empty(0, len(poolings), pooled_width(embedder.backbone, poolings))]
    read = [torch.empty(0, dtype=torch.int64)]
    bar = Bar("features of the start", len(records), unit="images", quiet=not world.is_main)
    with world.raise_together(), bar:
        loader = EvalLoader(
            records,
            preprocess=embedder.preprocess,
            batch_size=BATCH_SIZE,
            bad=BadImages(),
            batches=numbers,
            device=embedder.device,
            source=source,
        )
        for batch in loader:
            found.append(pooled_features(embedder, batch.images, poolings).cpu())
            read.append(batch.rows)
            bar.advance(min(BATCH_SIZE * world.size, len(records) - bar.done))
    everyone = gathered(torch.cat(read), torch.cat(found), world)
    vectors = zip(poolings, everyone.vectors.unbind(1), strict=True)
    lengths = {kind: pooled_width(embedder.backbone, [kind]) for kind in poolings}
    return {kind: vector[:, : lengths[kind]] for kind, vector in vectors}, everyone.rows
