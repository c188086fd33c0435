"""Cross-batch memory (Wang et al., CVPR 2020, arXiv 1912.06798): embeddings of earlier batches."""

import torch
from torch import Tensor, nn


class EmbeddingMemory(nn.Module):
    """The latest embeddings, without gradient, and their classes; the same on every worker.

    Attributes:
        rows: (M, D) unit embeddings, in the order of a ring.
        classes: (M,) int64; (M, L) where images may have up to L classes.
        stored: () int64, embeddings stored so far, for checkpoints; the first are replaced. The
            host counts too, as reading a device would make it wait.
    """

    rows: Tensor
    classes: Tensor
    stored: Tensor

    def __init__(self, size: int, dim: int, labels: int = 1) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(size, dim))
        shape = (size,) if labels == 1 else (size, labels)
        self.register_buffer("classes", torch.zeros(shape, dtype=torch.int64))
        self.register_buffer("stored", torch.zeros((), dtype=torch.int64))
        self._stored = 0

    def contents(self) -> tuple[Tensor, Tensor]:
        """Embeddings (m, D) and their classes, with m from 0 to M."""
        count = min(self._stored, len(self.rows))
        return self.rows[:count], self.classes[:count]

    @torch.no_grad()
    def store(self, embeddings: Tensor, classes: Tensor) -> None:
        """Add unit embeddings (B, D) and their classes, the last M of them."""
        size = len(self.rows)
        embeddings, classes = embeddings[-size:], classes[-size:]
        places = (self._stored + torch.arange(len(embeddings), device=embeddings.device)) % size
        self.rows[places] = embeddings.to(self.rows.dtype)
        self.classes[places] = classes
        self._stored += len(embeddings)
        self.stored.fill_(self._stored)

    def restored(self) -> None:
        """To be called after the buffers were filled from a checkpoint."""
        self._stored = int(self.stored)
