"""JPEG files to normalised batches on the device: our path beside what others use."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gpu_measure import Place, compare
from gpu_record import NotRunError, Record
from image_paths import MEAN, PEERS, STD, Epoch, crop_box, decode_all, ours
from requirements import missing
from turns import in_turns, synchronise

HEIGHT, WIDTH = 375, 500


def write_jpegs(folder: Path, count: int, height: int = HEIGHT, width: int = WIDTH) -> list[str]:
    """Files with the spectrum of photographs, 1/f, so that they cost what photographs cost."""
    rng = np.random.default_rng(0)
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    falling = 1 / np.maximum(np.hypot(y, x), 1 / max(height, width))
    paths = []
    for number in range(count):
        noise = rng.standard_normal((3, height, width), dtype=np.float32)
        noise[1:] = 0.3 * noise[1:] + noise[:1]  # colours go along with the light
        soft = np.fft.irfft2(np.fft.rfft2(noise) * falling, s=(height, width))
        soft = soft / soft.std((1, 2), keepdims=True)
        pixels = (127 + 45 * soft).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
        path = folder / f"{number:05d}.jpg"
        Image.fromarray(pixels).save(path, quality=(75, 85, 95)[number % 3])
        paths.append(str(path))
    return paths


def measure_input(place: Place, record: Record) -> None:
    size, batch = place.pick(224, 32), place.pick(128, 4)
    workers = place.pick(min(16, len(os.sched_getaffinity(0))), 2)
    with tempfile.TemporaryDirectory() as folder:
        height, width = (96, 128) if place.dry else (HEIGHT, WIDTH)
        files = write_jpegs(Path(folder), place.pick(256, 8), height, width)
        mean = sum(map(os.path.getsize, files)) / len(files)
        record.figure("a file", round(mean / 1e3, 1), "KB", f"1/f noise, {height} x {width}")
        paths = files * place.pick(24, 2)
        contenders: dict[str, Callable[[], float]] = {}
        for name, make in _paths(place, paths, size, batch, workers).items():
            with record.attempt(name):
                run = make()
                run()  # starts workers, fills caches
                contenders[name] = run
        # All do as much: whole batches.
        images = len(paths) // batch * batch
        found = in_turns(contenders, 5, 25.0)
        if "lookalike" in found:
            how = f"an epoch of {images:,} images at {size} px with {workers} threads or workers"
            compare(record, "input", found, images, "images/s", how)


def _paths(
    place: Place, paths: list[str], size: int, batch: int, workers: int
) -> dict[str, Callable[[], Callable[[], float]]]:
    """Name to what makes the function that does an epoch and returns its seconds."""

    def on_device(images: torch.Tensor) -> torch.Tensor:
        return images.to(place.device, non_blocking=True)

    def timed(epoch: Callable[[], Iterator[torch.Tensor]]) -> Callable[[], float]:
        def run() -> float:
            began = time.perf_counter()
            count = 0
            for images in epoch():
                assert images.shape[1:] == (3, size, size)
                count += len(images)
            synchronise(place.device)
            assert count >= len(paths) // batch * batch
            return time.perf_counter() - began

        return run

    def mine(**colours: float) -> Callable[[], float]:
        return timed(ours(paths, size, batch, workers, device=place.device, **colours))

    def decoding() -> Callable[[], float]:
        if lacking := missing("simplejpeg"):
            raise NotRunError(lacking)
        return lambda: decode_all(paths, workers)

    def peer(name: str) -> Callable[[], float]:
        modules, build = PEERS[name]
        if lacking := missing(*modules):
            raise NotRunError(lacking)
        inner: Epoch = build(paths, size, batch, workers)
        return timed(lambda: (on_device(images) for images in inner()))

    return {
        "lookalike": lambda: mine(),
        "lookalike, with colour jitter": lambda: mine(color_jitter=0.4, grayscale=0.2),
        "simplejpeg alone": decoding,
        "nvJPEG, cropped on the device": lambda: timed(_nvjpeg(place, paths, size, batch)),
        "PIL + torchvision": lambda: peer("PIL + torchvision"),
        "torchvision v2": lambda: peer("torchvision v2"),
        **({} if place.dry else {"DALI (CPU)": lambda: peer("DALI (CPU)")}),
    }


def _nvjpeg(
    place: Place, paths: list[str], size: int, batch: int
) -> Callable[[], Iterator[torch.Tensor]]:
    """Torchvision's decoder on the device; crop, resize and normalisation there too."""
    if place.device.type != "cuda":
        raise NotRunError("needs CUDA")
    from torchvision.io import ImageReadMode, decode_jpeg, read_file

    shift = torch.tensor(MEAN, device=place.device)[:, None, None] * 255
    scale = torch.tensor(STD, device=place.device)[:, None, None] * 255

    def part(image: torch.Tensor) -> torch.Tensor:
        top, left, height, width = crop_box(*image.shape[1:])
        crop = image[:, top : top + height, left : left + width].float()[None]
        return torch.nn.functional.interpolate(crop, (size, size), mode="bilinear", antialias=True)

    def epoch() -> Iterator[torch.Tensor]:
        with ThreadPoolExecutor(8) as pool:
            for start in range(0, len(paths) - batch + 1, batch):
                data = list(pool.map(read_file, paths[start : start + batch]))
                images = decode_jpeg(data, mode=ImageReadMode.RGB, device=place.device)
                yield torch.cat([part(image) for image in images]).sub_(shift).div_(scale)

    return epoch
