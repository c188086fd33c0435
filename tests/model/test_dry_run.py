"""The first pass through a network: parameters without a use, sizes that do not fit."""

import pytest
import torch

from lookalike.data.image_size import height_width
from lookalike.errors import ModelError
from lookalike.model.architecture import Architecture
from lookalike.model.backbone import Backbone
from lookalike.model.dry_run import dry_run, exclude_unused, single_value_norms
from lookalike.model.embedder import Embedder
from lookalike.model.training_network import ClassificationBranch, TrainingNetwork
from lookalike.training.optimizer import parameter_groups

SHALLOW = {"depths": (1, 1, 1, 1)}
FAMILIES = {
    "test_resnet": {},
    "convnext_atto": SHALLOW,
    "mobilenetv3_small_050": {},
    "mobilenetv4_conv_small_050": {},
    "davit_tiny": SHALLOW | {"embed_dims": (16, 32, 48, 64), "num_heads": (1, 2, 3, 4)},
    "test_mambaout": {},
    "poolformerv2_s12": {},
    "edgenext_xx_small": SHALLOW,
    "hgnetv2_b0": {},
    "ghostnet_050": {},
    "efficientvit_b0": {},
    "xcit_nano_12_p16_224": {"depth": 1},
    "cait_xxs24_224": {"depth": 1},
}
USE_ALL = {
    "test_resnet", "xcit_nano_12_p16_224", "cait_xxs24_224", "convnext_atto", "davit_tiny",
    "edgenext_xx_small",
}  # fmt: skip


def network_of(architecture: Architecture, pooling: str = "avg", branch: bool = True):
    embedder = Embedder.create(
        architecture, pretrained=False, image_size=64, embedding_dim=8, pooling=pooling
    )
    second = ClassificationBranch(embedder.backbone.dim, 8) if branch else None
    return TrainingNetwork(embedder, second)


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_without_a_gradient_are_found(name):
    torch.manual_seed(0)
    network = network_of(Architecture(name, FAMILIES[name]))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    chance = torch.get_rng_state()
    unused = exclude_unused(network, 64)
    assert torch.equal(torch.get_rng_state(), chance)
    assert network.training
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key

    outputs = network(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
    without = {key for key, value in network.named_parameters() if value.grad is None}
    assert set(unused) == without
    assert bool(unused) == (name not in USE_ALL)
    groups = parameter_groups(network, [], weight_decay=0.1, backbone_prefix="embedder.backbone.")
    learning = {id(value) for group in groups for value in group["params"]}
    assert learning == {id(value) for value in network.parameters() if value.requires_grad}


def test_large_images_use_fake_tensors():
    network = network_of(Architecture("test_vit3"))
    names = exclude_unused(network, 64)
    # 1,024 x 1,024 places attend to one another: 4 TB of them, were they computed.
    huge = Embedder.create("vit_tiny_patch16_224", pretrained=False, image_size=4096, pooling="avg")
    assert dry_run(huge.backbone, 4096)[0].shape == (1, 256 * 256, 192)
    assert exclude_unused(TrainingNetwork(huge, None), 4096) == names == []


def test_a_failing_network_is_one_line():
    def fail(images):
        raise RuntimeError("Error(s) in loading state_dict for X:\n\tsize mismatch for a.b")

    # `is_convolutional` is found once for all networks of an architecture; this is no other test's.
    backbone = Backbone("test_resnet", 64, args={"drop_path_rate": 0.07})
    backbone.model.forward_features = fail
    with pytest.raises(ModelError, match=r"\(size mismatch for a\.b\); set model\.image_size=160"):
        backbone.check_size(64)
    with pytest.raises(ModelError, match=r"\(size mismatch for a\.b\); set model\.image_size=160"):
        _ = backbone.is_convolutional  # the recipe asks for it before anything checks the size


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        (
            "resnet18.a9_in1k",
            64,
            r"no weights 'a9_in1k' of resnet18; give one of resnet18\.a1_in1k",
        ),
        ("resnet50x", 64, "close names: .*resnet50"),
        ("inception_v3", 32, "fails on images of this size .* set model.image_size=299"),
        ("efficientformer_l1", 64, "fails on images of this size .* set model.image_size=224"),
        ("vit_tiny_r_s16_p8_224", (64, 20), "model.image_size=64 x 20"),
        ("coat_tiny", 64, "several maps of features"),
        ("hf-hub:", 64, "hf-hub:OWNER/REPOSITORY"),
        ("local-dir:/nowhere/at/all", 64, "no config.json in /nowhere/at/all"),
        ("some/path", 64, "a hub repository is written hf-hub:OWNER/REPOSITORY"),
    ],
)
def test_an_impossible_network_is_one_line(name, size, words):
    with pytest.raises(ModelError, match=words) as caught:
        Embedder.create(name, pretrained=False, image_size=size)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "size", "one"),
    [
        ("test_resnet", 32, True),
        ("test_resnet", (32, 64), False),
        ("skresnet18", 64, True),  # its attention pools, whatever the size
        ("test_vit", 64, False),
    ],
)
def test_norms_with_one_value_for_an_image_are_found(name, size, one):
    trunk = Backbone(name, size, download=False)
    found = single_value_norms(trunk, size)
    assert trunk.training
    assert not any(module._forward_pre_hooks for module in trunk.modules())
    assert bool(found) == one
    height, width = height_width(size)
    for norm in found:
        trunk.get_submodule(norm).eval()
    trunk(torch.rand(1, 3, height, width))  # the others learn from one image
    for norm in found:
        trunk.get_submodule(norm).train()
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            trunk(torch.rand(1, 3, height, width))
        trunk.get_submodule(norm).eval()
