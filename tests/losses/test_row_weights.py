"""Weights of images in the losses, against numpy and with class samples and fused updates."""

import numpy as np
import pytest
import torch
from losses_reference import draw, head_with, loss_and_gradients

from lookalike.losses import create_loss
from lookalike.losses.head_update import UpdateRule
from lookalike.losses.pairs.batch_comparison import BatchComparison


def row_weights(rows):
    weights = 3 * torch.rand(rows, dtype=torch.float64)
    weights[0] = 0
    return weights


def test_a_margin_softmax_by_numpy():
    embeddings, weight, classes = draw(9, 5, 7)
    weights = row_weights(9)
    head = head_with(create_loss("cosface", 0.2, 8.0), weight, chunk=3)
    cos = (embeddings / embeddings.norm(dim=1, keepdim=True)).numpy() @ (
        weight / weight.norm(dim=1, keepdim=True)
    ).numpy().T
    cos[np.arange(9), classes] -= 0.2
    powers = np.exp(8.0 * cos)
    losses = np.log(powers.sum(1)) - 8.0 * cos[np.arange(9), classes]
    expected = (weights.numpy() * losses).sum() / 9
    assert head(embeddings, classes, weights).item() == pytest.approx(expected, rel=1e-11)


def test_supcon_by_numpy():
    embeddings, _, _ = draw(8, 5, 3)
    classes = torch.tensor([0, 0, 1, 1, 1, 2, 0, 1])  # the only one of class 2 does not count
    weights = row_weights(8)
    unit = (embeddings / embeddings.norm(dim=1, keepdim=True)).numpy()
    logits, total = unit @ unit.T / 0.1, 0.0
    for i in range(8):
        others = [j for j in range(8) if j != i]
        positives = [j for j in others if classes[j] == classes[i]]
        if positives:
            mass = np.log(np.exp(logits[i, others]).sum())
            total += weights[i].item() * np.mean([mass - logits[i, j] for j in positives])
    loss = BatchComparison(5, create_loss("supcon")).double()
    assert loss(embeddings, classes, weights).item() == pytest.approx(total / 7, rel=1e-11)


def test_gradients_are_those_of_the_weighted_mean():
    margin = create_loss("arcface")
    embeddings, weight, classes = draw(12, 6, 9)
    weights = row_weights(12)
    head = head_with(margin, weight, chunk=4, label_smoothing=0.1)
    leaf = embeddings.clone().requires_grad_()
    loss = head(leaf, classes, weights)
    found = (loss.detach(), *torch.autograd.grad(loss, (leaf, head.weight)))
    expected = loss_and_gradients(margin, embeddings, weight, classes, 0.1, weights)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("rate", [1.0, 0.4])
def test_a_fused_update_sees_the_weighted_loss(rate):
    """With weights 1 and 0 it is the step on the rows of weight 1, their mean over all rows."""
    embeddings, weight, _ = draw(8, 6, 20)
    classes = torch.tensor([3, 5, 5, 7, 3, 5, 5, 7])  # both halves have the same classes
    results = []
    for rows, weights in ((8, torch.tensor([2.0] * 4 + [0.0] * 4).double()), (4, None)):
        rule = UpdateRule("sgd", momentum=0.0)
        head = head_with(create_loss("cosface"), weight, update=rule, sample_rate=rate, chunk=6)
        head.update.lr = 0.3
        head.begin()
        leaf = embeddings[:rows].clone().requires_grad_()
        loss = head(leaf, classes[:rows], weights)
        loss.backward()
        head.end()
        results.append((loss.detach(), leaf.grad[:4], head.weight.detach().clone()))
    assert not torch.equal(results[0][2], weight)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
