"""Image paths, ours and those that others use: JPEG files to normalised float32 batches.

Every one, at its best, does the same: decode, random resized crop (20 to 100 % of the area),
resize to a square with antialiasing where it has any, flip half of the pictures, normalise.
"""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from lookalike.data.augmentations import create_augmentations
from lookalike.data.augmentations.training_crop import Augment
from lookalike.data.catalog import Catalog
from lookalike.data.classes import Classes
from lookalike.data.loading.image_source import Source
from lookalike.data.loading.preprocess import Preprocess
from lookalike.data.loading.train_loader import TrainLoader
from lookalike.data.record import Record
from lookalike.distributed.world import World

SCALE = (0.2, 1.0)
AHEAD = 2  # batches that DALI makes ahead, which is its default
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Epoch = Callable[[], Iterator[torch.Tensor]]


def ours(
    paths: Sequence[str], size: int, batch: int, workers: int, *,
    device: torch.device | str = "cpu", scaled: bool = False, alone: bool = False,
    **colours: float,
) -> Epoch:  # fmt: skip
    """Our loader, and unless `alone` the normalisation that training does on the device.

    Args:
        scaled: decode large images at a fraction of their size.
        colours: strengths of the colour jitter.
    """
    records = tuple(Record(path, "0", "list.txt", 1) for path in paths)
    catalog = Catalog(records, np.zeros(len(paths), np.int64), Classes(("0",)))
    augment = Augment(
        size, crop_scale=SCALE, scaled_decode=scaled, then=create_augmentations([], **colours)
    )
    loader = TrainLoader(
        catalog, batch_size=batch, augment=augment, seed=0, source=Source(threads=workers),
        world=World(device=torch.device(device)),
    )  # fmt: skip
    preprocess = Preprocess(size, 1.0, MEAN, STD)
    number = iter(range(10**9))

    def epoch() -> Iterator[torch.Tensor]:
        for one in loader.epoch(next(number)):
            if alone:
                yield one.images
            else:
                yield preprocess.normalise(one.images.to(device, non_blocking=True))

    return epoch


def decode_all(paths: Sequence[str], workers: int) -> float:
    """Seconds of nothing but reading and simplejpeg."""
    import simplejpeg

    def decode(path: str) -> None:
        simplejpeg.decode_jpeg(Path(path).read_bytes(), "RGB")

    began = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(decode, paths):  # nothing is kept
            pass
    return time.perf_counter() - began


class _Files(Dataset):
    def __init__(self, paths: Sequence[str], load: Callable[[str], torch.Tensor]) -> None:
        self.paths, self.load = paths, load

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.load(self.paths[index])


class _Pil:
    def __init__(self, size: int) -> None:
        from torchvision import transforms as t

        self.transform = t.Compose(
            [
                t.RandomResizedCrop(size, SCALE),
                t.RandomHorizontalFlip(),
                t.ToTensor(),
                t.Normalize(MEAN, STD),
            ]
        )

    def __call__(self, path: str) -> torch.Tensor:
        from PIL import Image

        return self.transform(Image.open(path).convert("RGB"))


class _V2:
    def __init__(self, size: int) -> None:
        from torchvision.transforms import v2

        self.transform = v2.Compose(
            [v2.RandomResizedCrop(size, SCALE, antialias=True), v2.RandomHorizontalFlip(),
             v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
        )  # fmt: skip

    def __call__(self, path: str) -> torch.Tensor:
        from torchvision.io import ImageReadMode, decode_image, read_file

        return self.transform(decode_image(read_file(path), ImageReadMode.RGB))


class _Torchcodec(_V2):
    def __call__(self, path: str) -> torch.Tensor:
        from torchcodec.decoders import decode_image

        return self.transform(decode_image(path, mode="RGB"))


class _Albumentations:
    def __init__(self, size: int) -> None:
        import albumentations as a

        self.transform = a.Compose(
            [a.RandomResizedCrop((size, size), SCALE), a.HorizontalFlip(), a.Normalize(MEAN, STD)]
        )

    def __call__(self, path: str) -> torch.Tensor:
        import cv2

        cv2.setNumThreads(0)
        image = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)
        return torch.from_numpy(self.transform(image=image)["image"].transpose(2, 0, 1).copy())


def _in_processes(make: Callable[[int], Callable[[str], torch.Tensor]]) -> Callable[..., Epoch]:
    def build(paths: Sequence[str], size: int, batch: int, workers: int) -> Epoch:
        loader = DataLoader(
            _Files(paths, make(size)), batch_size=batch, shuffle=True, num_workers=workers,
            drop_last=True, persistent_workers=True,
        )  # fmt: skip
        return lambda: iter(loader)

    return build


def _spdl(paths: Sequence[str], size: int, batch: int, workers: int) -> Epoch:
    """SPDL's decoder and FFmpeg's filters in threads; normalisation once a batch."""
    import spdl.io

    mean = torch.tensor(MEAN).mul(255)[:, None, None]
    scale = torch.tensor(STD).mul(255).reciprocal()[:, None, None]

    def load(path: str, slot: np.ndarray) -> None:
        packets = spdl.io.demux_image(path)
        top, left, height, width = crop_box(packets.height, packets.width)
        flip = ",hflip" if random.random() < 0.5 else ""
        desc = f"crop={width}:{height}:{left}:{top},scale={size}:{size}:flags=bilinear{flip},format=rgb24"  # noqa: E501
        frames = spdl.io.decode_packets(packets, filter_desc=desc)
        slot[:] = spdl.io.to_numpy(spdl.io.convert_frames(frames))

    flying: deque[tuple[np.ndarray, list[Future[None]]]] = deque()

    def epoch() -> Iterator[torch.Tensor]:
        flying.clear()
        order = random.sample(list(paths), len(paths))
        with ThreadPoolExecutor(workers) as pool:
            for begin in range(0, len(order) - batch + 1, batch):
                images = np.empty((batch, size, size, 3), np.uint8)
                todo = zip(order[begin : begin + batch], images, strict=True)
                flying.append((images, [pool.submit(load, *one) for one in todo]))
                if len(flying) > 3:
                    yield landed()
            while flying:
                yield landed()

    def landed() -> torch.Tensor:
        images, futures = flying.popleft()
        for future in futures:
            future.result()
        return torch.from_numpy(images).permute(0, 3, 1, 2).float().sub_(mean).mul_(scale)

    return epoch


def _dali(paths: Sequence[str], size: int, batch: int, workers: int, fancy: bool = False) -> Epoch:
    """DALI on the CPU, with its fused decode of the crop.

    With `fancy` halved colours are interpolated, as PIL and all others here do.
    """
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=batch, num_threads=workers, device_id=None, prefetch_queue_depth=AHEAD)
    def pipeline():
        data, _ = fn.readers.file(
            files=list(paths), random_shuffle=True, name="files", initial_fill=len(paths)
        )
        images = fn.decoders.image_random_crop(
            data, device="cpu", random_area=SCALE, jpeg_fancy_upsampling=fancy
        )
        images = fn.resize(
            images, size=(size, size), interp_type=types.INTERP_LINEAR, antialias=True
        )
        return fn.crop_mirror_normalize(
            images, mirror=fn.random.coin_flip(), dtype=types.FLOAT, output_layout="CHW",
            mean=[255 * x for x in MEAN], std=[255 * x for x in STD],
        )  # fmt: skip

    built = pipeline()
    built.build()

    def epoch() -> Iterator[torch.Tensor]:
        for _ in range(len(paths) // batch):
            (images,) = built.run()
            yield torch.from_numpy(images.as_array())

    def before() -> None:
        """Take what it made ahead while others had their turn."""
        for _ in range(2 * AHEAD):
            built.run()

    epoch.before = before
    return epoch


def crop_box(height: int, width: int) -> tuple[int, int, int, int]:
    """A random resized crop, as torchvision draws it."""
    for _ in range(10):
        area = height * width * random.uniform(*SCALE)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, height - h), random.randint(0, width - w), h, w
    return 0, 0, height, width


PEERS: dict[str, tuple[tuple[str, ...], Callable[..., Epoch]]] = {
    "PIL + torchvision": (("PIL", "torchvision"), _in_processes(_Pil)),
    "torchvision v2": (("torchvision",), _in_processes(_V2)),
    "torchcodec + torchvision v2": (("torchcodec", "torchvision"), _in_processes(_Torchcodec)),
    "OpenCV + albumentations": (("cv2", "albumentations"), _in_processes(_Albumentations)),
    "SPDL": (("spdl",), _spdl),
    "DALI (CPU)": (("nvidia.dali",), _dali),
    "DALI (CPU), PIL's pixels": (("nvidia.dali",), partial(_dali, fancy=True)),
}
