"""Our training step against the loop that a user would write today, side by side in one run.

    python benchmarks/train_step.py [--backbone resnet18] [--size 112] [--rounds 9]
    python benchmarks/train_step.py --precision bf16

The other loop: timm's model, torchvision's transforms in a DataLoader, PML's ArcFaceLoss, and
torch's SGD. Same architecture, batch, precision, learning rate, images and threads; the two take
turns, and a ratio is that of two neighbours in time, so that a noisy machine slows both. With
`--precision bf16` ours computes the network in bfloat16, and the other loop in float32, as it is
written.

Two figures: the step alone, on batches that lie in memory; and end to end, from JPEG files on
the disk (photographs of 375 x 500).
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import timm
import torch
from PIL import Image
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
from lookalike.training.build_heads import DTYPES
from our_step import DIM, our_step
from photographs import SIZES, write_photographs
from turns import in_turns, ratios, shown

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


def duel(name: str, ours: Callable[[], int], theirs: Callable[[], int], rounds: int) -> None:
    def rate(work: Callable[[], int]) -> float:
        began = time.perf_counter()
        images = work()
        return images / (time.perf_counter() - began)

    ours(), theirs()  # warm-up
    found = in_turns({"ours": lambda: rate(ours), "plain": lambda: rate(theirs)}, rounds)
    print(
        f"{name:12} ours {statistics.median(found['ours']):7.1f} images/s   "
        f"plain loop {statistics.median(found['plain']):7.1f} images/s   "
        f"ratio {shown(ratios(found['ours'], found['plain']))}"
    )


def forever(loader: DataLoader) -> Iterator:
    while True:
        yield from loader


def our_batches(loader: TrainLoader) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="steps a turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of ours")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(
        f"{options.backbone} at {options.size} px, batch {options.batch}, {options.classes} "
        f"classes, {options.threads} threads, torch {torch.__version__}"
    )
    size, batch, steps = options.size, options.batch, options.steps
    plain = PlainLoop(options.backbone, options.classes)
    precision = DTYPES[options.precision]
    print(f"ours in {options.precision}, the plain loop in fp32")
    ours = our_step(options.backbone, size, options.classes, lr=LR, precision=precision)
    weights = sum(p.numel() for p in ours.network.parameters())
    assert abs(weights / sum(p.numel() for p in plain.model.parameters()) - 1) < 1e-3

    pixels = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    classes = torch.randint(0, options.classes, (batch,))
    preprocess = ours.network.embedder.preprocess
    ready = preprocess.normalise(pixels).contiguous()
    held = Batch(pixels, classes, torch.arange(batch))

    def step_ours() -> int:
        for _ in range(steps):
            ours(held, 1)
        return steps * batch

    def step_plain() -> int:
        for _ in range(steps):
            plain.step(ready, classes)
        return steps * batch

    duel("step", step_ours, step_plain, options.rounds)

    with tempfile.TemporaryDirectory() as folder:
        paths = write_photographs(Path(folder), SIZES["0.2 MP"], 8 * batch)
        listed = Path(folder) / "list.txt"
        few = max(2, options.classes // 8)
        listed.write_text("".join(f"{path.name} {n % few}\n" for n, path in enumerate(paths)))
        catalog = open_catalog(str(listed))
        loader = TrainLoader(
            catalog,
            batch_size=batch,
            augment=Augment(size, interpolation="bilinear"),
            seed=0,
            source=Source(threads=options.threads),
            bad=BadImages(),
        )
        photos = Photos(catalog, size, preprocess.mean, preprocess.std)
        workers = DataLoader(
            photos, batch, shuffle=True, num_workers=options.threads, drop_last=True,
            persistent_workers=True,
        )  # fmt: skip
        ours_next, plain_next = our_batches(loader), forever(workers)

        def run_ours() -> int:
            for _ in range(steps):
                ours(next(ours_next), 1)
            return steps * batch

        def run_plain() -> int:
            for _ in range(steps):
                plain.step(*next(plain_next))
            return steps * batch

        duel("end to end", run_ours, run_plain, options.rounds)


if __name__ == "__main__":
    main()
