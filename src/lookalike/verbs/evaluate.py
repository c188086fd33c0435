"""`lookalike evaluate`: how well a model retrieves on a labelled list."""

from __future__ import annotations

from pathlib import Path

import torch

from lookalike.data import read_records
from lookalike.data.catalog import build_catalog
from lookalike.data.splits import measured_split, select
from lookalike.distributed import World
from lookalike.inference import Validator
from lookalike.log import logger
from lookalike.memory import freed_memory_kept
from lookalike.retrieval.metrics import Scores
from lookalike.verbs.embed import load


def evaluate(
    model: str | Path,
    data: str,
    *,
    format: str = "auto",
    split: str | None = None,
    threads: int = 4,
    device: str = "auto",
) -> Scores:
    """Retrieval scores: each image asks for the others of its class.

    Where the data say who asks and who is searched (`is_query`, `is_gallery`), they do.

    Args:
        model: an output directory, or a model folder.
        data: a list, manifest, table, folder or shards of labelled images.
        format: auto, or one of `lookalike.data.SOURCES`.
        split: where the data have splits, the one to measure on; the only one that is not `train`
            by default.
        threads: threads that read and decode.
        device: auto, cpu or cuda.

    Raises:
        LookalikeError: no model, a wrong list, or nothing that can be measured.
    """
    embedder = load(model, device=device)
    records = read_records(data, format)
    catalog = build_catalog(select(records, split or measured_split(records)))
    unknown = torch.full((len(catalog.classes),), -1)
    world = World(device=embedder.device)
    validator = Validator(catalog, unknown, threads=threads, world=world)
    with freed_memory_kept(embedder.device):
        scores, _ = validator.measure(embedder)
    for row, reason in sorted(validator.bad.reasons.items()):
        logger.warning("left out: %s: %s", catalog.records[row].origin, reason)
    return scores
