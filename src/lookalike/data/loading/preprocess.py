"""Preprocessing of evaluation and use: resize, centre crop, normalization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike.data.decoding.resize import resize
from lookalike.data.image_size import ImageSize, height_width, read_size
from lookalike.data.loading.batch import BufferPool
from lookalike.errors import ConfigError

LONGEST = 8
"""An image longer than this many times its shorter side loses its ends before it is resized: they
are cropped anyway, and a 1 x 50000 line would need gigabytes on the way."""

# The most numbers that torch does not split among threads (at::internal::GRAIN_SIZE).
_NOT_SHARED = 2**15 - 1

_POOL = BufferPool()


@dataclass(frozen=True)
class Preprocess:
    """Resize so that the input is covered, crop the centre, normalise.

    Attributes:
        image_size: of the model's input: S, the side of a square, or (height, width).
        crop_pct: input's height and width as a share of those that the resize has to cover, above
            0 and at most 1; for a square, S as a share of the shorter side after the resize.
        mean: of each channel (R, G, B), on the scale 0 to 1.
        std: of each channel (R, G, B), on the scale 0 to 1.
        interpolation: "bilinear" or "bicubic", both antialiased.
    """

    image_size: ImageSize
    crop_pct: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ConfigError(
                f"interpolation {self.interpolation!r} is not one of bilinear, bicubic"
            )
        if min(height_width(self.image_size)) < 1:
            raise ConfigError(f"image_size={self.image_size} must be at least 1")
        if not 0 < self.crop_pct <= 1:
            raise ConfigError(f"crop_pct={self.crop_pct} must be above 0 and at most 1")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ConfigError(
                f"mean={self.mean} and std={self.std} must be three numbers each, for R, G and B, "
                f"with std above 0"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """The inverse of `to_dict`; lists are as good as tuples.

        Raises:
            ConfigError: a key is missing or unknown, or a value is wrong.
        """
        arguments: dict[str, Any] = dict(values)
        try:
            if isinstance(arguments.get("image_size"), list):
                arguments["image_size"] = read_size(arguments["image_size"])
            for key in arguments.keys() & {"mean", "std"}:
                arguments[key] = tuple(float(number) for number in arguments[key])
            return cls(**arguments)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"preprocessing {dict(values)}: {str(error).removeprefix('Preprocess.__init__() ')}"
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON keeps as they are."""
        size = self.image_size if isinstance(self.image_size, int) else list(self.image_size)
        lists = {"mean": list(self.mean), "std": list(self.std)}
        return {**asdict(self), "image_size": size, **lists}

    @property
    def resized(self) -> tuple[int, int]:
        """Least height and width after the resize, in pixels; one of them is met exactly."""
        height, width = height_width(self.image_size)
        return round(height / self.crop_pct), round(width / self.crop_pct)

    def prepare(self, pixels: np.ndarray) -> Tensor:
        """The model's input (3, H', W') uint8, channels last, of an image (H, W, 3) uint8."""
        height, width = pixels.shape[:2]
        short, long = sorted((height, width))
        if long > LONGEST * short:
            # The trimmed length keeps the parity, so that the centre stays where it was.
            keep = LONGEST * short + (long - LONGEST * short) % 2
            start = (long - keep) // 2
            ends = slice(start, start + keep)
            pixels = pixels[ends] if height > width else pixels[:, ends]
            height, width = pixels.shape[:2]
        # The other side is rounded down, and the crop to even, as torchvision's Resize and
        # CenterCrop do.
        least_height, least_width = self.resized
        if height * least_width <= width * least_height:
            new_height, new_width = least_height, int(least_height * width / height)
        else:
            new_height, new_width = int(least_width * height / width), least_width
        image = resize(pixels, new_height, new_width, self.interpolation)
        seen_height, seen_width = height_width(self.image_size)
        top = round((new_height - seen_height) / 2)
        left = round((new_width - seen_width) / 2)
        return image[:, top : top + seen_height, left : left + seen_width]

    def normalise(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 on any device -> (B, 3, H, W) float32, same device and layout.

        (x / 255 - mean) / std, for each channel.
        """
        shift, scale = _shift_and_scale(self.mean, self.std, images.device)
        pixels = images.permute(0, 2, 3, 1)  # (B, H, W, 3)
        if images.device.type != "cpu" or not pixels.is_contiguous():
            return images.to(torch.float32).sub_(shift).mul_(scale)
        # Three channels are too few for a CPU's inner loop: here its rows are lines of an image.
        # A few at a time stay in the cache from step to step, and torch shares them with no other
        # thread: each share would wait for the threads that decode, which are on the cores already.
        count, height, width, _ = pixels.shape
        lines = pixels.reshape(count * height, 3 * width)
        # `planning` counts the operations on fake tensors, which have no contents.
        empty = _POOL.empty if type(images) is Tensor else torch.empty
        normal = empty(tuple(lines.shape), dtype=torch.float32)  # (B H, 3 W)
        shifts, scales = shift.view(3).repeat(width), scale.view(3).repeat(width)  # (3 W,)
        few = max(1, _NOT_SHARED // (3 * width))
        for source, target in zip(lines.split(few), normal.split(few), strict=True):
            target.copy_(source).sub_(shifts).mul_(scales)
        return normal.view(pixels.shape).permute(0, 3, 1, 2)


@lru_cache(maxsize=32)
def _shift_and_scale(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """255 mean and 1 / (255 std), each (3, 1, 1); kept, since a copy to CUDA would wait for it."""
    with torch.inference_mode(False):  # the cache must serve training too
        shift = torch.tensor(mean, dtype=torch.float64).mul(255)[:, None, None]
        scale = torch.tensor(std, dtype=torch.float64).mul(255).reciprocal()[:, None, None]
        return shift.to(device, torch.float32), scale.to(device, torch.float32)
