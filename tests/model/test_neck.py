"""The neck whose embeddings have a length of their own."""

import copy
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lookalike.errors import RunError
from lookalike.model.batchnorm import GlobalBatchNorm2d, synchronise
from lookalike.model.embedder import Embedder
from lookalike.model.neck import Neck, pool


def places(rows=32, channels=24):
    """Features (B, N, C) and a class token (B, C), of quite different sizes."""
    size = torch.rand(rows, 1, 1) * 5 + 0.1
    return torch.randn(rows, 9, channels) * size, torch.randn(rows, channels) * size[:, 0]


def small(**options):
    return Embedder.create(
        "test_resnet", pretrained=False, image_size=32, embedding_dim=20, **options
    )


@pytest.mark.parametrize("dim", [32, 512, 700])
@pytest.mark.parametrize("pooling", ["gem+avg", "cls+max", "avg"])
def test_lengths_start_around_those_of_512_dimensions(dim, pooling):
    neck = Neck(24, dim, pooling, normalize=False)
    lengths = neck(*places()).norm(dim=1)
    assert lengths.square().mean().sqrt().item() == pytest.approx(math.sqrt(512), rel=0.01)
    assert lengths.std() > 1  # each image has its own


def test_the_neck_without_normalisation_against_its_formula():
    neck = Neck(24, 10, "avg+max", normalize=False).double()
    features, token = (x.double() for x in places())
    norm = neck.norm
    for training in (True, False):
        neck.train(training)
        joined = torch.cat(
            [
                pool(features, kind) @ layer.weight.t()
                for kind, layer in zip(("avg", "max"), neck.projections, strict=True)
            ],
            dim=1,
        )
        mean, var = joined.mean(0), joined.var(0, unbiased=False)
        if not training:
            mean, var = norm.running_mean, norm.running_var
        expected = (joined - mean) / (var + norm.eps).sqrt() * math.sqrt(512 / 10)
        torch.testing.assert_close(neck(features, token), expected)


def test_a_reward_for_length_raises_the_mean_square():
    # Without a scale to learn it would be 512, whatever the network does.
    neck = Neck(24, 40, normalize=False)
    features, token = places()
    optimizer = torch.optim.SGD(neck.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (-neck(features, token).norm(dim=1).mean()).backward()
        optimizer.step()
    assert neck(features, token).norm(dim=1).square().mean() > 520


def test_the_default_neck_has_projections_alone():
    neck = Neck(24, 10)
    assert neck.state_dict().keys() == {"projections.0.weight", "projections.1.weight"}
    lengths = neck(*places()).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((32,), math.sqrt(2)))


def test_the_norm_of_the_neck_uses_the_global_batch():
    neck = Neck(24, 10, normalize=False)
    names = neck.state_dict().keys()
    synchronised = synchronise(copy.deepcopy(neck), torch.device("cpu"))
    assert isinstance(synchronised.norm, GlobalBatchNorm2d)
    assert synchronised.state_dict().keys() == names


@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision_gives_lengths_in_float32(autocast):
    neck = Neck(24, 64, "avg+max", normalize=False)
    features, token = places()
    exact = neck(features, token)
    if autocast:
        with torch.autocast("cpu", torch.bfloat16):
            found = neck(features, token)
    else:
        found = neck.bfloat16()(features.bfloat16(), token.bfloat16())
    assert found.dtype == torch.float32
    assert (found - exact).norm() < 0.03 * exact.norm()


def test_embed_gives_unit_vectors_and_forward_lengths():
    embedder = small(normalize=False)
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    raw = embedder(images)
    assert raw.norm(dim=1).min() > 2
    unit = embedder.embed_batch(images)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(8))
    torch.testing.assert_close(unit, F.normalize(embedder.eval()(images).detach(), dim=1))


@pytest.mark.parametrize("free", [True, False])
def test_saved_and_loaded(tmp_path, free):
    embedder = small(normalize=not free)
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    embedder(images)  # moves the running statistics
    embedder.save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["free_length"] is free
    loaded = Embedder.load(tmp_path)
    assert loaded.normalize is not free
    np.testing.assert_array_equal(loaded.embed_batch(images), embedder.embed_batch(images))


def test_an_older_file_has_fixed_lengths(tmp_path):
    small().save(tmp_path)
    place = tmp_path / "config.json"
    described = json.loads(place.read_text())
    del described["free_length"]
    place.write_text(json.dumps(described))
    assert Embedder.load(tmp_path).normalize is True


def test_weights_of_the_other_kind_are_an_error(tmp_path):
    small(normalize=False).save(tmp_path)
    place = tmp_path / "config.json"
    place.write_text(place.read_text().replace('"free_length": true', '"free_length": false'))
    with pytest.raises(RunError, match="belong to different models"):
        Embedder.load(tmp_path)
