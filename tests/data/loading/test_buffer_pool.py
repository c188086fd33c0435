"""Memory that is used again, and never while somebody looks at it."""

import gc
import threading

import numpy as np
import torch

from lookalike.data.loading.buffer_pool import _KEPT, Blocks
from lookalike.data.loading.preprocess import Preprocess


def test_memory_comes_back_when_the_last_view_is_gone():
    blocks = Blocks()
    x = blocks.empty((4, 6), torch.float32)
    assert x.shape == (4, 6)
    assert x.is_contiguous()
    assert x.dtype == torch.float32
    place, row, storage = x.data_ptr(), x[1], x.untyped_storage()
    del x
    assert blocks.empty((4, 6), torch.float32).data_ptr() != place
    del row
    assert blocks.empty((4, 6), torch.float32).data_ptr() != place
    del storage
    taken = [blocks.empty((4, 6), torch.float32) for _ in range(3)]
    assert place in [t.data_ptr() for t in taken]
    assert len({t.data_ptr() for t in taken}) == 3


def test_what_autograd_keeps_is_not_used_again():
    blocks = Blocks()
    weight = torch.ones(1000, requires_grad=True)
    for value in range(1, 6):
        x = blocks.empty((1000,), torch.float32).fill_(value)
        y = (x * weight).sum()
        del x
        blocks.empty((1000,), torch.float32).fill_(-1)
        (gradient,) = torch.autograd.grad(y, weight)
        assert (gradient == value).all()


def test_blocks_are_for_about_one_size_and_few_are_kept():
    blocks = Blocks()
    small = blocks.empty((100,), torch.uint8)
    place = small.data_ptr()
    del small
    assert blocks.empty((1000,), torch.uint8).numel() == 1000
    assert blocks.empty((40,), torch.uint8).data_ptr() != place
    assert blocks.empty((0, 3), torch.float32).shape == (0, 3)
    many = [blocks.empty((100,), torch.uint8) for _ in range(3 * _KEPT)]
    del many
    assert len(blocks._free) == _KEPT


def test_many_threads_never_share_a_block():
    blocks, wrong = Blocks(), []

    def work(number):
        for _ in range(2000):
            x = blocks.empty((256,), torch.int64).fill_(number)
            y = x[:128]
            del x
            if not (y == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_normalised_pictures_stay_while_others_are_made():
    preprocess = Preprocess(32, 1.0, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    dice = np.random.default_rng()
    made = []
    for count in (3, 3, 2, 3, 1, 3, 3):
        pixels = torch.from_numpy(dice.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8))
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        shift = torch.tensor(preprocess.mean)[:, None, None]
        scale = torch.tensor(preprocess.std)[:, None, None]
        made.append((preprocess.normalise(pixels), (pixels / 255 - shift) / scale))
        if len(made) % 3 == 0:
            del made[0]
            gc.collect()
    for ours, reference in made:
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)
