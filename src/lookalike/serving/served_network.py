"""A trained or exported model as the batcher runs it, with the steps of `lookalike embed`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike.data.decoding.decode import decode_given
from lookalike.errors import LookalikeError, NotFiniteError
from lookalike.exporting.exported import ExportedModel
from lookalike.model.embedder import Embedder
from lookalike.model.inference import BATCH_SIZE, PICTURES

Served = Embedder | ExportedModel

_CPU_BATCH = 16


class ServedNetwork:
    """A model in two steps.

    A prepared image is (3, S, S) uint8; of an exported model with its preprocessing inside it is
    (H, W, 3) uint8, and only images of one size are computed together.

    Attributes:
        batch_size: images at a time.
        waits_for: share of the images in decoding that a batch waits for.
    """

    def __init__(self, model: Served, max_pixels: int) -> None:
        self.model, self.max_pixels = model, max_pixels
        # On the CPU larger batches cost no less an image, and decoding takes from the network's
        # time. On a GPU the other half of the images is decoded meanwhile.
        on_cpu = model.device.type == "cpu"
        self.batch_size, self.waits_for = (_CPU_BATCH, 1.0) if on_cpu else (BATCH_SIZE, 0.5)
        if model.preprocess is None:
            self.batch_size = PICTURES

    def prepare(self, content: bytes) -> np.ndarray | Tensor:
        """An encoded image as the network takes it; runs in threads.

        Raises:
            DataError: it is no image that can be read.
        """
        pixels = decode_given(content, self.max_pixels)
        preprocess = self.model.preprocess
        return pixels if preprocess is None else preprocess.prepare(pixels)

    def compute(self, prepared: Sequence[Any]) -> list[np.ndarray | LookalikeError]:
        """The unit vector (D,) float32 of each, or why there is none."""
        return [
            vector
            if np.isfinite(vector).all()
            else NotFiniteError("the model gives a vector that is not finite (NaN or infinity)")
            for vector in self._embed(prepared).cpu().numpy()
        ]

    def _embed(self, prepared: Sequence[Any]) -> Tensor:
        model = self.model
        if isinstance(model, Embedder):
            images = torch.stack(list(prepared))
            return model.embed_batch(images.contiguous(memory_format=torch.channels_last))
        whole = model.preprocess is None
        return model.embed_pictures(prepared) if whole else model.embed_prepared(prepared)
