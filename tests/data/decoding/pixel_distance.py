"""Images written and compared as tests of resizing and preprocessing need them."""

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MODES = {"bilinear": v2.InterpolationMode.BILINEAR, "bicubic": v2.InterpolationMode.BICUBIC}


def slot(size: int) -> torch.Tensor:
    """An image's place in a batch, (3, size, size), channels last."""
    batch = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    return batch.to(memory_format=torch.channels_last)[1]


def distance(ours: torch.Tensor, theirs: torch.Tensor | Image.Image) -> float:
    """Mean absolute difference, in grey levels."""
    if isinstance(theirs, Image.Image):
        theirs = torch.from_numpy(np.array(theirs)).permute(2, 0, 1)
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype == torch.uint8
    return float((ours.int() - theirs.int()).abs().float().mean())
