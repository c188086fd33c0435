"""A picture in 64 bits and in 16 x 16 pixels, which re-encoding and resizing hardly change."""

from __future__ import annotations

import numpy as np

from lookalike.data.decoding.resize import resize

SIDE = 32
"""Pixels of the square that a fingerprint is taken from."""

THUMB = 16
"""Pixels of the square that two pictures are compared on."""

_LOW = 8  # frequencies a side
_ABOVE = 0.5  # of the mean size of the coefficients


def _cosines() -> np.ndarray:
    """The first rows of the orthonormal DCT-II, (_LOW + 1, SIDE) float32."""
    k, n = np.arange(_LOW + 1)[:, None], np.arange(SIDE)[None]
    rows = np.sqrt(2 / SIDE) * np.cos(np.pi * (n + 0.5) * k / SIDE)
    rows[0] /= np.sqrt(2)
    return rows.astype(np.float32)


_COSINES = _cosines()
_ORDER = np.argsort(
    [a * a + b * b for a in range(_LOW + 1) for b in range(_LOW + 1)], kind="stable"
)[1:65]
GREY = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in luma."""


def small(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (SIDE, SIDE, 3) float32, squeezed to a square."""
    return resize(pixels, SIDE, SIDE, "bilinear").permute(1, 2, 0).numpy().astype(np.float32)


def perceptual_hash(square: np.ndarray) -> int:
    """64 bits of `small`: which of the lowest frequencies of the grey picture are strong.

    As the usual pHash, but a bit asks whether a coefficient is well above zero, not above the
    median. The median of a symmetric picture, or of one on a plain ground, is near the many
    coefficients that are nothing but noise, and noise would draw half of its bits.
    """
    grey = square @ GREY  # (SIDE, SIDE)
    waves = (_COSINES @ grey @ _COSINES.T).ravel()[_ORDER]  # (64,)
    bits = waves > _ABOVE * np.abs(waves).mean()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def thumbnail(square: np.ndarray) -> np.ndarray:
    """`small` at half its side, (THUMB, THUMB, 3) uint8: means of 2 x 2 pixels."""
    # Sums of slices: numpy's reductions over so short axes are ten times slower.
    pairs = square[::2] + square[1::2]
    return np.rint((pairs[:, ::2] + pairs[:, 1::2]) / 4).astype(np.uint8)


def contrast(square: np.ndarray) -> float:
    """Standard deviation of the luma of `small`, in grey levels."""
    return float((square @ GREY).std())


def colourfulness(square: np.ndarray) -> float:
    """Mean difference of the largest and the smallest channel of `small`, in grey levels."""
    red, green, blue = (np.ascontiguousarray(square[..., channel]) for channel in range(3))
    most = np.maximum(np.maximum(red, green), blue)
    least = np.minimum(np.minimum(red, green), blue)
    return float((most - least).mean())
