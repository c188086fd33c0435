"""A small calibrated model without training."""

import torch

from lookalike.metrics.calibration import fit_calibration
from lookalike.model.embedder import Embedder


def save_calibrated_model(folder):
    """Save it to `folder`, with the calibration of drawn vectors."""
    torch.manual_seed(0)
    embedder = Embedder.create(
        "test_resnet", pretrained=False, image_size=32, embedding_dim=16, crop_pct=1.0
    )
    embedder.save(folder)
    labels = torch.arange(40).repeat_interleave(4)
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(40, 16, generator=generator)[labels]
    vectors = centres + torch.randn(160, 16, generator=generator)
    fit_calibration(vectors, labels, source="drawn vectors").save(folder)
