import pytest
import torch

from lookalike.errors import ModelError
from lookalike.model import BACKBONES
from lookalike.model.backbone import Backbone
from lookalike.model.neck import Neck, pool

DIMS = {
    "resnet18": 512, "resnet34": 512, "resnet50": 2048, "resnet101": 2048,
    "swint_tiny": 768, "swint_small": 768, "swint_base": 1024,
    "vit_tiny": 192, "vit_small": 384, "vit_base": 768,
    "xcit_tiny": 192, "xcit_small": 384, "xcit_base": 512,
}  # fmt: skip


@pytest.mark.parametrize("name", ["resnet18", "swint_tiny", "vit_tiny", "xcit_tiny"])
@pytest.mark.parametrize("size", [50, 96, 100])
def test_any_image_size_in_every_family(name, size):
    model = Backbone(name, size).eval()
    with torch.inference_mode():
        features, token = model(torch.randn(2, 3, size, size))
    assert features.shape[::2] == (2, DIMS[name])
    assert features.shape[1] > 1
    assert model.dim == DIMS[name]
    assert (token is None) == (name in ("resnet18", "swint_tiny"))
    if token is not None:
        assert token.shape == (2, DIMS[name])


def test_the_table_of_backbones_is_complete():
    assert DIMS.keys() == BACKBONES.keys()


def test_features_are_the_places_of_the_map():
    model = Backbone("test_resnet", 64).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        features, _ = model(images)
        expected = model.model.forward_features(images)  # (B, C, H, W)
    assert torch.equal(features.mean(1), expected.flatten(2).transpose(1, 2).mean(1))


def test_an_unknown_name_offers_close_ones():
    with pytest.raises(ModelError, match=r"close names: .*resnet50"):
        Backbone("resnet5O", 64)


def test_generalised_mean_against_its_formula():
    x = torch.rand(3, 7, 5, dtype=torch.float64) + 0.1
    expected = (x**3).mean(1) ** (1 / 3)
    assert torch.allclose(pool(x, "gem").double(), expected, atol=1e-6)
    assert torch.equal(pool(x, "max"), x.max(1).values)
    assert torch.equal(pool(x, "avg"), x.mean(1))


@pytest.mark.parametrize("pooling", ["gem", "gem+avg", "gem+avg+max", "cls+avg"])
def test_each_pooling_has_its_part_of_unit_length(pooling):
    parts = pooling.split("+")
    neck = Neck(16, 11, pooling)
    out = neck(torch.rand(4, 9, 16), torch.rand(4, 16))
    assert out.shape == (4, 11)
    assert sum(p.out_features for p in neck.projections) == 11
    assert torch.allclose(out.norm(dim=1), torch.full((4,), len(parts) ** 0.5))


def test_the_start_keeps_the_angles_of_the_backbone():
    neck = Neck(32, 64, "avg")
    x = torch.randn(10, 1, 32)
    unit = torch.nn.functional.normalize(x[:, 0], dim=1)
    out = neck(x, None)
    assert torch.allclose(out @ out.T, unit @ unit.T, atol=1e-5)
