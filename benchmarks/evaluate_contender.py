"""One contender of `evaluate.py`: measures a saved set once and prints what it found as JSON.

It imports lookalike only where it is asked to, so that peers run in environments of their own.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch

from process_figures import forget_peak, memory

KS = (1, 2, 4, 8)
Values = dict[str, float]


def ours(x: torch.Tensor, labels: torch.Tensor, queries: int, full: bool = False) -> Values:
    """lookalike: everything that it always measures."""
    from lookalike.metrics.protocol import Roles
    from lookalike.metrics.scores import score

    roles = None
    if queries < len(x):
        everyone = torch.ones(len(x), dtype=torch.bool)
        asks = torch.arange(len(x)) < queries
        roles = Roles(asks, everyone, torch.full((len(x),), -1))
    return score(x, labels, roles=roles, ks=KS, full=full).to_dict()


def ours_full(x: torch.Tensor, labels: torch.Tensor, queries: int) -> Values:
    """The same with the metrics of the full ranking."""
    return ours(x, labels, queries, full=True)


def pml(x: torch.Tensor, labels: torch.Tensor, queries: int) -> Values:
    """AccuracyCalculator of pytorch-metric-learning, with its default, faiss."""
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    calculator = AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        k="max_bin_count",
        device=torch.device("cpu"),
    )
    found = calculator.get_accuracy(x[:queries], labels[:queries], x, labels, True)
    return {
        "recall_at_1": found["precision_at_1"],
        "r_precision": found["r_precision"],
        "map_at_r": found["mean_average_precision_at_r"],
    }


def oml(x: torch.Tensor, labels: torch.Tensor, queries: int) -> Values:
    """RetrievalResults and metrics of open-metric-learning; CMC@k is Recall@k."""
    from oml.interfaces.datasets import IQueryGalleryLabeledDataset
    from oml.metrics import calc_retrieval_metrics_rr
    from oml.retrieval import RetrievalResults

    class Data(IQueryGalleryLabeledDataset):
        extra_data: ClassVar[dict] = {}

        def __getitem__(self, item: int) -> dict:
            raise AssertionError("metrics of vectors need no items")

        def __len__(self) -> int:
            return len(x)

        def get_query_ids(self) -> torch.Tensor:
            return torch.arange(queries)

        def get_gallery_ids(self) -> torch.Tensor:
            return torch.arange(len(x))

        def get_labels(self) -> torch.Tensor:
            return labels

    results = RetrievalResults.from_embeddings(x, Data(), n_items=max(KS))
    found = calc_retrieval_metrics_rr(
        results, cmc_top_k=KS, precision_top_k=(), map_top_k=(), verbose=False
    )
    return {f"recall_at_{k}": float(found["cmc"][k]) for k in KS}


def floor(x: torch.Tensor, labels: torch.Tensor, queries: int) -> Values:
    """Nothing but the products of all pairs, in bf16 tiles of 2048 x 2048."""
    narrow = x.bfloat16()
    tile = torch.empty(2048 * 2048, dtype=torch.bfloat16)
    for rows in narrow[:queries].split(2048):
        for columns in narrow.split(2048):
            out = tile[: len(rows) * len(columns)].view(len(rows), len(columns))
            torch.mm(rows, columns.T, out=out)
    return {}


CONTENDERS: dict[str, Callable[[torch.Tensor, torch.Tensor, int], Values]] = {
    "lookalike": ours,
    "lookalike, full ranking": ours_full,
    "bf16 products alone": floor,
    "pytorch-metric-learning": pml,
    "open-metric-learning": oml,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("embeddings")
    parser.add_argument("labels")
    parser.add_argument("--queries", type=int)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    x = torch.from_numpy(np.load(args.embeddings))
    labels = torch.from_numpy(np.load(args.labels))
    measure = CONTENDERS[args.name]
    measure(x[:512].clone(), torch.arange(512) // 4, 512)  # imports, first calls
    forget_peak()
    before = memory("VmRSS")
    began = time.perf_counter()
    used = time.process_time()
    values = measure(x, labels, args.queries or len(x))
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - began,
                "processor_seconds": time.process_time() - used,
                "extra_bytes": max(0, memory("VmHWM") - before),
                "values": values,
            }
        )
    )


if __name__ == "__main__":
    main()
