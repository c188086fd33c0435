"""From a feature map to an embedding."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GEM_POWER = 3.0
GEM_EPS = 1e-6


class Neck(nn.Module):
    """Pool a feature map in one or several ways, project each, and join the parts.

    Each part is `normalise(W_k pool_k(x))` with a bias-free W_k, as in the neck of the original
    (Jun et al., Combination of Multiple Global Descriptors for Image Retrieval, 2019), but over
    the feature map before pooling, where the poolings differ. The joined vector has the length
    sqrt(number of parts); `Embedder.embed` normalises it.

    The projections start semi-orthogonal, so that the embedding of a pretrained backbone keeps
    the backbone's angles as far as its length allows, and the measured start means something.

    Args:
        in_dim: channels C of the feature map.
        out_dim: length D of the embedding.
        pooling: gem, avg, max or cls, or several joined by `+`; each has D / k dimensions (the
            first ones have one more where k does not divide D).
    """

    def __init__(self, in_dim: int, out_dim: int, pooling: str = "gem+avg") -> None:
        super().__init__()
        self.poolings = tuple(pooling.split("+"))
        base, more = divmod(out_dim, len(self.poolings))
        self.projections = nn.ModuleList(
            nn.Linear(in_dim, base + (part < more), bias=False)
            for part in range(len(self.poolings))
        )
        for projection in self.projections:
            nn.init.orthogonal_(projection.weight)  # type: ignore[arg-type]

    def forward(self, features: Tensor, class_token: Tensor | None) -> Tensor:
        """Embeddings (B, D), not normalised as a whole.

        Args:
            features: (B, N, C), the N places of the feature map.
            class_token: (B, C), where the backbone has one.
        """
        parts = []
        for pooling, projection in zip(self.poolings, self.projections, strict=True):
            if pooling == "cls":
                assert class_token is not None, "checked when the embedder was built"
                pooled = class_token
            else:
                pooled = pool(features, pooling)
            parts.append(F.normalize(at_least_float32(projection(pooled)), dim=1))
        return torch.cat(parts, dim=1)  # (B, D)


def pool(features: Tensor, kind: str) -> Tensor:
    """One vector (B, C) from the N places of `features` (B, N, C).

    `gem` is the generalised mean with p = 3 over activations clamped to be positive (Radenović
    et al., Fine-tuning CNN Image Retrieval with No Human Annotation, 2018), in float32, because
    a cube overflows half precision at 41.
    """
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
