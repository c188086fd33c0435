"""Certificate of an artefact: the same vectors and neighbours as the trained model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike.data.catalog import Catalog
from lookalike.data.decoding.resize import resize
from lookalike.data.image_size import ImageSize, height_width
from lookalike.data.loading.bad_images import BadImages, none_readable
from lookalike.data.loading.image_source import PLAIN, Source
from lookalike.data.loading.sequential import WholeImageLoader
from lookalike.errors import DataError, ExportError, NotFiniteError
from lookalike.exporting import Bounds
from lookalike.log import counted
from lookalike.metrics.protocol import Roles
from lookalike.metrics.scores import Scores, score
from lookalike.model.embedder import Embedder
from lookalike.model.inference import Embedded, PictureModel, embed_records

BATCH_SIZES = (1, 2, 7, 32)
"""Batches of images of one size, as production may send them."""

_UNIT = 1e-3  # tolerance of the length of a vector


@dataclass(frozen=True)
class Certificate:
    """Measurements of an artefact against the trained model.

    Attributes:
        drift: largest 1 - cosine between the two vectors of an image, batches included.
        mean_drift: the mean over the images of the list.
        images: of the list, without the `unreadable`.
        picture_sizes: different sizes among them.
        batch_sizes: tried besides, each with images of several sizes.
        batch_images: images in those batches.
        trained: retrieval scores of the trained model.
        exported: those of the artefact, on the same images.
    """

    bounds: Bounds
    drift: float
    mean_drift: float
    images: int
    unreadable: int
    picture_sizes: int
    batch_sizes: tuple[int, ...]
    batch_images: int
    trained: Scores
    exported: Scores

    @property
    def recall_change(self) -> float:
        """Recall@1 of the artefact less that of the trained model."""
        return self.exported.recall[1] - self.trained.recall[1]

    @property
    def map_change(self) -> float:
        """MAP@R of the artefact less that of the trained model."""
        return self.exported.map_at_r - self.trained.map_at_r

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **asdict(self),
            "batch_sizes": list(self.batch_sizes),
            "trained": self.trained.to_dict(),
            "exported": self.exported.to_dict(),
            "recall_at_1_change": self.recall_change,
            "map_at_r_change": self.map_change,
        }

    def summary(self) -> str:
        """The certificate in a line."""
        return (
            f"largest drift {self.drift:.1e} (bound {self.bounds.drift:g}), Recall@1 "
            f"{100 * self.trained.recall[1]:.2f} % -> {100 * self.exported.recall[1]:.2f} % "
            f"(bound ±{100 * self.bounds.recall_change:g}), MAP@R "
            f"{100 * self.trained.map_at_r:.2f} % -> {100 * self.exported.map_at_r:.2f} %, over "
            f"{counted(self.images, 'image')} of {counted(self.picture_sizes, 'size')} and "
            f"{self.batch_images:,} in batches of {', '.join(map(str, self.batch_sizes))}"
        )

    def check(self) -> None:
        """Raise an ExportError unless the bounds are kept."""
        faults = []
        # NaN is a fault too.
        if not self.drift <= self.bounds.drift:
            faults.append(f"its largest drift is {self.drift:.1e}, the bound {self.bounds.drift:g}")
        # The change is a difference of two fractions, which are rounded.
        if not abs(self.recall_change) <= self.bounds.recall_change + 1e-12:
            faults.append(
                f"Recall@1 changes by {self.recall_change:+.4f} "
                f"({round(self.recall_change * self.exported.num_queries):+d} of "
                f"{self.exported.num_queries:,} queries), "
                f"the bound is {self.bounds.recall_change:g}"
            )
        if faults:
            raise ExportError(
                f"the exported model is not the trained one: {'; '.join(faults)}; nothing was "
                "kept. Choose a higher --precision, or allow more by --max-drift and "
                "--max-recall-change"
            )


def certify(
    embedder: Embedder,
    exported: PictureModel,
    catalog: Catalog,
    bounds: Bounds,
    *,
    source: Source = PLAIN,
) -> Certificate:
    """Measure an artefact, read back, against its trained model.

    Every image of the catalog goes through both as decoded, and retrieval is scored with both.
    Then some of them are resized to common sizes and sent in batches.

    Args:
        bounds: for the certificate; not checked here.

    Raises:
        DataError: no image can be read, or retrieval cannot be measured.
        ExportError: a vector of the artefact is not of length 1, or not finite.
    """
    bad = BadImages()
    sizes = _Sizes(exported)
    embedded = partial(embed_records, bad=bad, source=source)
    ours = embedded(embedder, catalog.records, what="trained model")
    try:
        theirs = embedded(sizes, catalog.records, what="exported model")
    except NotFiniteError:
        raise ExportError(
            "vectors of the exported model are not finite; use --precision fp32"
        ) from None
    if len(ours.rows) == 0:
        raise none_readable(catalog.records, bad.reasons)
    if not torch.equal(ours.rows, theirs.rows):
        raise DataError(
            f"{catalog.records[0].source}: some images could be read the first time and not the "
            "second; export again once their storage is reachable"
        )
    drifts = _drift(ours.vectors, theirs.vectors)  # (M,)
    few = _first_pictures(catalog, bad, max(BATCH_SIZES), source)
    batches = [
        _batch_drift(embedder, exported, few, size, count)
        for size in _batch_pictures(embedder.preprocess.image_size)
        for count in BATCH_SIZES
    ]
    return Certificate(
        bounds=bounds,
        drift=float(torch.stack([drifts.max(), *batches]).max()),
        mean_drift=float(drifts.mean()),
        images=len(ours.rows),
        unreadable=len(bad),
        picture_sizes=len(sizes.seen),
        batch_sizes=BATCH_SIZES,
        batch_images=sum(BATCH_SIZES) * len(_batch_pictures(embedder.preprocess.image_size)),
        trained=_scores(ours, catalog),
        exported=_scores(theirs, catalog),
    )


class _Sizes:
    """Wrapper of a model that collects the sizes of its images."""

    def __init__(self, model: PictureModel) -> None:
        self.embedding_dim = model.embedding_dim
        self.seen: set[tuple[int, ...]] = set()
        self._model = model

    def embed_pictures(self, pictures: Sequence[np.ndarray]) -> Tensor:
        self.seen.update(pixels.shape for pixels in pictures)
        return self._model.embed_pictures(pictures)


def _batch_pictures(size: ImageSize) -> tuple[tuple[int, int], ...]:
    """Heights and widths of images in batches: of the input's size, upright, wide, small."""
    high, wide = height_width(size)
    return (
        (high, wide),
        (2 * high + 37, wide + 11),
        (high + 1, 3 * wide),
        (high // 3 + 2, wide // 2),
    )


def _first_pictures(
    catalog: Catalog, bad: BadImages, count: int, source: Source
) -> list[np.ndarray]:
    records = [record for row, record in enumerate(catalog.records) if row not in bad][:count]
    loader = WholeImageLoader(records, batch_size=count, bad=BadImages(), source=source)
    return [pixels for group in loader for pixels in group.images]


def _batch_drift(
    embedder: Embedder,
    exported: PictureModel,
    pictures: Sequence[np.ndarray],
    size: tuple[int, int],
    count: int,
) -> Tensor:
    interpolation = embedder.preprocess.interpolation
    batch = [
        np.ascontiguousarray(resize(pixels, *size, interpolation).permute(1, 2, 0).numpy())
        for pixels in islice(cycle(pictures), count)
    ]
    ours = embedder.embed_batch(torch.stack([embedder.preprocess.prepare(p) for p in batch]))
    return _drift(ours.cpu(), exported.embed_pictures(batch)).max()


def _drift(ours: Tensor, theirs: Tensor) -> Tensor:
    """1 - cosine of each pair of rows, (N,) float64; NaN where a vector is not finite."""
    ours, theirs = ours.double(), theirs.double()
    lengths = theirs.norm(dim=1)
    off = (lengths - 1).abs().max()
    if off > _UNIT:
        raise ExportError(
            f"a vector of the exported model is not of unit length (off by {off:.1e})"
        )
    # From the difference, since 1 - cosine would be lost in rounding.
    unit = ours / ours.norm(dim=1, keepdim=True)
    return (unit - theirs / lengths[:, None]).square().sum(dim=1) / 2


def _scores(embedded: Embedded, catalog: Catalog) -> Scores:
    labels = torch.from_numpy(catalog.all_ids)[embedded.rows]
    roles = Roles.of(catalog.records)
    return score(embedded.vectors, labels, roles=None if roles is None else roles[embedded.rows])
