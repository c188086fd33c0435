"""Buffers are reused, and never while a tensor refers to them."""

import gc
import threading

import numpy as np
import torch

from lookalike.data.loading.batch import KEPT, BufferPool
from lookalike.data.loading.preprocess import Preprocess


def test_a_buffer_is_reused_after_its_last_view():
    pool = BufferPool()
    x = pool.empty((4, 6), torch.float32)
    assert x.shape == (4, 6)
    assert x.is_contiguous()
    assert x.dtype == torch.float32
    place, row, storage = x.data_ptr(), x[1], x.untyped_storage()
    del x
    assert pool.empty((4, 6), torch.float32).data_ptr() != place
    del row
    assert pool.empty((4, 6), torch.float32).data_ptr() != place
    del storage
    taken = [pool.empty((4, 6), torch.float32) for _ in range(3)]
    assert place in [t.data_ptr() for t in taken]
    assert len({t.data_ptr() for t in taken}) == 3


def test_buffers_saved_by_autograd_are_not_reused():
    pool = BufferPool()
    weight = torch.ones(1000, requires_grad=True)
    for value in range(1, 6):
        x = pool.empty((1000,), torch.float32).fill_(value)
        y = (x * weight).sum()
        del x
        pool.empty((1000,), torch.float32).fill_(-1)
        (gradient,) = torch.autograd.grad(y, weight)
        assert (gradient == value).all()


def test_a_pool_serves_about_one_size_and_keeps_few_buffers():
    pool = BufferPool()
    small = pool.empty((100,), torch.uint8)
    place = small.data_ptr()
    del small
    assert pool.empty((1000,), torch.uint8).numel() == 1000
    assert pool.empty((40,), torch.uint8).data_ptr() != place
    assert pool.empty((0, 3), torch.float32).shape == (0, 3)
    many = [pool.empty((100,), torch.uint8) for _ in range(3 * KEPT)]
    del many
    assert len(pool) == KEPT


def test_threads_never_share_a_buffer():
    pool, wrong = BufferPool(), []

    def work(number):
        for _ in range(2000):
            x = pool.empty((256,), torch.int64).fill_(number)
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


def test_normalized_images_stay_while_others_are_made():
    preprocess = Preprocess(32, 1.0, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    rng = np.random.default_rng()
    made = []
    for count in (3, 3, 2, 3, 1, 3, 3):
        pixels = torch.from_numpy(rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8))
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        shift = torch.tensor(preprocess.mean)[:, None, None]
        scale = torch.tensor(preprocess.std)[:, None, None]
        made.append((preprocess.normalise(pixels), (pixels / 255 - shift) / scale))
        if len(made) % 3 == 0:
            del made[0]
            gc.collect()
    for ours, reference in made:
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)
