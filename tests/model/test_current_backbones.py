"""Current families of backbones: names, preprocessing, features, weights and one step of each."""

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

import lookalike
from lookalike.errors import ModelError
from lookalike.exporting.weight_folders import load_timm, save_timm
from lookalike.model import CURRENT_BACKBONES
from lookalike.model.architecture import Architecture, check_has_weights, find_architecture
from lookalike.model.backbone import Backbone
from lookalike.model.dry_run import exclude_unused
from lookalike.model.embedder import Embedder
from lookalike.model.pretrained import load_into
from lookalike.model.training_network import ClassificationBranch, TrainingNetwork

# The smallest of each family with weights of its own kind.
SMALLEST = (
    "siglip2_base", "dinov2_small", "dinov2_reg_small", "dinov3_small", "dinov3_convnext_tiny",
    "pe_tiny", "tips2_base", "clip_base", "eva02_tiny", "eva02_clip_base", "mobilenetv4_small",
)  # fmt: skip
EACH = [
    pytest.param(name, marks=() if name in SMALLEST else pytest.mark.slow)
    for name in CURRENT_BACKBONES
]

_TINY = {"depth": 1, "embed_dim": 48, "num_heads": 4}

# The same architectures, small, poolings among them, and the image's side in places.
SHALLOW = {
    "siglip2_base": (_TINY, "map+avg", 4),
    "dinov2_small": (_TINY, "cls+avg", 4),
    "dinov2_reg_small": (_TINY, "cls+avg", 4),
    "dinov3_small": (_TINY, "cls+gem", 4),
    "dinov3_convnext_tiny": ({"depths": (1, 1, 1, 1), "dims": (16, 32, 48, 64)}, "gem+avg", 2),
    "pe_tiny": (_TINY, "map+avg", 4),
    "tips2_base": (_TINY, "cls+avg", 4),
    "clip_base": (_TINY, "cls+avg", 4),
    "eva02_tiny": (_TINY, "gem+avg", 4),
    "eva02_clip_base": (_TINY, "gem+avg", 4),
    "mobilenetv4_small": ({}, "gem+avg", 2),
    "mobilenetv4_hybrid_medium": ({}, "gem+avg", 2),
    "efficientnetv2_small": ({}, "gem+avg", 2),
}
SLOW = ("mobilenetv4_hybrid_medium", "efficientnetv2_small")


def shallow(name: str, **more) -> Architecture:
    return Architecture(find_architecture(name).name, {**SHALLOW[name][0], **more})


def side(name: str) -> int:
    return 56 if "patch14" in CURRENT_BACKBONES[name] else 64


@pytest.mark.parametrize("name", CURRENT_BACKBONES)
def test_every_short_name_has_weights_in_timm(name):
    found = find_architecture(name)
    assert found.name == CURRENT_BACKBONES[name]
    check_has_weights(found)


@pytest.mark.parametrize("name", EACH)
def test_the_preprocessing_is_that_of_timm(name):
    weights = timm.models.get_pretrained_cfg(CURRENT_BACKBONES[name]).to_dict()
    theirs = resolve_data_config({}, pretrained_cfg=weights)
    # Ours keeps an image's proportions where timm would squash it.
    assert theirs["crop_mode"] == ("squash" if name == "efficientnetv2_medium" else "center")
    theirs["crop_mode"] = "center"
    size = theirs["input_size"][1]
    with torch.device("meta"):
        ours = Backbone(name, size).preprocess()
    [resized] = {*ours.resized}
    assert abs(resized - size / theirs["crop_pct"]) <= 0.5
    theirs["crop_pct"] = size / (resized + 0.25)  # timm rounds down where we round to nearest
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (size + 41, size + 90, 3), dtype=np.uint8)
    expected = create_transform(**theirs)(Image.fromarray(pixels))
    image = ours.normalise(ours.prepare(pixels)[None])[0]
    assert image.shape == expected.shape
    # Two implementations of the resize round to grey levels of their own.
    level = 1 / 255 / min(theirs["std"])
    assert (image - expected).abs().max() < 2.5 * level


@pytest.mark.parametrize("name", EACH)
def test_the_published_weights_have_every_tensor_of_ours(name):
    architecture = find_architecture(name)
    with torch.device("meta"):
        published = timm.create_model(architecture.name).state_dict()
        size = timm.models.get_pretrained_cfg(architecture.name).input_size[1]
        ours = Backbone(name, size).model.state_dict()
    beyond = ours.keys() - published.keys()
    # Behind the pooling in EVA-02 as it is published; moved when its weights are loaded.
    moved = {"norm.weight", "norm.bias"} if name in ("eva02_tiny", "eva02_small") else set()
    assert beyond == moved
    assert {key.replace("norm.", "fc_norm.") for key in moved} <= published.keys()


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in SHALLOW]
)
def test_a_step_trains_all_that_the_embedding_depends_on(name):
    torch.manual_seed(0)
    _, pooling, places = SHALLOW[name]
    embedder = Embedder.create(
        shallow(name), pretrained=False, image_size=side(name), embedding_dim=16, pooling=pooling
    )
    network = TrainingNetwork(embedder, ClassificationBranch(embedder.backbone.dim, 8)).train()
    unused = exclude_unused(network, side(name))
    # MobileNetV4's layer behind its pooling; DINO's and TIPS' class tokens are read.
    assert all("conv_head" in key or "norm_head" in key for key in unused), unused
    images = torch.randint(0, 256, (4, 3, side(name), side(name)), dtype=torch.uint8)
    features, _ = embedder.features(images)
    assert features.shape == (4, places**2, embedder.backbone.dim)
    before = {key: value.clone() for key, value in network.named_parameters()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.1)
    vectors, branch = network(images)
    (vectors[:2] * vectors[2:]).sum().add((branch[:2] * branch[2:]).sum()).backward()
    optimizer.step()
    for key, value in network.named_parameters():
        assert (value.grad is None) == (key in unused), key
        assert torch.isfinite(value).all(), key
    changed = [k for k, v in network.named_parameters() if not torch.equal(v, before[k])]
    assert len(changed) > 0.8 * len(before)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("siglip2_base", 0), ("dinov2_small", 1), ("dinov2_reg_small", 5), ("dinov3_small", 5),
        ("pe_tiny", 1), ("tips2_base", 2), ("clip_base", 1), ("eva02_tiny", 1),
    ],
)  # fmt: skip
def test_class_and_register_tokens_are_no_places(name, prefix):
    torch.manual_seed(1)
    backbone = Backbone(shallow(name), side(name)).eval()
    assert backbone.num_prefix_tokens == prefix
    images = torch.randn(2, 3, side(name), side(name))
    with torch.no_grad():
        features, token = backbone(images)
        # timm's own separation, in the code of its detectors.
        [expected] = backbone.model.forward_intermediates(
            images, indices=1, norm=True, output_fmt="NLC", intermediates_only=True
        )
        first = backbone.model.forward_features(images)[:, 0]
    assert torch.allclose(features, expected, atol=1e-6)
    assert (token is None) == (prefix == 0)
    assert token is None or torch.equal(token, first)
    assert not backbone.is_convolutional


@pytest.mark.parametrize("name", ["siglip2_base", "pe_tiny"])
def test_map_is_the_vector_of_the_published_model(name, tmp_path):
    torch.manual_seed(2)
    architecture = shallow(name)
    embedder = Embedder.create(
        architecture, pretrained=False, image_size=64, embedding_dim=16, pooling="map"
    )
    published = timm.create_model(
        architecture.name, img_size=64, num_classes=0, **architecture.args
    ).eval()
    published.load_state_dict(embedder.backbone.model.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        _, vector = embedder.eval().backbone(images)
        assert torch.allclose(vector, published(images), atol=1e-5)
    embedder.save(tmp_path)
    loaded = Embedder.load(tmp_path)
    assert loaded.fingerprint() == embedder.fingerprint()
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    assert torch.equal(loaded.embed_batch(pixels), embedder.embed_batch(pixels))


def test_map_needs_a_pretrained_attention_pool():
    with pytest.raises(ModelError, match="vit_tiny has no attention pool"):
        Embedder.create("vit_tiny", pretrained=False, image_size=32, pooling="map")
    with pytest.raises(ModelError, match="cls and map exclude each other"):
        Embedder.create(shallow("pe_tiny"), pretrained=False, image_size=64, pooling="cls+map")


def test_the_norm_behind_the_pooling_of_eva_is_kept(tmp_path):
    torch.manual_seed(3)
    published = timm.create_model("eva02_tiny_patch14_224", img_size=56, **_TINY)
    with torch.no_grad():
        published.fc_norm.weight.uniform_(0.5, 2)
        published.fc_norm.bias.uniform_(-1, 1)
    expected = published.state_dict()
    timm.models.save_for_hf(published, str(tmp_path), model_args=_TINY, safe_serialization=True)
    downloaded = Backbone(f"local-dir:{tmp_path}", 56, download=True).model
    from_file = Backbone(shallow("eva02_tiny"), 56).model
    match = load_into(from_file, expected, "eva.safetensors")
    assert not match.missing
    for model in (downloaded, from_file):
        for key, value in model.state_dict().items():
            name = f"fc_{key}" if key.startswith("norm.") else key
            assert torch.equal(value, expected[name]), key


def test_the_norm_behind_the_pooling_of_convnext_is_applied(tmp_path):
    torch.manual_seed(4)
    embedder = Embedder.create(
        shallow("dinov3_convnext_tiny"), pretrained=False, image_size=64, embedding_dim=8
    )
    backbone = embedder.eval().backbone
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features, _ = backbone(images)
        maps = backbone.model.forward_features(images)  # (B, C, H, W)
    norm = backbone.model.head.norm
    expected = torch.nn.functional.layer_norm(
        maps.flatten(2).transpose(1, 2), (backbone.dim,), norm.weight, norm.bias, norm.eps
    )
    assert torch.allclose(features, expected, atol=1e-5)
    assert backbone.is_convolutional

    # A model saved without it still gives what it gave.
    embedder.save(tmp_path)
    config = tmp_path / "config.json"
    described = json.loads(config.read_text())
    assert described.pop("final_norm") is True
    config.write_text(json.dumps(described))
    with torch.no_grad():
        old, _ = lookalike.load(tmp_path, device="cpu").backbone(images)
    assert torch.allclose(old, maps.flatten(2).transpose(1, 2), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "pooling"),
    [
        ("siglip2_base", "gem+avg"), ("siglip2_base", "map"), ("eva02_tiny", "gem+avg"),
        ("dinov3_convnext_tiny", "gem+avg"), ("dinov3_small", "cls"),
        ("dinov3_convnext_tiny", "avg+quarters"),
    ],
)  # fmt: skip
def test_timm_reads_an_export_of_every_kind(name, pooling, tmp_path):
    torch.manual_seed(5)
    embedder = Embedder.create(
        shallow(name), pretrained=False, image_size=side(name), embedding_dim=8, pooling=pooling
    ).eval()
    save_timm(embedder, tmp_path / "out", "fp32")
    loaded = load_timm(tmp_path / "out", embedder)
    pixels = torch.randint(0, 256, (2, 3, side(name), side(name)), dtype=torch.uint8)
    assert torch.equal(loaded.embed_batch(pixels), embedder.embed_batch(pixels))


def test_pixels_outside_the_patches_are_mentioned(caplog):
    Backbone(shallow("dinov2_small"), 64).check_size(64)
    assert "leave out 8 rows and 8 columns" in caplog.text
    caplog.clear()
    Backbone(shallow("dinov2_small"), 56).check_size(56)
    assert not caplog.records


@pytest.mark.parametrize(("size", "fix"), [(50, "48"), ((64, 40), "64 x 32")])
def test_a_size_that_patches_do_not_divide_is_refused_with_the_nearest(size, fix):
    backbone = Backbone(shallow("dinov3_small"), size)
    with pytest.raises(ModelError, match=rf"set model\.image_size={fix}, whole patches, or choose"):
        backbone.check_size(size)


def test_a_short_name_that_this_timm_lacks_says_so(monkeypatch):
    monkeypatch.setitem(CURRENT_BACKBONES, "siglip9_base", "vit_siglip9.v9")
    with pytest.raises(ModelError, match=r"'siglip9_base' is vit_siglip9\.v9 of timm, which timm"):
        find_architecture("siglip9_base")
