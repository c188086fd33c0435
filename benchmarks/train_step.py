"""Our training step against the loop that a user would write today, side by side in one run.

    python benchmarks/train_step.py [--backbone resnet18] [--size 112] [--rounds 9]

The other loop: timm's model, torchvision's transforms in a DataLoader, PML's ArcFaceLoss, and
torch's SGD. Same architecture, batch, precision, learning rate, images and threads; the two take
turns, and a ratio is that of two neighbours in time, so that a noisy machine slows both.

Two figures: the step alone, on batches that lie in memory; and end to end, from JPEG files on
the disk (photographs of scikit-learn, cut and resized to 375 x 500).
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from requirements import require

require("pytorch_metric_learning")
from pytorch_metric_learning.losses import ArcFaceLoss

from lookalike.data.augmentations.training_crop import Augment
from lookalike.data.catalog import Catalog, open_catalog
from lookalike.data.loading.bad_images import BadImages
from lookalike.data.loading.batch import Batch
from lookalike.data.loading.image_source import Source
from lookalike.data.loading.train_loader import TrainLoader
from lookalike.distributed.world import World
from lookalike.losses import create_margin
from lookalike.losses.head import Head
from lookalike.model.embedder import Embedder
from lookalike.model.training_network import TrainingNetwork
from lookalike.training.checkpoint import Trained
from lookalike.training.learning_rate import set_lr
from lookalike.training.loss_scaler import LossScaler
from lookalike.training.optimizer import create_optimizer, parameter_groups
from lookalike.training.step import TrainStep

DIM = 512
LR = 0.01


class Photos(Dataset):
    """Input path as users write it: a list of paths, PIL, transforms."""

    def __init__(self, catalog: Catalog, size: int, mean, std) -> None:
        self.catalog = catalog
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(size, scale=(0.2, 1.0)),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(mean, std),
            ]
        )

    def __len__(self) -> int:
        return len(self.catalog)

    def __getitem__(self, row: int):
        image = Image.open(self.catalog.records[row].uri).convert("RGB")
        return self.transform(image), int(self.catalog.class_ids[row])


class PlainLoop:
    """timm + PML + torch.optim, as their examples show."""

    def __init__(self, backbone: str, num_classes: int) -> None:
        self.model = timm.create_model(backbone, num_classes=DIM)
        self.loss = ArcFaceLoss(num_classes, DIM)
        parameters = [*self.model.parameters(), *self.loss.parameters()]
        self.optimizer = torch.optim.SGD(parameters, lr=LR, momentum=0.9, weight_decay=1e-4)
        self.model.train()

    def step(self, images: torch.Tensor, classes: torch.Tensor) -> float:
        """Do a step; returns the loss."""
        self.optimizer.zero_grad()
        loss = self.loss(self.model(images), classes)
        loss.backward()
        self.optimizer.step()
        return loss.item()


class OurLoop:
    """The program's own step."""

    def __init__(self, backbone: str, size: int, num_classes: int) -> None:
        embedder = Embedder.create(
            backbone, pretrained=False, image_size=size, embedding_dim=DIM, pooling="avg"
        )
        network = TrainingNetwork(embedder, None)
        if embedder.backbone.is_convolutional:
            network.to(memory_format=torch.channels_last)
        head = Head(DIM, num_classes, create_margin("arcface"))
        groups = parameter_groups(
            network, [head], weight_decay=1e-4, backbone_prefix="embedder.backbone."
        )
        optimizer = create_optimizer("sgd", groups, momentum=0.9)
        set_lr(optimizer, LR)
        trained = Trained(network, {"metric": head}, optimizer, LossScaler(enabled=False), None)
        self.preprocess = embedder.preprocess
        self.run = TrainStep(trained, loss_weights={"metric": 1.0}, world=World(), seed=0)
        self.run.prepare(frozen=False)
        self.steps = 0

    def step(self, batch: Batch) -> float:
        """Do a step; returns the loss."""
        self.steps += 1
        return self.run(batch, self.steps).losses["loss"]


def make_photos(folder: Path, count: int, num_classes: int) -> Path:
    """`count` JPEGs of 375 x 500 cut from real photographs, and their list."""
    rng = np.random.default_rng(0)
    sources = [Image.fromarray(image) for image in load_sample_images().images]
    lines = []
    for number in range(count):
        source = sources[number % len(sources)]
        width = int(rng.integers(300, source.width))
        height = width * 375 // 500
        x = int(rng.integers(0, source.width - width + 1))
        y = int(rng.integers(0, max(source.height - height, 0) + 1))
        cut = source.crop((x, y, x + width, y + height)).resize(
            (500, 375), Image.Resampling.BICUBIC
        )
        cut.save(folder / f"{number}.jpg", quality=90)
        lines.append(f"{number}.jpg {number % num_classes}\n")
    (folder / "list.txt").write_text("".join(lines))
    return folder / "list.txt"


def rate(work: Callable[[], int]) -> float:
    """Images a second of `work`, which says how many it did."""
    began = time.perf_counter()
    images = work()
    return images / (time.perf_counter() - began)


def duel(name: str, ours: Callable[[], int], theirs: Callable[[], int], rounds: int) -> None:
    """Take turns, and print the rates and the median of paired ratios."""
    ours(), theirs()  # warm-up
    pairs = []
    for turn in range(rounds):
        first, second = (ours, theirs) if turn % 2 == 0 else (theirs, ours)
        a, b = rate(first), rate(second)
        pairs.append((a, b) if turn % 2 == 0 else (b, a))
    ratios = [a / b for a, b in pairs]
    print(
        f"{name:12} ours {statistics.median(a for a, _ in pairs):7.1f} images/s   "
        f"plain loop {statistics.median(b for _, b in pairs):7.1f} images/s   "
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def forever(loader: DataLoader) -> Iterator:
    """The plain loop's batches, epoch after epoch."""
    while True:
        yield from loader


def our_batches(loader: TrainLoader) -> Iterator[Batch]:
    """Our batches, epoch after epoch."""
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="steps a turn")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(
        f"{options.backbone} at {options.size} px, batch {options.batch}, {options.classes} "
        f"classes, fp32, {options.threads} threads, torch {torch.__version__}"
    )
    size, batch, steps = options.size, options.batch, options.steps
    ours = OurLoop(options.backbone, size, options.classes)
    plain = PlainLoop(options.backbone, options.classes)
    weights = sum(p.numel() for p in ours.run.network.parameters())
    assert abs(weights / sum(p.numel() for p in plain.model.parameters()) - 1) < 1e-3

    pixels = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    classes = torch.randint(0, options.classes, (batch,))
    ready = ours.preprocess.normalise(pixels).contiguous()
    held = Batch(pixels, classes, torch.arange(batch))

    def step_ours() -> int:
        for _ in range(steps):
            ours.step(held)
        return steps * batch

    def step_plain() -> int:
        for _ in range(steps):
            plain.step(ready, classes)
        return steps * batch

    duel("step", step_ours, step_plain, options.rounds)

    with tempfile.TemporaryDirectory() as folder:
        catalog = open_catalog(str(make_photos(Path(folder), 8 * batch, options.classes // 8)))
        loader = TrainLoader(
            catalog,
            batch_size=batch,
            augment=Augment(size, interpolation="bilinear"),
            seed=0,
            source=Source(threads=options.threads),
            bad=BadImages(),
        )
        photos = Photos(catalog, size, ours.preprocess.mean, ours.preprocess.std)
        workers = DataLoader(
            photos, batch, shuffle=True, num_workers=options.threads, drop_last=True,
            persistent_workers=True,
        )  # fmt: skip
        ours_next, plain_next = our_batches(loader), forever(workers)

        def run_ours() -> int:
            for _ in range(steps):
                ours.step(next(ours_next))
            return steps * batch

        def run_plain() -> int:
            for _ in range(steps):
                plain.step(*next(plain_next))
            return steps * batch

        duel("end to end", run_ours, run_plain, options.rounds)


if __name__ == "__main__":
    main()
