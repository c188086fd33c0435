"""Heads whose weight changes in the backward pass: equal to an ordinary optimizer."""

import pytest
import torch
from losses_reference import draw, head_with, loss_and_gradients
from torch.utils._python_dispatch import TorchDispatchMode

from lookalike.losses import create_loss, head_update
from lookalike.losses.head_update import UpdateRule

SGD = UpdateRule("sgd", momentum=0.9, weight_decay=0.01)
ADAMW = UpdateRule("adamw", momentum=0.9, weight_decay=0.01)
RULES = [SGD, ADAMW, UpdateRule("sgd", momentum=0.0)]
RATES = [0.5, 0.3, 0.05, 0.2, 0.4]


def ordinary(rule, weight):
    if rule.name == "sgd":
        return torch.optim.SGD(
            [weight], lr=0.0, momentum=rule.momentum, weight_decay=rule.weight_decay
        )
    return torch.optim.AdamW(
        [weight], lr=0.0, betas=(rule.momentum, rule.beta2), weight_decay=rule.weight_decay
    )


def step(head, embeddings, classes, lr, scale=1.0):
    """One step; returns the loss and the gradient of the embeddings."""
    leaf = embeddings.clone().requires_grad_()
    head.update.lr = lr
    head.begin(1 / scale)
    loss = head(leaf, classes)
    (loss * scale).backward()
    head.end()
    return loss.detach(), leaf.grad / scale


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("arcface", {"chunk": 7}),
        ("softmax", {"chunk": 4, "label_smoothing": 0.1}),
        ("large_margin_softmax", {}),
        ("arcface", {"chunk": 3, "centres": 2}),
        ("curricularface", {"chunk": 8}),
        ("cosface", {"chunk": 8, "filter_above": 0.3}),
    ],
)
def test_equal_to_the_ordinary_optimizer(rule, name, options):
    margin = create_loss(name)
    _, weight, _ = draw(1, 8, 24)
    plain = head_with(margin, weight, **options)
    fused = head_with(margin, weight, update=rule, **options)
    optimizer = ordinary(rule, plain.weight)
    for lr in RATES:
        embeddings, _, _ = draw(16, 8, 24)
        classes = torch.randint(plain.num_classes, (16,))
        leaf = embeddings.clone().requires_grad_()
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        loss = plain(leaf, classes)
        loss.backward()
        optimizer.step()
        ours, gradient = step(fused, embeddings, classes, lr, scale=1024)
        torch.testing.assert_close(ours, loss.detach(), rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(gradient, leaf.grad, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(fused.weight, plain.weight, rtol=1e-9, atol=1e-11)
        assert fused.weight.grad is None
    state = optimizer.state[plain.weight]
    for key, value in fused.update.rows.items():
        expected = state[key] if rule.momentum else torch.zeros_like(value)
        if rule.momentum:
            torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-11)
    assert fused.update.steps == int(fused.update.clock) == len(RATES)


def test_no_tensor_as_large_as_the_weight_is_made():
    class Largest(TorchDispatchMode):
        found = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(tensor, torch.Tensor) and tensor.data_ptr() not in known:
                    self.found = max(self.found, tensor.numel())
            return result

    embeddings, weight, classes = draw(8, 16, 4000, torch.float32)
    head = head_with(create_loss("arcface"), weight, update=SGD, chunk=64)
    known = {
        state.data_ptr() + row * 64 * 16 * 4
        for state in (head.weight, head.update.momentum_buffer)
        for row in range(64)
    }
    with Largest() as largest:
        step(head, embeddings, classes, 0.1)
    # 1 / norm of each class, and the logits that wait for the backward pass.
    assert largest.found <= max(4000, 0.07 * weight.numel())
    assert len(weight) * 8 > 4000


def reference_steps(head, steps, lr_of, smoothing=0.0):
    """Full weights, ordinary optimizer, gradients of the classes that each step drew."""
    weight = head.weight.detach().clone().requires_grad_()
    optimizer = ordinary(head.options.update, weight)
    found = []
    for number in range(steps):
        embeddings, _, _ = draw(6, 8, 40)
        classes = torch.randint(40, (6,))
        index = head.sampler.draw(classes, number)
        place = torch.searchsorted(index, classes)
        loss, by_embedding, by_rows = loss_and_gradients(
            head.margin, embeddings, weight.detach()[index], place, smoothing
        )
        weight.grad = torch.zeros_like(weight).index_copy_(0, index, by_rows)
        optimizer.param_groups[0]["lr"] = lr_of(number)
        optimizer.step()
        found.append((embeddings, classes, loss, by_embedding))
    return weight.detach(), optimizer.state[weight], found


@pytest.mark.parametrize("window", [8, 4096])
@pytest.mark.parametrize("rate", [0.1, 0.6])
def test_lazy_updates_are_exact(monkeypatch, rate, window):
    monkeypatch.setattr(head_update, "WINDOW", window)
    _, weight, _ = draw(1, 8, 40)
    head = head_with(create_loss("arcface"), weight, update=SGD, sample_rate=rate, chunk=7)

    def lr_of(number):
        return 0.3 / (1 + number)

    expected, state, found = reference_steps(head, 30, lr_of)
    for number, (embeddings, classes, loss, by_embedding) in enumerate(found):
        ours, gradient = step(head, embeddings, classes, lr_of(number))
        torch.testing.assert_close(ours, loss, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(gradient, by_embedding, rtol=1e-8, atol=1e-9)
    current_rows, momentum = head.update.current_rows(head.weight, torch.arange(40))
    torch.testing.assert_close(current_rows, expected, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(momentum, state["momentum_buffer"], rtol=1e-8, atol=1e-10)
    cos = torch.cosine_similarity(embeddings[:, None], expected[None], dim=2)
    assert torch.equal(head.predict(embeddings), cos.argmax(1))


def test_adamw_rows_that_were_left_out_only_decay():
    _, weight, _ = draw(1, 8, 40)
    head = head_with(create_loss("arcface"), weight, update=ADAMW, sample_rate=0.1)
    seen = torch.zeros(40, dtype=torch.bool)
    lrs = [0.1, 0.05, 0.2, 0.1]
    for number, lr in enumerate(lrs):
        embeddings, _, _ = draw(3, 8, 40)
        classes = torch.randint(40, (3,))
        seen[head.sampler.draw(classes, number)] = True
        step(head, embeddings, classes, lr)
    current_rows, first, second = head.update.current_rows(head.weight, torch.arange(40))
    decay = torch.tensor([1 - lr * ADAMW.weight_decay for lr in lrs], dtype=torch.float64).prod()
    assert 0 < (~seen).sum() < 40
    torch.testing.assert_close(current_rows[~seen], weight[~seen] * decay)
    assert not first[~seen].any()
    assert not second[~seen].any()
    assert first[seen].any(1).all()


@pytest.mark.parametrize("rule", [SGD, ADAMW])
def test_a_rate_of_one_is_the_exact_head_bit_for_bit(rule):
    _, weight, _ = draw(1, 8, 40, torch.float32)
    margin = create_loss("arcface")
    exact = head_with(margin, weight, update=rule)
    sampled = head_with(margin, weight, update=rule, sample_rate=1.0)
    # A rate that happens to draw all classes goes the other way, through the index.
    by_index = head_with(margin, weight, update=rule, sample_rate=0.999)
    assert by_index.sampler.size == 40
    for lr in RATES:
        embeddings, _, _ = draw(16, 8, 40, torch.float32)
        classes = torch.randint(40, (16,))
        results = [step(head, embeddings, classes, lr) for head in (exact, sampled, by_index)]
        for loss, gradient in results[1:]:
            assert torch.equal(loss, results[0][0])
            assert torch.equal(gradient, results[0][1])
    assert torch.equal(exact.weight, sampled.weight)
    assert torch.equal(exact.weight, by_index.weight)


def test_sampled_label_smoothing_spreads_over_the_classes_that_take_part():
    _, weight, _ = draw(1, 8, 40)
    head = head_with(
        create_loss("softmax"), weight, update=SGD, sample_rate=0.3, label_smoothing=0.1
    )
    _, _, found = reference_steps(head, 3, lambda number: 0.1, smoothing=0.1)
    for embeddings, classes, loss, _ in found:
        ours, _ = step(head, embeddings, classes, 0.1)
        torch.testing.assert_close(ours, loss, rtol=1e-9, atol=1e-9)


def test_a_loss_that_is_not_used_changes_nothing():
    embeddings, weight, classes = draw(4, 8, 40)
    head = head_with(create_loss("arcface"), weight, update=SGD)
    head.begin()
    head(embeddings.requires_grad_(), classes)
    assert torch.equal(head.weight, weight)
    assert head.update.steps == 0
