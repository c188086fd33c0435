"""`encode`: `embed` under the name and with the keywords that other libraries give it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lookalike.errors import ModelError
from lookalike.model.user_images import Images


class _Embeds(Protocol):
    device: Any

    def embed(self, images: Images, *, batch_size: int = ..., threads: int = ...) -> np.ndarray: ...


def encode(
    model: _Embeds,
    images: Images,
    batch_size: int = 64,
    *,
    show_progress_bar: bool | None = None,
    convert_to_numpy: bool = True,
    convert_to_tensor: bool = False,
    device: str | torch.device | None = None,
    normalize_embeddings: bool = True,
    threads: int = 4,
) -> np.ndarray | Tensor:
    """Unit vectors of images, as `embed` gives them.

    Args:
        model: an embedder, or an exported model, whose method this is.
        images: as `embed` takes them.
        batch_size: images at a time.
        show_progress_bar: taken for compatibility; `embed` shows none.
        convert_to_numpy: give an array rather than a tensor.
        convert_to_tensor: give a float32 tensor on the CPU.
        device: the one where the model is; another one is refused.
        normalize_embeddings: True; vectors are always of unit length.
        threads: threads that read and decode.

    Returns:
        (N, D) float32, of one image (D,).

    Raises:
        ModelError: raw vectors, or another device, are asked for.
        LookalikeError: as `embed`.
    """
    if not normalize_embeddings:
        raise ModelError(
            "normalize_embeddings=False: vectors are of unit length; raw embeddings are what "
            "calling the embedder with preprocessed images (B, 3, S, S) gives"
        )
    if device is not None and torch.device(device).type != torch.device(model.device).type:
        raise ModelError(
            f"device={str(device)!r}: the model is on {model.device}; choose the device in "
            "lookalike.load(..., device=)"
        )
    del show_progress_bar
    vectors = model.embed(images, batch_size=batch_size, threads=threads)
    return torch.from_numpy(vectors) if convert_to_tensor or not convert_to_numpy else vectors
