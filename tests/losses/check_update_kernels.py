"""Triton's steps on rows against torch.optim, and their rounding against its definition."""

import pytest
import torch
from torch import nn

from lookalike.losses.head_update import UpdateRule, create_update
from lookalike.losses.triton_update import adamw_rows, sgd_rows

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RULES = [
    UpdateRule("sgd", momentum=0.9, weight_decay=0.01),
    UpdateRule("sgd", momentum=0.0),
    UpdateRule("adamw", momentum=0.9, weight_decay=0.1),
]


@pytest.fixture(autouse=True)
def _fresh_numbers():
    print(f"torch.manual_seed({torch.seed()})")


def optimizer(rule, weight, lr):
    if rule.name == "sgd":
        return torch.optim.SGD(
            [weight], lr=lr, momentum=rule.momentum, weight_decay=rule.weight_decay
        )
    return torch.optim.AdamW(
        [weight], lr=lr, betas=(rule.momentum, rule.beta2), eps=rule.eps,
        weight_decay=rule.weight_decay,
    )  # fmt: skip


@pytest.mark.parametrize("dim", [3, 64, 300])
@pytest.mark.parametrize("rule", RULES, ids=["sgd", "plain", "adamw"])
def test_three_steps_in_two_chunks_are_those_of_torch(rule, dim):
    weight = torch.randn(23, dim, device=DEVICE)
    exact = nn.Parameter(weight.double())
    reference = optimizer(rule, exact, 0.1)
    update = create_update(rule, weight, lazy=False, seed=3).to(DEVICE)
    parameter = nn.Parameter(weight)
    order = torch.randperm(13, device=DEVICE)
    for step in range(3):
        gradient = torch.randn(23, dim, device=DEVICE)
        exact.grad = gradient.double() / 4
        reference.param_groups[0]["lr"] = update.lr = 0.1 / (step + 1)
        reference.step()
        update.begin(unscale=0.25)
        version = parameter._version
        with torch.no_grad():
            update.use(parameter, slice(13, 23), gradient[13:].clone())
            update.use(parameter, order, gradient[order])
        assert parameter._version > version
        update.end(parameter)
    torch.testing.assert_close(parameter.double(), exact, rtol=1e-5, atol=1e-6)
    for name, value in update.rows.items():
        if name in reference.state[exact] and reference.state[exact][name] is not None:
            torch.testing.assert_close(
                value.double(), reference.state[exact][name], rtol=1e-5, atol=1e-7
            )


def sgd(weight, momentum, gradient, where, step=0, seed=1):
    sgd_rows(
        weight, momentum, gradient, where, lr=1.0, momentum=1.0, weight_decay=0.0, unscale=1.0,
        seed=seed, step=step,
    )  # fmt: skip


def test_rows_that_are_not_named_are_not_touched():
    weight = torch.randn(9, 5, device=DEVICE)
    before, momentum = weight.clone(), torch.zeros_like(weight)
    index = torch.tensor([7, 2], device=DEVICE)
    gradient = torch.randn(2, 5, device=DEVICE)
    sgd(weight, momentum, gradient, index)
    sgd(weight, momentum, gradient[:0], slice(4, 4))
    before[index] -= gradient
    assert torch.equal(weight, before)
    assert torch.equal(momentum[index], gradient)
    assert (momentum.abs().sum(1) > 0).sum() == 2


def test_rounding_is_unbiased_and_at_most_one_step_away():
    draws, dim = 4096, 8
    start = torch.randn(dim, device=DEVICE).bfloat16()
    change = start.float() * (0.002 * torch.rand(dim, device=DEVICE) + 1e-4)
    weight, momentum = start.repeat(draws, 1), torch.zeros(draws, dim, device=DEVICE).bfloat16()
    sgd(
        weight,
        momentum,
        change.repeat(draws, 1),
        slice(0, draws),
        seed=int(torch.randint(2**62, ())),
    )
    for got, exact in ((weight, start.float() - change), (momentum, change)):
        got = got.double()
        low, high = got.amin(0), got.amax(0)
        # Neighbours in bfloat16, on either side of the exact value.
        unit = 2.0 ** (torch.frexp(exact)[1].double() - 8)
        assert (low <= exact).all()
        assert (high >= exact).all()
        assert (high - low <= unit).all()
        share = (exact.double() - low) / (high - low)
        error = (high - low) * (share * (1 - share) / draws).sqrt()
        assert ((got.mean(0) - exact).abs() <= 4.5 * error).all()
    # Weight and momentum are rounded by different bits, as are columns.
    up = torch.cat([(v.double() > v.double().mean(0)).double() for v in (weight, momentum)], 1)
    correlation = torch.corrcoef(up.t()) - torch.eye(2 * dim, device=DEVICE)
    assert correlation.abs().max() < 5.5 / draws**0.5


@pytest.mark.parametrize("second", [0, 1])
def test_moments_of_adamw_are_rounded_without_bias(second):
    draws, dim = 4096, 4
    gradient = torch.randn(dim, device=DEVICE).repeat(draws, 1)
    weight, *moments = (torch.zeros(draws, dim, device=DEVICE).bfloat16() for _ in range(3))
    adamw_rows(
        weight, *moments, gradient, slice(0, draws), lr=0.1, betas=(0.9, 0.999), eps=1e-8,
        weight_decay=0.0, unscale=1.0, seed=int(torch.randint(2**62, ())), step=0,
    )  # fmt: skip
    exact = [(1 - 0.9) * gradient[0].double(), (1 - 0.999) * gradient[0].double() ** 2][second]
    got = moments[second].double()
    low, high = got.amin(0), got.amax(0)
    share = ((exact - low) / (high - low)).clamp(0, 1)
    error = (high - low) * (share * (1 - share) / draws).sqrt()
    assert ((got.mean(0) - exact).abs() <= 4.5 * error + 1e-6 * exact.abs()).all()


def test_values_of_bfloat16_and_values_that_are_not_finite_are_not_rounded():
    special = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0, -0.0], device=DEVICE)
    value = torch.cat([torch.randn(59, device=DEVICE), special]).bfloat16().repeat(8, 1)
    weight, momentum = torch.zeros_like(value), torch.zeros_like(value)
    sgd(weight, momentum, value.float(), slice(0, 8))
    for got, expected in ((momentum, value), (weight, -value)):
        assert torch.equal(got.isnan(), expected.isnan())
        assert torch.equal(got.nan_to_num(7.0), expected.nan_to_num(7.0))


def test_bits_follow_from_seed_step_row_and_column_alone():
    start = torch.randn(40, 20, device=DEVICE).bfloat16()
    gradient = torch.randn(40, 20, device=DEVICE) * 1e-3
    index = torch.randperm(40, device=DEVICE)

    def stepped(*chunks, step=5, seed=2**62 + 1):
        weight, momentum = start.clone(), torch.zeros_like(start)
        for where in chunks:
            sgd(weight, momentum, gradient[where].contiguous(), where, step, seed)
        return weight

    whole = stepped(slice(0, 40))
    assert torch.equal(whole, stepped(slice(0, 11), slice(11, 40)))
    assert torch.equal(whole, stepped(index[:7], index[7:]))
    assert not torch.equal(whole, stepped(slice(0, 40), step=6))
    assert not torch.equal(whole, stepped(slice(0, 40), seed=1))


def test_unsupported_inputs_of_update_kernels_are_refused():
    weight = torch.zeros(4, 6, device=DEVICE)
    with pytest.raises(TypeError, match="float64"):
        sgd(weight.double(), weight.double(), weight, slice(0, 4))
    with pytest.raises(TypeError, match="contiguous"):
        sgd(weight, weight.clone(), torch.zeros(6, 4, device=DEVICE).t(), slice(0, 4))
    with pytest.raises(ValueError, match="3 rows"):
        sgd(weight, weight.clone(), weight.clone(), slice(0, 3))
