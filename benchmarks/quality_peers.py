"""The peers of `quality.py`: the loop that a user of timm and pytorch-metric-learning would write.

timm's backbone with its own pooling, one linear layer to the embedding, a loss of
pytorch-metric-learning with its parameters in the same optimizer, a cosine schedule. Batches come
from lookalike's loader, so that every method sees the same decoded and cropped pixels.

`PUBLISHED` has each loss at its published setting. Where a paper fine-tunes only, the learning
rate from scratch is ours, 1e-3 of Adam; and all follow one cosine, as the published steps are of
other lengths. docs/quality.md lists the sources.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from pytorch_metric_learning import losses, miners
from torch import Tensor, nn

from lookalike.data.augmentations.training_crop import Augment
from lookalike.data.catalog import Catalog
from lookalike.data.loading.batch import Batch
from lookalike.data.loading.image_source import Source
from lookalike.data.loading.train_loader import TrainLoader
from lookalike.data.samplers import Sampling
from lookalike.model.backbone import preprocess_of
from lookalike.model.batchnorm import freeze_statistics
from lookalike.model.pretrained import load_into, read_weights

DIM = 512

LOSSES: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "arcface": (losses.ArcFaceLoss, ("margin", "scale")),
    "cosface": (losses.CosFaceLoss, ("margin", "scale")),
    "subcenter_arcface": (losses.SubCenterArcFaceLoss, ("margin", "scale", "sub_centers")),
    "proxy_anchor": (losses.ProxyAnchorLoss, ("margin", "alpha")),
    "soft_triple": (losses.SoftTripleLoss, ("la", "gamma", "margin", "centers_per_class")),
    "normalized_softmax": (losses.NormalizedSoftmaxLoss, ("temperature",)),
}
"""Losses of pytorch-metric-learning with class weights, and the options that may be set."""

MULTI_SIMILARITY = ("alpha", "beta", "base", "epsilon")
CROSS_ENTROPY = ("label_smoothing",)


@dataclass(frozen=True)
class PeerSettings:
    """Everything that one peer's loop depends on, beside the data and the length.

    Attributes:
        loss: a key of `LOSSES`, or multi_similarity, or cross_entropy.
        options: of the loss, and of its miner.
        optimizer: sgd (momentum 0.9), adam or adamw.
        lr: of the embedding layer.
        backbone_lr_factor: of the backbone's rate, relative to `lr`.
        loss_lr_factor: of the rate of class weights, relative to `lr`.
        weight_decay: of all parameters, as torch's optimizers apply it by default.
        pooling: timm's `global_pool`.
        flip: probability of a mirror image.
        min_crop: smallest area of a random resized crop.
        crop_pct: of evaluation; None for timm's.
        warmup: share of the steps over which the rate rises.
        clip_value: largest absolute value of a gradient's element; 0 is off.
        eps: of adam and adamw.
        freeze_batchnorm: keep pretrained statistics.
        head_epochs: first epochs, in which the backbone rests.
        images_per_class: of a class in a batch; None to shuffle.
        batch_size: in place of the regime's.
    """

    loss: str
    options: Mapping[str, float] = field(default_factory=dict)
    optimizer: str = "adamw"
    lr: float = 1e-3
    backbone_lr_factor: float = 1.0
    loss_lr_factor: float = 1.0
    weight_decay: float = 1e-4
    pooling: str = "avg"
    flip: float = 0.5
    min_crop: float = 0.2
    crop_pct: float | None = None
    warmup: float = 0.0
    clip_value: float = 0.0
    eps: float = 1e-8
    freeze_batchnorm: bool = False
    head_epochs: int = 0
    images_per_class: int | None = None
    batch_size: int | None = None

    def changed(self, values: Mapping[str, Any]) -> PeerSettings:
        """With other values of fields or of the loss's options, by name.

        Raises:
            ValueError: neither has this name.
        """
        own = {each.name for each in fields(self)} - {"loss", "options"}
        known = option_names(self.loss)
        if wrong := [name for name in values if name not in own and name not in known]:
            raise ValueError(
                f"{wrong[0]!r} is no setting of {self.loss}; there are"
                f" {', '.join([*known, *sorted(own)])}"
            )
        options = {name: value for name, value in values.items() if name in known}
        direct = {name: value for name, value in values.items() if name not in known}
        return replace(self, options={**self.options, **options}, **direct)


def option_names(loss: str) -> tuple[str, ...]:
    others = {"multi_similarity": MULTI_SIMILARITY, "cross_entropy": CROSS_ENTROPY}
    return others[loss] if loss in others else LOSSES[loss][1]


_FACES = {"optimizer": "sgd", "lr": 0.1 * 64 / 512, "weight_decay": 5e-4}
"""Of ArcFace, CosFace and sub-centre ArcFace: 0.1 for 512 images a step."""

PUBLISHED: dict[str, tuple[PeerSettings, Mapping[str, Any]]] = {
    "pml_arcface": (
        PeerSettings("arcface", {"margin": 28.6, "scale": 64}, **_FACES),
        {},
    ),
    "pml_cosface": (
        PeerSettings("cosface", {"margin": 0.35, "scale": 64}, **_FACES),
        {},
    ),
    "pml_subcenter_arcface": (
        PeerSettings(
            "subcenter_arcface", {"margin": 28.6, "scale": 64, "sub_centers": 3}, **_FACES
        ),
        {},
    ),
    "pml_proxy_anchor": (
        PeerSettings(
            "proxy_anchor",
            {"margin": 0.1, "alpha": 32},
            lr=1e-3,
            loss_lr_factor=10,
            pooling="avgmax",
            clip_value=10,
        ),
        {"lr": 1e-4, "loss_lr_factor": 100, "freeze_batchnorm": True, "head_epochs": 1},
    ),
    "pml_multi_similarity": (
        PeerSettings(
            "multi_similarity",
            {"alpha": 2, "beta": 50, "base": 0.5, "epsilon": 0.1},
            optimizer="adam",
            lr=1e-3,
            weight_decay=5e-4,
            images_per_class=4,
        ),
        {"lr": 3e-5, "freeze_batchnorm": True},
    ),
    "pml_soft_triple": (
        PeerSettings(
            "soft_triple",
            {"la": 20, "gamma": 0.1, "margin": 0.01, "centers_per_class": 10},
            optimizer="adam",
            lr=1e-3,
            loss_lr_factor=10,
            eps=0.01,
        ),
        {"lr": 1e-4, "loss_lr_factor": 100, "freeze_batchnorm": True},
    ),
    "normface16": (
        PeerSettings(
            "normalized_softmax", {"temperature": 1 / 16}, optimizer="adam", weight_decay=1e-6
        ),
        {"backbone_lr_factor": 0.01},
    ),
    "cross_entropy": (
        PeerSettings("cross_entropy", {"label_smoothing": 0.0}, optimizer="sgd", lr=0.1 * 64 / 256),
        {"lr": 0.01},
    ),
}
"""Settings from scratch, and what differs from pretrained weights."""


def published(method: str, *, pretrained: bool) -> PeerSettings:
    settings, fine_tuning = PUBLISHED[method]
    return settings.changed(fine_tuning) if pretrained else settings


class PeerNetwork(nn.Module):
    """timm's backbone, its pooling, and a linear layer.

    Attributes:
        preprocess: of evaluation, as lookalike does it for this backbone.
    """

    def __init__(
        self, backbone: str, weights: str | None, image_size: int, settings: PeerSettings
    ) -> None:
        super().__init__()
        self.backbone: Any = timm.create_model(
            backbone, pretrained=False, num_classes=0, global_pool=settings.pooling
        )
        if weights is not None:
            load_into(self.backbone, read_weights(weights), weights)
        self.embedding = nn.Linear(self.backbone.num_features, DIM)
        data = timm.data.resolve_model_data_config(self.backbone)
        self.preprocess = preprocess_of(data, image_size, settings.crop_pct)

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings (B, D) of uint8 images (B, 3, S, S)."""
        return self.embedding(self.backbone(self.preprocess.normalise(images)))

    @torch.inference_mode()
    def unit(self, images: Tensor) -> Tensor:
        self.eval()
        return F.normalize(self(images), dim=1)


class PeerLoss(nn.Module):
    """A loss by name, with its class weights and its miner."""

    def __init__(self, settings: PeerSettings, num_classes: int) -> None:
        super().__init__()
        options = dict(settings.options)
        self.name = settings.loss
        self.miner: nn.Module | None = None
        if self.name == "cross_entropy":
            self.classifier = nn.Linear(DIM, num_classes)
            self.loss: nn.Module = nn.CrossEntropyLoss(**options)
        elif self.name == "multi_similarity":
            self.miner = miners.MultiSimilarityMiner(epsilon=options.pop("epsilon"))
            self.loss = losses.MultiSimilarityLoss(**options)
        else:
            self.loss = LOSSES[self.name][0](num_classes=num_classes, embedding_size=DIM, **options)

    def forward(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        """The loss of embeddings (B, D) with classes (B,)."""
        if self.name == "cross_entropy":
            return self.loss(self.classifier(embeddings), classes)
        if self.miner is None:
            return self.loss(embeddings, classes)
        return self.loss(embeddings, classes, self.miner(embeddings, classes))


class Diverged(Exception):
    """The loss is not finite."""


@dataclass(frozen=True)
class Schedule:
    """The factor of the learning rate: a rise over `warmup` steps, then a cosine to 0."""

    total: int
    warmup: int

    def at(self, step: int) -> float:
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.total - self.warmup)
        return (1 + math.cos(math.pi * done)) / 2


def train_peer(
    settings: PeerSettings,
    catalog: Catalog,
    *,
    backbone: str,
    weights: str | None,
    image_size: int,
    epochs: float,
    batch_size: int,
    seed: int,
    threads: int,
    max_steps: int | None = None,
) -> tuple[PeerNetwork, int]:
    """Train, and return the network and the number of images that it saw.

    Raises:
        Diverged: the loss is not finite.
    """
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # pytorch-metric-learning draws from it
    network = PeerNetwork(backbone, weights, image_size, settings)
    network.to(memory_format=torch.channels_last)
    loss = PeerLoss(settings, len(catalog.classes))
    if settings.batch_size is not None:
        batch_size = settings.batch_size
    loader = _loader(settings, catalog, network, image_size, batch_size, seed, threads)
    total = max(1, round(epochs * loader.steps_per_epoch))
    total = total if max_steps is None else min(total, max_steps)
    schedule = Schedule(total, round(settings.warmup * total))
    optimizer = _optimizer(settings, network, loss)
    rates = [group["lr"] for group in optimizer.param_groups]
    resting = settings.head_epochs * loader.steps_per_epoch
    seen = 0
    for step, batch in zip(range(total), _batches(loader), strict=False):
        network.train()
        # Of a short run the backbone does not rest longer than a fifth.
        rests = step < min(resting, total // 5)
        network.backbone.requires_grad_(not rests)
        if settings.freeze_batchnorm or rests:
            freeze_statistics(network.backbone)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * schedule.at(step)
        value = loss(network(batch.images), batch.classes)
        if not torch.isfinite(value):
            raise Diverged(f"the loss is {value.item()} in step {step + 1} of {total}")
        optimizer.zero_grad()
        value.backward()
        if settings.clip_value:
            nn.utils.clip_grad_value_(network.parameters(), settings.clip_value)
            nn.utils.clip_grad_value_(loss.parameters(), settings.clip_value)
        optimizer.step()
        seen += len(batch.classes)
    return network, seen


def _loader(
    settings: PeerSettings,
    catalog: Catalog,
    network: PeerNetwork,
    image_size: int,
    batch_size: int,
    seed: int,
    threads: int,
) -> TrainLoader:
    sampling = Sampling()
    if settings.images_per_class is not None:
        sampling = Sampling("pk", images_per_class=settings.images_per_class)
    return TrainLoader(
        catalog,
        batch_size=batch_size,
        augment=Augment(
            image_size,
            crop_scale=(settings.min_crop, 1.0),
            flip=settings.flip,
            interpolation=network.preprocess.interpolation,
        ),
        seed=seed,
        source=Source(threads=threads),
        sampling=sampling,
    )


def _batches(loader: TrainLoader) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1


def _optimizer(
    settings: PeerSettings, network: PeerNetwork, loss: PeerLoss
) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = [
        {
            "params": list(network.backbone.parameters()),
            "lr": settings.lr * settings.backbone_lr_factor,
        },
        {"params": list(network.embedding.parameters()), "lr": settings.lr},
    ]
    if weights := list(loss.parameters()):
        groups.append({"params": weights, "lr": settings.lr * settings.loss_lr_factor})
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=settings.lr, momentum=0.9, weight_decay=settings.weight_decay
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
    return kind(groups, lr=settings.lr, weight_decay=settings.weight_decay, eps=settings.eps)
