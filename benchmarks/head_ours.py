"""Our head in its modes, and the floor that it cannot beat: the products alone."""

from functools import partial

import torch
from torch import Tensor

from head_contender import MARGIN, SCALE, Contender, Maker, Shape
from lookalike.losses import create_loss
from lookalike.losses.class_weights import HeadOptions
from lookalike.losses.head import Head
from lookalike.losses.head_update import UpdateRule
from lookalike.losses.kernels import has_bf16_products
from turns import seconds_of

BF16 = torch.bfloat16


class Ours(Contender):
    """`Head` with SGD, in the backward pass (`fused`) or by torch.optim after it.

    Args:
        precision: dtype of the products.
        fused: update the weight in the backward pass.
        dtype: of the weight and its momentum.
        rate: part of the classes that a step looks at.
    """

    def __init__(
        self,
        shape: Shape,
        margin: str = "arcface",
        precision: torch.dtype = torch.float32,
        fused: bool = True,
        dtype: torch.dtype = torch.float32,
        rate: float = 1.0,
    ) -> None:
        self.shape, self.margin, self.sample_rate = shape, margin, rate
        self.itemsize = dtype.itemsize
        rule = UpdateRule("sgd", momentum=shape.momentum, weight_decay=shape.weight_decay)
        self.head = Head(
            shape.dim,
            shape.classes,
            create_loss("arcface", MARGIN, SCALE) if margin == "arcface" else create_loss(margin),
            HeadOptions(
                precision=precision,
                dtype=dtype,
                sample_rate=rate,
                update=rule if fused else None,
            ),
        ).to(shape.device)
        self.optimizer = None
        if self.head.update is not None:
            self.head.update.lr = shape.lr
            for state in self.head.update.buffers():
                state.mul_(1)  # fresh zeros take no memory before they are written
        else:
            self.optimizer = torch.optim.SGD(
                self.head.parameters(), lr=shape.lr, momentum=shape.momentum,
                weight_decay=shape.weight_decay, fused=True,
            )  # fmt: skip

    def step(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        embeddings.grad = None
        if self.optimizer is not None:
            self.optimizer.zero_grad()
        self.head.begin()
        loss = self.head(embeddings, classes)
        loss.backward()
        self.head.end()
        if self.optimizer is not None:
            self.optimizer.step()
        return loss.detach()

    def weights(self) -> Tensor:
        return self.head.weight.detach()

    def sample(self, classes: Tensor) -> Tensor | None:
        if self.head.sampler is None or self.head.update is None:
            return None
        return self.head.sampler.draw(classes, self.head.update.steps - 1)


def by_device(shape: Shape) -> Ours:
    """Options of a run with train.precision=bf16: products in bfloat16 where they are faster."""
    fast = has_bf16_products(torch.device(shape.device))
    return Ours(shape, precision=BF16 if fast else torch.float32)


class Floor(Contender):
    """The four products of every chunk of classes, and nothing else: 8 B D C operations.

    Logits, logits again, gradient of the weight, gradient of the embeddings; each into a buffer
    that is used again, from a weight that is read from memory. The chunk is the fastest of some,
    whatever our head takes.
    """

    margin = "none"

    def __init__(self, shape: Shape, dtype: torch.dtype = torch.float32, rate: float = 1.0) -> None:
        self.shape, self.itemsize = shape, dtype.itemsize
        count = max(1, round(rate * shape.classes))
        self.weight = torch.empty(count, shape.dim, dtype=dtype, device=shape.device)
        self.weight.normal_(0, 0.01)
        largest = min(count, 65536 if shape.device == "cuda" else 8192)
        self.embeddings = torch.randn(shape.batch, shape.dim, device=shape.device).to(dtype)
        self.logits = torch.empty(shape.batch * largest, dtype=dtype, device=shape.device)
        self.d_weight = torch.empty(largest, shape.dim, dtype=dtype, device=shape.device)
        self.d_embeddings = torch.empty_like(self.embeddings)
        candidates = [largest >> halvings for halvings in range(4) if largest >> halvings]
        self.chunk = min(candidates, key=self._seconds)

    def _seconds(self, chunk: int) -> float:
        """Seconds for some classes in chunks of this size."""
        self.chunk, some = chunk, min(len(self.weight), 65536)
        return min(seconds_of(lambda: self._products(some), self.shape.device) for _ in range(3))

    def _products(self, count: int) -> None:
        e, size = self.embeddings, self.chunk
        for start in range(0, count, size):
            w = self.weight[start : start + size]  # (n, D)
            torch.mm(e, w.t(), out=self._block(len(w)))
        for start in range(0, count, size):
            w = self.weight[start : start + size]
            z = self._block(len(w))  # (B, n)
            torch.mm(e, w.t(), out=z)
            torch.mm(z.t(), e, out=self.d_weight[: len(w)])
            torch.mm(z, w, out=self.d_embeddings)

    def _block(self, width: int) -> Tensor:
        return self.logits[: len(self.embeddings) * width].view(-1, width)

    def step(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        self._products(len(self.weight))
        return torch.zeros(())

    def weights(self) -> Tensor:
        return self.weight


OURS: dict[str, Maker] = {
    "ours fp32": Ours,
    "ours fp32, unfused": partial(Ours, fused=False),
    "ours bf16 by device": by_device,
    "ours bf16": partial(Ours, precision=BF16),
    "ours bf16, unfused": partial(Ours, precision=BF16, fused=False),
    "ours bf16, bf16 weight": partial(Ours, precision=BF16, dtype=BF16),
    "ours fp32, rate 0.3": partial(Ours, rate=0.3),
    "ours fp32, rate 0.1": partial(Ours, rate=0.1),
    "ours softmax fp32": partial(Ours, margin="softmax"),
    "ours softmax bf16": partial(Ours, margin="softmax", precision=BF16),
}

FLOORS: dict[str, Maker] = {
    "products fp32": Floor,
    "products bf16": partial(Floor, dtype=BF16),
    "products fp32, rate 0.3": partial(Floor, rate=0.3),
    "products fp32, rate 0.1": partial(Floor, rate=0.1),
}
