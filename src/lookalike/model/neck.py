"""Neck: pooling and projection of a feature map to an embedding."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GEM_POWER = 3.0
GEM_EPS = 1e-6

BESIDE = ("cls", "map", "quarters")
"""Poolings that are the one vector beside the features: they exclude each other."""

# The dimension for which margins that read the length of the embedding state their lengths.
LENGTH_DIM = 512


class Neck(nn.Module):
    """Pool a feature map in one or several ways, project each, and join the parts.

    Each part is `normalise(W_k pool_k(x))` with a bias-free W_k, as in the neck of the original
    (Jun et al., Combination of Multiple Global Descriptors for Image Retrieval, 2019), but over
    the feature map before pooling, where the poolings differ. The joined vector has the length
    sqrt(number of parts); `Embedder.embed` normalises it.

    With `normalize=False` the network chooses the length of each embedding, for margins that read
    it (MagFace, AdaFace): the joined projections go through a batch norm and are not normalised.
    The authors' backbones of both end in such a norm, AdaFace's without scale and shift, MagFace's
    with them. It has them here: without a scale to learn the mean square of the lengths is fixed,
    and MagFace's reward for longer embeddings could lengthen none but at the cost of others;
    AdaFace follows the mean of the lengths whatever it is. The scale starts at sqrt(512 / D), so
    that lengths start near sqrt(512) = 22.6 for any D: the bounds of MagFace (10 to 110) and the
    start of AdaFace (20) suppose D = 512.

    The projections start semi-orthogonal, so that the embedding of a pretrained backbone keeps
    the backbone's angles as far as its length allows, and the measured start means something.

    Attributes:
        in_dims: length of the pooled vector of each part.

    Args:
        in_dim: channels C of the feature map.
        quarters_dim: length Q of the vector of `quarters`.
        out_dim: numbers D of an embedding.
        pooling: gem, avg, max, cls, map or quarters, or several joined by `+`; each has D / k
            dimensions (the first ones have one more where k does not divide D). cls is the class
            token, map the output of the backbone's attention pool, quarters the averages over the
            four quarters of an earlier map.
        normalize: length 1 for each part, instead of a batch norm over the joined ones.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        pooling: str = "gem+avg",
        *,
        quarters_dim: int = 0,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.poolings = tuple(pooling.split("+"))
        self.in_dims = tuple(
            quarters_dim if kind == "quarters" else in_dim for kind in self.poolings
        )
        base, more = divmod(out_dim, len(self.poolings))
        self.projections = nn.ModuleList(
            nn.Linear(length, base + (part < more), bias=False)
            for part, length in enumerate(self.in_dims)
        )
        for projection in self.projections:
            nn.init.orthogonal_(projection.weight)  # type: ignore[arg-type]
        self.norm: nn.BatchNorm2d | None = None
        if not normalize:
            # 2d, so that the norm is one of those that see the global batch.
            self.norm = nn.BatchNorm2d(out_dim)
            nn.init.constant_(self.norm.weight, math.sqrt(LENGTH_DIM / out_dim))

    def forward(self, features: Tensor, beside: Tensor | None) -> Tensor:
        """Embeddings (B, D), not normalised as a whole, of features (B, N, C).

        `beside` is the vector that the backbone gives beside its features: (B, C), of quarters
        (B, Q).
        """
        return self.project([pool(features, kind, beside) for kind in self.poolings])

    def project(self, pooled: Sequence[Tensor]) -> Tensor:
        """Embeddings (B, D) of one pooled vector (B, C) for each of `poolings`.

        Vectors may be longer than a projection takes: zeros follow.
        """
        parts = []
        for vector, projection, length in zip(pooled, self.projections, self.in_dims, strict=True):
            # GeM gives float32 also where the whole model was made narrower, as by `half()`.
            dtype = next(projection.parameters()).dtype
            part = at_least_float32(projection(vector[:, :length].to(dtype)))
            parts.append(part if self.norm is not None else F.normalize(part, dim=1))
        joined = torch.cat(parts, dim=1)  # (B, D)
        if self.norm is None:
            return joined
        joined = joined.to(self.norm.weight.dtype)[:, :, None, None]  # (B, D, 1, 1)
        return at_least_float32(self.norm(joined).flatten(1))


def pool(features: Tensor, kind: str, beside: Tensor | None = None) -> Tensor:
    """One vector (B, C) from features (B, N, C), or the one `beside` them.

    `gem` is the generalised mean with p = 3 over activations clamped to be positive (Radenović
    et al., Fine-tuning CNN Image Retrieval with No Human Annotation, 2018), in float32, because
    a cube overflows half precision at 41.
    """
    if kind in BESIDE:
        assert beside is not None, "checked when the embedder was built"
        return beside
    if kind == "avg":
        return features.mean(dim=1)
    if kind == "max":
        return features.amax(dim=1)
    assert kind == "gem", kind
    cubed = at_least_float32(features).clamp(min=GEM_EPS).pow(GEM_POWER).mean(dim=1)
    return cubed.pow(1.0 / GEM_POWER)


def at_least_float32(values: Tensor) -> Tensor:
    """`values` in float32 where they are narrower, as they are otherwise."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
