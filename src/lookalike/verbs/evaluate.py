"""`lookalike evaluate`: how well a model retrieves on a labelled list."""

from __future__ import annotations

from pathlib import Path

import torch

from lookalike.data.catalog import open_catalog
from lookalike.distributed import World
from lookalike.inference import Validator
from lookalike.log import logger
from lookalike.retrieval.metrics import Scores
from lookalike.verbs.embed import load


def evaluate(
    model: str | Path,
    data: str,
    *,
    format: str = "auto",
    threads: int = 4,
    device: str = "auto",
) -> Scores:
    """Leave-one-out retrieval scores: each image asks for the others of its class.

    Args:
        model: an output directory, or a model folder.
        data: an annotation file.
        format: auto, image_list, itag, folder or webdataset.
        threads: threads that read and decode.
        device: auto, cpu or cuda.

    Raises:
        LookalikeError: no model, a wrong list, or nothing that can be measured.
    """
    embedder = load(model, device=device)
    catalog = open_catalog(data, format=format)
    unknown = torch.full((len(catalog.classes),), -1)
    world = World(device=embedder.device)
    validator = Validator(catalog, unknown, threads=threads, world=world)
    scores, _ = validator.measure(embedder)
    for row, reason in sorted(validator.bad.reasons.items()):
        logger.warning("left out: %s: %s", catalog.records[row].origin, reason)
    return scores
