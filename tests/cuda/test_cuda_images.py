"""Images on their way to the device: pinned batches, normalization there."""

import os

import torch

from lookalike.data.augmentations import create_augmentations
from lookalike.data.augmentations.training_crop import Augment
from lookalike.data.catalog import open_catalog
from lookalike.data.loading.bad_images import BadImages
from lookalike.data.loading.preprocess import Preprocess
from lookalike.data.loading.sequential import EvalLoader
from lookalike.data.loading.train_loader import TrainLoader
from lookalike.distributed.world import World

PRETEND = os.environ.get("LOOKALIKE_CUDA_TESTS") == "pretend"
SIZE = 32
THEN = create_augmentations([], color_jitter=0.4, grayscale=0.2)
PREPROCESS = Preprocess(SIZE, 1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def random_images(count=6):
    pixels = torch.randint(0, 256, (count, SIZE, SIZE, 3), dtype=torch.uint8)
    return pixels.permute(0, 3, 1, 2)


def test_normalised_pictures_are_those_of_the_cpu(device):
    images = random_images()
    there = PREPROCESS.normalise(images.to(device))
    assert there.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(there.cpu(), PREPROCESS.normalise(images))
    with torch.inference_mode():
        assert torch.equal(PREPROCESS.normalise(images.to(device)).cpu(), there.cpu())


def test_batches_for_the_device_hold_the_same_pictures(device, shapes):
    catalog = open_catalog(str(shapes / "train.txt"))
    augment = Augment(image_size=SIZE, crop_scale=(0.3, 1.0), then=THEN)
    epochs = []
    for where in (torch.device("cpu"), device):
        loader = TrainLoader(
            catalog,
            batch_size=8,
            augment=augment,
            seed=3,
            world=World(device=where),
        )
        batches = list(loader.epoch(0))
        if where.type == "cuda" and not PRETEND:
            assert all(batch.images.is_pinned() for batch in batches)
        epochs.append(batches)
    for mine, true in zip(epochs[1], epochs[0], strict=True):
        assert torch.equal(mine.images, true.images)
        assert torch.equal(mine.rows, true.rows)


def test_memory_of_a_batch_is_not_reused_before_its_copy(real_device, shapes):
    """Batches are copied without waiting: what arrives must still be what was decoded."""
    catalog = open_catalog(str(shapes / "train.txt"))
    loader = TrainLoader(
        catalog, batch_size=4, augment=Augment(image_size=SIZE, crop_scale=(0.3, 1.0)), seed=3,
        world=World(device=real_device),
    )  # fmt: skip
    kept, arrived = [], []
    busy = torch.randn(2048, 2048, device=real_device)
    for epoch in range(3):
        for batch in loader.epoch(epoch):
            for _ in range(20):
                busy @ busy
            kept.append(batch.images.clone())
            arrived.append(batch.images.to(real_device, non_blocking=True))
            del batch
    for true, mine in zip(kept, arrived, strict=True):
        assert torch.equal(mine.cpu(), true)


def test_pictures_for_evaluation(device, shapes):
    catalog = open_catalog(str(shapes / "val.txt"))
    found = []
    for where in (torch.device("cpu"), device):
        loader = EvalLoader(
            catalog.records, preprocess=PREPROCESS, batch_size=6, bad=BadImages(),
            device=where,
        )  # fmt: skip
        found.append(torch.cat([batch.images.to(where).cpu() for batch in loader]))
    assert torch.equal(*found)
