"""Classes of a step that samples them, and those that are left out because they are too near."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from losses_reference import draw, head_loss_and_gradients, head_with

from lookalike.losses import create_loss
from lookalike.losses.class_sampling import PartialClassSampler, positions

NONE = torch.empty(0, dtype=torch.int64)


@pytest.mark.parametrize("count", [1, 2, 10, 97, 1000])
@pytest.mark.parametrize("rate", [0.01, 0.3, 0.9])
def test_a_draw_has_the_size_asked_for_and_the_classes_of_the_batch(count, rate):
    sampler = PartialClassSampler(count, rate, seed=5)
    for step in range(20):
        assert len(sampler.draw(NONE, step)) == max(1, math.ceil(rate * count))
        positives = torch.randint(-count, 2 * count, (8,))
        index = sampler.draw(positives, step)
        assert torch.equal(index, index.unique())
        assert ((index >= 0) & (index < count)).all()
        held = positives[(positives >= 0) & (positives < count)]
        assert torch.isin(held, index).all()
        assert torch.isin(sampler.draw(NONE, step), index).all()
        place = positions(index, positives)
        inside = place >= 0
        assert torch.equal(inside, torch.isin(positives, index))
        assert torch.equal(index[place[inside]], positives[inside])


def test_no_classes_give_no_draw():
    assert len(PartialClassSampler(0, 0.5, seed=1).draw(torch.tensor([3]), 0)) == 0
    assert positions(NONE, torch.tensor([3])).tolist() == [-1]


def test_classes_and_pairs_of_classes_are_drawn_equally_often():
    count, rate, draws = 12, 0.4, 5_000
    sampler = PartialClassSampler(count, rate, seed=2)
    size = sampler.size
    seen = torch.zeros(draws, count, dtype=torch.float64)
    for step in range(draws):
        seen[step, sampler.draw(NONE, step)] = 1
    single = size / count
    pair = single * (size - 1) / (count - 1)
    error = 5 * math.sqrt(0.25 / draws)
    assert (seen.mean(0) - single).abs().max() < error
    together = seen.t() @ seen / draws
    for a, b in itertools.combinations(range(count), 2):
        assert abs(together[a, b] - pair) < error


def test_draws_follow_from_the_seed_and_the_step():
    def draw_of(seed, step):
        return PartialClassSampler(1000, 0.1, seed).draw(NONE, step)

    assert torch.equal(draw_of(1, 4), draw_of(1, 4))
    assert not torch.equal(draw_of(1, 4), draw_of(1, 5))
    assert not torch.equal(draw_of(1, 4), draw_of(2, 4))


@pytest.mark.parametrize("chunk", [None, 5])
def test_other_classes_that_are_too_near_take_no_part(chunk):
    embeddings, weight, classes = draw(30, 4, 25)
    margin = create_loss("cosface")
    head = head_with(margin, weight, filter_above=0.4, chunk=chunk)
    ours = head_loss_and_gradients(head, embeddings, classes)
    leaf, other = embeddings.clone().requires_grad_(), weight.clone().requires_grad_()
    cos = F.normalize(leaf) @ F.normalize(other).t()
    one_hot = F.one_hot(classes, 25).bool()
    out = (cos > 0.4) & ~one_hot
    assert out.any()
    assert (cos[one_hot] > 0.4).any()  # the true class is never left out
    logits = torch.where(one_hot, cos - 0.35, cos) * 64
    loss = F.cross_entropy(logits.masked_fill(out, -torch.inf), classes)
    loss.backward()
    for mine, theirs in zip(ours, (loss.detach(), leaf.grad, other.grad), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def test_all_other_classes_may_be_left_out():
    embeddings = torch.tensor([[1.0, 0.1]], requires_grad=True)
    head = head_with(
        create_loss("arcface"), torch.tensor([[1.0, 0], [1, 0.2], [1, 0.05]]), filter_above=0.5
    )
    loss = head(embeddings, torch.tensor([1]))
    loss.backward()
    assert loss.item() == 0
    assert not embeddings.grad.any()
    assert not head.weight.grad.any()
