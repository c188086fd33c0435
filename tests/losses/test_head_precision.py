"""Narrow numbers: products and weights in bfloat16."""

import math

import pytest
import torch
from losses_reference import PLAIN, draw, head_loss_and_gradients, head_with, loss_and_gradients

from lookalike.losses import create_loss
from lookalike.losses.chunk_products import Chunks
from lookalike.losses.head_update import UpdateRule
from lookalike.losses.stochastic_rounding import Noise, store

SGD = UpdateRule("sgd", momentum=0.9)


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("name", PLAIN)
def test_bf16_products_are_within_1e_2_of_float64(monkeypatch, name, wide):
    # On CUDA a product of bf16 matrices has a float32 result; torch has none such on the CPU and
    # rounds the logits too, which costs as much again (as in eager code under autocast).
    if wide:

        def wide_product(self, name, a, b, out=None):
            product = torch.mm(a.float(), b.float())
            return product if out is None else out.copy_(product)

        monkeypatch.setattr(Chunks, "product", wide_product)
    embeddings, weight, classes = draw(64, 128, 3000, torch.float32)
    # What rounding costs grows with the logits: none of them may reach further than at scale 64,
    # whatever norms were drawn for the margins that have the norms in their logits.
    weight *= 8 / weight.norm(dim=1).max()
    embeddings *= 8 / embeddings.norm(dim=1).max()
    margin = create_loss(name)
    head = head_with(margin, weight, precision=torch.bfloat16)
    narrow = head_loss_and_gradients(head, embeddings, classes)
    exact = loss_and_gradients(margin, embeddings.double(), weight.double(), classes)
    for mine, reference in zip(narrow, exact, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - reference).norm() <= (1e-2 if wide else 4e-2) * reference.norm()
    assert (narrow[0] - exact[0]).abs() <= 1e-3 * exact[0]


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
@pytest.mark.parametrize("rule", [SGD, UpdateRule("adamw", momentum=0.9)])
def test_a_step_on_a_bf16_weight_is_that_on_float32_rounded(rule, precision):
    embeddings, weight, classes = draw(32, 64, 500, torch.float32)
    weight = weight.bfloat16().float()
    margin = create_loss("arcface")
    wide = head_with(margin, weight, update=rule, precision=precision)
    head = head_with(margin, weight, update=rule, precision=precision)
    narrow = head_with(margin, weight, update=rule, dtype=torch.bfloat16, precision=precision)
    narrow.bfloat16()
    narrow.weight.data.copy_(weight)
    for which in (wide, narrow):
        which.update.lr = 0.01
        which.begin()
        leaf = embeddings.clone().requires_grad_()
        loss = which(leaf, classes)
        loss.backward()
        which.end()
        assert loss.dtype == torch.float32
        if which is wide:
            expected = loss.detach(), leaf.grad
    assert torch.equal(loss.detach(), expected[0])
    assert torch.equal(leaf.grad, expected[1])
    assert not torch.equal(wide.weight, head.weight)
    for name, value in {"weight": narrow.weight, **narrow.update.rows}.items():
        other = wide.weight if name == "weight" else wide.update.rows[name]
        # One of the two neighbours in bfloat16: less than a unit in the last place away.
        unit = 2.0 ** (torch.frexp(other.abs().clamp_min(1e-30))[1] - 8).float()
        assert value.dtype == torch.bfloat16
        # The gradients of both are made in another order: what nearly cancels differs by more.
        cancelled = 1e-6 * other.abs().amax(1, keepdim=True)
        assert ((value.float() - other).abs() <= unit * 1.0001 + cancelled).all()


def test_small_updates_add_up_in_bfloat16():
    # 500 steps of 4e-3 of the last place: rounding to nearest would never move.
    noise, value = Noise(3), torch.ones(500, 8).bfloat16()
    unit = 2.0**-7
    for step in range(500):
        noise.renew(step, value.device)
        store(value, slice(0, 500), value.float() + unit / 250, noise, "weight")
    moved = (value.float() - 1) / unit
    # Each element makes 500 draws of probability 1/250: mean 2, variance 2.
    assert moved.mean().item() == pytest.approx(2, abs=5 * math.sqrt(2 / moved.numel()))
    assert 1 < moved.var().item() < 4


def test_numbers_that_bfloat16_has_stay_as_they_are():
    exact = torch.randn(300, 16).bfloat16()
    noise, value = Noise(1), torch.zeros(300, 16).bfloat16()
    for step in range(5):
        noise.renew(step, value.device)
        store(value, slice(0, 300), exact.float(), noise, "weight")
        assert torch.equal(value, exact)
        index = torch.randperm(300)
        store(value, index, exact.float()[index], noise, "momentum_buffer")
        assert torch.equal(value, exact)


def test_rounding_follows_from_the_seed_and_the_step():
    def rounded(seed, step):
        noise, value = Noise(seed), torch.zeros(50, 8).bfloat16()
        noise.renew(step, value.device)
        generator = torch.Generator().manual_seed(0)
        store(value, slice(0, 50), torch.randn(50, 8, generator=generator), noise, "weight")
        return value

    assert torch.equal(rounded(1, 7), rounded(1, 7))
    assert not torch.equal(rounded(1, 7), rounded(1, 8))
    assert not torch.equal(rounded(1, 7), rounded(2, 7))
