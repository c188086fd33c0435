"""Images of several classes: metrics against all pairs, one by one."""

import numpy as np
import pytest
import torch

from lookalike.metrics import class_members, pair_scan, ranking
from lookalike.metrics.calibration import fit_calibration
from lookalike.metrics.protocol import Roles
from lookalike.metrics.scores import measure_queries
from lookalike.metrics.topk import nearest_images
from lookalike.metrics.verification import binned, count_pairs

COUNT = 150


def drawn(number=COUNT, labels=25):
    first = torch.randint(0, labels, (number,))
    classes = torch.full((number, 3), -1)
    classes[:, 0] = first
    two, three = torch.rand(number) < 0.4, torch.rand(number) < 0.1
    classes[two, 1] = ((first + 7) % labels)[two]
    both = two & three
    classes[both, 2] = ((first + 11) % labels)[both]
    centres = torch.randn(labels, 12)
    real = (classes >= 0)[..., None]
    vectors = (centres[classes.clamp_min(0)] * real).sum(1) + 0.7 * torch.randn(number, 12)
    return vectors, classes


def common(classes):
    sets = [set(row.tolist()) - {-1} for row in classes]
    return np.array([[bool(a & b) for b in sets] for a in sets])


def similarities(vectors):
    x = vectors.double().numpy()
    unit = np.rint(x / np.linalg.norm(x, axis=1, keepdims=True) * 2**26)
    return unit @ unit.T / 2.0**52


def roles_of(number=COUNT):
    query, gallery = torch.rand(2, number) < 0.7
    return Roles(query, gallery, torch.randint(-1, 40, (number,)))


@pytest.mark.parametrize("some_roles", [False, True])
@pytest.mark.parametrize("block", [ranking.BLOCK, 16])
def test_retrieval_against_the_sorted_matrix(some_roles, block, monkeypatch):
    monkeypatch.setattr(ranking, "BLOCK", block)
    monkeypatch.setattr(ranking, "CLASS_ROWS", block)
    monkeypatch.setattr(ranking, "CLASS_COLUMNS", block)
    monkeypatch.setattr(class_members, "ROWS", block)
    monkeypatch.setattr(class_members, "COLUMNS", block)
    vectors, classes = drawn()
    roles = roles_of() if some_roles else None
    found = measure_queries(
        vectors, classes, roles=roles, recall=(1, 3), full=True, device=torch.device("cpu")
    )
    same, cosine, rows, expected = common(classes), similarities(vectors), [], []
    for query in range(COUNT):
        other = np.arange(COUNT) != query
        if roles is not None:
            own = roles.sequence.numpy()
            other &= roles.gallery.numpy() & ((own != own[query]) | (own[query] < 0))
            other &= bool(roles.query[query])
        size = int((other & same[query]).sum())
        if size:
            order = np.argsort(-cosine[query][other], kind="stable")
            hit = same[query][other][order]
            precision = np.cumsum(hit) / np.arange(1, len(hit) + 1)
            rows.append(query)
            expected.append(
                [hit[0], hit[:3].any(), (precision * hit)[:size].sum() / size,
                 hit[:size].mean(), (precision * hit).sum() / size]
            )  # fmt: skip
    names = ["recall_at_1", "recall_at_3", "map_at_r", "r_precision", "average_precision"]
    assert found.rows.tolist() == rows
    values = torch.stack([found.values[name] for name in names], 1)
    torch.testing.assert_close(values, torch.tensor(np.array(expected, float)), rtol=0, atol=1e-12)


def test_one_label_each_gives_the_same_bits():
    vectors, classes = drawn()
    single = classes[:, 0]
    padded = torch.stack([single, torch.full_like(single, -1)], 1)
    one, other = (measure_queries(vectors, labels, full=True) for labels in (single, padded))
    assert torch.equal(one.relevant, other.relevant)
    assert all(torch.equal(one.values[name], other.values[name]) for name in one.values)
    assert fit_calibration(vectors, single).to_dict() == fit_calibration(vectors, padded).to_dict()


def test_where_all_share_a_class_everything_is_found():
    classes = torch.tensor([[0, 1], [1, -1], [2, 1], [1, 0]])
    found = measure_queries(torch.randn(4, 3), classes)
    assert found.relevant.tolist() == [3] * 4
    assert found.values["map_at_r"].tolist() == [1.0] * 4


def test_pairs_and_neighbours(monkeypatch):
    monkeypatch.setattr(pair_scan, "SIDE", 32)
    vectors, classes = drawn()
    same, cosine = common(classes), similarities(vectors)
    counts = count_pairs(vectors, classes, device=torch.device("cpu"))
    upper = np.triu(np.ones_like(same), 1).astype(bool)
    for got, kind in ((counts.same, same), (counts.different, ~same)):
        bins = binned(torch.from_numpy(cosine[upper & kind]))
        assert np.array_equal(got, bins.bincount(minlength=len(got)).numpy())
    queries = torch.arange(COUNT)
    nearest = nearest_images(
        vectors, classes, queries, world=ranking.World(), device=torch.device("cpu")
    )
    assert nearest.wrong_rows.tolist() == np.where(same, -2, cosine).argmax(1).tolist()
    calibration = fit_calibration(vectors, classes)
    assert calibration.same_pairs == int((upper & same).sum())
    # The intervals count the accepted pairs of images without a common class.
    level = calibration.levels[0]
    assert level.false_accepts == int((upper & ~same & (cosine >= level.threshold)).sum())


def test_labels_of_another_shape_are_refused():
    for labels in (torch.zeros(3, 2, 1).long(), torch.zeros(4, 2).long(), torch.zeros(3, 2)):
        with pytest.raises(ValueError, match="labels must be 3 integers"):
            measure_queries(torch.randn(3, 2), labels)
