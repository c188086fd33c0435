"""Samplers: what every batch and every epoch holds, against the plain definitions."""

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import write_catalog

from lookalike.config.config import Config
from lookalike.config.sections import DataConfig
from lookalike.data.augmentations.training_crop import Augment
from lookalike.data.loading.bad_images import BadImages
from lookalike.data.loading.image_source import Source
from lookalike.data.loading.train_loader import TrainLoader
from lookalike.data.rng import EpochRng, occurrences, row_rng
from lookalike.data.samplers import SAMPLERS, Sampling, Sizes, create_sampler, epoch_shape
from lookalike.distributed.world import World
from lookalike.errors import ConfigError

KINDS = {
    "shuffle": Sampling(),
    "pk": Sampling("pk", images_per_class=3),
    "balanced": Sampling("balanced", power=0.5),
    "repeat_factor": Sampling("repeat_factor", threshold=9),
    "repeated": Sampling(repeats=3),
    "repeated pk": Sampling("pk", images_per_class=2, repeats=3),
}

# Numbers of images of each class, some of them 0; a long tail among them.
COUNTS = st.one_of(
    st.lists(st.integers(0, 9), min_size=1, max_size=25),
    st.lists(st.sampled_from([0, 1, 1, 1, 2, 3, 50, 200]), min_size=1, max_size=12),
).filter(any)


def ids_of(counts: list[int], seed: int) -> np.ndarray:
    """The class of each row, in no order."""
    ids = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(seed).permutation(ids)


def sampler(counts: list[int], batch_size: int, sampling: Sampling, seed: int = 0):
    return create_sampler(ids_of(counts, seed), batch_size=batch_size, seed=seed, sampling=sampling)


def groups_of(counts: list[int], k: int) -> list[int]:
    return [math.ceil(n / k) for n in counts if n]


@pytest.mark.parametrize("kind", KINDS)
@given(COUNTS, st.integers(1, 8), st.integers(0, 5), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_epochs_are_exact_and_repeatable(kind, counts, groups, seed, epoch):
    sampling = KINDS[kind]
    batch_size = groups * sampling.k * sampling.repeats
    made = sampler(counts, batch_size, sampling, seed)
    rows = made.rows(epoch)
    assert rows.dtype == np.int64
    assert rows.shape == (made.steps_per_epoch, made.batch_size)
    assert made.steps_per_epoch >= 1
    assert 1 <= made.batch_size <= batch_size
    sizes = Sizes.of(np.array(counts))
    assert epoch_shape(sizes, batch_size, sampling) == rows.shape
    assert rows.min() >= 0
    assert rows.max() < sum(counts)
    again = sampler(counts, batch_size, sampling, seed)
    again.rows(epoch + 1)  # what was asked before changes nothing
    np.testing.assert_array_equal(again.rows(epoch), rows)


@given(COUNTS, st.integers(1, 8), st.integers(1, 5), st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_pk_batches_hold_p_classes_with_k_images(counts, p, k, seed):
    made = sampler(counts, p * k, Sampling("pk", images_per_class=k), seed)
    classes = ids_of(counts, seed)
    groups = groups_of(counts, k)
    p = min(p, len(groups))
    # The largest T such that T batches can be filled, no class twice in one.
    steps = max(t for t in range(1, sum(groups) + 1) if sum(min(g, t) for g in groups) >= p * t)
    assert (made.steps_per_epoch, made.batch_size) == (steps, p * k)
    rows = made.rows(seed)
    visits, seen = Counter(), Counter(rows.reshape(-1).tolist())
    for batch in rows:
        held = Counter(classes[batch].tolist())
        assert len(held) == p
        assert set(held.values()) == {k}
        visits.update(held.keys())
        within = Counter(batch.tolist())
        for row, times in within.items():
            n = counts[classes[row]]
            assert math.floor(k / n) <= times <= math.ceil(k / n)
        # Every worker's share has as many classes as it can: each P rows are P classes.
        for turn in batch.reshape(k, p):
            assert len(set(classes[turn].tolist())) == p
    left_over = 0
    for kind, n in enumerate(counts):
        if not n:
            continue
        wanted = min(math.ceil(n / k), steps)
        assert visits[kind] <= wanted
        left_over += wanted - visits[kind]
        images = [seen[row] for row in np.flatnonzero(classes == kind)]
        assert max(images) - min(images) <= 1 or visits[kind] < wanted
        if visits[kind] == math.ceil(n / k):  # no group is left out
            assert min(images) >= 1
    assert left_over < p


def test_pk_sees_every_image_and_deals_classes_freely():
    counts = [8] * 20
    made = sampler(counts, 16, Sampling("pk", images_per_class=4))
    assert made.steps_per_epoch == 10
    together = np.zeros((20, 20), int)
    for epoch in range(60):
        rows = made.rows(epoch)
        assert sorted(rows.reshape(-1)) == list(range(160))  # exactly once
        for batch in made.class_ids[rows]:
            held = np.unique(batch)
            together[np.ix_(held, held)] += 1
    pairs = together[~np.eye(20, dtype=bool)]
    # 60 epochs x 10 batches x 12 ordered pairs over 380: 19 of each, scatter about 4.
    assert abs(pairs.mean() - 60 * 10 * 12 / 380) < 1e-9
    assert pairs.min() > 3
    assert pairs.max() < 40


def test_pk_has_as_many_batches_as_a_huge_class_allows():
    counts = [1000, 3, 2, 1, 4]
    made = sampler(counts, 6, Sampling("pk", images_per_class=2))
    # P = 3; the groups of the others are 2, 1, 1, 2: six, two a batch beside the huge class.
    assert made.steps_per_epoch == 3
    seen = set()
    for epoch in range(40):
        rows = made.rows(epoch)
        assert all(0 in held for held in made.class_ids[rows])
        seen |= set(rows[made.class_ids[rows] == 0].tolist())
    assert len(seen) > 200  # other images of it in other epochs


@given(COUNTS, st.integers(1, 20), st.floats(0, 1), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_balanced_gives_each_class_its_share(counts, batch_size, power, seed):
    made = sampler(counts, batch_size, Sampling("balanced", power=power), seed)
    total = sum(counts)
    assert made.steps_per_epoch == total // min(total, batch_size)
    rows = made.rows(seed).reshape(-1)
    classes = ids_of(counts, seed)
    weights = np.array([n**power if n else 0.0 for n in counts])
    shares = len(rows) * weights / weights.sum()
    drawn = np.bincount(classes[rows], minlength=len(counts))
    assert np.abs(drawn - shares).max() < 1 + 1e-9
    times = np.bincount(rows, minlength=total)
    for kind, n in enumerate(counts):
        if n:
            mine = times[classes == kind]
            assert mine.max() - mine.min() <= 1  # its own images in turn


def test_balanced_is_unbiased_and_mixed():
    counts, epochs = [100, 30, 7, 1, 1], 400
    made = sampler(counts, 10, Sampling("balanced"))
    drawn = sum(np.bincount(made.class_ids[made.rows(e)].reshape(-1)) for e in range(epochs))
    weights = np.sqrt(counts)
    expected = epochs * 130 * weights / weights.sum()
    assert np.abs(drawn - expected).max() < 5 * math.sqrt(epochs) / 2
    first = np.array([made.class_ids[made.rows(e)[0]] for e in range(epochs)])
    share = np.bincount(first.reshape(-1)) / first.size
    assert np.abs(share - weights / weights.sum()).max() < 0.03  # early batches are as late ones


def test_balanced_with_more_classes_than_places_draws_different_ones():
    made = create_sampler(
        np.arange(1000) % 500, batch_size=999, seed=0, sampling=Sampling("balanced", power=0)
    )
    assert made.rows(0).shape == (1, 999)
    small = sampler([5] * 200, 1, Sampling("balanced", power=0))
    small.steps_per_epoch = 20  # fewer places than classes
    seen = [frozenset(small.class_ids[small.rows(e)].reshape(-1).tolist()) for e in range(50)]
    assert all(len(held) == 20 for held in seen)
    assert len(set(seen)) == 50
    assert len(frozenset.union(*seen)) > 190


@given(COUNTS, st.integers(1, 20), st.sampled_from([None, 0.001, 0.3, 1, 7, 1000]))
@settings(max_examples=100, deadline=None)
def test_repeat_factors_are_those_of_the_paper(counts, batch_size, threshold):
    made = sampler(counts, batch_size, Sampling("repeat_factor", threshold=threshold))
    total, classes = sum(counts), ids_of(counts, 0)
    # Gupta et al.: r = max(1, sqrt(t / f)), f the share of the images that are of the class.
    t = threshold if threshold is not None else 1 / sum(n > 0 for n in counts)
    t = t / total if t >= 1 and threshold is not None else t
    factor = np.array([max(1, math.sqrt(t / (counts[kind] / total))) for kind in classes])
    rows = made.rows(2).reshape(-1)
    assert len(rows) <= factor.sum() + 1e-3
    assert len(rows) > factor.sum() - made.batch_size - 1e-3
    times = np.bincount(rows, minlength=total)
    assert (times <= np.ceil(factor - 1e-5) + 1e-9).all()
    missing = np.maximum(np.floor(factor + 1e-5) - times, 0).sum()
    assert missing <= made.batch_size  # the incomplete last batch, and one


def test_repeat_factors_are_reached_on_average():
    counts, epochs = [60, 20, 5, 2], 600
    made = sampler(counts, 1, Sampling("repeat_factor", threshold=30))
    times = sum(np.bincount(made.rows(e).reshape(-1), minlength=87) for e in range(epochs)) / epochs
    factor = np.sqrt(np.maximum(1, 30 / np.array(counts)))[made.class_ids]
    assert np.abs(times - factor).max() < 5 * 0.5 / math.sqrt(epochs)


@pytest.mark.parametrize("repeats", [2, 3, 5])
@given(COUNTS, st.integers(1, 6), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_repeated_images_stand_together_and_passes_go_on(repeats, counts, groups, seed):
    made = sampler(counts, groups * repeats, Sampling(repeats=repeats), seed)
    within = sampler(counts, groups, Sampling(), seed)
    assert made.batch_size == within.batch_size * repeats
    assert made.steps_per_epoch == max(1, within.steps_per_epoch // repeats)
    drawn = []
    for epoch in range(2 * repeats + 1):
        for batch in made.rows(epoch):
            turns = batch.reshape(repeats, -1)
            assert (turns == turns[0]).all()
            assert len(set(turns[0].tolist())) == within.batch_size
            drawn.append(turns[0])
    passes = [within.rows(number) for number in range(len(drawn) // within.steps_per_epoch + 1)]
    np.testing.assert_array_equal(drawn, np.concatenate(passes)[: len(drawn)])


def test_an_epoch_of_repeated_images_is_as_long_as_a_plain_one():
    for repeats in (1, 2, 4):
        made = sampler([100] * 10, 20, Sampling(repeats=repeats))
        assert made.steps_per_epoch * made.batch_size == 1000


@given(st.lists(st.integers(0, 5), max_size=40))
def test_occurrences_count_what_came_before(rows):
    expected = [rows[:place].count(row) for place, row in enumerate(rows)]
    assert occurrences(np.array(rows, np.int64)).tolist() == expected


def test_streams_of_repeated_rows_differ_and_the_first_is_the_old_one():
    assert row_rng(1, 2, 3).random() == 0.4310285638286371
    keys = [(s, e, r, a, o) for s in (0, 1) for e in (0, 1, 255) for r in (0, 1, 256)
            for a in (0, 9) for o in (0, 1, 2, 255, 256, 10**6)]  # fmt: skip
    assert len({row_rng(*key).getrandbits(64) for key in keys}) == len(keys)
    assert row_rng(5, 6, 7, 8, 0).getrandbits(64) == row_rng(5, 6, 7, 8).getrandbits(64)


PINNED = {
    "shuffle": [[5, 1, 3, 4, 8, 6]],
    "pk": [[3, 8, 1, 7, 0, 8], [2, 4, 3, 6, 1, 5]],
    "balanced": [[3, 8, 5, 1, 4, 6]],
    "repeat_factor": [[7, 8, 0, 2, 3, 7], [4, 6, 4, 1, 5, 7]],
}


@pytest.mark.parametrize("kind", PINNED)
def test_orders_are_written_down(kind):
    """If these change, runs of older versions do not resume exactly."""
    ids = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2])
    made = create_sampler(ids, batch_size=6, seed=1, sampling=KINDS[kind])
    assert made.rows(2).tolist() == PINNED[kind]


# With pictures


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    made = write_catalog(tmp_path_factory.mktemp("good"), 26)
    ids = np.array([0] * 14 + [1] * 7 + [2] * 4 + [1], np.int64)
    return dataclasses.replace(made, class_ids=ids)


def loader(catalog, sampling, *, threads=0, **change):
    settings = {"batch_size": 6, "augment": Augment(24), "seed": 7} | change
    return TrainLoader(catalog, sampling=sampling, source=Source(threads=threads), **settings)


def same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        for field in ("images", "classes", "rows"):
            assert torch.equal(getattr(x, field), getattr(y, field))


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_those_of_the_sampler_with_any_workers_and_threads(kind, catalog):
    sampling = KINDS[kind]
    whole = list(loader(catalog, sampling).epoch(1))
    made = create_sampler(catalog.class_ids, batch_size=6, seed=7, sampling=sampling)
    np.testing.assert_array_equal([batch.rows.numpy() for batch in whole], made.rows(1))
    same(list(loader(catalog, sampling, threads=3).epoch(1)), whole)
    for size in (2, 3):
        parts = [
            list(loader(catalog, sampling, world=World(rank, size), threads=rank).epoch(1))
            for rank in range(size)
        ]
        for place, batch in enumerate(whole):
            joined = [part[place] for part in parts]
            for field in ("images", "classes", "rows"):
                pieces = [getattr(piece, field) for piece in joined]
                assert torch.equal(torch.cat(pieces), getattr(batch, field))


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_is_taken_up_at_any_step(kind, catalog):
    whole = list(loader(catalog, KINDS[kind]).epoch(2))
    for start in range(len(whole) + 1):
        same(list(loader(catalog, KINDS[kind], threads=2).epoch(2, start)), whole[start:])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "shuffle"])
def test_repeated_rows_look_different_each_time(kind, catalog):
    images = {}
    for batch in loader(catalog, KINDS[kind]).epoch(0):
        for row, picture in zip(batch.rows.tolist(), batch.images, strict=True):
            images.setdefault(row, []).append(picture.numpy().tobytes())
    repeated = [seen for seen in images.values() if len(seen) > 1]
    assert repeated
    assert all(len(set(seen)) == len(seen) for seen in repeated)


def test_the_first_occurrence_is_augmented_as_ever(catalog):
    plain = {
        int(row): picture
        for batch in loader(catalog, Sampling()).epoch(0)
        for row, picture in zip(batch.rows, batch.images, strict=True)
    }
    seen, compared = set(), 0
    for batch in loader(catalog, Sampling("pk", images_per_class=3)).epoch(0):
        for row, picture in zip(batch.rows.tolist(), batch.images, strict=True):
            if row not in seen and row in plain:
                compared += 1
                assert torch.equal(picture, plain[row])
            seen.add(row)
    assert compared > 5


def test_bad_images_are_replaced_by_others_of_their_class(tmp_path):
    made = write_catalog(tmp_path, 24, broken=(0, 5, 9))
    ids = np.array([0] * 8 + [1] * 8 + [2] * 8, np.int64)
    catalog = dataclasses.replace(made, class_ids=ids)
    for threads in (0, 3):
        bad = BadImages()
        batches = list(loader(catalog, Sampling("pk", images_per_class=3), bad=bad,
                              threads=threads).epoch(0))  # fmt: skip
        assert sorted(bad.reasons) == [0, 5, 9]
        for batch in batches:
            assert not {0, 5, 9} & set(batch.rows.tolist())
            assert Counter(batch.classes.tolist()).most_common()[-1][1] == 3
        same(batches, list(loader(catalog, Sampling("pk", images_per_class=3)).epoch(0)))


# Mistakes


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": "pk", "images_per_class": 5}, "12 is not a multiple of data.images_per_class=5"),
        ({"repeats": 5}, "12 is not a multiple of data.repeats=5; use 10 or 15"),
        (
            {"name": "pk", "repeats": 2},
            "of data.images_per_class=4 times data.repeats=2; use 8 or 16",
        ),
        ({"name": "pk", "images_per_class": 24}, "images_per_class=24; use 24"),
        ({"images_per_class": 2}, "for data.sampler=pk; with data.sampler=shuffle leave it out"),
        ({"name": "pk", "power": 0.5}, "sampling_power=0.5 is for data.sampler=balanced"),
        ({"name": "pk", "threshold": 2}, "repeat_threshold=2 is for data.sampler=repeat_factor"),
    ],
)
def test_mistakes_are_one_clear_line(values, said):
    with pytest.raises(ConfigError, match=said) as caught:
        create_sampler(np.zeros(50, int), batch_size=12, seed=0, sampling=Sampling(**values))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "setting",
    [
        *("images_per_class=0", "sampling_power=2", "sampling_power=-1", "repeat_threshold=0"),
        *("repeats=0", "min_crop=0", "min_crop=1.5", "flip=1.5", "num_classes=0"),
        *("num_classes=1000000000", "val_fraction=1", "val_fraction=-0.1", "val_fraction=.nan"),
    ],
)
def test_the_settings_refuse_numbers_out_of_range(setting):
    with pytest.raises(ConfigError, match=f"data.{setting.partition('=')[0]}"):
        Config.load(None, [f"data.{setting}"])


def test_the_samplers_of_the_settings_are_those_of_the_registry():
    assert DataConfig.model_fields["sampler"].annotation.__args__ == ("auto", *SAMPLERS)
    config = Config.load(None, ["data.sampler=pk", "data.images_per_class=8", "data.repeats=2"])
    assert (config.data.sampler, config.data.images_per_class, config.data.repeats) == ("pk", 8, 2)


def test_sizes():
    sizes = Sizes.of(np.array([3, 0, 3, 5]))
    assert (sizes.images.tolist(), sizes.classes.tolist()) == ([3, 5], [2, 1])
    assert (sizes.total, sizes.num_classes) == (11, 3)
    for images, classes in ((11, 3), (2, 5), (12, 4), (1, 1)):
        even = Sizes.even(images, classes)
        assert even.total == images
        assert even.num_classes == min(images, classes)


def test_a_long_tail_of_many_classes():
    counts = np.maximum(1, 30_000 // np.arange(1, 20_001))
    ids = np.repeat(np.arange(len(counts)), counts)
    for sampling in KINDS.values():
        batch_size = 256 * sampling.k * sampling.repeats
        made = create_sampler(ids, batch_size=batch_size, seed=0, sampling=sampling)
        rows = made.rows(0)
        assert rows.shape == (made.steps_per_epoch, made.batch_size)
        if sampling.name == "pk":
            held = np.sort(ids[rows[:50]], axis=1)
            assert ((np.diff(held, axis=1) != 0).sum(1) == 255).all()


def test_shuffle_is_the_plain_order():
    made = sampler([5, 6], 4, Sampling(), seed=3)
    plain = EpochRng(3, 5, 1).permutation(11)
    np.testing.assert_array_equal(made.rows(5).reshape(-1), plain[:8])
