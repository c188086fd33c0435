"""Fast similarities, their error bounds and the counts, against a whole float64 matrix."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lookalike.metrics import fast_similarity, ranking
from lookalike.metrics.fast_similarity import (
    BFLOAT16,
    EXACT,
    FLOAT32,
    ErrorBound,
    UnitVectors,
)
from lookalike.metrics.protocol import Roles
from lookalike.metrics.scores import measure_queries

WAYS = {
    "as this device would": None,
    "exact only": [EXACT],
    "float32": [FLOAT32, EXACT],
    "bf16": [BFLOAT16, EXACT],
    "bf16, float32": [BFLOAT16, FLOAT32, EXACT],
    "bf16, pairs one by one": [replace(BFLOAT16, most_undecided=1.0), EXACT],
    "float32, pairs one by one": [replace(FLOAT32, most_undecided=1.0), EXACT],
    "bf16, always refused": [replace(BFLOAT16, most_undecided=0.0), EXACT],
}


def measure(*data, **options):
    return measure_queries(*data, recall=(1, 2, 9), precision=(4, 30), **options)


def whole_matrix(x, labels, roles=None):
    """Every metric of every query, from all N x N similarities in whole numbers."""
    x = x.double().numpy()
    unit = np.rint(x / np.linalg.norm(x, axis=1, keepdims=True) * 2**26)
    similarity = unit @ unit.T  # in steps of 2^-52, exact in float64
    labels = labels.numpy()
    rows, values = [], []
    for query in range(len(x)):
        other = np.arange(len(x)) != query
        if roles is not None:
            if not roles.query[query]:
                continue
            own = roles.sequence.numpy()
            other &= roles.gallery.numpy() & ((own != own[query]) | (own[query] < 0))
        positive = np.sort(similarity[query, other & (labels == labels[query])])[::-1]
        negative = np.sort(similarity[query, other & (labels != labels[query])])
        size = len(positive)
        if size == 0:
            continue
        number = np.arange(1, size + 1)
        rank = len(negative) - np.searchsorted(negative, positive - 2.0**29) + number
        share = number / rank
        rows.append(query)
        values.append(
            [
                *(rank[0] <= k for k in (1, 2, 9)),
                *((rank <= k).sum() / k for k in (4, 30)),
                share[rank <= size].sum() / size,
                (rank <= size).mean(),
                share.sum() / size,
                size / rank[-1],
            ]
        )
    return torch.tensor(rows), torch.tensor(np.array(values, dtype=float))


def trained(count, classes, noise, dim=64, groups=1):
    """Class centres and noise, the centres in groups that look alike."""
    labels = torch.randint(classes, (count,))
    theme = torch.randn(groups, dim)[torch.randint(groups, (classes,))]
    centres = torch.randn(classes, dim) + (theme if groups > 1 else 0)
    return centres[labels] + noise * torch.randn(count, dim), labels


def sets(kind):
    if kind == "trained":
        return trained(500, 120, 0.9)
    if kind == "groups":
        return trained(500, 100, 0.7, groups=6)
    if kind == "untrained":
        return trained(500, 45, 8.0)
    if kind == "few large classes":
        return trained(500, 4, 1.5)
    if kind == "one huge class":
        x, labels = trained(500, 50, 1.0)
        return x, torch.where(torch.rand(500) < 0.6, 0, labels)
    if kind == "copies":  # under other labels, some in their last bits only
        x, labels = trained(500, 50, 1.0)
        x = x[torch.randint(60, (500,))]
        return torch.where(
            torch.rand(500, 1) < 0.5, x, x * (1 + 3e-8 * torch.randn(500, 1))
        ), labels
    if kind == "collapsed":
        x, labels = trained(500, 75, 1.0)
        return x[:1] + 1e-4 * torch.randn(500, 64) * (torch.rand(500, 1) < 0.3), labels
    if kind == "few directions":
        return torch.randint(-1, 2, (500, 3)).float() + 1e-30, torch.randint(80, (500,))
    raise ValueError(kind)


KINDS = ["trained", "groups", "untrained", "few large classes", "one huge class", "copies"]
KINDS += ["collapsed", "few directions"]


def use(monkeypatch, way, block, kept):
    if WAYS[way] is not None:
        monkeypatch.setattr(fast_similarity, "precisions", lambda device: WAYS[way])
    monkeypatch.setattr(ranking, "BLOCK", block)
    monkeypatch.setattr(fast_similarity, "KEPT_BYTES", kept)


def assert_same_bits(one, other):
    assert one.rows.equal(other.rows)
    assert one.relevant.equal(other.relevant)
    for name, values in one.values.items():
        assert values.equal(other.values[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_every_precision_gives_the_metrics_of_the_whole_matrix(kind, monkeypatch):
    x, labels = sets(kind)
    rows, expected = whole_matrix(x, labels)
    first = measure(x, labels, full=True)
    assert first.rows.equal(rows)
    torch.testing.assert_close(
        torch.stack(list(first.values.values()), 1), expected, rtol=1e-12, atol=0
    )
    short = measure(x, labels)
    for way in WAYS:
        for block, kept in [(2048, 2**40), (96, 2**40), (96, 0), (61, 2**40)]:
            with monkeypatch.context() as patch:
                use(patch, way, block, kept)
                assert_same_bits(short, measure(x, labels))
                if block == 96:
                    assert_same_bits(first, measure(x, labels, full=True))
    for name, values in short.values.items():
        assert values.equal(first.values[name])


@pytest.mark.parametrize("kind", ["trained", "copies", "one huge class"])
def test_roles_and_sequences_agree_with_the_whole_matrix(kind, monkeypatch):
    x, labels = sets(kind)
    for asking, searched, sequences in [(0.3, 0.8, 300), (0.9, 0.4, 12), (1.1, 1.1, 90)]:
        roles = Roles(
            torch.rand(len(x)) < asking,
            torch.rand(len(x)) < searched,
            torch.randint(-1, sequences, (len(x),)),
        )
        rows, expected = whole_matrix(x, labels, roles)
        first = measure(x, labels, roles=roles, full=True)
        assert first.rows.equal(rows)
        found = torch.stack(list(first.values.values()), 1)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
        short = measure(x, labels, roles=roles)
        for way in WAYS:
            for block, kept in [(2048, 2**40), (96, 2**40), (96, 0)]:
                with monkeypatch.context() as patch:
                    use(patch, way, block, kept)
                    assert_same_bits(short, measure(x, labels, roles=roles))


@pytest.mark.parametrize("precision", [BFLOAT16, FLOAT32])
@pytest.mark.parametrize("dim", [3, 64, 512, 2048])
def test_no_similarity_is_off_by_more_than_its_error_bound(precision, dim):
    order = torch.arange(600)
    for x in (
        torch.randn(600, dim),
        torch.randn(1, dim) + 0.05 * torch.randn(600, dim),  # alike: rounding of the result
        torch.ones(600, dim) * (1 + 2.0**-9 * torch.randint(0, 2, (600, 1))),  # halfway
        torch.randn(600, dim) * (torch.rand(600, dim) < 3 / dim) + 1e-20,  # a few coordinates
        torch.randn(600, dim) * 10.0 ** -(6 * torch.rand(600, dim)),
    ):
        made = UnitVectors(x, order, torch.device("cpu"), precision)
        exact = made.exact(order) @ made.exact(order).T
        rounded, lost = made.rounded(slice(0, 600), precision)
        fast = rounded @ rounded.T
        bound = ErrorBound.of(precision, dim, lost, lost)
        off = (fast.double() - exact).abs()
        assert (off <= bound.around(fast.double())).all()
        for least in (exact[:, 7], exact.amin(1), exact.mean(1) - 0.2, exact[:, 3] + 2.0**-52):
            floor = bound.floor(least)
            assert floor.dtype == fast.dtype
            assert (
                fast[exact >= least[:, None]]
                >= floor[:, None].expand_as(fast)[exact >= least[:, None]]
            ).all()
        assert not (fast >= bound.floor(torch.full((600,), torch.inf))[:, None]).any()


def test_error_bounds_are_narrow():
    x = torch.randn(300, 512)
    for precision, most in ((BFLOAT16, 6e-3), (FLOAT32, 5e-5)):
        made = UnitVectors(x, torch.arange(300), torch.device("cpu"), precision)
        lost = made.rounded(slice(0, 300), precision)[1]
        assert ErrorBound.of(precision, 512, lost, lost).around(torch.tensor([0.4]).double()) < most


def test_similarities_of_pairs_equal_those_of_the_matrix():
    x = torch.randn(500, 96)
    for kept in (2**40, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fast_similarity, "KEPT_BYTES", kept)
            made = UnitVectors(x, torch.randperm(500), torch.device("cpu"), BFLOAT16)
            rows, columns = torch.randint(500, (2, 3000))
            whole = made.exact(slice(0, 500)) @ made.exact(slice(0, 500)).T
            assert made.similarities(rows, columns).equal(whole[rows, columns])


def test_float32_is_not_used_at_lowered_precision():
    device = torch.device("cpu")
    before = torch.get_float32_matmul_precision()
    assert any(one.dtype == torch.float32 for one in fast_similarity.precisions(device))
    try:
        torch.set_float32_matmul_precision("medium")
        assert all(one.dtype != torch.float32 for one in fast_similarity.precisions(device))
        x, labels = sets("trained")
        lowered = measure(x, labels)
    finally:
        torch.set_float32_matmul_precision(before)
    assert_same_bits(lowered, measure(x, labels))
