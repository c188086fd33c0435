"""Network in training: backbone, neck and the classification branch for plain softmax."""

import torch.nn.functional as F
from torch import Tensor, nn

from lookalike.model.embedder import Embedder
from lookalike.model.neck import at_least_float32

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

    def forward(self, features: Tensor) -> Tensor:
        """Unit vectors (B, D) from features (B, N, C)."""
        # Four dimensions, so that the norm is one of those that see the global batch.
        pooled = features.mean(dim=1)[:, :, None, None]  # (B, C, 1, 1)
        vector = self.dropout(self.projection(self.norm(pooled).flatten(1)))
        return F.normalize(at_least_float32(vector), dim=1)


class TrainingNetwork(nn.Module):
    """Everything between pixels and the heads, as one module for DDP."""

    def __init__(self, embedder: Embedder, branch: ClassificationBranch | None) -> None:
        super().__init__()
        self.embedder = embedder
        self.branch = branch

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embeddings (B, D) and the branch's vectors (B, D) or None, for uint8 images."""
        features, token = self.embedder.features(images)
        embeddings = self.embedder.neck(features, token)
        return embeddings, None if self.branch is None else self.branch(features)
