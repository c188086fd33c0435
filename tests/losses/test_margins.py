import math
import subprocess
import sys

import pytest
import torch
from losses_reference import target_cosine

from lookalike.errors import ConfigError
from lookalike.losses import MARGINS, create_margin

RECOMMENDED = {
    "amsoftmax": (0.4, 30, "cosine", False, False),
    "arcface": (28.6, 64, "degrees", False, False),
    "cosface": (0.35, 64, "cosine", False, False),
    "large_margin_softmax": (4, 1, "multiplier", True, True),
    "sphereface": (4, 1, "multiplier", True, False),
    "softmax": (0, 1, "none", True, True),
}


def test_registry_holds_the_six_losses_with_their_recommended_values():
    found = {}
    for name in MARGINS:
        m = create_margin(name)
        assert m.name == name
        found[name] = (m.margin, m.scale, m.unit, m.embedding_norm, m.weight_norm)
    assert found == RECOMMENDED


def test_values_asked_for_are_taken():
    assert create_margin("arcface", 20, 32) == MARGINS["arcface"](margin=20.0, scale=32.0)
    assert create_margin("softmax", 0).margin == 0
    assert create_margin("arcface", 0).margin == 0


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
    ],
)
def test_margin_out_of_range_names_key_value_range_and_advice(name, margin, words):
    with pytest.raises(ConfigError) as error:
        create_margin(name, margin)
    text = str(error.value)
    assert f"loss.margin={margin:g}" in text
    assert name in text
    assert "recommended: " in text
    assert words in text
    assert "\n" not in text


@pytest.mark.parametrize("scale", [0, -1, math.nan, math.inf])
def test_scale_out_of_range(scale):
    with pytest.raises(ConfigError, match=r"loss\.scale=.* recommended: 64"):
        create_margin("arcface", scale=scale)


def test_unknown_name_lists_the_choices():
    with pytest.raises(ConfigError, match=r"loss\.name='arc' .*amsoftmax, arcface, .*softmax"):
        create_margin("arc")


def test_margins_that_are_known_to_train_badly_warn():
    warned = {name for name in MARGINS if create_margin(name).warning()}
    assert warned == {"sphereface", "large_margin_softmax"}
    for name in warned:
        assert "loss.margin=2" in create_margin(name).warning()
        assert create_margin(name, margin=2, scale=20).warning() is None


MANY = [
    *[("arcface", m) for m in (0, 1, 28.6, 57.3, 90)],
    *[(name, m) for name in ("large_margin_softmax", "sphereface") for m in (1, 2, 3, 4, 7, 20)],
    *[(name, m) for name in ("amsoftmax", "cosface") for m in (0, 0.35, 1.9)],
    ("softmax", 0),
]


@pytest.mark.parametrize(("name", "value"), MANY)
def test_target_and_slope_over_the_whole_range(name, value):
    margin = create_margin(name, value)
    angle = torch.rand(4000, dtype=torch.float64) * (math.pi - 2e-3) + 1e-3
    cos = angle.cos().requires_grad_()
    ours = margin.target(cos)
    theirs = target_cosine(name, value, cos)
    slope, reference = (torch.autograd.grad(t.sum(), cos)[0] for t in (ours, theirs))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    # acos, through which the reference differentiates, loses digits near the ends.
    torch.testing.assert_close(slope, reference, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("name", "value"), MANY)
def test_target_falls_with_the_angle_and_is_never_easier(name, value):
    margin = create_margin(name, value)
    cos = torch.linspace(1, -1, 100_001, dtype=torch.float64)
    target = margin.target(cos)
    assert (target.diff() <= 1e-12).all()
    assert (target <= cos + 1e-12).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "value"), MANY)
def test_target_is_finite_at_and_past_the_ends(name, value, dtype):
    past = 4 * torch.finfo(dtype).eps
    cos = torch.tensor([1, -1, 1 + past, -1 - past, 0, 1 - past, past - 1], dtype=dtype)
    cos.requires_grad_()
    target = create_margin(name, value).target(cos)
    (slope,) = torch.autograd.grad(target.sum(), cos)
    assert target.isfinite().all()
    assert slope.isfinite().all()
    assert (slope >= 0).all()


def test_importing_the_registry_does_not_import_torch():
    code = "import sys, lookalike.losses; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
