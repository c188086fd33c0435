"""Intervals by class: coverage by simulation, bootstrap and test against brute force and scipy."""

import numpy as np
import pytest
import torch
from scipy import stats

from lookalike.metrics import bootstrap
from lookalike.metrics.bootstrap import differences, mean_intervals


def clustered(rng, classes=40):
    """Hits of queries whose class decides how likely they are: mean of the population 0.75."""
    sizes = rng.integers(2, 20, classes)
    rate = rng.beta(1.5, 0.5, classes)
    labels = np.repeat(np.arange(classes), sizes)
    return labels, (rng.random(len(labels)) < rate[labels]).astype(float)


def test_intervals_have_their_coverage():
    rng = np.random.default_rng(0)
    covered = []
    for trial in range(400):
        labels, hits = clustered(rng)
        found = mean_intervals({"x": hits}, labels, resamples=1000, seed=trial)["x"]
        covered.append(found.low <= 0.75 <= found.high)
    assert 0.91 <= np.mean(covered) <= 0.98
    # Were the queries taken for independent, the intervals would be too narrow to cover.
    alone = []
    for trial in range(100):
        _, hits = clustered(rng)
        found = mean_intervals({"x": hits}, np.arange(len(hits)), resamples=500, seed=trial)["x"]
        alone.append(found.low <= 0.75 <= found.high)
    assert np.mean(alone) < 0.85


def test_differences_have_their_coverage_and_false_positive_rate():
    rng = np.random.default_rng(1)
    covered, real, false = [], [], []
    for trial in range(300):
        labels, first = clustered(rng)
        shift = rng.normal(0.05, 0.1, 40)[labels]
        second = np.clip(first * 0.5 + shift + 0.3, 0, 1)
        # E[clip] has no closed form, so the truth is the mean over many more classes.
        if trial == 0:
            more, hits = clustered(rng, 200_000)
            moved = np.clip(hits * 0.5 + rng.normal(0.05, 0.1, 200_000)[more] + 0.3, 0, 1)
            truth = float((moved - hits).mean())
        found = differences({"x": first}, {"x": second}, labels, resamples=600, seed=trial)["x"]
        covered.append(found.low <= truth <= found.high)
        noise = rng.normal(0, 0.1, 40)[labels]
        none = differences({"x": first * 0}, {"x": noise}, labels, resamples=600, seed=trial)["x"]
        false.append(none.p_value <= 0.05)
        real.append(none.real)
    assert 0.91 <= np.mean(covered) <= 0.98
    assert 0.02 <= np.mean(false) <= 0.09
    assert 0.02 <= np.mean(real) <= 0.10


def test_bca_equals_scipy_for_classes_of_one_size():
    rng = np.random.default_rng(2)
    values = rng.beta(2, 0.6, 300)
    found = mean_intervals({"x": values}, np.arange(300), resamples=20_000)["x"]
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(5)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert found.value == pytest.approx(values.mean(), abs=1e-9)
    assert found.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert found.high == pytest.approx(theirs.high, abs=0.03 * width)


def test_resampled_means_are_the_ratios_of_the_drawn_classes():
    labels = np.array([7, 7, 7, 2, 5, 5])
    values = np.array([1.0, 0.5, 0.0, 1.0, 0.25, 0.5])
    table = bootstrap.ClassSums.of({"x": values, "y": values**2}, labels)
    for weights in bootstrap.resample_weights(3, 50, seed=3):
        assert (weights.sum(1) == 3).all()
        for drawn, (x, y) in zip(weights, table.means(weights), strict=True):
            times = drawn[np.searchsorted([2, 5, 7], labels)]
            rows = np.repeat(np.arange(6), times.astype(int))
            assert x == pytest.approx(values[rows].mean(), abs=1e-12)
            assert y == pytest.approx((values[rows] ** 2).mean(), abs=1e-9)


def test_p_value_equals_that_of_all_sign_flips():
    rng = np.random.default_rng(4)
    difference = rng.normal(0.1, 0.2, 10).clip(-1, 1)
    found = differences(
        {"x": np.zeros(10)}, {"x": difference}, np.arange(10), resamples=50_000
    )["x"]  # fmt: skip
    signs = np.array(np.meshgrid(*[[-1, 1]] * 10)).reshape(10, -1)
    exact = (np.abs(difference @ signs) >= abs(difference.sum()) - 1e-12).mean()
    assert found.p_value == pytest.approx(exact, abs=0.01)


def test_intervals_without_variance():
    labels = np.repeat(np.arange(20), 3)
    perfect = mean_intervals({"x": np.ones(60), "y": np.zeros(60)}, labels)
    low = stats.binomtest(20, 20).proportion_ci(method="exact").low
    assert (perfect["x"].value, perfect["x"].high) == (1, 1)
    assert perfect["x"].low == pytest.approx(low)
    assert perfect["y"].high == pytest.approx(1 - low)
    same = differences({"x": np.ones(60)}, {"x": np.ones(60)}, labels)["x"]
    assert (same.value, same.low, same.high, same.p_value, same.real) == (0, 0, 0, 1, False)
    [one] = mean_intervals({"x": np.array([0.5, 1.0])}, np.zeros(2, int)).values()
    assert (one.low, one.high) == (0, 1)


def test_intervals_depend_on_the_seed_and_not_on_threads():
    rng = np.random.default_rng(6)
    labels, hits = clustered(rng, 3000)
    values = {"x": torch.from_numpy(hits), "y": torch.rand(len(hits), dtype=torch.float64)}
    threads = torch.get_num_threads()
    first = mean_intervals(values, labels)
    torch.set_num_threads(1)
    again = mean_intervals(values, torch.from_numpy(labels))
    torch.set_num_threads(threads)
    assert first == again
    assert first["y"] != mean_intervals(values, labels, seed=1)["y"]
    order = rng.permutation(len(hits))
    moved = mean_intervals({k: v[order] for k, v in values.items()}, labels[order])
    assert moved["x"] == first["x"]


@pytest.mark.parametrize("classes", [2, 3, 5, 8])
def test_intervals_of_few_classes_have_their_coverage(classes):
    labels = np.repeat(np.arange(classes), 5)
    covered, covering, real = [], [], []
    for trial in range(200):
        rng = np.random.default_rng(1000 * classes + trial)
        one, two = (rng.normal(0.5, 0.1, classes).clip(0, 1)[labels] for _ in range(2))
        mean = mean_intervals({"x": one}, labels, resamples=400)["x"]
        covered.append(mean.low <= 0.5 <= mean.high)
        gain = differences({"x": one}, {"x": two}, labels, resamples=400)["x"]
        covering.append(gain.low <= 0 <= gain.high)
        real.append(gain.real)
    assert np.mean(covered) >= 0.93
    assert np.mean(covering) >= 0.9
    assert np.mean(real) <= (0.1 if classes >= bootstrap.LEAST else 0)


def test_a_difference_in_all_classes_is_real():
    labels = np.repeat(np.arange(50), 4)
    gain = differences({"x": np.zeros(200)}, {"x": np.ones(200)}, labels)["x"]
    assert (gain.value, gain.high, gain.real) == (1, 1, True)
    assert 0.8 < gain.low < 0.9  # of the classes that nobody saw 7 % may be the other way
    back = differences({"x": np.ones(200)}, {"x": np.zeros(200)}, labels)["x"]
    assert (back.value, back.low, back.high) == (-gain.value, -gain.high, -gain.low)


def test_intervals_are_continuous_near_perfect_scores():
    perfect = mean_intervals({"x": np.ones(10)}, np.arange(10))["x"]
    nearly = mean_intervals({"x": np.array([0.99] + [1.0] * 9)}, np.arange(10))["x"]
    assert nearly.low == pytest.approx(perfect.low, abs=0.01)
