"""Class chunks: products of a batch with the weight, in chunks that fit the cache."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lookalike.losses.head_update import HeadUpdate

_CPU_CHUNK = 2048  # x B=128 floats = 1 MB: a chunk of logits stays in the L2 cache
_GPU_CHUNK_BYTES = 64 * 2**20  # large enough to fill the device, small next to the weight
_ROWS_OF_ANY = 512  # for which chunks are sized that all workers must have alike

CPU_LOGIT_CACHE = 0.035
"""Logits kept for the backward pass on a CPU, as a share of the bytes of weight and momentum.

With the buffers of the chunks less than a twentieth of these. None are kept on a GPU, where
products are cheap and memory is scarce."""


@dataclass(frozen=True)
class ChunkOptions:
    """Settings of a pass over the classes.

    Attributes:
        normalize: class weights count by their direction only.
        need_total: the sum of the logits is needed (label smoothing).
        need_length: the gradient of the classes' lengths is needed.
        centres: rows of the weight a class; the highest logit of them is the class's.
        chunk: classes at once; None for a default by device.
        precision: dtype of the products; None for that of the embeddings. Sums are never in less
            than float32.
    """

    normalize: bool
    need_total: bool = False
    need_length: bool = False
    centres: int = 1
    chunk: int | None = None
    precision: torch.dtype | None = None


def default_chunk(rows: int, weight: Tensor) -> int:
    """Rows of `weight` at once for a batch of `rows`, by its device."""
    if weight.device.type == "cpu":
        return _CPU_CHUNK
    return max(1024, _GPU_CHUNK_BYTES // (max(rows, 1) * 4))


def shared_chunk(weight: Tensor, centres: int) -> int:
    """Classes at once where each chunk is a collective: the same whatever a worker's batch."""
    return max(1, default_chunk(_ROWS_OF_ANY, weight) // centres)


class Chunks:
    """The products of one batch with the weight, chunk by chunk, each result in one buffer.

    Args:
        embeddings: (B, D).
        weight: (n * centres, D).
        classes: (B,) or (B, L) classes of each embedding, a number outside [0, n) for none.
        index: (m,) the classes that take part; None for all. `classes` are positions in it.
        update: owns the weight's current values; None where the weight holds them.
        workspace: keeps the buffers for the next batch.
    """

    def __init__(
        self,
        embeddings: Tensor,
        weight: Tensor,
        classes: Tensor,
        options: ChunkOptions,
        index: Tensor | None,
        update: HeadUpdate | None,
        workspace: dict[str, Tensor],
    ) -> None:
        self.embeddings, self.weight, self.classes = embeddings, weight, classes
        self.options = options
        self.index, self.update, self.workspace = index, update, workspace
        self.centres = options.centres
        self.count = len(weight) // self.centres if index is None else len(index)
        size = options.chunk or max(1, default_chunk(len(embeddings), weight) // self.centres)
        self.size = max(1, min(size, self.count))
        self.dtype = options.precision or embeddings.dtype
        self.narrow = self.dtype != embeddings.dtype
        self.direct = embeddings.device.type == "cuda"  # narrow products with wide results
        self.embeddings_in = embeddings.to(self.dtype)
        # Chunks with a true class in them. Reading them from a GPU would make the host wait.
        self._busy = None
        if embeddings.device.type == "cpu":
            self._busy = {number // self.size for number in classes.flatten().tolist()}

    def spans(self) -> list[slice]:
        """Classes, or positions in `index`, of each chunk."""
        starts = range(0, self.count, self.size)
        return [slice(start, min(start + self.size, self.count)) for start in starts]

    def row_span(self, span: slice) -> slice:
        """The rows of the weight (or of the sample of it) of a span of classes."""
        return slice(span.start * self.centres, span.stop * self.centres)

    def where(self, span: slice) -> slice | Tensor:
        """The rows of the whole weight of a span of classes."""
        if self.index is None:
            return self.row_span(span)
        return rows_of(self.index[span], self.centres)

    def read(self, where: slice | Tensor) -> Tensor:
        """These rows of the weight, (n * centres, D), as they are in this step."""
        return self.weight[where] if self.update is None else self.update.read(self.weight, where)

    def take(self, where: slice | Tensor) -> Tensor:
        """`read` of rows whose gradient comes next."""
        return self.weight[where] if self.update is None else self.update.take(self.weight, where)

    def operand(self, stored: Tensor) -> Tensor:
        """Rows of the weight in the dtype of the products."""
        if stored.dtype == self.dtype:
            return stored
        return self.buffer("operand", stored.shape, self.dtype).copy_(stored)

    def buffer(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A block of the buffer called `name`, which grows with the largest chunk so far."""
        count, held = math.prod(shape), self.workspace.get(name)
        if (
            held is None
            or len(held) < count
            or (held.dtype, held.device) != (dtype, self.embeddings.device)
        ):
            held = self.workspace[name] = self.embeddings.new_empty(count, dtype=dtype)
        return held[:count].view(*shape)

    def product(self, name: str, left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
        """`left @ right`, both in the dtype of the products; the result in the embeddings'.

        Written to `out`, or to the buffer called `name`.
        """
        shape = (len(left), right.shape[1])
        if out is None:
            out = self.buffer(name, shape, self.embeddings.dtype)
        if not self.narrow:
            return torch.mm(left, right, out=out)
        if self.direct:
            return torch.mm(left, right, out_dtype=out.dtype, out=out)
        narrow = self.buffer(f"narrow {name}", shape, self.dtype)
        return out.copy_(torch.mm(left, right, out=narrow))

    def products(self, operand: Tensor, out: Tensor | None = None) -> Tensor:
        """Products of the batch and rows of the weight, (B, n * centres)."""
        return self.product("products", self.embeddings_in, operand.t(), out)

    def column(self, span: slice) -> Tensor | None:
        """Columns of the true classes in a span, outside it where they are in another chunk.

        None where that is certain for all rows.
        """
        if self._busy is not None and span.start // self.size not in self._busy:
            return None
        return self.classes - span.start


def rows_of(classes: Tensor, centres: int) -> Tensor:
    """The rows of the weight of `classes` (n,), (n * centres,)."""
    if centres == 1:
        return classes
    inner = torch.arange(centres, device=classes.device)
    return (classes[:, None] * centres + inner).flatten()


class LogitCache:
    """The products of the first chunks, kept from the forward pass for the backward pass.

    To compute a product again costs D multiplications; to keep it costs memory. Where memory
    traffic is cheap next to arithmetic, as on a CPU, a few per cent of the weight's bytes save a
    part of the products. The results are the same.
    """

    def __init__(self, chunks: Chunks, needed: bool) -> None:
        embeddings, weight, self.centres = chunks.embeddings, chunks.weight, chunks.centres
        self.workspace, self.batch = chunks.workspace, len(embeddings)
        budget = 0
        if needed and weight.device.type == "cpu":
            budget = int(CPU_LOGIT_CACHE * 2 * weight.numel() * weight.element_size())
        room = budget // max(1, self.batch * self.centres * embeddings.element_size())
        # Whole chunks only.
        self.classes = min(room // chunks.size * chunks.size, chunks.count)
        size = self.classes * self.centres * self.batch
        # Taken out of the workspace: another forward pass may come before our backward pass.
        held = self.workspace.pop("cached logits", None)
        if held is None or len(held) < size or held.dtype != embeddings.dtype:
            held = embeddings.new_empty(size)
        self.held = held

    def take(self, span: slice) -> Tensor | None:
        """Memory for the products (B, n * centres) of a chunk, None where there is none.

        The forward pass writes them, and the backward pass uses them once.
        """
        if span.stop > self.classes:
            return None
        each = self.batch * self.centres
        return self.held[span.start * each : span.stop * each].view(self.batch, -1)

    def give_back(self) -> None:
        """Leave the memory to the next forward pass."""
        self.workspace["cached logits"] = self.held
