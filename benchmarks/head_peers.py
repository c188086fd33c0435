"""The heads that others use, each with its optimizer."""

import importlib.util
import math
import sys
import warnings
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from head_contender import MARGIN, SCALE, Contender, Maker, NotRunError, Shape, arcface_cosine
from requirements import INSTALL


class TorchContender(Contender):
    """A loss on an ordinary weight, autograd, and torch.optim.SGD(fused=True).

    With `autocast` the forward pass runs under torch.autocast(bfloat16).
    """

    def __init__(self, shape: Shape, autocast: bool = False) -> None:
        self.shape, self.autocast = shape, autocast
        self.weight = self.make_weight()
        self.optimizer = torch.optim.SGD(
            [self.weight], lr=shape.lr, momentum=shape.momentum,
            weight_decay=shape.weight_decay, fused=True,
        )  # fmt: skip

    def make_weight(self) -> nn.Parameter:
        """The parameter, (C, D) unless `weights` says otherwise."""
        shape = self.shape
        values = torch.empty(shape.classes, shape.dim, device=shape.device)
        return nn.Parameter(values.normal_(0, 0.01))

    def weights(self) -> Tensor:
        return self.weight.detach()

    @abstractmethod
    def loss(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        """The mean loss."""

    def step(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        embeddings.grad = None
        self.optimizer.zero_grad()
        with torch.autocast(self.shape.device, torch.bfloat16, enabled=self.autocast):
            loss = self.loss(embeddings, classes)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


class PML(TorchContender):
    """ArcFaceLoss of pytorch-metric-learning, as released."""

    def make_weight(self) -> nn.Parameter:
        try:
            from pytorch_metric_learning.losses import ArcFaceLoss
        except ImportError:
            raise NotRunError(f"pytorch-metric-learning is not installed: {INSTALL}") from None
        shape = self.shape
        self.module = ArcFaceLoss(shape.classes, shape.dim, margin=MARGIN, scale=SCALE)
        self.module.to(shape.device)
        return self.module.W  # (D, C)

    def weights(self) -> Tensor:
        return self.weight.detach().t()

    def loss(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        return self.module(embeddings, classes)


class Eager(TorchContender):
    """A head by hand: normalise, linear, ArcFace in the true column, cross-entropy."""

    def loss(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        return eager_loss(embeddings, self.weight, classes)


def eager_loss(embeddings: Tensor, weight: Tensor, classes: Tensor) -> Tensor:
    """The mean ArcFace loss of (B, D) embeddings against a (C, D) weight."""
    cos = F.linear(F.normalize(embeddings), F.normalize(weight))  # (B, C)
    column = classes[:, None]
    target = arcface_cosine(cos.gather(1, column).float()).to(cos.dtype)
    return F.cross_entropy(cos.scatter(1, column, target) * SCALE, classes)


class Compiled(Eager):
    def __init__(self, shape: Shape, autocast: bool = False) -> None:
        if shape.device != "cuda":
            raise NotRunError("needs CUDA")
        super().__init__(shape, autocast)
        self.compiled = torch.compile(eager_loss)

    def loss(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        return self.compiled(embeddings, self.weight, classes)


class PartialFC(TorchContender):
    """insightface's PartialFC_V2 and ArcFace from the released files, in a process group of one.

    The files are run as they are, but for their `.cuda()` calls, which do nothing. Their margin
    has no derivative, and so has the reference that they are held against.
    """

    true_slope = False

    def __init__(self, shape: Shape, rate: float = 1.0) -> None:
        self.sample_rate = rate
        super().__init__(shape)

    def make_weight(self) -> nn.Parameter:
        shape = self.shape
        if shape.partial_fc is None:
            raise NotRunError("--partial-fc was not given")
        head = _released(Path(shape.partial_fc) / "partial_fc_v2.py")
        margin = _released(Path(shape.partial_fc) / "losses.py")
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group(
                "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
            )
        self.module = head.PartialFC_V2(
            margin.ArcFace(SCALE, math.radians(MARGIN)), shape.dim, shape.classes,
            self.sample_rate, False,
        )  # fmt: skip
        return self.module.weight

    def loss(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        return self.module(embeddings, classes)

    def sample(self, classes: Tensor) -> Tensor | None:
        return self.module.weight_index if self.sample_rate < 1 else None

    def step(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        with mock.patch.object(Tensor, "cuda", lambda tensor: tensor):
            return super().step(embeddings, classes)


def _released(file: Path) -> ModuleType:
    """A module from a file outside of the tree."""
    name = f"_released_{file.stem}"
    if name in sys.modules:
        return sys.modules[name]
    if not file.is_file():
        raise NotRunError(f"there is no {file}")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    # Theirs to mend: torch.cuda.amp.autocast is deprecated.
    warnings.filterwarnings("ignore", category=FutureWarning, module=name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[name] = module
    return module


class TorchLCE(TorchContender):
    """torch.nn.functional.linear_cross_entropy; `chunking` is "", "auto" or "one chunk"."""

    margin = "softmax"

    def __init__(self, shape: Shape, chunking: str = "", autocast: bool = False) -> None:
        if not hasattr(F, "linear_cross_entropy"):
            raise NotRunError(f"torch {torch.__version__} has no linear_cross_entropy")
        self.options = {}
        if chunking:
            if not hasattr(nn, "LinearCrossEntropyOptions"):
                raise NotRunError(f"torch {torch.__version__} has no LinearCrossEntropyOptions")
            one = {"batch_chunk_size": shape.batch, "chunking_method": None}
            options = nn.LinearCrossEntropyOptions(**(one if chunking == "one chunk" else {}))
            self.options = {"options": options}
        super().__init__(shape, autocast)

    def loss(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        weight = self.weight
        if self.autocast:  # the chunked path is no autocast operation
            embeddings, weight = embeddings.bfloat16(), weight.bfloat16()
        return F.linear_cross_entropy(embeddings, weight, classes, **self.options)


class Fused(TorchContender):
    """A fused linear cross-entropy of another package for CUDA, on bf16 copies."""

    margin = "softmax"

    def __init__(self, shape: Shape, load: Callable[[], Callable[..., Tensor]]) -> None:
        if shape.device != "cuda":
            raise NotRunError("needs CUDA")
        try:
            self.function = load()
        except ImportError as error:
            raise NotRunError(f"{error}; pip install liger-kernel cut-cross-entropy") from None
        super().__init__(shape)

    def loss(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        return self.function(embeddings.bfloat16(), self.weight.bfloat16(), classes)


def _liger() -> Callable[..., Tensor]:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    module = LigerFusedLinearCrossEntropyLoss()
    return lambda embeddings, weight, classes: module(weight, embeddings, classes)


def _cut() -> Callable[..., Tensor]:
    """Apple's, exact: no gradient is filtered out."""
    from cut_cross_entropy import linear_cross_entropy

    return partial(linear_cross_entropy, filter_eps=None)


PEERS: dict[str, Maker] = {
    "PML fp32": PML,
    "PML bf16": partial(PML, autocast=True),
    "eager fp32": Eager,
    "eager bf16": partial(Eager, autocast=True),
    "compiled fp32": Compiled,
    "compiled bf16": partial(Compiled, autocast=True),
    "PartialFC file": PartialFC,
    "PartialFC file, rate 0.3": partial(PartialFC, rate=0.3),
    "PartialFC file, rate 0.1": partial(PartialFC, rate=0.1),
    "torch LCE fp32": TorchLCE,
    "torch LCE fp32, options": partial(TorchLCE, chunking="auto"),
    "torch LCE fp32, one chunk": partial(TorchLCE, chunking="one chunk"),
    "torch LCE bf16": partial(TorchLCE, autocast=True),
    "torch LCE bf16, options": partial(TorchLCE, chunking="auto", autocast=True),
    "torch LCE bf16, one chunk": partial(TorchLCE, chunking="one chunk", autocast=True),
    "liger-kernel bf16": partial(Fused, load=_liger),
    "cut-cross-entropy bf16": partial(Fused, load=_cut),
}
"""Name -> maker. A maker raises `NotRunError` where the peer cannot run."""
