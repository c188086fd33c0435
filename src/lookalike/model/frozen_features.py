"""Features of a backbone that does not learn: computed once, kept on disk, read in every epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lookalike import storage
from lookalike.data.loading.bad_images import BadImages
from lookalike.data.loading.batch import Batch
from lookalike.data.loading.feature_parts import FeatureParts
from lookalike.data.loading.image_source import PLAIN, Source
from lookalike.data.loading.sequential import EvalLoader
from lookalike.data.record import Record
from lookalike.distributed.shared_directory import find_directory_leaders
from lookalike.distributed.world import ALONE, World
from lookalike.log import Bar
from lookalike.model.backbone import Backbone
from lookalike.model.embedder import Embedder, digest_of_tensors
from lookalike.model.inference import BATCH_SIZE, Embedded, gathered
from lookalike.model.lora import merged_state
from lookalike.model.neck import pool
from lookalike.model.user_images import require_finite

FORMAT = "lookalike features 1"


def pooled_features(
    embedder: Embedder,
    images: Tensor,
    poolings: Sequence[str],
    precision: torch.dtype = torch.float32,
) -> Tensor:
    """Features (B, K, C) float32 of uint8 images (B, 3, S, S) by K poolings, in evaluation mode.

    Vectors shorter than the longest end in zeros.
    """
    backbone, device = embedder.backbone, embedder.device
    was_training = backbone.training
    narrow = precision != torch.float32
    backbone.eval()
    try:
        with (
            torch.inference_mode(),
            torch.autocast(device.type, precision) if narrow else nullcontext(),
        ):
            features, beside = embedder.features(images.to(device, non_blocking=True))
            found = [pool(features, kind, beside).float() for kind in poolings]
            width = max(vector.shape[1] for vector in found)
            return torch.stack([F.pad(v, (0, width - v.shape[1])) for v in found], dim=1)
    finally:
        backbone.train(was_training)


def pooled_width(backbone: Backbone, poolings: Sequence[str]) -> int:
    """Length C of the longest vector of these poolings."""
    lengths = {backbone.quarters_dim if kind == "quarters" else backbone.dim for kind in poolings}
    return max(lengths)


class FrozenFeatures:
    """Pooled features of the images of a list, in a folder below `folder`.

    They are those of the evaluation crop, so that the model learns from the very features that it
    is measured and used with; each augmented view would cost a pass over all images and as much
    disk, and a linear map behind a frozen backbone gains little from it.

    The name of the folder follows from all that the features depend on: weights, preprocessing,
    list, and options of reading. An image that was replaced under the same name is not noticed.
    """

    def __init__(
        self,
        embedder: Embedder,
        records: Sequence[Record],
        folder: Path,
        *,
        poolings: Sequence[str],
        list_id: str,
        precision: torch.dtype = torch.float32,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Prepare; nothing is read or written.

        Args:
            embedder: on its device; its backbone is frozen.
            folder: of features of any lists and backbones.
            poolings: K of them; see `lookalike.model.neck.pool`.
            options: of reading images, by name.
        """
        self.embedder, self.records = embedder, records
        self.poolings, self.precision = tuple(poolings), precision
        backbone = embedder.backbone
        self._about = {
            "format": FORMAT,
            "backbone": backbone.saved_name,
            "backbone_args": dict(backbone.architecture.args),
            "final_norm": backbone.has_final_norm,
            "preprocess": embedder.preprocess.to_dict(),
            "poolings": list(poolings),
            "precision": str(precision).removeprefix("torch."),
            "device": embedder.device.type,
            "list": list_id,
            # The fingerprint of a list leaves out the folder of all its images.
            "first": "" if not records else storage.public(records[0].uri),
            "images": len(records),
            **(options or {}),
        }
        weights = _weights(backbone)
        self._backbone = _digest(weights)
        self.parts = FeatureParts(
            folder / digest_of_tensors(self._about, weights),
            len(records),
            (len(poolings), pooled_width(backbone, poolings)),
            BATCH_SIZE,
        )

    def are_of(self, embedder: Embedder) -> bool:
        """True if the weights of the embedder's backbone are those that gave the features."""
        return _digest(_weights(embedder.backbone)) == self._backbone

    def compute(
        self,
        *,
        bad: BadImages,
        world: World = ALONE,
        source: Source = PLAIN,
        what: str = "features",
    ) -> None:
        """Compute the parts that are missing, and open all; called by all workers together.

        Each worker computes some of them; workers that see the same folder share it. Batches are
        the same whatever the number of workers, and so are the bits.

        Args:
            bad: takes the images that cannot be read, now or when their part was written.

        Raises:
            StorageError: the folder cannot be written to.
            NotFiniteError: the backbone gives NaN or infinity.
        """
        parts = self.parts
        world = find_directory_leaders(world, parts.folder)
        with world.raise_together():
            if world.is_directory_leader:
                parts.create(self._about)
        leader, missing = world.directory_leader, list[int]()
        if world.is_directory_leader:
            missing = parts.missing()
        everyone = world.all_gather_object([leader, missing])
        missing = everyone[leader][1]
        sharing = [rank for rank, (its_leader, _) in enumerate(everyone) if its_leader == leader]
        mine = missing[sharing.index(world.rank) :: len(sharing)]
        with world.raise_together():
            self._write(mine, bad, source, what, quiet=not world.is_main)
        with world.raise_together():
            parts.open()
            for row, reason in parts.bad.items():
                bad.add(row, reason)

    def _write(
        self,
        mine: list[int],
        bad: BadImages,
        source: Source,
        what: str,
        *,
        quiet: bool,
    ) -> None:
        parts, records = self.parts, self.records
        starts = [parts.rows_of(part) for part in mine]
        loader = EvalLoader(
            records,
            preprocess=self.embedder.preprocess,
            batch_size=BATCH_SIZE,
            bad=bad,
            batches=[
                batch
                for rows in starts
                for batch in range(rows.start // BATCH_SIZE, -(-rows.stop // BATCH_SIZE))
            ],
            device=self.embedder.device,
            source=source,
        )

        def part_of(batch: Batch) -> int:
            return int(batch.rows[0]) // parts.rows

        left = dict.fromkeys(mine)  # a part without a readable image has no batch
        with Bar(what, sum(map(len, starts)), unit="images", quiet=quiet) as bar:
            for part, batches in groupby(loader, key=part_of):
                rows = parts.rows_of(part)
                values = np.zeros((len(rows), *parts.shape), np.float32)
                for batch in batches:
                    values[batch.rows.numpy() - rows.start] = self._features(batch)
                    bar.advance(len(batch.rows))
                parts.write(part, values, bad.among(rows))
                del left[part]
            for part in left:
                rows = parts.rows_of(part)
                parts.write(part, np.zeros((len(rows), *parts.shape), np.float32), bad.among(rows))

    def _features(self, batch: Batch) -> np.ndarray:
        """Features (b, K, C) of a batch, all finite."""
        found = pooled_features(self.embedder, batch.images, self.poolings, self.precision)
        values: np.ndarray = found.cpu().numpy()
        rows = batch.rows.tolist()
        require_finite(values.reshape(len(rows), -1), lambda row: self.records[rows[row]].place)
        return values

    @torch.inference_mode()
    def embedded(self, embedder: Embedder, world: World = ALONE) -> Embedded:
        """Unit vectors of all readable images by the embedder's neck, computed by all workers.

        With float32 features of its backbone and of the neck's poolings they are those of
        `embed_records`, to the bit; each worker has all.
        """
        neck, device = embedder.neck, embedder.device
        number = -(-len(self.records) // BATCH_SIZE)
        found = [(np.zeros(0, np.int64), torch.empty(0, embedder.embedding_dim))]
        was_training = neck.training
        neck.eval()
        try:
            for batch in range(world.rank, number, world.size):
                start = batch * BATCH_SIZE
                rows = np.arange(start, min(start + BATCH_SIZE, len(self.records)))
                rows = rows[[row not in self.parts.bad for row in rows.tolist()]]
                if len(rows):
                    pooled = self.parts.take(rows).to(device)
                    vectors = F.normalize(neck.project(pooled.unbind(1)).float(), dim=1)
                    found.append((rows, vectors.cpu()))
        finally:
            neck.train(was_training)
        rows_found, vectors_found = zip(*found, strict=True)
        rows_M = torch.from_numpy(np.concatenate(rows_found))
        return gathered(rows_M, torch.cat(vectors_found), world)


def _weights(backbone: Backbone) -> dict[str, Tensor]:
    """Weights and statistics by name, on the CPU."""
    return {
        name: value.detach().to("cpu", memory_format=torch.contiguous_format).contiguous()
        for name, value in merged_state(backbone).items()
    }


def _digest(weights: Mapping[str, Tensor]) -> str:
    # An average of equal weights turns -0 into 0; adding 0 does so too.
    return digest_of_tensors({}, {name: value + 0 for name, value in weights.items()})
