"""How to go through the classes: chunks that fit the cache, and the memory used on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

_CPU_CHUNK = 2048  # x B=128 floats = 1 MB: a chunk of logits stays in the L2 cache
CPU_STASH = 0.035  # with the buffers of the chunks less than a twentieth of weight and momentum
_GPU_CHUNK_BYTES = 64 * 2**20  # large enough to fill the device, small next to the weight
_ROWS_OF_ANY = 512  # for which chunks are sized that all workers must have alike


class Update(Protocol):
    """Reads rows of the weight, and changes them as soon as their gradient is there."""

    def defer(self, work: Callable[[], None]) -> None:
        """Call `work`, which takes and uses all rows, once the step is known to be finite."""

    def read(self, weight: Tensor, where: slice | Tensor) -> Tensor:
        """The rows `where` as they are in this step, (n, D); not to be written to."""

    def take(self, weight: Tensor, where: slice | Tensor) -> Tensor:
        """The same, of rows whose `use` comes next."""

    def use(self, weight: Tensor, where: slice | Tensor, gradient: Tensor) -> None:
        """Use the gradient (n, D) of the rows `where`; it may be overwritten."""


@dataclass(frozen=True)
class Walk:
    """How to walk over the classes.

    Attributes:
        normalize: whether the classes count by their direction only.
        need_total: whether the sum of the logits is wanted (label smoothing).
        centres: rows of the weight a class; the highest logit of them is the class's.
        chunk: classes at once; None for a default by device.
        precision: dtype of the products; None for that of the embeddings. Sums are never in less
            than float32.
        need_length: whether the gradient of the classes' lengths is wanted.
        stash: bytes of products that may wait for the backward pass instead of being made again.
    """

    normalize: bool
    need_total: bool = False
    centres: int = 1
    chunk: int | None = None
    precision: torch.dtype | None = None
    need_length: bool = False
    stash: int = 0


def stash_bytes(share: float | None, weight: Tensor) -> int:
    """Bytes of logits that may wait for the backward pass.

    Args:
        share: of the bytes of weight and momentum; None for a default by device.
        weight: (n * centres, D).
    """
    if share is None:
        # Products are cheap on a GPU, and its memory is dear.
        share = CPU_STASH if weight.device.type == "cpu" else 0
    return int(share * 2 * weight.numel() * weight.element_size())


def default_chunk(rows: int, weight: Tensor) -> int:
    """How many rows of `weight` to take at once for a batch of `rows`, by its device."""
    if weight.device.type == "cpu":
        return _CPU_CHUNK
    return max(1024, _GPU_CHUNK_BYTES // (max(rows, 1) * 4))


def shared_chunk(weight: Tensor, centres: int) -> int:
    """Classes at once where each chunk is a collective: the same on all workers.

    These may hold different numbers of rows, of which the usual size of a chunk depends.
    """
    return max(1, default_chunk(_ROWS_OF_ANY, weight) // centres)


class Chunks:
    """The products of one batch with the weight, chunk by chunk, each result in one buffer.

    Args:
        rows: (B, D) embeddings.
        weight: (n * centres, D).
        classes: (B,) class of each embedding, a number outside [0, n) for none.
        walk: how to walk.
        index: (m,) the classes that take part; None for all. `classes` are positions in it.
        update: keeps the weight; None where nobody but us does.
        workspace: keeps the buffers for the next batch.
    """

    def __init__(
        self,
        rows: Tensor,
        weight: Tensor,
        classes: Tensor,
        walk: Walk,
        index: Tensor | None,
        update: Update | None,
        workspace: dict[str, Tensor],
    ) -> None:
        self.rows, self.weight, self.classes, self.walk = rows, weight, classes, walk
        self.index, self.update, self.workspace = index, update, workspace
        self.count = len(weight) // walk.centres if index is None else len(index)
        size = walk.chunk or max(1, default_chunk(len(rows), weight) // walk.centres)
        self.size = max(1, min(size, self.count))
        self.dtype = walk.precision or rows.dtype
        self.narrow = self.dtype != rows.dtype
        self.direct = rows.device.type == "cuda"  # narrow products with wide results
        self.rows_in = rows.to(self.dtype)
        # Chunks with a true class in them. To ask a device would make the host wait.
        self._busy = None
        if rows.device.type == "cpu":
            self._busy = {number // self.size for number in classes.tolist()}

    def spans(self) -> list[slice]:
        """Classes, or positions in `index`, of each chunk."""
        starts = range(0, self.count, self.size)
        return [slice(start, min(start + self.size, self.count)) for start in starts]

    def row_span(self, span: slice) -> slice:
        """The rows of the weight (or of the sample of it) that belong to a span of classes."""
        return slice(span.start * self.walk.centres, span.stop * self.walk.centres)

    def where(self, span: slice) -> slice | Tensor:
        """The rows of the weight in a span, for an update."""
        if self.index is None:
            return self.row_span(span)
        return rows_of(self.index[span], self.walk.centres)

    def read(self, where: slice | Tensor) -> Tensor:
        """These rows of the weight, (n * centres, D), as they are in this step."""
        return self.weight[where] if self.update is None else self.update.read(self.weight, where)

    def take(self, where: slice | Tensor) -> Tensor:
        """The same, of rows whose gradient comes next."""
        return self.weight[where] if self.update is None else self.update.take(self.weight, where)

    def operand(self, stored: Tensor) -> Tensor:
        """The same in the dtype of the products."""
        if stored.dtype == self.dtype:
            return stored
        return self.buffer("operand", stored.shape, self.dtype).copy_(stored)

    def buffer(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A block of the buffer called `name`, which grows with the largest chunk so far."""
        count, held = math.prod(shape), self.workspace.get(name)
        if (
            held is None
            or len(held) < count
            or (held.dtype, held.device) != (dtype, self.rows.device)
        ):
            held = self.workspace[name] = self.rows.new_empty(count, dtype=dtype)
        return held[:count].view(*shape)

    def product(self, name: str, left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
        """`left @ right`, both in the dtype of the products, as wide as the embeddings.

        Written to `out`, or to the buffer called `name`.
        """
        shape = (len(left), right.shape[1])
        if out is None:
            out = self.buffer(name, shape, self.rows.dtype)
        if not self.narrow:
            return torch.mm(left, right, out=out)
        if self.direct:
            return torch.mm(left, right, out_dtype=out.dtype, out=out)
        narrow = self.buffer(f"narrow {name}", shape, self.dtype)
        return out.copy_(torch.mm(left, right, out=narrow))

    def products(self, operand: Tensor, out: Tensor | None = None) -> Tensor:
        """Of the batch and rows of the weight, (B, n * centres), written to `out` or a buffer."""
        return self.product("products", self.rows_in, operand.t(), out)

    def column(self, span: slice) -> Tensor | None:
        """(B,) column of the true class within a span, outside it where it is elsewhere.

        None where that is known of all of them.
        """
        if self._busy is not None and span.start // self.size not in self._busy:
            return None
        return self.classes - span.start


def rows_of(classes: Tensor, centres: int) -> Tensor:
    """The rows of the weight that belong to `classes` (n,), (n * centres,)."""
    if centres == 1:
        return classes
    inner = torch.arange(centres, device=classes.device)
    return (classes[:, None] * centres + inner).flatten()


class Stash:
    """The products of the first chunks, as many as a budget allows.

    To make a product again costs D multiplications; to keep it costs memory. Where memory traffic
    is cheap next to arithmetic, as on a CPU, a few per cent of the weight's bytes save a part of
    the products.
    """

    def __init__(self, chunks: Chunks, budget: int) -> None:
        rows, self.centres = chunks.rows, chunks.walk.centres
        self.workspace, self.batch = chunks.workspace, len(rows)
        room = budget // max(1, self.batch * self.centres * rows.element_size())
        # Whole chunks only.
        self.classes = min(room // chunks.size * chunks.size, chunks.count)
        size = self.classes * self.centres * self.batch
        # Taken out of the workspace: another forward pass may come before our backward pass.
        held = self.workspace.pop("stash", None)
        if held is None or len(held) < size or held.dtype != rows.dtype:
            held = rows.new_empty(size)
        self.held = held

    def take(self, span: slice) -> Tensor | None:
        """Room for the products (B, n * centres) of a chunk, None where there is none.

        The forward pass writes them, and the backward pass uses them once.
        """
        if span.stop > self.classes:
            return None
        each = self.batch * self.centres
        return self.held[span.start * each : span.stop * each].view(self.batch, -1)

    def give_back(self) -> None:
        """Leave the memory to the next forward pass."""
        self.workspace["stash"] = self.held
