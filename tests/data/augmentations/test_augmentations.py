"""Augmentations by name against torchvision.transforms.v2, its pixels and its distributions."""

import math
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import picture, write_catalog
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as tv

from lookalike.config.config import Config
from lookalike.config.sections import DataConfig
from lookalike.data.augmentations import (
    AUGMENTATIONS,
    create_augmentations,
    operations,
    policies,
)
from lookalike.data.augmentations.policies import OPERATIONS, SIGNED, RandAugment, TrivialAugment
from lookalike.data.augmentations.training_crop import Augment
from lookalike.data.augmentations.transforms import ColorJitter, RandomErasing
from lookalike.data.loading.image_source import Source
from lookalike.data.loading.train_loader import TrainLoader
from lookalike.errors import ConfigError

MEAN = (0.485, 0.456, 0.406)
DRAWS = 4000

OURS_AND_TORCHVISIONS = {
    "contrast": (0, 2.5, operations.adjust_contrast, tv.adjust_contrast),
    "hue": (-0.5, 0.5, operations.adjust_hue, tv.adjust_hue),
    "sharpness": (0, 3, operations.adjust_sharpness, tv.adjust_sharpness),
    "blur": (
        0.1, 3,
        lambda x, sigma: operations.gaussian_blur(x, 9, sigma),
        lambda x, sigma: tv.gaussian_blur(x, [9, 9], [sigma, sigma]),
    ),
    "equalize": (0, 1, lambda x, _: operations.equalize(x), lambda x, _: tv.equalize(x)),
}  # fmt: skip

# Bounds of the amount; ours; torchvision's; and where a pixel comes from, as (a, b, d, e) of
# x' = a x + b y, y' = d x + e y, with the point (u, v), in halves of the picture's size from its
# centre, that stays.
MOVES = {
    "rotate": (
        -180, 180, operations.rotate,
        lambda x, m, fill: tv.rotate(x, m, fill=fill),
        lambda m: ((np.cos(np.radians(m)), -np.sin(np.radians(m)),
                    np.sin(np.radians(m)), np.cos(np.radians(m))), (0, 0)),
    ),
    "shear_x": (
        -1, 1, operations.shear_x,
        lambda x, m, fill: tv.affine(
            x, 0.0, [0, 0], 1.0, [math.degrees(math.atan(m)), 0.0], center=[0, 0], fill=fill
        ),
        lambda m: ((1, m, 0, 1), (-1, -1)),
    ),
    "shear_y": (
        -1, 1, operations.shear_y,
        lambda x, m, fill: tv.affine(
            x, 0.0, [0, 0], 1.0, [0.0, math.degrees(math.atan(m))], center=[0, 0], fill=fill
        ),
        lambda m: ((1, 0, m, 1), (-1, -1)),
    ),
}  # fmt: skip

# Near 0 the order of float operations decides which side of a whole number a colour falls on.
SHARES = st.integers(0, 1000).map(lambda part: part / 1000)
SHAPES = [(64, 64), (33, 50), (1, 7), (2, 2), (97, 31)]


def image(shape: tuple[int, int], seed: int, *, wild: bool = False) -> torch.Tensor:
    """(3, H, W) uint8, channels last as `resize` gives it; smooth, or noise."""
    if wild:
        pixels = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
    else:
        pixels = picture(*shape, seed)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def gap(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype == torch.uint8
    return (ours.int() - theirs.int()).abs()


@pytest.mark.parametrize("name", OURS_AND_TORCHVISIONS)
@given(st.integers(0, 10**6), st.sampled_from(SHAPES), st.booleans(), SHARES)
@settings(max_examples=25, deadline=None)
def test_colours_are_torchvisions(name, seed, shape, wild, share):
    low, high, ours, theirs = OURS_AND_TORCHVISIONS[name]
    if name == "blur" and min(shape) < 5:
        shape = (5, 8)  # torchvision reflects no more than there is
    picture = image(shape, seed, wild=wild)
    before = picture.clone()
    amount = low + (high - low) * share
    found = gap(ours(picture, amount), theirs(picture, amount))
    assert found.max() <= 1
    assert found.float().mean() <= (0.02 if picture.numel() > 1000 else 0.2)
    assert torch.equal(picture, before)


@pytest.mark.parametrize("name", MOVES)
@given(
    st.integers(0, 10**6), st.sampled_from(SHAPES), st.floats(0, 1), st.sampled_from([0, 128, 255])
)
@settings(max_examples=25, deadline=None)
def test_moves_are_torchvisions(name, seed, shape, share, fill):
    low, high, ours, theirs, geometry = MOVES[name]
    picture = image(shape, seed, wild=True)
    amount = low + (high - low) * share
    found = ours(picture, amount, fill)
    height, width = shape
    (a, b, d, e), (u, v) = geometry(amount)
    x, y = np.arange(width) - (width - 1) / 2, np.arange(height)[:, None] - (height - 1) / 2
    x, y = x - u * width / 2, y - v * height / 2
    source_x = a * x + b * y + u * width / 2 + (width - 1) / 2  # (H, W)
    source_y = d * x + e * y + v * height / 2 + (height - 1) / 2
    expected = np.full((3, *shape), fill, np.uint8)
    row, column = np.rint(source_y).astype(int), np.rint(source_x).astype(int)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    expected[:, inside] = picture.numpy()[:, row[inside], column[inside]]
    # Sources half-way between two pixels may be rounded to either.
    clear = np.ones(shape, bool)
    for source in (source_x, source_y):
        clear &= np.abs(source - np.floor(source) - 0.5) > 1e-3
    clear = torch.from_numpy(clear)
    assert torch.equal(found[:, clear], torch.from_numpy(expected)[:, clear])
    assert torch.equal(found[:, clear], theirs(picture, amount, fill)[:, clear])


@pytest.mark.parametrize("right", [-70, -3, 0, 1, 64])
@pytest.mark.parametrize("down", [-5, 0, 31])
def test_translation_is_torchvisions(right, down):
    picture = image((33, 64), 2, wild=True)
    theirs = tv.affine(picture, 0.0, [right, down], 1.0, [0.0, 0.0], fill=77)
    assert torch.equal(operations.translate(picture, right, down, 77), theirs)


@pytest.mark.parametrize("kind", [RandAugment, TrivialAugment])
def test_policies_have_torchvisions_operations_and_bins(kind):
    theirs = {RandAugment: v2.RandAugment, TrivialAugment: v2.TrivialAugmentWide}[kind]()
    space = {
        re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower(): (name, *entry)
        for name, entry in theirs._AUGMENTATION_SPACE.items()
    }
    assert space.keys() == OPERATIONS.keys()
    assert {name for name, (_, _, signed) in space.items() if signed} == set(SIGNED)
    picture = image((48, 60), 3)
    for bins in (31, 10):
        for ours, (name, levels, signed) in space.items():
            expected = levels(bins, 48, 60)
            for place in range(bins):
                magnitude = kind().ranges.magnitude(ours, place / (bins - 1), 48, 60)
                wanted = 0.0 if expected is None else float(expected[place])
                assert magnitude == pytest.approx(wanted, rel=1e-5, abs=1e-6)
                if place % 6:
                    continue
                for sign in (1, -1) if signed else (1,):
                    one = OPERATIONS[ours](picture, sign * magnitude, 0)
                    other = theirs._apply_image_or_video_transform(
                        picture, name, sign * magnitude, InterpolationMode.NEAREST, theirs._fill
                    )
                    found = gap(one, other)
                    assert (found > 1).any(0).float().mean() < 0.05, (ours, magnitude)
                    assert found.float().mean() < 1, (ours, magnitude)


def test_policies_draw_operations_bins_and_signs_evenly():
    rng = random.Random(1)
    trivial = TrivialAugment()
    drawn = [trivial.draw(224, 224, rng) for _ in range(14 * DRAWS)]
    by_name = {name: [m for n, m in drawn if n == name] for name in OPERATIONS}
    for name, magnitudes in by_name.items():
        assert abs(len(magnitudes) - DRAWS) < 5 * math.sqrt(DRAWS), name
        different = set(magnitudes)
        if name in SIGNED:
            assert len(different) == 61  # 0, and 30 others of both signs
            positive = sum(m > 0 for m in magnitudes)
            assert abs(positive - DRAWS * 15 / 31) < 5 * math.sqrt(DRAWS / 4)
            counts = np.unique(np.abs(magnitudes), return_counts=True)[1]
            assert np.abs(counts - DRAWS / 31).max() < 5 * math.sqrt(DRAWS / 31)
    strong = RandAugment(magnitude=15)
    assert {abs(m) for n, m in (strong.draw(64, 64, rng) for _ in range(999)) if n == "rotate"} == {
        15.0
    }


def test_rand_augment_does_as_many_operations_as_asked(monkeypatch):
    done = []
    spies = {name: lambda x, m, f, n=name: done.append((n, f)) or x for name in OPERATIONS}
    monkeypatch.setattr(policies, "OPERATIONS", spies)
    for number in (0, 2, 5):
        done.clear()
        RandAugment(num_ops=number, fill=7)(image((8, 8), 0), random.Random(0))
        assert len(done) == number
        assert all(fill == 7 for _, fill in done)


def test_color_jitter_is_drawn_as_torchvisions():
    ours, rng = ColorJitter(brightness=0.4, contrast=1.5, saturation=0.2, hue=0.1), random.Random(2)
    theirs = v2.ColorJitter(0.4, 1.5, 0.2, 0.1)
    functions = ("adjust_brightness", "adjust_contrast", "adjust_saturation", "adjust_hue")
    torch.manual_seed(2)
    amounts = {name: [] for name in functions}
    orders = {}
    for _ in range(DRAWS):
        changes = ours.draw(rng)
        order = tuple(function.__name__ for function, _ in changes)
        orders[order] = orders.get(order, 0) + 1
        for function, amount in changes:
            amounts[function.__name__].append(amount)
    assert len(orders) == 24
    assert max(abs(n - DRAWS / 24) for n in orders.values()) < 5 * math.sqrt(DRAWS / 24)
    params = [theirs.make_params([]) for _ in range(DRAWS)]
    for name, key in zip(functions, ("brightness", "contrast", "saturation", "hue"), strict=True):
        like = np.array([made[f"{key}_factor"] for made in params])
        mine = np.array(amounts[name])
        spread = np.ptp(like)
        assert np.ptp(mine) == pytest.approx(spread, rel=0.02)
        quantiles = np.linspace(0, 1, 11)
        distance = np.quantile(mine, quantiles) - np.quantile(like, quantiles)
        assert np.abs(distance).max() < 0.05 * spread
    # A strength of 0 leaves its change out.
    assert [f.__name__ for f, _ in ColorJitter(0.5, 0, 0, 0, 0).draw(rng)] == []
    only = ColorJitter(brightness=0.5, contrast=0, saturation=0, hue=0)
    assert [f.__name__ for f, _ in only.draw(rng)] == ["adjust_brightness"]


def test_color_jitter_is_torchvisions_on_the_same_numbers():
    picture = image((40, 40), 5)
    for seed in range(12):
        changes = ColorJitter().draw(random.Random(seed))
        theirs = picture
        for function, amount in changes:
            theirs = getattr(tv, function.__name__)(theirs, amount)
        ours = ColorJitter().apply(picture, random.Random(seed))
        # A grey level of difference on the way may turn the hue of a nearly grey pixel.
        assert gap(ours, theirs).float().mean() < 0.05


@pytest.mark.parametrize("shape", [(96, 96), (40, 120)])
def test_erased_boxes_are_distributed_as_torchvisions(shape):
    theirs, rng = v2.RandomErasing(), random.Random(4)
    torch.manual_seed(4)
    like = torch.empty(3, *shape)
    params = [theirs.make_params([like]) for _ in range(DRAWS)]
    other = np.array([[p[k] for k in "ijhw"] for p in params if p["v"] is not None], float)
    drawn = [RandomErasing().draw_box(*shape, rng) for _ in range(DRAWS)]
    mine = np.array([box for box in drawn if box is not None], float)
    assert abs(len(mine) - len(other)) <= 20
    for a, b in zip(mine.T, other.T, strict=True):
        quantiles = np.linspace(0.05, 0.95, 10)
        distance = np.quantile(a, quantiles) - np.quantile(b, quantiles)
        assert np.abs(distance).max() < 0.06 * max(shape)
        scatter = math.hypot(a.std(), b.std()) / math.sqrt(DRAWS)
        assert abs(a.mean() - b.mean()) < 5 * scatter


@pytest.mark.parametrize(
    ("value", "expected"),
    [("mean", (124, 116, 104)), (9, (9, 9, 9)), ([1, 2, 3], (1, 2, 3)), ("random", None)],
)
def test_erasing_paints_the_box_and_nothing_else(value, expected):
    [erasing] = create_augmentations([{"random_erasing": {"p": 1, "value": value}}])
    erasing = erasing.fitted(64, MEAN)
    picture = image((64, 64), 1)
    before = picture.clone()
    out = erasing(picture, random.Random(3))
    assert torch.equal(picture, before)
    rng = random.Random(3)
    rng.random()
    top, left, height, width = erasing.draw_box(64, 64, rng)
    inside = torch.zeros(64, 64, dtype=torch.bool)
    inside[top : top + height, left : left + width] = True
    assert torch.equal(out[:, ~inside], picture[:, ~inside])
    if expected is not None:
        wanted = torch.tensor(expected, dtype=torch.uint8)[:, None]
        assert torch.equal(out[:, inside], wanted.expand(3, height * width))
        theirs = tv.erase(picture, top, left, height, width, wanted[:, :, None])
        assert torch.equal(out, theirs)
    else:
        assert 100 < out[:, inside].float().mean() < 155
        assert len(out[:, inside].unique()) > 200


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_name_alone_is_repeatable_and_spends_its_probability(name):
    kind = AUGMENTATIONS[name]
    [plain] = create_augmentations([name])
    picture = image((48, 48), 7)
    before = picture.clone()
    for seed in range(20):
        out = plain.fitted(48, MEAN)(picture, random.Random(seed))
        assert out.shape == (3, 48, 48)
        assert out.dtype == torch.uint8
        again = plain.fitted(48, MEAN)(picture.contiguous(), random.Random(seed))
        assert torch.equal(out, again)  # in another memory order
    assert torch.equal(picture, before)
    assert all(kind(p=0.0)(picture, random.Random(s)) is picture for s in range(20))
    rng, done, each = random.Random(5), [], kind(p=0.3)
    object.__setattr__(each, "apply", lambda image, rng: done.append(1) or image)
    for _ in range(2000):
        each(picture, rng)
    assert abs(len(done) - 600) < 5 * math.sqrt(2000 * 0.21)


def test_threads_of_torch_change_nothing():
    picture, before = image((224, 224), 9), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            results.append(
                [
                    kind(p=1.0).fitted(224, MEAN)(picture, random.Random(seed))
                    for kind in AUGMENTATIONS.values()
                    for seed in range(4)
                ]
            )
    finally:
        torch.set_num_threads(before)
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_rotation_and_blur_draw_from_their_ranges(monkeypatch):
    seen = {"rotate": [], "gaussian_blur": []}
    monkeypatch.setattr(operations, "rotate", lambda x, d, f: seen["rotate"].append(d) or x)
    monkeypatch.setattr(
        operations, "gaussian_blur", lambda x, k, s: seen["gaussian_blur"].append(s) or x
    )
    rng = random.Random(0)
    rotation, blur = create_augmentations(
        [{"rotation": {"degrees": 40}}, {"gaussian_blur": {"sigma": [0.5, 2.5]}}]
    )
    for _ in range(2000):
        rotation(image((4, 4), 0), rng)
        blur(image((4, 4), 0), rng)
    for values, low, high in ((seen["rotate"], -40, 40), (seen["gaussian_blur"], 0.5, 2.5)):
        assert low <= min(values) < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < max(values) <= high
        assert np.mean(values) == pytest.approx((low + high) / 2, abs=0.04 * (high - low))


def test_the_list_follows_crop_flip_and_colours_in_order():
    pixels, box = picture(60, 70), (0, 0, 60, 70)
    listed = [{"solarize": {"p": 1, "threshold": 100}}, {"invert": {"p": 1}}]
    colours = create_augmentations([], color_jitter=0.4, grayscale=0.3)
    changed = create_augmentations(listed, color_jitter=0.4, grayscale=0.3)
    for seed in range(6):
        a, b = (torch.empty(3, 32, 32, dtype=torch.uint8) for _ in range(2))
        Augment(32, then=colours).write(pixels, box, random.Random(seed), a)
        Augment(32, then=changed).write(pixels, box, random.Random(seed), b)
        assert torch.equal(b, tv.invert(tv.solarize(a, 100)))


def test_the_settings_of_colours_are_the_augmentations_of_these_names():
    named = create_augmentations(
        [
            {"color_jitter": {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0}},
            {"grayscale": {"p": 0.2}},
            "invert",
        ]
    )
    assert create_augmentations(["invert"], color_jitter=0.3, grayscale=0.2) == named
    assert create_augmentations(["invert"]) == named[2:]


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_of_the_loader_change_nothing(tmp_path, threads):
    catalog = write_catalog(tmp_path, 12)
    then = tuple(each.fitted(24, MEAN) for each in create_augmentations(AUGMENTATIONS))
    loaders = [
        TrainLoader(
            catalog,
            batch_size=4,
            augment=Augment(24, then=then),
            seed=3,
            source=Source(threads=number),
        )
        for number in (0, threads)
    ]
    for a, b in zip(*(loader.epoch(1) for loader in loaders), strict=True):
        assert torch.equal(a.images, b.images)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("trivial", "'trivial' is not one of auto_contrast, .*; did you mean trivial_augment"),
        ({"blur": None}, "'blur' is not one of"),
        ({"rotation": {"degree": 3}}, "rotation has no option 'degree'; it has p, .*mean degrees"),
        ({"rotation": {"degrees": 181}}, r"rotation\.degrees=181 is not an angle, 0 to 180"),
        ({"rotation": {"degrees": "far"}}, "'far' is not an angle"),
        ({"rotation": {"fill": 1.5}}, "fill=1.5 is not a grey level"),
        ({"invert": {"p": float("nan")}}, "p=nan is not a probability, 0 to 1; default: 0.5"),
        ({"invert": {"p": True}}, "p=True is not a probability"),
        ({"posterize": {"bits": 9}}, "bits=9 is not a number of bits, 1 to 8; default: 4"),
        ({"gaussian_blur": {"kernel_size": 4}}, "kernel_size=4 is not an odd number of pixels"),
        ({"gaussian_blur": {"sigma": 2}}, "sigma=2 is not two lengths above 0"),
        ({"gaussian_blur": {"sigma": [2, 1]}}, "not two lengths above 0, in order"),
        ({"random_erasing": {"value": "blue"}}, "value='blue' is not mean, random"),
        ({"random_erasing": {"value": [1, 2, 300]}}, "each 0 to 255"),
        ({"random_erasing": {"scale": [0.1, 1.2]}}, "two shares of 1"),
        ({"rand_augment": {"magnitude": 31}}, "magnitude=31 is not one of the 31 bins, 0 to 30"),
        ({"color_jitter": {"hue": 0.6}}, "hue=0.6 is not a part of the circle, 0 to 0.5"),
    ],
)
def test_mistakes_are_one_clear_line(entry, said):
    with pytest.raises(ConfigError, match=rf"^data\.augment: .*{said}") as caught:
        create_augmentations([entry])
    assert "\n" not in str(caught.value)


def test_a_blur_that_does_not_fit_the_picture_is_refused():
    [blur] = create_augmentations([{"gaussian_blur": {"kernel_size": 65}}])
    assert blur.fitted(33, MEAN) is blur
    with pytest.raises(
        ConfigError, match=r"kernel_size=65 is too large for images of 32 px; .* 63"
    ):
        blur.fitted(32, MEAN)


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("trivial_augment", ["trivial_augment"]),
        ("[invert, {rotation: {degrees: 3}}]", ["invert", {"rotation": {"degrees": 3}}]),
        ("{rotation: {degrees: 3}}", [{"rotation": {"degrees": 3}}]),
        ("[{invert: }]", ["invert"]),
        ("[]", []),
    ],
)
def test_the_setting_takes_names_and_options(text, stored, tmp_path):
    config = Config.load(None, [f"data.augment={text}"])
    assert config.data.augment == stored
    file = Path(tmp_path / "c.yaml")
    file.write_text(config.to_yaml())
    assert Config.load(file) == config


@pytest.mark.parametrize("text", ["3", "[3]", "[{a: 1}]", "[{a: {}, b: {}}]", "[[a]]", "[{1: {}}]"])
def test_another_kind_of_setting_is_one_clear_line(text):
    with pytest.raises(ConfigError, match=r"^data\.augment=.* is not a list of names") as caught:
        Config.load(None, [f"data.augment={text}"])
    assert "\n" not in str(caught.value)


def test_the_setting_names_all_of_the_registry():
    text = DataConfig.model_fields["augment"].description
    listed = text.split(": ")[-1].rstrip(".").replace("\n", " ").split(", ")
    assert [name.strip() for name in listed] == sorted(AUGMENTATIONS) == list(AUGMENTATIONS)
