"""Models as the batcher runs them."""

import numpy as np
import pytest
from conversation import png
from PIL import Image

from lookalike.data.loading.preprocess import Preprocess
from lookalike.exporting.exported import ExportedModel
from lookalike.serving.served_network import ServedNetwork

IMAGES = [png(Image.effect_noise(size, 60).convert("RGB")) for size in ((40, 30), (32, 64))]


@pytest.mark.parametrize("inside", [True, False])
def test_an_export_gives_the_vectors_of_embed(inside):
    """Images of all sizes together, but where the export resizes them itself."""
    seen = []

    def run(images):
        seen.append(images.shape)
        mean = images.mean((1, 2) if inside else (2, 3)).astype(np.float32) + 1
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    preprocess = Preprocess(16, 0.875, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    model = ExportedModel(run, 3, preprocess=None if inside else preprocess)
    network = ServedNetwork(model, 10**6)
    prepared = [network.prepare(image) for image in IMAGES]
    vectors = network.compute(prepared)
    assert seen == ([(1, 30, 40, 3), (1, 64, 32, 3)] if inside else [(2, 3, 16, 16)])
    np.testing.assert_array_equal(np.stack(vectors), model.embed(IMAGES))
