"""The metrics against pytorch-metric-learning and brute force over explicit rankings."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN
from sklearn.metrics import average_precision_score
from torch.utils._python_dispatch import TorchDispatchMode

from lookalike.errors import DataError, TrainingError
from lookalike.metrics import fast_similarity, query_block, ranking
from lookalike.metrics import scores as scores_module
from lookalike.metrics.fast_similarity import EXACT, FLOAT32, UnitVectors
from lookalike.metrics.protocol import Roles
from lookalike.metrics.scores import DEFINITIONS, Scores, measure_queries, score

KS = (1, 2, 4, 8)
DEEP = (1, 5, 40)


def brute_force(embeddings: torch.Tensor, labels: torch.Tensor, ks=KS) -> Scores:
    """Rankings written out, with integer similarities that numpy computes exactly."""
    x = embeddings.double().numpy()
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    units = np.rint(x / np.where(norms == 0, 1, norms) * 2**26).astype(np.int64)
    similarity = units @ units.T  # in steps of 2^-52
    labels = labels.numpy()
    recall = {k: [] for k in ks}
    precision = {k: [] for k in DEEP}
    precisions, averages, whole, penalties = [], [], [], []
    for query in range(len(labels)):
        others = [i for i in range(len(labels)) if i != query]
        size = sum(labels[i] == labels[query] for i in others)
        if size == 0:
            continue
        # A negative is worth 2^-23 more than it has, and wins what is then equal.
        others.sort(
            key=lambda i, q=query: (
                -similarity[q, i] - (0 if labels[i] == labels[q] else 2**29),
                labels[i] == labels[q],
            )
        )
        relevant = [bool(labels[i] == labels[query]) for i in others]
        for k in ks:
            recall[k].append(any(relevant[:k]))
        for k in DEEP:
            precision[k].append(sum(relevant[:k]) / k)
        precisions.append(sum(relevant[:size]) / size)
        hits = [sum(relevant[: i + 1]) / (i + 1) for i in range(size) if relevant[i]]
        averages.append(sum(hits) / size)
        places = [i + 1 for i in range(len(others)) if relevant[i]]
        whole.append(sum((i + 1) / place for i, place in enumerate(places)) / size)
        penalties.append(size / places[-1])
    return Scores(
        recall={k: float(np.mean(values)) for k, values in recall.items()},
        map_at_r=float(np.mean(averages)),
        r_precision=float(np.mean(precisions)),
        num_queries=len(averages),
        num_lone=len(labels) - len(averages),
        num_gallery=len(labels),
        precision={k: float(np.mean(values)) for k, values in precision.items()},
        mean_average_precision=float(np.mean(whole)),
        minp=float(np.mean(penalties)),
    )


def measured(embeddings: torch.Tensor, labels: torch.Tensor) -> Scores:
    return score(embeddings, labels, precision=DEEP, full=True)


def assert_same(found: Scores, expected: Scores) -> None:
    assert found.to_dict() == pytest.approx(expected.to_dict(), abs=1e-12)


def tie_free(count: int, dim: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Fresh embeddings in which float32 ranks no positive and negative by chance."""
    for _ in range(200):
        labels = torch.arange(count) % classes
        x = torch.randn(classes, dim)[labels] + torch.randn(count, dim)
        unit = torch.nn.functional.normalize(x.double())
        similarity = unit @ unit.T
        same = labels[:, None] == labels
        gap = math.inf
        for query in range(count):
            others = torch.arange(count) != query
            positive = similarity[query][same[query] & others]
            negative = similarity[query][~same[query]]
            gap = min(gap, float((positive[:, None] - negative).abs().min()))
        if gap > 1e-6:
            return x, labels
    raise AssertionError("no draw without ties")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [30, 7])
def test_agrees_with_pytorch_metric_learning(dtype, classes):
    embeddings, labels = tie_free(120, 16, classes)
    # Two lone images, which PML leaves out of its averages as well.
    embeddings = torch.cat([embeddings, torch.randn(2, 16)]).to(dtype)
    labels = torch.cat([labels, torch.tensor([classes, classes + 1])])
    calculator = AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        k="max_bin_count",
        device=torch.device("cpu"),
        knn_func=CustomKNN(CosineSimilarity()),
        kmeans_func=lambda *_: None,
    )
    expected = calculator.get_accuracy(embeddings, labels)
    found = score(embeddings, labels)
    assert found.recall[1] == pytest.approx(expected["precision_at_1"], abs=1e-6)
    assert found.r_precision == pytest.approx(expected["r_precision"], abs=1e-6)
    assert found.map_at_r == pytest.approx(expected["mean_average_precision_at_r"], abs=1e-6)
    assert (found.num_queries, found.num_lone, found.num_gallery) == (120, 2, 122)


def test_the_full_ranking_agrees_with_pytorch_metric_learning_and_scikit_learn():
    embeddings, labels = tie_free(120, 16, 20)
    calculator = AccuracyCalculator(
        include=("mean_average_precision",),
        k=None,
        device=torch.device("cpu"),
        knn_func=CustomKNN(CosineSimilarity()),
        kmeans_func=lambda *_: None,
    )
    expected = calculator.get_accuracy(embeddings, labels)["mean_average_precision"]
    assert score(embeddings, labels, full=True).mean_average_precision == pytest.approx(
        expected, abs=1e-6
    )
    found = measure_queries(embeddings, labels, full=True)
    unit = torch.nn.functional.normalize(embeddings.double())
    for query, value in zip(found.rows, found.values["average_precision"], strict=True):
        others = torch.arange(len(labels)) != query
        assert float(value) == pytest.approx(
            average_precision_score(labels[others] == labels[query], unit[others] @ unit[query])
        )


def test_agrees_with_open_metric_learning_where_defined_alike():
    # As its functional/metrics.py (4.0) has them, on rankings written out.
    embeddings, labels = tie_free(90, 16, 15)
    unit = torch.nn.functional.normalize(embeddings.double())
    found = measure_queries(embeddings, labels, recall=(1, 3), precision=(2, 9), full=True)
    for number, query in enumerate(found.rows):
        others = (torch.arange(len(labels)) != query).nonzero()[:, 0]
        order = others[(unit[others] @ unit[query]).argsort(descending=True)]
        correct = labels[order] == labels[query]
        wanted = int(correct.sum())
        ours = {name: float(values[number]) for name, values in found.values.items()}
        for k in (1, 3):
            assert ours[f"recall_at_{k}"] == float(correct[:k].any())  # cmc@k
        for k in (2, 9):  # divided by min(k, n) there
            precision = float(correct[:k].sum()) / min(wanted, k)
            assert ours[f"precision_at_{k}"] * k / min(wanted, k) == pytest.approx(precision)
        hits = correct.cumsum(0).double()
        places = torch.arange(1, len(order) + 1)
        # map@k, which divides by the hits: at k = all these are the whole class.
        average = float((hits / places * correct).sum() / hits[-1])
        assert ours["average_precision"] == pytest.approx(average)


def random_set(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.randint(0, 12, (150,))
    embeddings = torch.randn(12, 8)[labels] + torch.randn(150, 8)
    if kind == "tied":  # few different directions
        embeddings = torch.randint(-1, 2, (150, 3)).float()
    elif kind == "duplicated":  # the same image under several labels
        embeddings = embeddings[torch.randint(0, 40, (150,))]
    elif kind == "nearly duplicated":  # the same image from another batch
        embeddings = embeddings[torch.randint(0, 40, (150,))]
        embeddings = embeddings * (1 + 6e-8 * torch.randn(150, 8))
    elif kind == "collapsed":
        embeddings = torch.randn(1, 8).expand(150, 8)
    elif kind == "one class":
        labels = torch.full((150,), 7)
    elif kind == "two large classes":
        labels = torch.randint(0, 2, (150,))
    elif kind == "many lone":
        labels = torch.where(torch.rand(150) < 0.8, torch.arange(150) + 100, labels)
        labels[:2] = 0
    elif kind == "unlike scales":
        embeddings = embeddings.double() * 10.0 ** torch.randint(-200, 200, (150, 1)).double()
    elif kind == "huge labels":
        labels = labels * 10**15 - 5
    return embeddings, labels


KINDS = ["random", "tied", "duplicated", "nearly duplicated", "collapsed", "one class"]
KINDS += ["two large classes", "many lone", "unlike scales", "huge labels"]


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_brute_force(kind):
    for _ in range(3):
        embeddings, labels = random_set(kind)
        if kind == "unlike scales":  # whose squares numpy cannot hold
            expected = brute_force(embeddings / embeddings.abs().amax(1, keepdim=True), labels)
        else:
            expected = brute_force(embeddings, labels)
        assert_same(measured(embeddings, labels), expected)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_agrees_with_brute_force_on_small_sets(data):
    count = data.draw(st.integers(2, 12))
    rows = st.lists(st.integers(-2, 2), min_size=2, max_size=2)
    embeddings = torch.tensor(
        data.draw(st.lists(rows, min_size=count, max_size=count)), dtype=torch.float32
    )
    labels = torch.tensor(
        [0, 0, *data.draw(st.lists(st.integers(0, 3), min_size=count - 2, max_size=count - 2))]
    )
    assert_same(measured(embeddings, labels), brute_force(embeddings, labels))


@pytest.mark.parametrize("kind", KINDS)
def test_scores_do_not_depend_on_order_tiles_and_scale(kind, monkeypatch):
    embeddings, labels = random_set(kind)
    expected = measured(embeddings, labels)
    order = torch.randperm(len(labels))
    assert measured(embeddings[order], labels[order]) == expected
    assert measured(embeddings * 2.0**-7, labels) == expected
    assert measured(embeddings, labels + 3) == expected
    monkeypatch.setattr(ranking, "BLOCK", 11)
    assert measured(embeddings[order], labels[order]) == expected
    monkeypatch.setattr(fast_similarity, "KEPT_BYTES", 0)  # nothing is kept: tiles serve one side
    monkeypatch.setattr(ranking, "HELD_NUMBERS", 25 * embeddings.shape[1])
    monkeypatch.setattr(query_block, "UNDECIDED", 3)
    assert measured(embeddings, labels) == expected
    monkeypatch.setattr(ranking, "POSITIVES", 1)
    monkeypatch.setattr(ranking, "CLASS_COLUMNS", 5)
    assert measured(embeddings, labels) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types_are_ranked_without_conversion(dtype):
    embeddings, labels = random_set("random")
    embeddings = embeddings.to(dtype)
    assert_same(measured(embeddings, labels), brute_force(embeddings.double(), labels))


def test_large_sets_do_not_depend_on_order_and_threads():
    labels = torch.randint(0, 300, (2000,))
    embeddings = torch.randn(300, 96)[labels] + 1.5 * torch.randn(2000, 96)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = score(embeddings, labels)
        torch.set_num_threads(2)
        order = torch.randperm(2000)
        assert score(embeddings[order], labels[order]) == expected
    finally:
        torch.set_num_threads(threads)
    assert 0.05 < expected.map_at_r < 0.95  # the case says something


@pytest.mark.parametrize("noise", [0, 1e-8, 1e-7])
@pytest.mark.parametrize("shuffled", [False, True])
def test_a_collapsed_model_scores_zero(noise, shuffled):
    labels = torch.arange(200) // 5  # sorted, as lists are
    if shuffled:
        labels = labels[torch.randperm(200)]
    embeddings = torch.randn(64).expand(200, 64) * (1 + noise * torch.randn(200, 64))
    scores = score(embeddings, labels)
    assert scores.map_at_r == scores.r_precision == 0
    assert set(scores.recall.values()) == {0}


def on_circle(cosine: float) -> list[float]:
    return [cosine, math.sqrt(1 - cosine * cosine)]


@pytest.mark.parametrize(
    ("lead", "found"),
    [(-(2.0**-20), 0.0), (0.0, 0.0), (2.0**-23, 0.0), (2.0**-22, 1.0)],
)
def test_a_positive_must_lead_by_more_than_float32s_epsilon(lead, found):
    # The first query's positive is more similar than its negative by `lead`. The other one of its
    # class always prefers the negative, which lies on the far side of it.
    embeddings = torch.tensor([[1.0, 0.0], on_circle(0.5 + lead), on_circle(0.5)]).double()
    labels = torch.tensor([0, 0, 1])
    scores = score(embeddings, labels)
    assert scores.recall[1] == found / 2
    assert scores.map_at_r == found / 2
    assert scores.recall[2] == 1


def test_values_by_hand():
    # One query of class 0 sees, by angle: 0, 1, 0 | 1, 0 -> R = 3, hits at ranks 1 and 3.
    angles = torch.tensor([0.0, 0.1, 0.21, 0.33, 0.46, 0.6])
    labels = torch.tensor([0, 0, 1, 0, 2, 0])
    found = measure_queries(
        torch.stack([angles.cos(), angles.sin()], 1),
        labels,
        recall=(1, 2),
        precision=(3,),
        full=True,
    )
    assert found.rows.tolist() == [0, 1, 3, 5]  # 2 and 4 are lone and ask for nothing
    assert found.relevant.tolist() == [3, 3, 3, 3]
    values = {name: float(of[0]) for name, of in found.values.items()}
    assert values == {
        "recall_at_1": 1,
        "recall_at_2": 1,
        "precision_at_3": 2 / 3,
        "map_at_r": (1 + 2 / 3) / 3,
        "r_precision": 2 / 3,
        "average_precision": (1 + 2 / 3 + 3 / 5) / 3,
        "inverse_negative_penalty": 3 / 5,
    }


class LargestTensor(TorchDispatchMode):
    def __init__(self, beside=None):
        super().__init__()
        self.bytes = 0
        self.beside = None if beside is None else beside.untyped_storage().data_ptr()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor) and not self._is_beside(value):
                self.bytes = max(self.bytes, value.numel() * value.element_size())
        return result

    def _is_beside(self, value):
        return value.untyped_storage().data_ptr() == self.beside


@pytest.mark.parametrize("classes", [2, 10, 200])
def test_the_similarity_matrix_is_never_held(classes, monkeypatch):
    monkeypatch.setattr(ranking, "POSITIVES", 2**15)
    monkeypatch.setattr(ranking, "BLOCK", 128)
    monkeypatch.setattr(query_block, "TILE_PART", 2**12)
    monkeypatch.setattr(ranking, "CLASS_ROWS", 32)
    fast_similarity.precisions(torch.device("cpu"))  # which may try what is faster
    count = 1000
    labels = torch.randint(0, classes, (count,))
    embeddings = torch.randn(count, 16)
    with LargestTensor() as largest:
        score(embeddings, labels)
    # The positives of a block, the embeddings in float64, the pairs that bf16 leaves open (many,
    # with 16 dimensions drawn at random); N x N numbers would be 8 MB.
    assert largest.bytes <= 8 * count**2 / 8


def test_counts_names_and_the_primary_metric():
    embeddings, labels = random_set("many lone")
    scores = score(embeddings, labels, ks=(5, 1))
    values = scores.to_dict()
    assert list(values) == [
        "recall_at_1", "recall_at_5", "map_at_r", "r_precision",
        "queries", "lone_queries", "gallery",
    ]  # fmt: skip
    assert scores.primary == ("map_at_r", scores.map_at_r)
    assert values["queries"] + values["lone_queries"] == values["gallery"] == 150
    assert {"recall_at_k", *list(values)[2:]} < set(DEFINITIONS)
    whole = score(embeddings, labels, precision=(3,), full=True).to_dict()
    assert list(whole)[4:9] == [
        "precision_at_3", "map_at_r", "r_precision", "mean_average_precision", "minp",
    ]  # fmt: skip
    assert {"precision_at_k", *list(whole)[5:9]} < set(DEFINITIONS)


def test_scores_are_the_means_over_queries():
    embeddings, labels = random_set("many lone")
    found = measure_queries(embeddings, labels, recall=(1, 3), precision=(2,), full=True)
    scores = score(embeddings, labels, ks=(3, 1), precision=(2,), full=True)
    assert Scores.of(found, len(labels)) == scores
    assert found.rows.tolist() == sorted(found.rows.tolist())
    assert (torch.bincount(labels)[labels[found.rows]] - 1).equal(found.relevant)
    means = {name: float(values.mean()) for name, values in found.values.items()}
    means["mean_average_precision"] = means.pop("average_precision")
    means["minp"] = means.pop("inverse_negative_penalty")
    flat = scores.to_dict()
    assert means == pytest.approx({name: flat[name] for name in means})
    assert {name for name, values in found.values.items() if values.dtype != torch.float64} == set()


def test_metrics_do_not_depend_on_each_other():
    embeddings, labels = random_set("random")
    whole = measure_queries(embeddings, labels, recall=(1, 9), precision=(2, 30), full=True).values
    for recall, shares in [((1,), ()), ((), ()), ((9,), (30,))]:
        some = measure_queries(embeddings, labels, recall=recall, precision=shares).values
        assert all(values.equal(whole[name]) for name, values in some.items())


def test_few_queries_in_a_large_gallery_take_little_memory(monkeypatch):
    monkeypatch.setattr(ranking, "BLOCK", 256)
    monkeypatch.setattr(fast_similarity, "KEPT_BYTES", 0)
    fast_similarity.precisions(torch.device("cpu"))  # which may try what is faster
    embeddings = torch.randn(20_000, 128)
    asks = torch.arange(20_000) < 300
    roles = Roles(asks, torch.ones_like(asks), torch.full((20_000,), -1))
    with LargestTensor(beside=embeddings) as largest:
        score(embeddings, torch.arange(20_000) // 4, roles=roles)
    # A tile of float64, or numbers for each image; a byte for each number would be 2.5 MB.
    assert largest.bytes <= 10**6


@pytest.mark.parametrize("undecided", [1.0, -1.0], ids=["fast", "refused"])
def test_the_gallery_is_rounded_once_for_all_queries(monkeypatch, undecided):
    tolerant = replace(FLOAT32, most_undecided=undecided)
    monkeypatch.setattr(fast_similarity, "precisions", lambda device: [tolerant, EXACT])
    monkeypatch.setattr(ranking, "BLOCK", 50)
    monkeypatch.setattr(fast_similarity, "KEPT_BYTES", 0)
    rounded, made = UnitVectors.rounded, []

    def counted(self, places, precision):
        result = rounded(self, places, precision)
        made.append(len(result[0]))
        return result

    monkeypatch.setattr(UnitVectors, "rounded", counted)
    asks = torch.rand(1000) < 0.3
    roles = Roles(asks, torch.ones_like(asks), torch.full((1000,), -1))
    score(torch.randn(1000, 64), torch.arange(1000) // 5, roles=roles)
    tiles, queries = 20, int(asks.sum())
    slower = 1000 + tiles * queries if undecided < 0 else 0  # queries once a tile, if still open
    assert 1000 + queries <= sum(made) <= 1000 + queries + slower


def test_labels_may_be_numpy():
    embeddings, labels = random_set("random")
    assert score(embeddings, labels.numpy()) == score(embeddings, labels)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("part", [7, 4096])
def test_embeddings_that_are_not_finite_are_refused(value, part, monkeypatch):
    monkeypatch.setattr(scores_module, "CHECKED_ROWS", part)
    embeddings, labels = random_set("random")
    embeddings[17, 3] = value
    embeddings[40] = value
    with pytest.raises(TrainingError, match=r"^2 of 150 embeddings are not finite .* row 17\)"):
        score(embeddings, labels)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_nothing_to_find_is_an_error(count):
    with pytest.raises(DataError, match=r"^retrieval cannot be measured: no class has two images"):
        score(torch.randn(count, 4), torch.arange(count))


@pytest.mark.parametrize(
    ("embeddings", "labels", "ks"),
    [
        (torch.zeros(4), torch.zeros(4).long(), (1,)),
        (torch.zeros(4, 2).long(), torch.zeros(4).long(), (1,)),
        (torch.zeros(4, 2), torch.zeros(3).long(), (1,)),
        (torch.zeros(4, 2), torch.zeros(4), (1,)),
        (torch.zeros(4, 2), torch.zeros(4).long(), (0, 1)),
        (torch.zeros(4, 2), torch.zeros(4).long(), ()),
    ],
)
def test_wrong_calls_are_refused(embeddings, labels, ks):
    with pytest.raises(ValueError, match="must be"):
        score(embeddings, labels, ks=ks)
