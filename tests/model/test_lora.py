"""Low-rank adaptation: what is adapted, and that merged weights give the same outputs."""

import pytest
import torch

from lookalike.data.image_size import ImageSize
from lookalike.errors import ModelError
from lookalike.model.backbone import Backbone
from lookalike.model.embedder import Embedder
from lookalike.model.lora import LoraLinear, add_lora, is_lora, merged_state, unadapted
from lookalike.training.interpolation import interpolated


def small(name: str, size: ImageSize = 32) -> Embedder:
    torch.manual_seed(0)
    embedder = Embedder.create(
        name, pretrained=False, image_size=size, embedding_dim=8, pooling="avg"
    )
    with torch.no_grad():
        for key, value in embedder.named_parameters():
            if "gamma" in key:  # else the blocks of a new ConvNeXt add a millionth
                value.fill_(1.0)
    return embedder.eval()


def randomize(embedder: Embedder) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in embedder.named_parameters():
            if is_lora(name):
                value.copy_(torch.randn(value.shape, generator=generator) / 10)


@pytest.mark.parametrize(
    ("name", "size"),
    [("test_vit", 32), ("test_convnext", 32), ("xcit_nano_12_p16_224", 32), ("test_vit", 160)],
)
def test_merged_weights_give_the_outputs_of_the_adapted_layers(tmp_path, name, size):
    embedder = small(name, size)
    before = {key: value.clone() for key, value in embedder.state_dict().items()}
    images = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8)
    start = embedder.embed_batch(images)
    adapted = add_lora(embedder.backbone, 2, size)
    assert len(adapted) >= 4
    adapted_start = embedder.embed_batch(images)  # B is zero; some processors round otherwise
    torch.testing.assert_close(adapted_start, start, rtol=0, atol=1e-6)
    randomize(embedder)
    unmerged = embedder.embed_batch(images)
    assert (unmerged - start).norm(dim=1).min() > 1e-3
    embedder.save(tmp_path)
    loaded = Embedder.load(tmp_path)
    torch.testing.assert_close(loaded.embed_batch(images), unmerged, rtol=1e-4, atol=1e-5)
    assert loaded.state_dict().keys() == before.keys()
    assert not any(isinstance(module, LoraLinear) for module in loaded.modules())
    assert loaded.fingerprint() == embedder.fingerprint()
    changed = {
        key for key, value in loaded.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed == {f"backbone.{name}.weight" for name in adapted}


def test_merged_weight_is_that_of_the_formula():
    embedder = small("test_vit")
    [name, *_] = add_lora(embedder.backbone, 3, 32)
    randomize(embedder)
    layer = embedder.backbone.get_submodule(name)
    expected = layer.weight.double() + layer.lora_up.double() @ layer.lora_down.double()
    torch.testing.assert_close(
        merged_state(embedder.backbone)[f"{name}.weight"].double(), expected, rtol=1e-5, atol=1e-6
    )


def test_halfway_from_the_unadapted_network_is_halfway_between_merged_weights():
    embedder = small("test_vit")
    [name, *_] = add_lora(embedder.backbone, 3, 32)
    plain = embedder.backbone.get_submodule(name).weight.clone()
    randomize(embedder)
    merged = embedder.weights()[f"backbone.{name}.weight"]
    start = {**embedder.state_dict(), **unadapted(embedder.state_dict())}
    with interpolated(embedder, start, 0.5):
        half = embedder.weights()[f"backbone.{name}.weight"]
    torch.testing.assert_close(half, (plain + merged) / 2, rtol=1e-5, atol=1e-6)


def test_only_the_matrices_learn_in_the_backbone():
    embedder = small("test_vit").train()
    add_lora(embedder.backbone, 2, 32)
    embedder(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)).sum().backward()
    with_gradient = {name for name, value in embedder.named_parameters() if value.grad is not None}
    learning = {name for name, value in embedder.named_parameters() if value.requires_grad}
    assert with_gradient == learning
    backbone = {name for name in learning if name.startswith("backbone.")}
    assert backbone == {name for name in backbone if is_lora(name)}


def test_layers_whose_weight_is_read_past_their_forward_are_left_alone():
    """The attention of BEiT multiplies with `qkv.weight` itself."""
    size = {"depth": 1, "embed_dim": 24, "num_heads": 2}
    backbone = Backbone("beit_base_patch16_224", 224, args=size)
    adapted = add_lora(backbone, 2, 224)
    assert {name.removeprefix("model.blocks.0.") for name in adapted} == {
        "attn.proj", "mlp.fc1", "mlp.fc2",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "rank", "words"),
    [
        ("test_resnet", 4, r"model\.lora_rank=4 adapts .* of test_resnet, .*: it has none"),
        ("test_vit", 512, r"model\.lora_rank=512 .*: it must be below 64"),
    ],
)
def test_backbones_without_such_layers_are_refused(name, rank, words):
    with pytest.raises(ModelError, match=words):
        add_lora(Backbone(name, 32), rank, 32)
