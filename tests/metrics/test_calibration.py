"""Calibration: counts against brute force, coverage on new classes by simulation and on emoji."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import norm

from lookalike.commands.quickstart import BACKBONE, unpack_images, unpack_weights
from lookalike.data.catalog import open_catalog
from lookalike.data.readers import read_records
from lookalike.distributed.world import ALONE
from lookalike.errors import DataError, LookalikeError, RunError
from lookalike.metrics import calibration as module
from lookalike.metrics import pair_scan as pairs_module
from lookalike.metrics.calibration import Calibration, fit_calibration
from lookalike.metrics.far_interval import ClassPairCounter, ClassPairs, far_interval
from lookalike.metrics.likelihood_ratio import LikelihoodRatio
from lookalike.metrics.open_set import BestMatches
from lookalike.metrics.pair_scan import PairSet
from lookalike.metrics.protocol import Roles
from lookalike.metrics.verification import PairCounts, binned, count_pairs
from lookalike.model.embedder import Embedder
from lookalike.training.validation import Validator

CPU = torch.device("cpu")


def draw(generator, classes, sizes=(2, 9), dim=12, noise=0.35):
    """Images around class centres, some of which are near many others, in few dimensions."""
    counts = torch.randint(*sizes, (classes,), generator=generator)
    labels = torch.arange(classes).repeat_interleave(counts)
    centres = torch.randn(classes, dim, generator=generator)
    centres[:, 0] += 0.8
    images = centres[labels] + noise * torch.randn(len(labels), dim, generator=generator)
    return images, labels


def class_pairs(images, labels, thresholds, roles=None):
    pairs = PairSet.of(images, labels, roles=roles, device=CPU)
    counter = ClassPairCounter(pairs, thresholds)
    for tile in pairs.tiles(ALONE):
        counter.add(tile)
    return counter.counts(ALONE)


@pytest.mark.parametrize("with_roles", [False, True])
def test_pairs_of_classes_equal_brute_force(monkeypatch, with_roles):
    monkeypatch.setattr(pairs_module, "SIDE", 20)
    images, labels = draw(torch.Generator().manual_seed(0), 25)
    count = len(labels)
    roles = None
    if with_roles:
        sequence = torch.randint(-2, 30, (count,)).clamp(-1)
        roles = Roles(torch.rand(count) < 0.6, torch.rand(count) < 0.6, sequence)
    thresholds = (0.1, 0.6)
    found = class_pairs(images, labels, thresholds, roles)
    x = torch.nn.functional.normalize(images.double())
    m, h = np.zeros((25, 25), int), np.zeros((2, 25, 25), int)
    for i in range(count):
        for j in range(i):
            if with_roles:
                asks = roles.query[i] & roles.gallery[j] | roles.query[j] & roles.gallery[i]
                if not asks or roles.sequence[i] == roles.sequence[j] != -1:
                    continue
            a, b = sorted((int(labels[i]), int(labels[j])))
            m[a, b] += 1
            for number, threshold in enumerate(thresholds):
                h[number, a, b] += bool(x[i] @ x[j] >= threshold)
    off = ~np.eye(25, dtype=bool)
    assert np.array_equal(found.pairs, ((m + m.T) * off).sum(1))
    assert found.pair_squares == (m**2 * off).sum()
    for number in (0, 1):
        its = h[number]
        assert np.array_equal(found.accepted[number], ((its + its.T) * off).sum(1))
        assert found.squares[number] == (its**2 * off).sum()
        assert found.products[number] == (its * m * off).sum()


def test_variance_over_draws_of_classes_is_unbiased():
    generator = torch.Generator().manual_seed(1)
    rates, variances = [], []
    for _ in range(300):
        found = class_pairs(*draw(generator, 30, sizes=(4, 5)), (0.5,))
        spread = found.spread(0)
        rates.append(found.accepted.sum() / found.pairs.sum())
        variances.append((spread.of_pairs + spread.of_classes) * rates[-1] ** 2)
    assert np.mean(variances) == pytest.approx(np.var(rates), rel=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("classes", [40, 150])
def test_far_intervals_cover_new_classes(classes):
    generator = torch.Generator().manual_seed(2)
    inside: dict[float, list[bool]] = {}
    for _ in range(120 if classes == 40 else 60):
        level_set = fit_calibration(*draw(generator, classes))
        new = count_pairs(*draw(generator, classes))
        for level in level_set.levels:
            far = new.at(level.threshold)[1] / new.different.sum()
            inside.setdefault(level.target, []).append(level.far_low <= far <= level.far_high)
    assert len(inside) >= 3
    for target, hits in inside.items():
        if len(hits) >= 50:
            assert np.mean(hits) >= 0.88, target
    # As sure as stated over all, but not by being endless: see the widths below.
    assert np.mean(np.concatenate(list(inside.values()))) >= 0.92
    first = fit_calibration(*draw(generator, classes)).level(0.1)
    assert first.far_high < 2.2 * first.far_low
    low, high = far_interval(first.far, first.spread, classes=10**9)
    assert first.far_low <= low <= first.far <= high <= first.far_high


@pytest.mark.slow
def test_far_intervals_cover_other_emoji(tmp_path):
    weights = unpack_weights(tmp_path)
    records = read_records(str(unpack_images(tmp_path) / "test.txt"))
    embedder = Embedder.create(BACKBONE, pretrained=str(weights), image_size=64, embedding_dim=512)
    vectors = torch.from_numpy(embedder.embed([record.uri for record in records], threads=1))
    names, labels = np.unique([record.label for record in records], return_inverse=True)
    labels = torch.from_numpy(labels)
    generator = np.random.default_rng(0)
    inside = []
    for _ in range(12):
        thirds = generator.permutation(len(names))
        held, other = (np.isin(labels, thirds[part::3]) for part in (0, 1))
        found = fit_calibration(vectors[held], labels[held])
        new = count_pairs(vectors[other], labels[other])
        for level in found.levels:
            far = new.at(level.threshold)[1] / new.different.sum()
            inside.append(level.far_low <= far <= level.far_high)
        assert found.default_far in (1e-2, 1e-3)
    assert len(inside) >= 24
    assert np.mean(inside) >= 0.85


def test_probability_equals_that_of_known_densities():
    generator = np.random.default_rng(3)
    same = np.clip(generator.normal(0.6, 0.15, 200_000), -1, 1)
    different = np.clip(generator.normal(0.1, 0.15, 2_000_000), -1, 1)
    counts = PairCounts(
        *(np.bincount(binned(torch.from_numpy(x)), minlength=2**17 + 1) for x in (same, different))
    )
    fitted = LikelihoodRatio.fit(counts)
    assert (np.diff(fitted.log_ratios) >= 0).all()
    cosines = np.linspace(0.15, 0.55, 30)
    for prior in (0.5, 0.01):
        density = prior * norm.pdf(cosines, 0.6, 0.15)
        other = (1 - prior) * norm.pdf(cosines, 0.1, 0.15)
        assert fitted.probability(cosines, prior) == pytest.approx(
            density / (density + other), abs=0.02
        )
    assert 0 < fitted.probability(-1.0, 0.5) < 1e-3 < 0.999 < fitted.probability(1.0, 0.5) < 1


@pytest.mark.parametrize("with_roles", [False, True])
def test_open_set_thresholds_equal_brute_force(monkeypatch, with_roles):
    monkeypatch.setattr(pairs_module, "SIDE", 16)
    images, labels = draw(torch.Generator().manual_seed(4), 40)
    count = len(labels)
    everyone = torch.ones(count, dtype=torch.bool)
    roles = Roles(everyone, everyone, torch.full((count,), -1))
    if with_roles:
        sequence = torch.randint(-2, 50, (count,)).clamp(-1)
        roles = Roles(torch.rand(count) < 0.5, torch.rand(count) < 0.6, sequence)
    pairs = PairSet.of(images, labels, roles=roles if with_roles else None, device=CPU)
    best = BestMatches(pairs)
    for tile in pairs.tiles(ALONE):
        best.add(tile)
    found = best.open_set(ALONE)
    x = torch.nn.functional.normalize(images.double())
    right, wrong = [], []
    for i in roles.query.nonzero()[:, 0].tolist():
        others = roles.gallery & (torch.arange(count) != i)
        others &= (roles.sequence[i] < 0) | (roles.sequence != roles.sequence[i])
        cosines = x @ x[i]
        same = others & (labels == labels[i])
        right.append(float(cosines[same].max()) if same.any() else -np.inf)
        wrong.append(float(cosines[others & (labels != labels[i])].max()))
    right, wrong = np.array(right), np.array(wrong)
    assert found.queries == len(wrong)
    for one in found.rejections:
        assert one.passed == (wrong >= one.threshold).mean() <= one.target
        known = np.isfinite(right)
        hits = (right >= one.threshold) & (right > wrong)
        assert one.found == pytest.approx(hits[known].mean())
    assert found.threshold(0.5) == found.rejections[2].threshold
    # Ten times the gallery: harder to stay below.
    assert found.threshold(0.9, gallery=10 * found.gallery) > found.threshold(0.9)
    with pytest.raises(DataError, match="below the smallest supported one"):
        found.threshold(1e-6)


def test_calibration_is_saved_and_loaded(tmp_path):
    found = fit_calibration(*draw(torch.Generator().manual_seed(5), 60), source="somewhere")
    assert Calibration.load(tmp_path) is None
    path = found.save(tmp_path / "model")
    assert Calibration.load(tmp_path) == Calibration.load(tmp_path / "model") == found
    saved = json.loads(path.read_text())
    assert saved["threshold"] == found.threshold == found.level(1e-2).threshold or found.level()
    assert saved["reject_threshold"] == found.reject_threshold
    for text in ('{"format": "other"}', "[]", "{", json.dumps({**saved, "levels": []})):
        path.write_text(text)
        with pytest.raises(RunError, match=r"calibration\.json"):
            Calibration.load(tmp_path)
    with pytest.raises(DataError, match=r"there are 0\.1, 0\.01"):
        found.level(0.5)


def test_too_few_pairs_are_refused_with_counts():
    with pytest.raises(DataError, match=r"6 images make 3 pairs of one class and 12 of different"):
        fit_calibration(torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 2, 2]))


def test_large_sets_are_sampled_by_whole_classes(monkeypatch):
    monkeypatch.setattr(module, "MOST_IMAGES", 300)
    monkeypatch.setattr(module, "MOST_OF_A_CLASS", 20)
    labels = torch.cat([torch.zeros(500, dtype=torch.int64), torch.arange(1, 101).repeat(5)])
    rows = module.draw_rows(labels, 0)
    assert len(rows) == 300
    sizes = labels[rows].bincount(minlength=101)
    assert sizes.max() <= 20
    assert ((sizes[1:] == 0) | (sizes[1:] == 5)).sum() >= 99
    assert torch.equal(rows, module.draw_rows(labels, 0))
    assert not torch.equal(rows, module.draw_rows(labels, 1))


def test_training_classes_are_excluded_from_calibration(many_shapes):
    catalog = open_catalog(str(many_shapes))
    embedder = Embedder.create("test_resnet", pretrained=False, image_size=32, embedding_dim=8)
    classes = torch.arange(40)
    few = torch.where(classes < 30, classes, -1)  # ten new ones: too few to go without the others
    enough = torch.where(classes < 15, classes, -1)
    for known, expected in ((few, (30, 40, 120)), (enough, (0, 25, 75))):
        validator = Validator(catalog, catalog)
        validator.train_classes = known
        found = validator.calibrate(embedder, "shapes", chose_checkpoint=False)
        assert (found.seen_in_training, found.classes, found.images) == expected


def test_equal_shares_of_all_classes_count_as_that_many_classes(recwarn):
    # Each class differs by one accepted pair from the rate of a half.
    pairs = ClassPairs(
        pairs=np.full(4, 4), accepted=np.array([[3, 3, 1, 1]]), squares=np.array([4]),
        products=np.array([8]), pair_squares=16,
    )  # fmt: skip
    assert pairs.spread(0).degrees == 3
    assert not recwarn.list


WRONG = {
    "far=": lambda one: one.level("x"),
    "no threshold for a false-accept rate of 1e-09": lambda one: one.far_interval(1e-9, classes=5),
    "classes=0 must be an integer from 1 on": lambda one: one.far_interval(classes=0),
    "prior=0 is not a number between 0 and 1": lambda one: one.probability(0.5, prior=0),
    "prior=1 is not": lambda one: one.cosine_of(1),
    "cosine nan is not a number": lambda one: one.probability(float("nan")),
    "cosine 'a' is not a number": lambda one: one.probability("a"),
    "cosine of several is not a number": lambda one: one.probability([0.5, float("nan")]),
    "gallery='x' must be a number": lambda one: one.search_prior("x"),
    "share=0 is not a number between 0 and 1": lambda one: one.open_set.threshold(0),
    "gallery=0 must be a number above 0": lambda one: one.open_set.threshold(gallery=0),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments_are_errors_of_ours(message):
    found = fit_calibration(*draw(torch.Generator().manual_seed(5), 60), source="somewhere")
    with pytest.raises(LookalikeError, match=f"^{message}"):
        WRONG[message](found)
