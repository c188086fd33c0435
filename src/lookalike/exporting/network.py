"""The network as exported: preprocessed images in, unit vectors out."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lookalike.model.embedder import Embedder


class Network(nn.Module):
    """Normalisation of pixels, backbone, neck, L2 normalisation, mirror image and projection."""

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        preprocess = embedder.preprocess
        # As `Preprocess.normalise` has them: the same numbers, so the same bits.
        shift = torch.tensor(preprocess.mean, dtype=torch.float64).mul(255)
        scale = torch.tensor(preprocess.std, dtype=torch.float64).mul(255).reciprocal()
        self.shift = nn.Buffer(shift.float()[:, None, None])
        self.scale = nn.Buffer(scale.float()[:, None, None])
        self.backbone = embedder.backbone
        self.neck = embedder.neck
        self.mirror = embedder.mirror
        self.projection = embedder.projection
        self.dtype = embedder.dtype

    def forward(self, pixels: Tensor) -> Tensor:
        """Unit vectors (B, D) float32 of uint8 images (B, 3, H, W)."""
        return self.embed_normal(pixels.to(torch.float32).sub(self.shift).mul(self.scale))

    def embed_normal(self, normal: Tensor) -> Tensor:
        """Unit vectors (B, D) float32 of normalised images (B, 3, H, W) float32."""
        vectors = self._unit(normal)
        if self.mirror:
            vectors = F.normalize(vectors + self._unit(normal.flip(-1)), dim=1)
        return vectors if self.projection is None else self.projection(vectors)

    def _unit(self, normal: Tensor) -> Tensor:
        features, beside = self.backbone(normal.to(self.dtype))
        # The neck stays in float32: it costs little, and its rounding would reach the output.
        beside = None if beside is None else beside.float()
        return F.normalize(self.neck(features.float(), beside), dim=1)


class TensorNetwork(Network):
    """The same without the normalisation of pixels."""

    def forward(self, tensor: Tensor) -> Tensor:
        """Unit vectors (B, D) float32 of normalised images (B, 3, H, W) float32."""
        return self.embed_normal(tensor)


def in_precision(embedder: Embedder, precision: str) -> Embedder:
    """The model itself, or, for fp16, a copy whose backbone is in half precision."""
    if precision != "fp16":
        return embedder
    half = copy.deepcopy(embedder)
    half.backbone.half()
    return half.eval()
