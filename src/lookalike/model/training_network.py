"""Network in training: backbone, neck and the classification branch for plain softmax."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lookalike.model.embedder import Embedder
from lookalike.model.neck import at_least_float32, pool

DROPOUT = 0.3
TEMPERATURE = 0.05


class ClassificationBranch(nn.Module):
    """`Dropout(W BN(average pool))`, normalised: the input of a classification head.

    It shares the backbone with the embedding and keeps the features of all classes apart while
    the margin shapes the embedding (EasyCV's RetrivalNeck, second output). It is dropped after
    training.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_dim)
        self.projection = nn.Linear(in_dim, out_dim, bias=False)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, pooled: Tensor) -> Tensor:
        """Unit vectors (B, D) from average-pooled features (B, C)."""
        # Four dimensions, so that the norm is one of those that see the global batch.
        pooled = pooled[:, : self.projection.in_features]  # stored ones may end in zeros
        normal = self.norm(pooled[:, :, None, None])  # (B, C, 1, 1)
        vector = self.dropout(self.projection(normal.flatten(1)))
        return F.normalize(at_least_float32(vector), dim=1)


class TrainingNetwork(nn.Module):
    """Everything between pixels and the heads, as one module for DDP."""

    def __init__(self, embedder: Embedder, branch: ClassificationBranch | None) -> None:
        super().__init__()
        self.embedder = embedder
        self.branch = branch

    @property
    def poolings(self) -> tuple[str, ...]:
        """Poolings of the feature map that neck and branch take, each once."""
        branch = () if self.branch is None else ("avg",)
        return tuple(dict.fromkeys((*self.embedder.neck.poolings, *branch)))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embeddings (B, D) and the branch's vectors (B, D) or None.

        For uint8 images (B, 3, H, W), or for what remains of them behind a backbone that does not
        learn: their `poolings`, (B, K, C) float32 (`lookalike.model.frozen_features`).
        """
        if inputs.dtype == torch.uint8:
            features, beside = self.embedder.features(inputs)
            pooled = {kind: pool(features, kind, beside) for kind in self.poolings}
        else:
            pooled = dict(zip(self.poolings, inputs.unbind(1), strict=True))
        neck = self.embedder.neck
        embeddings = neck.project([pooled[kind] for kind in neck.poolings])
        return embeddings, None if self.branch is None else self.branch(pooled["avg"])
