"""`lookalike plan` of losses over the images of a batch, against the tensors of real steps."""

from dataclasses import replace

import pytest
import torch
from rich.console import Console

import lookalike
from lookalike.config.config import Config
from lookalike.distributed.world import World
from lookalike.losses import PAIR_LOSSES, create_loss
from lookalike.losses.pairs.batch_comparison import BLOCK, BatchComparison
from lookalike.losses.pairs.proxy_weights import ProxyWeights
from lookalike.model.embedder import Embedder
from lookalike.planning.memory import memory
from lookalike.planning.plan_table import show
from lookalike.training.build_heads import metric_loss
from lookalike.training.resolve import resolve

CLASSES = 500
SMALL = {
    "backbone": "test_resnet", "pretrained": False, "image_size": 32, "embedding_dim": 32,
    "batch_size": 32, "device": "cpu", "recipe": "component",
}  # fmt: skip


def planned(loss, **settings):
    options = {key: settings.pop(key) for key in ("gpu", "memory", "images") if key in settings}
    config = Config.of(None, {**SMALL, "loss": loss, **settings})
    return lookalike.plan(config, classes=CLASSES, measure=False, **options)


def kept_bytes(module, embeddings, classes):
    """Bytes that the forward pass keeps for the backward pass."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(embeddings, classes)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("remembered", [0, 1000])
@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_predicted_bytes_of_comparisons_are_those_of_torch(name, remembered):
    found = planned(name, loss__memory=remembered, batch_size=128)
    assert found.spec.positives == (4 if create_loss(name).ranks else 1)
    module = BatchComparison(32, create_loss(name), memory=remembered)
    classes = torch.arange(128) // 4
    if module.memory is not None:
        rows = torch.nn.functional.normalize(torch.randn(remembered, 32), dim=1)
        module.memory.store(rows, torch.arange(remembered) % 500 + 32)
        buffers = (module.memory.rows, module.memory.classes)
        assert found.memory.memory == sum(each.nbytes for each in buffers)
    embeddings = torch.randn(128, 32, requires_grad=True)
    real = kept_bytes(module, embeddings, classes)
    assert 0.4 * found.memory.head_saved < real <= found.memory.head_saved
    assert found.memory.head_weights == found.memory.head_gradients == 0
    assert found.spec.comparisons <= BLOCK


def test_predicted_bytes_of_proxies_are_those_of_torch():
    found = planned("proxy_anchor", batch_size=128)
    module = ProxyWeights(32, CLASSES, create_loss("proxy_anchor"))
    embeddings = torch.randn(128, 32, requires_grad=True)
    real = kept_bytes(module, embeddings, torch.arange(128) // 4)
    assert 0.4 * found.memory.head_saved < real <= found.memory.head_saved
    assert found.memory.head_weights == module.weight.nbytes
    assert found.memory.head_gradients == module.weight.nbytes


def test_comparisons_grow_with_the_batch_up_to_a_block():
    found = planned("smooth_ap")
    assert found.spec.comparisons == 32 * 32 * 4
    large = replace(found.spec, batch=2**14)
    assert large.comparisons == BLOCK
    saved = memory(large, found.network).head_saved
    assert saved < 2 * memory(replace(large, batch=2**13), found.network).head_saved


@pytest.fixture(scope="module")
def embedder():
    return Embedder.create("test_resnet", pretrained=False, image_size=32, embedding_dim=32)


@pytest.mark.parametrize(
    ("loss", "settings"),
    [
        ("supcon", {"loss__memory": 64}),
        ("supcon", {"classification_weight": 1.0}),
        ("smooth_ap", {"nested_dims": [8]}),
        ("proxy_anchor", {}),
        ("proxy_anchor", {"workers": 2}),
        ("proxy_anchor", {"workers": 2, "head__parallel": "model"}),
        ("multi_similarity", {"workers": 2, "nested_dims": [8]}),
    ],
)
def test_plans_have_only_settings_that_the_loss_has(loss, settings, embedder, capsys):
    found = planned(loss, **settings, gpu="a10", memory="1MB", images=5000)
    assert found.fits is False
    for change in found.changes:
        words = change.setting.replace(" (and without the classification branch)", "").split(", ")
        keys = dict(each.split("=") for each in words if "=" in each)
        workers = next((int(w.split()[0]) for w in words if w.endswith("workers")), 1)
        values = {key.replace(".", "__"): value for key, value in keys.items()}
        config = Config.of(None, {**SMALL, "loss": loss, **settings, **values})
        resolve(config, metric_loss(config), embedder, World(size=workers), CLASSES)  # not refused
    assert found.speed is not None
    show(found, Console(width=120))
    text = capsys.readouterr().out
    assert ("classes at most" in text) == bool(found.spec.weighted_heads)
    assert ("memory of embeddings" in text) == ("loss__memory" in settings)


def test_traffic_of_workers():
    """Of 2 workers each sends half of what all have gathered."""
    pairs = planned("supcon", workers=2).communication
    assert pairs.embeddings == (32 * 32 * 4 + 8 * 32) // 2
    assert pairs.embedding_gradients == 32 * 32 * 4 // 2
    assert pairs.head_gradients == 0
    proxies = planned("proxy_anchor", workers=2).communication
    assert proxies.statistics == 2 * CLASSES * 4
    assert proxies.head_gradients == CLASSES * 32 * 4
