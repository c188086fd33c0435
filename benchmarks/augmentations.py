"""Time of augmentations, beside torchvision.transforms.v2 on the same picture.

python benchmarks/augmentations.py --rounds 5

One thread, a picture of 224 x 224 as the loader has it (channels last; torchvision's is contiguous,
as its decoders give it), strengths drawn anew each time. Both take turns; the medians of the
rounds and of their ratios are printed.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torchvision.transforms import v2

from lookalike.data.augmentations import AUGMENTATIONS
from lookalike.data.decoding.resize import resize
from turns import in_turns, ratios

SIZE, TIMES = 224, 40
PEERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "auto_contrast": v2.RandomAutocontrast(1.0),
    "color_jitter": v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
    "equalize": v2.RandomEqualize(1.0),
    "gaussian_blur": v2.GaussianBlur(13),
    "grayscale": v2.RandomGrayscale(1.0),
    "invert": v2.RandomInvert(1.0),
    "posterize": v2.RandomPosterize(4, 1.0),
    "rand_augment": v2.RandAugment(),
    "random_erasing": v2.RandomErasing(1.0),
    "rotation": v2.RandomRotation(15),
    "sharpness": v2.RandomAdjustSharpness(2.0, 1.0),
    "solarize": v2.RandomSolarize(128, 1.0),
    "trivial_augment": v2.TrivialAugmentWide(),
    "vertical_flip": v2.RandomVerticalFlip(1.0),
}


def milliseconds(work: Callable[[], object]) -> float:
    """Of the processor, for one call."""
    began = time.process_time()
    for _ in range(TIMES):
        work()
    return (time.process_time() - began) / TIMES * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    coarse = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    picture = resize(coarse, SIZE, SIZE, "bicubic")  # what costs depend on is its size
    planes = picture.contiguous()
    slot = torch.empty(1, 3, SIZE, SIZE, dtype=torch.uint8)
    slot = slot.to(memory_format=torch.channels_last)[0]
    for name, kind in AUGMENTATIONS.items():
        ours, theirs = kind(p=1.0).fitted(SIZE, (0.5, 0.5, 0.5)), PEERS[name]
        rng = random.Random(0)
        torch.manual_seed(0)
        ours(picture, rng)
        theirs(planes)
        # Ours with the copy into the batch, which torchvision's would need as well.
        contenders = {
            "ours": lambda o=ours, r=rng: milliseconds(lambda: slot.copy_(o(picture, r))),
            "theirs": lambda t=theirs: milliseconds(lambda: t(planes)),
        }
        found = in_turns(contenders, args.rounds)
        mine, other = map(statistics.median, found.values())
        ratio = statistics.median(ratios(found["theirs"], found["ours"]))
        print(f"{name:16} {mine:6.2f} ms   torchvision {other:6.2f} ms   {ratio:5.2f} times ours")


if __name__ == "__main__":
    main()
