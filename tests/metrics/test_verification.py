"""Pair counts and rates against scikit-learn and brute force."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from lookalike.errors import DataError
from lookalike.metrics import pair_scan as pairs_module
from lookalike.metrics.protocol import Roles
from lookalike.metrics.verification import RESOLUTION, count_pairs, verify


def draw(count, classes, dim=8, noise=0.7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    centres = torch.randn(classes, dim, generator=generator)
    return centres[labels] + noise * torch.randn(count, dim, generator=generator), labels


def written_out(x, labels, roles=None):
    """Cosines, cut to the resolution, and whether it is a same pair, of all pairs."""
    x = (torch.nn.functional.normalize(x.double()) * 2**26).round() / 2**26  # exact products
    cosines = (x @ x.T).numpy()
    pairs = np.tri(len(x), k=-1, dtype=bool)
    if roles is not None:
        query, gallery, sequence = (
            roles.query.numpy(),
            roles.gallery.numpy(),
            roles.sequence.numpy(),
        )
        asks = query[:, None] & gallery
        pairs &= (asks | asks.T) & ((sequence[:, None] != sequence) | (sequence < 0))
    same = (labels[:, None] == labels).numpy()
    return np.floor(cosines[pairs] / RESOLUTION) * RESOLUTION, same[pairs]


def random_roles(count):
    return Roles(
        torch.rand(count) < 0.5, torch.rand(count) < 0.6, torch.randint(-2, 40, (count,)).clamp(-1)
    )


@pytest.mark.parametrize("with_roles", [False, True])
@pytest.mark.parametrize("side", [1024, 13])
def test_roc_curve_and_area_equal_scikit_learn(monkeypatch, with_roles, side):
    monkeypatch.setattr(pairs_module, "SIDE", side)
    x, labels = draw(180, 30)
    roles = random_roles(180) if with_roles else None
    counts = count_pairs(x, labels, roles=roles)
    cosines, same = written_out(x, labels, roles)
    found = verify(counts, fars=(0.1, 0.01, 1e-3, 1e-6))
    assert found.same_pairs == same.sum()
    assert found.different_pairs == (~same).sum()
    assert found.auc == pytest.approx(roc_auc_score(same, cosines), abs=1e-12)
    far, tar, thresholds = roc_curve(same, cosines, drop_intermediate=False)
    places = ((thresholds[1:] + 1) / RESOLUTION).astype(int)
    accepted, wrong = counts.accepted
    assert np.array_equal(accepted[places], np.rint(tar[1:] * same.sum()))
    assert np.array_equal(wrong[places], np.rint(far[1:] * (~same).sum()))
    assert counts.at(thresholds[9]) == (accepted[places[8]], wrong[places[8]])
    for point in found.operating:
        assert point.far == (cosines[~same] >= point.threshold).mean() <= point.target
        assert point.tar == (cosines[same] >= point.threshold).mean()
        # One step lower would let too many pass.
        assert (cosines[~same] >= point.threshold - RESOLUTION).mean() > point.target
    assert [point.target for point in found.operating] == [0.1, 0.01, 1e-3][: len(found.operating)]
    assert 1e-6 in found.unsupported
    right = (tar * same.sum() + (1 - far) * (~same).sum()) / len(same)
    assert found.accuracy == pytest.approx(right.max())
    assert ((cosines >= found.accuracy_threshold) == same).mean() == pytest.approx(right.max())
    assert found.balanced_accuracy == pytest.approx((1 + (tar - far).max()) / 2)
    crossing = np.argmin(np.abs(far - (1 - tar)))
    assert found.eer == pytest.approx(far[crossing], abs=0.01)
    for f, t, threshold in counts.curve(50):
        assert f == (cosines[~same] >= threshold).mean()
        assert t == (cosines[same] >= threshold).mean()


def test_rates_with_too_few_pairs_are_unsupported():
    x, labels = draw(60, 20)
    found = verify(count_pairs(x, labels))
    assert [point.target for point in found.operating] == [0.1, 0.01]
    assert found.unsupported == (1e-3, 1e-4, 1e-5, 1e-6)


def test_verification_of_a_collapsed_model():
    found = verify(count_pairs(torch.ones(40, 8), torch.arange(40) // 4))
    assert found.auc == 0.5
    assert found.eer == 0.5
    assert [(point.tar, point.false_accepts) for point in found.operating] == [(0, 0)]


def test_verification_needs_same_and_different_pairs():
    with pytest.raises(DataError, match="the same class"):
        verify(count_pairs(torch.randn(5, 4), torch.arange(5)))
    with pytest.raises(DataError, match="different classes"):
        verify(count_pairs(torch.randn(5, 4), torch.zeros(5, dtype=torch.int64)))


def test_pair_counts_do_not_depend_on_order_and_type():
    x, labels = draw(300, 40)
    order = torch.randperm(300)
    first, second = count_pairs(x, labels), count_pairs(x[order].double(), labels[order])
    assert np.array_equal(first.same, second.same)
    assert np.array_equal(first.different, second.different)
