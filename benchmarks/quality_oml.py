"""open-metric-learning's own trainer, a peer of `quality.py`, in an environment of its own.

    PYTHON benchmarks/quality_oml.py JOB.json

OML needs NumPy below 2, so this program imports neither lookalike nor anything else of the study.
It trains with OML's data set, sampler, loss and Lightning module, embeds the test images that the
study has prepared, and writes vectors; the study measures them.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

DIM = 512


@dataclass(frozen=True)
class OmlSettings:
    """Settings of OML's pipeline.

    Attributes:
        loss: triplet, of the hardest of a batch, or arcface.
        margin: a distance of the triplet, radians of arcface.
        scale: of arcface.
        lr: of Adam, without a schedule, for backbone, embedding and class weights.
        weight_decay: of Adam.
        images_per_class: of OML's balanced sampler; None to shuffle.
        normalise: embeddings have unit length in training.
        flip: probability of a mirror image.
        min_crop: smallest area of a random resized crop.
        crop_pct: of evaluation; None for timm's.
    """

    loss: str
    margin: float
    scale: float = 64.0
    lr: float = 1e-3
    weight_decay: float = 0.0
    images_per_class: int | None = None
    normalise: bool = False
    flip: float = 0.5
    min_crop: float = 0.2
    crop_pct: float | None = None

    def changed(self, values: Mapping[str, Any]) -> OmlSettings:
        """With other values, by name.

        Raises:
            ValueError: there is no such setting.
        """
        known = sorted({each.name for each in fields(self)} - {"loss"})
        if wrong := [name for name in values if name not in known]:
            raise ValueError(f"{wrong[0]!r} is no setting of OML; there are {', '.join(known)}")
        return replace(self, **values)


OML: dict[str, tuple[OmlSettings, Mapping[str, Any]]] = {
    "oml_triplet": (
        OmlSettings("triplet", margin=0.15, images_per_class=4, normalise=True),
        {"lr": 1e-5},
    ),
    "oml_arcface": (OmlSettings("arcface", margin=0.4), {"lr": 1e-5}),
}
"""Settings from scratch, where only the learning rate is not OML's, and what differs pretrained."""


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps(run_job(job)), file=sys.stderr)


def run_job(job: Mapping[str, Any]) -> dict[str, Any]:
    """Train and embed; write the vectors, and the facts of the training."""
    import numpy as np
    import torch
    from oml.utils.misc import set_global_seed

    # Importing takes seconds, which are not of the training.
    for name in ("oml.lightning.modules.extractor", "pandas", "timm"):
        importlib.import_module(name)
    torch.set_num_threads(job["threads"])
    set_global_seed(job["seed"])
    settings = OmlSettings(**job["settings"])
    wall, cpu = time.perf_counter(), time.process_time()
    extractor, images, finite = train(settings, job)
    facts = {
        "seconds": round(time.perf_counter() - wall, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "images": images,
        "finite": finite,
    }
    pixels = np.load(job["test_pixels"], mmap_mode="r", allow_pickle=False)  # (N, 3, S, S) uint8
    mean, std = (torch.tensor(job[key]).view(3, 1, 1) for key in ("mean", "std"))
    extractor.eval()
    vectors = []
    with torch.inference_mode():
        for begin in range(0, len(pixels), 64):
            images_ = torch.from_numpy(np.array(pixels[begin : begin + 64])).float() / 255
            vectors.append(extractor.extract((images_ - mean) / std).numpy())
    found = np.concatenate(vectors)
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    np.save(job["vectors"], found.astype(np.float32))
    Path(job["facts"]).write_text(json.dumps(facts))
    return facts


def train(settings: OmlSettings, job: Mapping[str, Any]) -> tuple[Any, int, bool]:
    """The trained extractor, the images that it saw, and whether its weights are finite."""
    import pandas as pd
    import pytorch_lightning as pl
    import torch
    from oml.datasets.images import ImageLabeledDataset
    from oml.lightning.modules.extractor import ExtractorModule
    from oml.losses.arcface import ArcFaceLoss
    from oml.losses.triplet import TripletLossWithMiner
    from oml.miners.inbatch_hard_tri import HardTripletsMiner
    from oml.samplers.balance import BalanceSampler
    from torch.utils.data import DataLoader

    frame = pd.DataFrame(job["train"], columns=["path", "label"])
    if settings.images_per_class is not None:  # its sampler takes no class of one image
        frame = frame[frame.groupby("label")["path"].transform("size") > 1].reset_index(drop=True)
    frame["label"] = pd.factorize(frame["label"])[0]
    frame["split"] = "train"
    classes = int(frame["label"].max()) + 1
    dataset = ImageLabeledDataset(frame, transform=_transforms(settings, job))
    size, share = job["batch_size"], settings.images_per_class
    if share is None:
        loader = DataLoader(dataset, batch_size=size, shuffle=True, drop_last=True)
    else:
        labels = min(size // share, classes)
        sampler = BalanceSampler(dataset.get_labels(), n_labels=labels, n_instances=share)
        loader = DataLoader(dataset, batch_sampler=sampler)
        size = labels * share
    extractor = _extractor(settings, job)
    if settings.loss == "arcface":
        criterion = ArcFaceLoss(DIM, classes, m=settings.margin, s=settings.scale)
    else:
        criterion = TripletLossWithMiner(margin=settings.margin, miner=HardTripletsMiner())
    optimizer = torch.optim.Adam(
        [*extractor.parameters(), *criterion.parameters()],
        lr=settings.lr,
        weight_decay=settings.weight_decay,
    )
    module = ExtractorModule(extractor, criterion, optimizer)
    steps = max(1, round(job["epochs"] * len(job["train"]) / job["batch_size"]))
    steps = steps if job["max_steps"] is None else min(steps, job["max_steps"])
    trainer = pl.Trainer(
        max_epochs=-1,
        max_steps=steps,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=job["folder"],
    )
    trainer.fit(module, train_dataloaders=loader)
    finite = all(bool(torch.isfinite(each).all()) for each in extractor.parameters())
    return extractor, trainer.global_step * size, finite


def _transforms(settings: OmlSettings, job: Mapping[str, Any]) -> Any:
    from torchvision import transforms as t

    crop = t.RandomResizedCrop(
        job["image_size"],
        scale=(settings.min_crop, 1.0),
        interpolation=t.InterpolationMode(job["interpolation"]),
    )
    normal = t.Normalize(mean=job["mean"], std=job["std"])
    return t.Compose([crop, t.RandomHorizontalFlip(settings.flip), t.ToTensor(), normal])


def _extractor(settings: OmlSettings, job: Mapping[str, Any]) -> Any:
    """Timm's backbone and a linear layer, as OML takes models of its user."""
    import timm
    import torch
    from oml.interfaces.models import IExtractor
    from safetensors.torch import load_file

    class TimmExtractor(IExtractor):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = timm.create_model(job["backbone"], pretrained=False, num_classes=0)
            if job["weights"] is not None:
                own = self.backbone.state_dict()
                tensors = load_file(job["weights"])
                self.backbone.load_state_dict({name: tensors[name] for name in own})
            self.embedding = torch.nn.Linear(self.backbone.num_features, DIM)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            found = self.embedding(self.backbone(images))
            return torch.nn.functional.normalize(found) if settings.normalise else found

        @property
        def feat_dim(self) -> int:
            return DIM

    return TimmExtractor()


if __name__ == "__main__":
    main()
