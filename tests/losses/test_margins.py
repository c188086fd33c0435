import dataclasses
import math
import subprocess
import sys

import pytest
import torch
from losses_reference import PLAIN, target_cosine

from lookalike.errors import ConfigError
from lookalike.losses import MARGINS, create_loss
from lookalike.losses.margin import RowContext

RECOMMENDED = {
    "amsoftmax": (0.4, 30, "cosine", False, False),
    "arcface": (28.6, 64, "degrees", False, False),
    "cosface": (0.35, 64, "cosine", False, False),
    "large_margin_softmax": (4, 1, "multiplier", True, True),
    "sphereface": (4, 1, "multiplier", True, False),
    "softmax": (0, 1, "none", True, True),
    "adaface": (0.4, 64, "cosine", False, False),
    "adaptive_arcface": (28.6, 80, "degrees", False, False),
    "curricularface": (28.6, 64, "degrees", False, False),
    "magface": (45.8, 64, "degrees", False, False),
}
OPTIONS = {
    "adaface": {"h": 0.333, "t_alpha": 0.01},
    "adaptive_arcface": {"least": 2.9, "power": 0.25, "fewest": 1, "most": math.inf},
    "curricularface": {"momentum": 0.01},
    "magface": {"l_margin": 25.8, "l_a": 10, "u_a": 110, "lambda_g": 35},
}


def rows_of(margin, shape, dtype=torch.float32):
    """Lengths from 0, class sizes from 1 and running statistics, all at random."""
    length = torch.rand(shape, dtype=dtype) * torch.tensor([0, 20, 150])[torch.randint(3, shape)]
    count = torch.randint(1, 300, shape).to(dtype)
    state = torch.tensor(margin.initial_state, dtype=dtype)
    return RowContext(length, count, state * torch.rand(len(state), dtype=dtype))


def test_registry_holds_the_losses_with_their_recommended_values():
    found = {}
    for name in MARGINS:
        m = create_loss(name)
        assert m.name == name
        found[name] = (m.margin, m.scale, m.unit, m.embedding_norm, m.weight_norm)
    assert found == RECOMMENDED
    assert {n for n in MARGINS if MARGINS[n].uses_length} == {"adaface", "magface"}


def test_explicit_values_replace_the_recommended_ones():
    assert create_loss("arcface", 20, 32) == MARGINS["arcface"](margin=20.0, scale=32.0)
    assert create_loss("softmax", 0).margin == 0
    assert create_loss("arcface", 0).margin == 0


@pytest.mark.parametrize(
    ("name", "margin", "words"),
    [
        ("arcface", 0.5, "looks like radians; 28.6 degrees is the same"),
        ("arcface", 91, "1 to 90 degrees"),
        ("arcface", -5, "1 to 90 degrees"),
        ("arcface", math.nan, "recommended: 28.6"),
        ("amsoftmax", 2, "below 2"),
        ("cosface", -0.1, "recommended: 0.35"),
        ("sphereface", 1.5, "whole number"),
        ("large_margin_softmax", 0, "whole number"),
        ("large_margin_softmax", math.inf, "whole number"),
        ("softmax", 0.3, "no margin"),
        ("adaface", 1.6, "from 0 to 1.57"),
        ("magface", 0.8, "looks like radians; 45.8 degrees is the same"),
    ],
)
def test_margin_out_of_range_names_key_value_range_and_advice(name, margin, words):
    with pytest.raises(ConfigError) as error:
        create_loss(name, margin)
    text = str(error.value)
    assert f"loss.margin={margin:g}" in text
    assert name in text
    assert "recommended: " in text
    assert words in text
    assert "\n" not in text


def test_options_have_the_values_of_the_papers():
    for name in MARGINS:
        margin = create_loss(name)
        own = {f.name: getattr(margin, f.name) for f in dataclasses.fields(margin)}
        del own["margin"], own["scale"]
        assert own == OPTIONS.get(name, {})
        assert create_loss(name, options=own) == margin


@pytest.mark.parametrize(
    ("name", "margin", "options", "words"),
    [
        ("adaface", None, {"h": 1.5}, "a number from 0 to 1; default: 0.333"),
        ("adaface", None, {"t_alpha": 0}, "above 0, at most 1; default: 0.01"),
        ("curricularface", None, {"momentum": math.nan}, "a number from 0 to 1; default: 0.01"),
        ("magface", None, {"l_margin": 0.45}, "looks like radians; 25.8 degrees is the same"),
        ("magface", None, {"l_margin": 91}, "0, or 1 to 90 degrees; default: 25.8"),
        ("magface", 20, {"l_margin": 25.8}, "above loss.margin=20"),
        ("magface", None, {"l_a": 110}, "not below loss.options.u_a=110; default: 10"),
        ("magface", None, {"l_a": 0}, "above 0; default: 10"),
        ("magface", None, {"u_a": math.inf}, "a finite length above 0; default: 110"),
        ("magface", None, {"lambda_g": -1}, "at least 0; default: 35"),
        ("adaptive_arcface", None, {"least": 0.05}, "2.9 degrees is the same"),
        ("adaptive_arcface", 2, {"least": 3}, "above loss.margin=2"),
        ("adaptive_arcface", None, {"power": 0}, "above 0, at most 1; default: 0.25"),
        ("adaptive_arcface", None, {"fewest": 0}, "at least 1; default: 1"),
        ("adaptive_arcface", None, {"fewest": 9, "most": 9}, "below loss.options.most=9"),
    ],
)
def test_option_out_of_range_names_key_value_range_and_default(name, margin, options, words):
    with pytest.raises(ConfigError) as error:
        create_loss(name, margin, options=options)
    text = str(error.value)
    option, value = next(iter(options.items()))
    assert f"loss.options.{option}={value:g} for {name} " in text
    assert words in text
    assert "default: " in text
    assert "\n" not in text


def test_unknown_option_lists_the_choices():
    with pytest.raises(ConfigError, match=r"curricularface has no option 't'; .* are momentum"):
        create_loss("curricularface", options={"t": 1})
    with pytest.raises(ConfigError, match="arcface has no option 'h'; it has none"):
        create_loss("arcface", options={"h": 1})


@pytest.mark.parametrize("scale", [0, -1, math.nan, math.inf])
def test_scale_out_of_range(scale):
    with pytest.raises(ConfigError, match=r"loss\.scale=.* recommended: 64"):
        create_loss("arcface", scale=scale)


def test_unknown_name_lists_the_choices():
    with pytest.raises(ConfigError, match=r"loss\.name='arc' .*amsoftmax, arcface, .*softmax"):
        create_loss("arc")


def test_margins_that_are_known_to_train_badly_warn():
    warned = {name for name in MARGINS if create_loss(name).warning()}
    assert warned == {"sphereface", "large_margin_softmax"}
    for name in warned:
        assert "loss.margin=2" in create_loss(name).warning()
        assert create_loss(name, margin=2, scale=20).warning() is None


def test_magface_warns_where_the_margin_outweighs_the_reward_for_length():
    # 64 * (0.8 - 0.45) / 100 * 110^2 * 10^2 / (110^2 - 10^2) = 22.6, with margins of 2 digits.
    assert create_loss("magface", options={"lambda_g": 22.7}).warning() is None
    text = create_loss("magface", options={"lambda_g": 22}).warning()
    assert "loss.options.lambda_g=22 for magface is below 22.5" in text


MANY = [
    *[("arcface", m) for m in (0, 1, 28.6, 57.3, 90)],
    *[(name, m) for name in ("large_margin_softmax", "sphereface") for m in (1, 2, 3, 4, 7, 20)],
    *[(name, m) for name in ("amsoftmax", "cosface") for m in (0, 0.35, 1.9)],
    ("softmax", 0),
]
assert {name for name, _ in MANY} == set(PLAIN)
OF_MORE_THAN_COSINE = [
    *[("adaface", m) for m in (0, 0.4, 1.57)],
    *[("adaptive_arcface", m) for m in (2.9, 28.6, 90)],
    *[("curricularface", m) for m in (0, 28.6, 90)],
    *[("magface", m) for m in (25.8, 45.8, 90)],
]


@pytest.mark.parametrize(("name", "value"), MANY)
def test_target_and_slope_over_the_whole_range(name, value):
    margin = create_loss(name, value)
    angle = torch.rand(4000, dtype=torch.float64) * (math.pi - 2e-3) + 1e-3
    cos = angle.cos().requires_grad_()
    ours = margin.target(cos, rows_of(margin, (4000,), torch.float64))
    theirs = target_cosine(name, value, cos)
    slope, reference = (torch.autograd.grad(t.sum(), cos)[0] for t in (ours, theirs))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    # acos, through which the reference differentiates, loses digits near the ends.
    torch.testing.assert_close(slope, reference, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("name", "value"), MANY + OF_MORE_THAN_COSINE)
def test_target_falls_with_the_angle_and_is_never_easier(name, value):
    margin = create_loss(name, value)
    cos = torch.linspace(1, -1, 20_001, dtype=torch.float64)
    for _ in range(5):  # rows of other lengths and classes
        target = margin.target(cos, rows_of(margin, (1,), torch.float64))
        assert (target.diff() <= 1e-12).all()
        assert (target <= cos + 1e-12).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "value"), MANY + OF_MORE_THAN_COSINE)
def test_target_is_finite_at_and_past_the_ends(name, value, dtype):
    past = 4 * torch.finfo(dtype).eps
    ends = torch.tensor([1, -1, 1 + past, -1 - past, 0, 1 - past, past - 1], dtype=dtype)
    cos = ends.repeat(50).requires_grad_()
    margin = create_loss(name, value)
    rows = rows_of(margin, cos.shape, dtype)
    rows.length.requires_grad_()
    target = margin.target(cos, rows)
    slope, by_length = torch.autograd.grad(
        target.sum(), (cos, rows.length), allow_unused=True, materialize_grads=True
    )
    assert target.isfinite().all()
    assert slope.isfinite().all()
    assert (slope >= -1e-6).all()  # the cosine of 90 degrees is -4e-8 in float32
    assert by_length.isfinite().all()
    assert by_length.any() == (name == "magface" and value > 25.8)


def test_importing_the_registry_does_not_import_torch():
    code = "import sys, lookalike.losses; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
