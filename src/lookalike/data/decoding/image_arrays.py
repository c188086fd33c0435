"""Images that are arrays or tensors, single or batched, as (H, W, 3) uint8 RGB.

Shapes: (H, W) grey; (H, W, C) or (C, H, W), where C is 1 (grey), 3 (RGB) or 4 (RGBA, laid on
white); the same with B in front for a batch. Where both orders fit, a NumPy array is taken as
(H, W, C) and a tensor as (C, H, W), as their libraries have it.

Numbers: uint8; uint16, where 65535 is white; floats from 0 to 1, where 1 is white.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lookalike.data.decoding.decode import from_pil
from lookalike.errors import DataError

_CHANNELS = (1, 3, 4)
_SHAPES = "(H, W), (H, W, C) or (C, H, W) with C = 1, 3 or 4, or a batch of the last two"


def split_batch(images: np.ndarray | Tensor) -> list[np.ndarray] | None:
    """The images of a batch (B, H, W, C) or (B, C, H, W), as views; None if it is one image."""
    return list(_channels_last(images)) if images.ndim == 4 else None


def pixels_of(image: np.ndarray | Tensor) -> np.ndarray:
    """One image as (H, W, 3) uint8 RGB, contiguous.

    Raises:
        DataError: another shape, type or range.
    """
    if image.ndim == 4:
        raise DataError(
            f"{_described(image)} is a batch, and stands in a list of images; give the batch alone"
        )
    array = _channels_last(image)
    if not array.size:
        raise DataError(f"{_described(image)} has no pixels")
    array = _in_8_bits(array)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.shape[2] == 4:
        return from_pil(Image.fromarray(np.ascontiguousarray(array), "RGBA"))
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    return np.require(array, requirements=["C", "W"])


def _channels_last(images: np.ndarray | Tensor) -> np.ndarray:
    """The same with channels last, on the CPU; (H, W) as it is."""
    first = isinstance(images, Tensor)
    if isinstance(images, Tensor):
        found = images.detach().cpu()
        array = (found.float() if found.dtype == torch.bfloat16 else found).numpy()
    else:
        array = images
    if array.ndim == 2:
        return array
    if array.ndim not in (3, 4):
        raise DataError(f"{_described(images)} is no image: {_SHAPES} is expected")
    here, there = array.ndim - 1, array.ndim - 3
    order = (there, here) if first else (here, there)
    axis = next((axis for axis in order if array.shape[axis] in _CHANNELS), None)
    if axis is None:
        raise DataError(
            f"{_described(images)} is no image: {_SHAPES} is expected (a batch of grey images is "
            "(B, H, W, 1))"
        )
    return np.moveaxis(array, axis, -1)


def _in_8_bits(array: np.ndarray) -> np.ndarray:
    """The numbers as uint8, rounded."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return np.rint(array.astype(np.float32) * np.float32(255 / 65535)).astype(np.uint8)
    if array.dtype.kind != "f":
        raise DataError(
            f"an image of {array.dtype} has no defined white: convert it to uint8 (0 to 255), "
            "uint16 (0 to 65535) or floats (0 to 1)"
        )
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):  # so written for NaN
        raise DataError(
            f"an image of floats holds values from {low:g} to {high:g}: they must be from 0 to 1, "
            "before any normalisation; divide by 255, or convert to uint8"
        )
    return np.rint(array.astype(np.float32) * np.float32(255)).astype(np.uint8)


def _described(images: np.ndarray | Tensor) -> str:
    kind = "a tensor" if isinstance(images, Tensor) else "an array"
    return f"{kind} of shape {tuple(images.shape)}"
