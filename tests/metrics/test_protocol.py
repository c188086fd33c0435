"""Queries, gallery and sequences against rankings computed image by image."""

import numpy as np
import pytest
import torch

from lookalike.data.record import Details, Record
from lookalike.errors import DataError
from lookalike.evaluation.query_duplicates import find_duplicates
from lookalike.metrics import ranking
from lookalike.metrics.protocol import Roles
from lookalike.metrics.scores import measure_queries, score


def brute_force(x, labels, roles, ks):
    """Rankings of every query by similarity; ties are decided against it.

    In whole numbers, as the rule is written: of 150 images some two are tied now and then.
    """
    x = (torch.nn.functional.normalize(x.double()) * 2**26).round().long().numpy()
    recall, precision = {k: [] for k in ks}, {k: [] for k in ks}
    averages, r_precision, whole, penalties = [], [], [], []
    lone = 0
    for query in np.flatnonzero(roles.query):
        others = [
            i for i in np.flatnonzero(roles.gallery)
            if i != query
            and (roles.sequence[query] < 0 or roles.sequence[query] != roles.sequence[i])
        ]  # fmt: skip
        own = labels == labels[query]
        others.sort(key=lambda i, q=query, own=own: (own[i] * 2**29 - x[q] @ x[i], own[i]))
        relevant = [bool(labels[i] == labels[query]) for i in others]
        size = sum(relevant)
        if size == 0:
            lone += 1
            continue
        for k in ks:
            recall[k].append(any(relevant[:k]))
            precision[k].append(sum(relevant[:k]) / k)
        r_precision.append(sum(relevant[:size]) / size)
        averages.append(
            sum(sum(relevant[: i + 1]) / (i + 1) for i in range(size) if relevant[i]) / size
        )
        places = np.flatnonzero(relevant) + 1
        whole.append(float(np.mean(np.arange(1, size + 1) / places)))
        penalties.append(size / places[-1])
    return {
        **{f"recall_at_{k}": np.mean(values) for k, values in recall.items()},
        **{f"precision_at_{k}": np.mean(values) for k, values in precision.items()},
        "map_at_r": np.mean(averages),
        "r_precision": np.mean(r_precision),
        "mean_average_precision": np.mean(whole),
        "minp": np.mean(penalties),
        "queries": len(averages),
        "lone_queries": lone,
        "gallery": int(roles.gallery.sum()),
    }


def draw(count, classes, sequences, asking=0.4, searched=0.7):
    labels = torch.randint(classes, (count,))
    x = torch.randn(classes, 16)[labels] + 1.5 * torch.randn(count, 16)
    sequence = torch.randint(-2, sequences, (count,)).clamp_min(-1)
    roles = Roles(torch.rand(count) < asking, torch.rand(count) < searched, sequence)
    return x, labels, roles


@pytest.mark.parametrize("tile", [4096, 17])
@pytest.mark.parametrize("sequences", [0, 3, 60])
def test_scores_by_roles_equal_brute_force(monkeypatch, sequences, tile):
    monkeypatch.setattr(ranking, "BLOCK", tile)
    for classes in (2, 9, 60):
        x, labels, roles = draw(150, classes, sequences)
        ks = (1, 3, 10)
        found = score(x, labels, roles=roles, ks=ks, precision=ks, full=True).to_dict()
        assert found == pytest.approx(brute_force(x, labels, roles, (1, 3, 10)), abs=1e-9)


def test_all_images_in_all_roles_is_leave_one_out():
    x, labels, _ = draw(120, 12, 0)
    everyone = torch.ones(120, dtype=torch.bool)
    roles = Roles(everyone, everyone, torch.full((120,), -1))
    assert score(x, labels, roles=roles) == score(x, labels)


def test_scores_do_not_depend_on_the_order_of_images():
    x, labels, roles = draw(200, 20, 30)
    order = torch.randperm(200)
    assert score(x[order], labels[order], roles=roles[order]) == score(x, labels, roles=roles)


def test_images_of_one_sequence_do_not_find_each_other():
    # Copies within a sequence are nearest; without them every query is wrong.
    labels = torch.tensor([0, 0, 1, 1, 0, 1])
    x = torch.eye(4)[[0, 0, 1, 1, 2, 3]]
    x[4, 1], x[5, 0] = 3.0, 3.0  # the others of each class look like the other class
    roles = Roles(
        torch.tensor([True, True, True, True, False, False]),
        torch.ones(6, dtype=torch.bool),
        torch.tensor([0, 0, 1, 1, -1, -1]),
    )
    assert score(x, labels).recall[1] > 0.6
    assert score(x, labels, roles=roles).recall[1] == 0


def records(*details):
    return [Record(f"{i}.jpg", "a", "t.csv", i, details=one) for i, one in enumerate(details)]


def test_roles_of_records():
    assert Roles.of(records(None, Details(), Details(split="test"))) is None
    roles = Roles.of(records(Details(is_query=True), Details(is_query=False), None))
    assert roles.query.tolist() == [True, False, False]
    assert roles.gallery.tolist() == [True, True, True]
    roles = Roles.of(records(Details(sequence="s"), Details(), Details(sequence="s")))
    assert roles.sequence.tolist() == [0, -1, 0]
    assert roles.query.all()
    assert roles.gallery.all()


def test_nothing_to_find_is_an_error_with_counts():
    x, labels, _ = draw(10, 2, 0)
    nobody = torch.zeros(10, dtype=torch.bool)
    with pytest.raises(DataError, match="10 queries and 0 in the gallery, no class has"):
        score(x, labels, roles=Roles(~nobody, nobody, torch.full((10,), -1)))


def test_queries_and_gallery_without_a_common_class_are_named():
    x, _, _ = draw(10, 2, 0)
    query = torch.arange(10) < 4
    labels = torch.tensor([[0, 1], [0, -1], [1, -1], [1, -1]] + [[2, -1]] * 6)
    roles = Roles(query, ~query, torch.full((10,), -1))
    with pytest.raises(DataError, match="4 queries and 6 in the gallery, no class has a query and"):
        score(x, labels, roles=roles)
    with pytest.raises(DataError, match="that is not of its own sequence or camera"):
        score(x, labels[:, 0] * 0, roles=Roles(query, ~query, torch.zeros(10, dtype=torch.int64)))


def test_images_of_one_class_and_camera_do_not_find_each_other():
    """Market-1501's rule, written out: junk is what has the query's class and its camera."""
    classes, cameras = torch.randint(0, 6, (120,)), torch.randint(0, 3, (120,))
    x = torch.randn(120, 5)
    records = [
        Record(f"{i}", f"class {c}", "t.csv", i + 2, details=Details(camera=f"camera {k}"))
        for i, (c, k) in enumerate(zip(classes.tolist(), cameras.tolist(), strict=True))
    ]
    roles = Roles.of(records)
    junk = (classes[:, None] == classes) & (cameras[:, None] == cameras)
    found = (roles.sequence[:, None] == roles.sequence) & (roles.sequence[:, None] >= 0)
    assert torch.equal(found, junk)
    x = torch.nn.functional.normalize(x.double(), dim=1)
    cosines = (x @ x.T).masked_fill(junk, -2)
    asks = ((classes[:, None] == classes) & ~junk).any(1)
    first = classes[cosines.argmax(1)] == classes
    scores = score(x.float(), classes, ks=(1,), roles=roles)
    assert scores.recall[1] == pytest.approx(float(first[asks].double().mean()), abs=1e-12)


def test_cameras_and_sequences_are_distinct():
    records = [
        Record("a", "x", "t.csv", 2, details=Details(camera="1")),
        Record("b", "1", "t.csv", 3, details=Details(camera="x")),
        Record("c", "x", "t.csv", 4, details=Details(camera="1")),
        Record("d", "x", "t.csv", 5),
    ]
    assert Roles.of(records).sequence.tolist() == [0, 1, 0, -1]


@pytest.mark.parametrize("number", [0, 3, 7, 8, 800])
def test_scores_do_not_depend_on_sequence_numbers(number):
    everyone = torch.ones(5, dtype=torch.bool)
    vectors = torch.randn(5, 8)
    labels = torch.tensor([0, 0, 0, 0, 1])
    sequence = torch.tensor([number, number, -1, -1, -1])
    roles = Roles(everyone, everyone, sequence)
    found = measure_queries(vectors, labels, roles=roles)
    assert found.relevant.tolist() == [2, 2, 3, 3]
    renamed = Roles(everyone, everyone, sequence.clamp_max(0))
    assert score(vectors, labels, roles=roles) == score(vectors, labels, roles=renamed)


def met(records, roles):
    """The first image of the same content that each query may find, by brute force."""
    found = {}
    for row, record in enumerate(records):
        for other, its in enumerate(records):
            apart = roles.sequence[row] < 0 or roles.sequence[row] != roles.sequence[other]
            meets = roles.query[row] and roles.gallery[other] and apart
            if row != other and record.uri == its.uri and meets and row not in found:
                found[row] = other
    return found


def test_query_duplicates_equal_brute_force(tmp_path):
    generator = np.random.default_rng()
    for trial in range(60):
        count = int(generator.integers(2, 14))
        names = generator.integers(0, 3, count)
        for name in set(names.tolist()):
            (tmp_path / f"{trial}-{name}").write_bytes(f"{trial} {name}".encode())
        records = [
            Record(str(tmp_path / f"{trial}-{name}"), "a", "list", row)
            for row, name in enumerate(names, 1)
        ]
        vectors = torch.eye(3)[names]
        roles = Roles(
            torch.from_numpy(generator.random(count) < 0.7),
            torch.from_numpy(generator.random(count) < 0.7),
            torch.from_numpy(generator.integers(-1, 3, count)),
        )
        expected = met(records, roles)
        copies = find_duplicates(records, vectors, roles)
        assert copies.queries == len(expected)
        rows = [int(query.split(":")[1]) for query, _ in copies.examples]
        others = [int(copy.split(":")[1]) for _, copy in copies.examples]
        assert dict(zip(rows, others, strict=True)) == {
            row + 1: other + 1 for row, other in sorted(expected.items())[:3]
        }
