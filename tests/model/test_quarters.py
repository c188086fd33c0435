"""Averages over the quarters of an earlier map."""

import pytest
import timm
import torch
import torch.nn.functional as F

from lookalike.config.config import Config
from lookalike.errors import ConfigError, ModelError, RunError
from lookalike.model.backbone import Backbone, quarter_means
from lookalike.model.embedder import Embedder
from lookalike.training.build import create_embedder
from lookalike.training.build_heads import metric_loss


@pytest.mark.parametrize("shape", [(8, 8), (7, 9), (1, 1), (5, 1), (10, 14)])
def test_quarters_are_those_of_adaptive_pooling(shape):
    maps = torch.randn(3, 5, *shape, dtype=torch.float64)
    expected = F.adaptive_avg_pool2d(maps, 2).flatten(2)  # (B, C, 4)
    found = quarter_means(maps).unflatten(1, (4, 5)).transpose(1, 2)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("name", "size", "stride"),
    [
        ("resnet18", 32, 4), ("resnet18", 64, 8), ("resnet18", (128, 160), 16),
        ("resnet18", 512, 16), ("resnet18", 12, 2), ("mobilenetv2_100", 96, 8),
        ("convnext_atto", 64, 8), ("test_efficientnet", 64, 8),
        pytest.param("swin_tiny_patch4_window7_224", 224, 16, marks=pytest.mark.slow),
        pytest.param("densenet121", 64, 8, marks=pytest.mark.slow),
        pytest.param("inception_v3", 299, 16, marks=pytest.mark.slow),
        pytest.param("hrnet_w18", 64, 8, marks=pytest.mark.slow),
        pytest.param("hiera_tiny_224", 224, 16, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_quarters_lie_beside_the_same_features(name, size, stride):
    torch.manual_seed(2)
    backbone = Backbone(name, size, quarters=True).eval()
    plain = Backbone(name, size).eval()
    plain.model.load_state_dict(backbone.model.state_dict())
    entry = backbone.model.feature_info[backbone.earlier_map]
    seen = []
    # What the layer that timm names gives, by another way than the backbone takes.
    plain.model.get_submodule(entry["module"]).register_forward_hook(
        lambda module, inputs, output: seen.append(output)
    )
    height, width = (size, size) if isinstance(size, int) else size
    images = torch.randn(2, 3, height, width)
    with torch.no_grad():
        features, quarters = backbone(images)
        expected, nothing = plain(images)
    assert nothing is None
    assert plain.quarters_dim == 0
    assert torch.equal(features, expected)
    assert entry["reduction"] == stride
    assert quarters.shape == (2, backbone.quarters_dim)
    [maps] = seen
    if not isinstance(maps, torch.Tensor) or maps.ndim != 4:
        return  # HRNet's layer gives several maps, and Hiera's tokens in an order of its own
    if maps.shape[1] != entry["num_chs"]:
        maps = maps.permute(0, 3, 1, 2)
    assert torch.equal(quarters, quarter_means(maps))


def test_a_map_is_chosen_by_its_stride(tmp_path):
    torch.manual_seed(6)
    backbone = Backbone("vgg11", 64, quarters=8)
    assert (backbone.quarters_stride, backbone.quarters_dim) == (8, 2048)
    # At another size, and so with another map of as many channels by default.
    options = {"pretrained": False, "embedding_dim": 8, "pooling": "quarters"}
    assert Embedder.create("vgg11", image_size=128, **options).backbone.quarters_stride == 16
    larger = Embedder.create("vgg11", image_size=128, quarters_stride=8, **options)
    larger.save(tmp_path)
    assert Embedder.load(tmp_path).backbone.quarters_stride == 8
    with pytest.raises(ModelError, match=r"quarters_stride=5: resnet18 has maps of stride 2, 4, 8"):
        Backbone("resnet18", 64, quarters=5)


def test_a_stride_without_quarters_is_refused():
    config = Config().with_values(
        {"model.backbone": "test_resnet", "model.pretrained": False, "model.quarters_stride": 8}
    )
    with pytest.raises(ConfigError, match=r"quarters_stride=8 .* it is gem\+avg; leave the stride"):
        create_embedder(config, metric_loss(config))


def test_networks_without_earlier_maps_are_refused():
    with pytest.raises(ModelError, match=r"quarters: vit_tiny has no earlier, larger maps"):
        Embedder.create("vit_tiny", pretrained=False, image_size=32, pooling="avg+quarters")


def test_a_model_with_quarters_is_saved_and_loaded(tmp_path):
    torch.manual_seed(4)
    options = {"pretrained": False, "image_size": 48, "embedding_dim": 32}
    embedder = Embedder.create("test_resnet", pooling="gem+avg+quarters", **options).eval()
    assert [len(part.weight) for part in embedder.neck.projections] == [11, 11, 10]
    embedder.save(tmp_path / "model")
    loaded = Embedder.load(tmp_path / "model")
    pixels = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    assert torch.equal(loaded.embed_batch(pixels), embedder.embed_batch(pixels))
    assert loaded.fingerprint() == embedder.fingerprint()
    text = (tmp_path / "model/config.json").read_text()
    assert '"quarters_stride": 4' in text
    (tmp_path / "model/config.json").write_text(text.replace('"quarters_stride": 4,', ""))
    with pytest.raises(RunError, match="quarters without quarters_stride"):
        Embedder.load(tmp_path / "model")
    (tmp_path / "model/config.json").write_text(
        text.replace("gem+avg+quarters", "gem+avg+max").replace('"quarters_stride": 4,', "")
    )
    with pytest.raises(RunError, match="belong to different models"):
        Embedder.load(tmp_path / "model")


def test_the_vector_turns_with_the_image():
    """A mirrored image exchanges left and right quarters: places count, unlike in an average."""
    torch.manual_seed(5)
    maps = torch.randn(1, 3, 8, 8)
    upper_left, upper_right, lower_left, lower_right = quarter_means(maps).chunk(4, dim=1)
    mirrored = quarter_means(maps.flip(-1))
    expected = torch.cat([upper_right, upper_left, lower_right, lower_left], dim=1)
    torch.testing.assert_close(mirrored, expected)


def test_timm_has_the_index_of_every_map():
    model = timm.create_model("resnet18", pretrained=False, num_classes=0)
    _, maps = model.forward_intermediates(torch.zeros(1, 3, 64, 64))
    shapes = [(each.shape[1], 64 // each.shape[2]) for each in maps]
    assert shapes == [(e["num_chs"], e["reduction"]) for e in model.feature_info]
