"""Postprocessing of embeddings against references in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reranking_reference import reranked_distance
from sklearn.decomposition import PCA

from lookalike.errors import ConfigError
from lookalike.metrics.postprocessing import reranking
from lookalike.metrics.postprocessing.quantization import from_bits, from_int8, to_bits, to_int8
from lookalike.metrics.postprocessing.query_expansion import augment, expand
from lookalike.metrics.postprocessing.reranking import Reranking, rerank
from lookalike.metrics.postprocessing.variants import STEPS, Split, Variant, measure_variant
from lookalike.metrics.postprocessing.whitening import project, truncation, whitening
from lookalike.metrics.protocol import Roles
from lookalike.metrics.scores import measure_queries


def unit(count, dim, seed=None):
    generator = torch.Generator()
    generator.seed() if seed is None else generator.manual_seed(seed)
    return F.normalize(torch.randn(count, dim, generator=generator), dim=1)


def clustered(classes, each, dim, noise):
    centres = unit(classes, dim).repeat_interleave(each, 0)
    return F.normalize(centres + noise * unit(classes * each, dim), dim=1)


def test_query_expansion_equals_the_formula_of_the_paper():
    queries, gallery = unit(20, 16), unit(60, 16)
    alpha, n = 2.5, 4
    cosines = queries.double() @ gallery.double().T
    best = cosines.topk(n, dim=1)
    weights = best.values.clamp(min=0) ** alpha
    mean = queries.double() + (weights[:, :, None] * gallery.double()[best.indices]).sum(1)
    expected = F.normalize(mean, dim=1)
    found = expand(queries, gallery, neighbours=n, alpha=alpha)
    assert torch.allclose(found.double(), expected, atol=1e-6)


def test_database_augmentation_excludes_the_vector_itself():
    x = unit(30, 8)
    own = (x.double() @ x.double().T).fill_diagonal_(-2).topk(1, dim=1)
    weight = own.values.clamp(min=0) ** 3
    expected = F.normalize(x.double() + weight * x.double()[own.indices[:, 0]], dim=1)
    assert torch.allclose(augment(x, neighbours=1, alpha=3).double(), expected, atol=1e-6)


def test_whitening_equals_pca_of_scikit_learn():
    x = F.normalize(torch.randn(500, 12) * torch.linspace(1, 3, 12) + 0.3, dim=1)
    mean, matrix = whitening(x, 6)
    ours = ((x - mean) @ matrix.T).double().numpy()
    theirs = PCA(6, whiten=True, svd_solver="full").fit_transform(x.double().numpy())
    theirs *= np.sign((ours * theirs).sum(0))  # axes have no sign
    # A thousandth of the mean variance is added to ours, and theirs divide by N - 1.
    assert np.abs(ours - theirs).max() < 0.02 * np.abs(theirs).max()
    covariance = np.cov(((x - mean) @ whitening(x)[1].T).T.double().numpy())
    assert np.allclose(covariance, np.eye(len(covariance)), atol=0.02)


def test_whitening_of_fewer_images_than_dimensions_stays_finite():
    x = unit(5, 64)
    mean, matrix = whitening(x)
    assert matrix.shape == (4, 64)
    assert project(unit(9, 64), mean, matrix).isfinite().all()
    same = x[:1].expand(10, 64)
    assert project(same, *whitening(same)).isfinite().all()
    with pytest.raises(ValueError, match="two vectors"):
        whitening(x[:1])


def test_truncation_keeps_the_first_dimensions():
    x = unit(9, 16)
    assert torch.allclose(project(x, *truncation(16, 5)), F.normalize(x[:, :5], dim=1), atol=1e-6)


def test_bits_have_the_order_of_hamming_distances():
    x, dim = unit(40, 37), 37
    stored = to_bits(x)
    assert stored.shape == (40, 5)
    vectors = from_bits(stored, dim)
    hamming = ((x[:, None] > 0) != (x[None] > 0)).sum(2)
    assert torch.allclose(vectors @ vectors.T, 1 - 2 * hamming / dim, atol=1e-5)


def test_int8_changes_cosines_little():
    x = unit(300, 256)
    stored = to_int8(x)
    assert stored.dtype == torch.int8
    assert stored.abs().amax(1).eq(127).all()
    assert ((from_int8(stored) * x).sum(1) > 0.9995).all()
    assert to_int8(torch.zeros(1, 4)).eq(0).all()


@pytest.mark.parametrize(("k1", "k2", "weight"), [(5, 2, 0.3), (8, 1, 0.0), (6, 3, 0.8)])
def test_reranking_equals_the_algorithm_of_the_paper(k1, k2, weight):
    x = clustered(12, 6, 16, 1.0)
    queries, gallery = x[::3].contiguous(), torch.cat([x[1::3], x[2::3]])
    found = rerank(queries, gallery, 48, reranking=Reranking(k1, k2, weight))
    final = reranked_distance(queries.double().numpy(), gallery.double().numpy(), k1, k2, weight)
    expected = np.sort(final, axis=1)
    mine = np.take_along_axis(final, found.numpy(), 1)
    assert np.abs(mine - expected).max() < 1e-5
    for row in found.numpy():
        assert len(np.unique(row)) == len(gallery)


def test_reranking_truncates_the_ranking_and_excludes_the_own_group():
    x = clustered(10, 5, 16, 1.0)
    groups, others = torch.arange(10), torch.arange(40) % 10
    whole = rerank(x[:10], x[10:], 40, query_groups=groups, gallery_groups=others)
    assert (whole == -1).sum(1).eq(4).all()
    first = rerank(x[:10], x[10:], 3, query_groups=groups, gallery_groups=others)
    assert torch.equal(first, whole[:, :3])
    assert (others[first] != groups[:, None]).all()


def test_reranking_of_copies_of_one_image():
    for _ in range(20):
        x = unit(1, 8).expand(60, 8).contiguous()
        assert rerank(x[:20], x[20:], 10).shape == (20, 10)


def test_reranking_distances_stay_within_0_and_1():
    """Cosines of one vector with itself come out at either side of 1, product by product."""
    x = unit(1, 8).expand(60, 8).contiguous()
    near = reranking.NeighbourGraph(x, 20).distance(
        0, torch.tensor([1 + 2e-7, 1.0, 1 - 2e-7, -1.0])
    )
    assert near[0] == near[1] == 0 < near[2] < 0.5
    assert near[3] == 1


def test_queries_and_gallery_are_disjoint():
    labels = torch.tensor([0, 1, 0, 0, 1, 2])
    split = Split.of(labels, None)
    assert split.queries.tolist() == [2, 4]
    assert split.gallery.tolist() == [0, 1, 3, 5]
    given = Roles(
        torch.tensor([1, 0, 0, 1, 0, 0]).bool(), torch.tensor([0, 1, 1, 0, 1, 0]).bool(),
        torch.full((6,), -1),
    )  # fmt: skip
    split = Split.of(labels, given)
    assert (split.queries.tolist(), split.gallery.tolist()) == ([0, 3], [1, 2, 4])
    everyone = torch.ones(6, dtype=torch.bool)
    split = Split.of(labels, Roles(everyone, everyone, torch.tensor([0, 1, 0, 2, 3, 4])))
    assert split.queries.tolist() == [2, 4]
    assert split.groups[0] == split.groups[2] != split.groups[3]


def test_each_step_equals_the_metrics_of_its_vectors():
    """Against the metrics of vectors transformed by hand."""
    x, labels = clustered(20, 6, 24, 1.2), torch.arange(20).repeat_interleave(6)
    split = Split.of(labels, None)
    rows = torch.cat([split.queries, split.gallery])
    is_query = torch.arange(len(rows)) < len(split.queries)
    roles = Roles(is_query, ~is_query, torch.full((len(rows),), -1))

    def direct(queries, gallery):
        return measure_queries(torch.cat([queries, gallery]), labels[rows], roles=roles).values

    queries, gallery = x[split.queries], x[split.gallery]
    expected = {
        "int8": (from_int8(to_int8(queries)), from_int8(to_int8(gallery))),
        "binary": ((queries > 0) * 2.0 - 1, (gallery > 0) * 2.0 - 1),
        "binary_gallery": (queries, (gallery > 0) * 2.0 - 1),
        "dims=7": (queries[:, :7], gallery[:, :7]),
        "augment": (queries, augment(gallery)),
        "expand": (expand(queries, gallery), gallery),
        "augment+expand": (expand(queries, augment(gallery)), augment(gallery)),
    }
    for name, (asked, searched) in expected.items():
        way = Variant.parse(name)
        found = measure_variant(way, x, split, way.projection(24, None))
        wanted = direct(asked.contiguous(), searched.contiguous())
        for metric, values in wanted.items():
            assert torch.equal(found.values[metric], values), (name, metric)
        assert set(found.rows.tolist()) <= set(split.queries.tolist())


def test_reranking_equals_the_metrics_of_its_lists():
    x, labels = clustered(15, 6, 24, 1.2), torch.arange(15).repeat_interleave(6)
    split = Split.of(labels, None)
    found = measure_variant(Variant.parse("rerank"), x, split, None)
    lists = rerank(x[split.queries], x[split.gallery], 8)
    hits = labels[split.gallery][lists] == labels[split.queries][:, None]
    assert torch.equal(found.values["recall_at_1"], hits[:, 0].double())
    assert torch.equal(found.values["recall_at_8"], hits.any(1).double())
    assert torch.allclose(found.values["r_precision"], hits[:, :3].double().mean(1))
    place = torch.arange(1, 4)
    share = hits[:, :3].double().cumsum(1) / place
    assert torch.allclose(found.values["map_at_r"], (share * hits[:, :3]).sum(1) / 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flop", "'flop' is not one of flip, whiten"),
        ("flip+flip", "has flip twice"),
        ("dims", "write a whole number, dims=64"),
        ("dims=0", "write a whole number"),
        ("flip=3", "flip takes no number"),
        ("int8+binary", "int8 and binary exclude each other"),
    ],
)
def test_wrong_variants_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        Variant.parse(text)


def test_variants_are_named_in_the_order_of_their_steps():
    way = Variant.parse("rerank+dims=8+flip+int8")
    assert way.name == "flip+dims=8+int8+rerank"
    assert list(way.steps) == [name for name in STEPS if name in way.steps]
    assert way.bytes_of(8) == 8
    assert Variant.parse("binary").bytes_of(9) == 2
    assert Variant.parse("whiten").bytes_of(9) == 36
    with pytest.raises(ConfigError, match="24 dimensions only"):
        Variant.parse("dims=25").projection(24, None)
    with pytest.raises(ConfigError, match="--fit LIST"):
        Variant.parse("whiten").projection(24, None)
