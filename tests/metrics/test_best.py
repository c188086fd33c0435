"""The highest of tiles against a sort of the whole."""

import numpy as np
import pytest
import torch

from lookalike.metrics.topk import TopK


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 2, 7, 60])
@pytest.mark.parametrize("tile", [1, 5, 16, 100])
def test_equal_ones_are_taken_by_row_whatever_the_tiles(dtype, count, tile):
    for kinds in (1, 2, 6, 1000):  # how many different numbers there are
        found = torch.randint(-kinds, kinds, (30, 50)).to(dtype)
        found[torch.rand(found.shape) < 0.3] = -torch.inf
        found[0] = -torch.inf
        best = TopK(found, count)
        for left in range(0, 50, tile):
            best.add(found[:, left : left + tile].clone(), left)
        order = np.argsort(-found.numpy(), axis=1, kind="stable")[:, :count]
        values = np.take_along_axis(found.numpy(), order, 1)
        assert best.values.dtype == dtype
        assert np.array_equal(best.values.numpy(), values)
        there = values > -np.inf
        assert np.array_equal(best.images.numpy()[there], order[there])
