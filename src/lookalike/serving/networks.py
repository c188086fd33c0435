"""Trained and exported models as the batcher runs them, with the steps of `lookalike embed`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike.data.decoding.decode import decode
from lookalike.errors import LookalikeError, NotFiniteError
from lookalike.exporting.exported import ExportedModel
from lookalike.model.embedder import Embedder
from lookalike.model.inference import BATCH_SIZE, PICTURES

Served = Embedder | ExportedModel

_CPU_BATCH = 16


class TrainedNetwork:
    """An `Embedder`; a prepared image is (3, H, W) uint8."""

    def __init__(self, embedder: Embedder, max_pixels: int) -> None:
        self.embedder, self.max_pixels = embedder, max_pixels
        self.batch_size, self.waits_for = _batching(embedder.device)

    def prepare(self, content: bytes) -> Tensor:
        """See `ServedNetwork.prepare`."""
        return self.embedder.preprocess.prepare(decode(content, max_pixels=self.max_pixels))

    def size_of(self, prepared: Tensor) -> int:
        """Bytes of an image."""
        return prepared.nbytes

    def compute(self, prepared: Sequence[Tensor]) -> list[np.ndarray | LookalikeError]:
        """See `ServedNetwork.compute`."""
        images = torch.stack(list(prepared)).contiguous(memory_format=torch.channels_last)
        return _finite(self.embedder.embed_batch(images).cpu().numpy())


class ExportedNetwork:
    """An `ExportedModel`; a prepared image is (H, W, 3) uint8, or (3, S, S) of its preprocessing.

    A model with its preprocessing inside computes only images of one size together.
    """

    def __init__(self, model: ExportedModel, max_pixels: int) -> None:
        self.model, self.max_pixels = model, max_pixels
        self.batch_size, self.waits_for = _batching(model.device)
        if model.preprocess is None:
            self.batch_size = PICTURES

    def prepare(self, content: bytes) -> np.ndarray | Tensor:
        """See `ServedNetwork.prepare`."""
        pixels = decode(content, max_pixels=self.max_pixels)
        preprocess = self.model.preprocess
        return pixels if preprocess is None else preprocess.prepare(pixels)

    def size_of(self, prepared: np.ndarray | Tensor) -> int:
        """Bytes of an image."""
        return prepared.nbytes

    def compute(self, prepared: Sequence[Any]) -> list[np.ndarray | LookalikeError]:
        """See `ServedNetwork.compute`."""
        whole = self.model.preprocess is None
        embed = self.model.embed_pictures if whole else self.model.embed_prepared
        return _finite(embed(prepared).numpy())


def network_of(model: Served, max_pixels: int) -> TrainedNetwork | ExportedNetwork:
    """The network of a loaded model."""
    if isinstance(model, Embedder):
        return TrainedNetwork(model, max_pixels)
    return ExportedNetwork(model, max_pixels)


def _batching(device: torch.device) -> tuple[int, float]:
    """`ServedNetwork.batch_size` and `waits_for`.

    On the CPU larger batches cost no less an image, and decoding takes from the network's time. On
    a GPU the other half of the images is decoded meanwhile.
    """
    return (_CPU_BATCH, 1.0) if device.type == "cpu" else (BATCH_SIZE, 0.5)


def _finite(vectors: np.ndarray) -> list[np.ndarray | LookalikeError]:
    """One image whose vector is not finite fails alone."""
    return [
        vector
        if np.isfinite(vector).all()
        else NotFiniteError("the model gives a vector that is not finite (NaN or infinity)")
        for vector in vectors
    ]
