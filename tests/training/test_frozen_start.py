"""Neck and class weights from the features of the frozen backbone."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lookalike.data.catalog import open_catalog
from lookalike.data.loading.bad_images import BadImages
from lookalike.losses import create_loss
from lookalike.losses.head import Head, HeadOptions
from lookalike.model.embedder import Embedder
from lookalike.model.inference import embed_records
from lookalike.training import frozen_start
from lookalike.training.frozen_start import imprint, principal_axes, start_features


def test_principal_axes_are_the_right_singular_vectors_of_unit_rows():
    features = torch.randn(40, 12, generator=torch.Generator().manual_seed(0))
    axes = principal_axes(features, 5)
    unit = F.normalize(features, dim=1).numpy().astype(np.float64)
    _, _, expected = np.linalg.svd(unit, full_matrices=False)
    assert torch.allclose(axes @ axes.T, torch.eye(5), atol=1e-5)
    cosines = np.abs(np.sum(axes.numpy() * expected[:5], axis=1))
    assert cosines == pytest.approx(np.ones(5), abs=1e-4)


@pytest.mark.parametrize("centres", [1, 2])
def test_class_weights_are_the_mean_directions_of_their_images(centres):
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(9, 6, generator=generator)
    classes = torch.tensor([0, 0, 0, 0, 2, 2, 3, 3, 3])
    head = Head(6, 4, create_loss("arcface"), HeadOptions(centres=centres))
    before = head.weight.detach().clone()
    imprint(head, vectors, classes)
    unit = F.normalize(vectors, dim=1)
    for klass in (0, 2, 3):
        for centre in range(centres):
            mean = unit[classes == klass][centre::centres].mean(dim=0)
            row = klass * centres + centre
            after = head.weight.detach()[row]
            assert F.cosine_similarity(after, mean, dim=0) == pytest.approx(1, abs=1e-6)
            assert after.norm() == pytest.approx(float(before[row].norm()), rel=1e-5)
    own = slice(1 * centres, 2 * centres)  # the class without images
    assert torch.equal(head.weight[own], before[own])


def test_the_start_keeps_the_similarities_of_the_backbone(shapes):
    """With as many axes as images span, cosines of embeddings are those of pooled features."""
    torch.manual_seed(0)
    embedder = Embedder.create("resnet18", pretrained=False, image_size=32, embedding_dim=100)
    catalog = open_catalog(str(shapes / "train.txt"))
    features = start_features(embedder, catalog)
    assert [tuple(part.shape) for part in features.pooled.values()] == [(48, 512), (48, 512)]
    features.set_neck(embedder.neck)
    live = embed_records(embedder, catalog.records, bad=BadImages()).vectors
    kept = F.normalize(features.embeddings(embedder.neck), dim=1)
    assert torch.allclose(live, kept, atol=1e-5)
    units = [F.normalize(part, dim=1) for part in features.pooled.values()]
    expected = sum(unit @ unit.T for unit in units) / 2
    assert torch.allclose(live @ live.T, expected, atol=1e-4)
    assert features.scores(embedder.neck).num_queries == 48


def test_of_many_classes_pairs_are_taken(monkeypatch, shapes):
    """Retrieval is measured among them, and needs two images of a class."""
    monkeypatch.setattr(frozen_start, "MOST_IMAGES", 6)
    embedder = Embedder.create("test_resnet", pretrained=False, image_size=32, embedding_dim=8)
    catalog = open_catalog(str(shapes / "train.txt"))
    features = start_features(embedder, catalog)
    assert features.classes.tolist() == [0, 0, 1, 1, 2, 2]
    assert features.scores(embedder.neck).num_queries == 6
