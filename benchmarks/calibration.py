"""Error rates of calibrated thresholds on classes that they were not fitted on.

    lookalike embed RUN photos/ -o vectors.npy      # NAME.paths.txt lies beside it
    python benchmarks/calibration.py vectors.npy --leave-out train.txt

Classes (the folder of an image is its class) are split at random, again and again, into those to
calibrate on, as many to measure on, and the rest. Printed are, for each false-accept rate (FAR)
and number of classes: how often the rate on the other classes lies in the interval that the
calibration states, how often it lies below and above, the middle interval and rate in units of the
target, and how many independent false accepts the calibration counts. Then, for searches: the share
of unknown queries that pass the reject threshold on other classes, also at another gallery size.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from lookalike.distributed.world import ALONE
from lookalike.errors import DataError
from lookalike.metrics.calibration import Calibration, fit_calibration
from lookalike.metrics.open_set import BestMatches
from lookalike.metrics.pair_scan import PairSet
from lookalike.metrics.verification import count_pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vectors")
    parser.add_argument("--leave-out", help="a list of the images whose classes were trained on")
    parser.add_argument("--classes", type=int, nargs="+", default=[42, 140, 466])
    parser.add_argument("--splits", type=int, nargs="+", default=[300, 200, 60])
    given = parser.parse_args()
    vectors, labels = read(Path(given.vectors), given.leave_out)
    known = int(labels.max()) + 1
    print(f"{len(labels):,} images of {known:,} classes")
    for classes, splits in zip(given.classes, given.splits, strict=True):
        rates(vectors, labels, classes, splits)
    for classes, splits in zip(given.classes, given.splits, strict=True):
        searches(vectors, labels, classes, min(splits, 60))


def read(vectors: Path, leave_out: str | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors and classes, without the classes of the training list."""
    folders = [
        Path(line).parent.name
        for line in vectors.with_suffix(".paths.txt").read_text("utf-8").splitlines()
    ]
    trained = set()
    if leave_out is not None:
        lines = Path(leave_out).read_text("utf-8").splitlines()
        trained = {Path(line.rsplit(None, 1)[0]).parent.name for line in lines if line.strip()}
    kept = np.array([folder not in trained for folder in folders])
    _, labels = np.unique(np.array(folders)[kept], return_inverse=True)
    return torch.from_numpy(np.load(vectors)[kept]), torch.from_numpy(labels)


def halves(labels: torch.Tensor, classes: int, seed: int, times: int = 1) -> tuple:
    """Rows of so many random classes, and of `times` as many others."""
    drawn = np.random.default_rng(seed).permutation(int(labels.max()) + 1)
    parts = drawn[:classes], drawn[classes : classes + times * classes]
    return tuple(torch.from_numpy(np.isin(labels, part)) for part in parts)


def calibrated(vectors: torch.Tensor, labels: torch.Tensor) -> Calibration | None:
    """The calibration, if these images support one."""
    try:
        return fit_calibration(vectors, labels)
    except DataError:
        return None


def rates(vectors: torch.Tensor, labels: torch.Tensor, classes: int, splits: int) -> None:
    rows = defaultdict(list)
    for seed in range(splits):
        held, other = halves(labels, classes, seed)
        found = calibrated(vectors[held], labels[held])
        new = count_pairs(vectors[other], labels[other])
        for level in found.levels if found is not None else ():
            far = new.at(level.threshold)[1] / int(new.different.sum())
            rows[level.target].append(
                (far, level.far_low, level.far_high, level.target, level.spread.events)
            )
    print(f"\n{classes} classes to calibrate on, as many to measure on")
    print("     FAR  splits  inside   below   above  interval / target  rate / target  events")
    for target, found in rows.items():
        far, low, high, _, events = np.array(found).T
        inside = ((far >= low) & (far <= high)).mean()
        interval = f"{np.median(low) / target:.2f} to {np.median(high) / target:.2f}"
        print(
            f"{target:8g}  {len(found):6}  {100 * inside:4.1f} %  {100 * (far < low).mean():4.1f} %"
            f"  {100 * (far > high).mean():4.1f} %  {interval:>17}"
            f"  {np.median(far) / target:13.2f}  {np.median(events):6.0f}"
        )


def searches(vectors: torch.Tensor, labels: torch.Tensor, classes: int, splits: int) -> None:
    """Print what passes the reject threshold on other classes, and in a gallery twice as large."""
    passed = defaultdict(list)
    for seed in range(splits):
        held, others = halves(labels, classes, seed, times=2)
        found = calibrated(vectors[held], labels[held])
        if found is None or found.open_set is None:
            continue
        drawn = np.random.default_rng(seed).permutation(labels[others].unique().numpy())
        same_size = others & torch.from_numpy(np.isin(labels, drawn[:classes]))
        for name, rows, times in (("as large", same_size, None), ("twice as large", others, 2)):
            pairs = PairSet.of(vectors[rows], labels[rows], device=torch.device("cpu"))
            best = BestMatches(pairs)
            for tile in pairs.tiles(ALONE):
                best.add(tile)
            gallery = None if times is None else times * found.open_set.gallery
            for share in (0.2, 0.1, 0.05):
                try:
                    threshold = found.open_set.threshold(share, gallery)
                except ValueError:
                    continue
                passed[name, share].append(float((best.wrong >= threshold).double().mean()))
    print(f"\n{classes} classes: unknown queries that pass the reject threshold on other classes")
    for (name, share), its in passed.items():
        low, middle, high = np.quantile(its, (0.05, 0.5, 0.95))
        print(
            f"gallery {name:>14}, {100 * share:4g} % wanted: {100 * middle:.1f} % in the middle, "
            f"{100 * low:.1f} to {100 * high:.1f} % in nine of ten of {len(its)} splits"
        )


if __name__ == "__main__":
    main()
