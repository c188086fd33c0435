"""Parts of the report, against plain computations of the same."""

import base64
import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from lookalike.data.catalog import build_catalog
from lookalike.data.record import Details, Record
from lookalike.metrics import topk
from lookalike.metrics.protocol import Roles
from lookalike.metrics.scores import measure_queries
from lookalike.metrics.verification import BINS, count_pairs
from lookalike.reporting import query_neighbours
from lookalike.reporting.charts import (
    MOST_POINTS,
    draw,
    draw_histogram,
    metric_curves,
    nice,
    number,
)
from lookalike.reporting.embedding_map import sample_points
from lookalike.reporting.evaluation_data import evaluate_list
from lookalike.reporting.image_panels import confusions, hardest, random, typical
from lookalike.reporting.query_neighbours import find_neighbours, sample_queries
from lookalike.reporting.slices import breakdowns
from lookalike.reporting.sprite_sheet import make_sprite_sheet

CPU = torch.device("cpu")


def some(seed: int, *, with_roles: bool = False, most: int = 120):
    """Random vectors with labels, two of them twins, and perhaps roles."""
    random = torch.Generator().manual_seed(seed)
    count = int(torch.randint(8, most, (1,), generator=random))
    vectors = torch.nn.functional.normalize(torch.randn(count, 12, generator=random), dim=1)
    labels = torch.randint(0, count // 3 + 1, (count,), generator=random)
    vectors[1], labels[0], labels[1], labels[2] = vectors[0], 0, 1, 0
    roles = None
    if with_roles:
        roles = Roles(
            torch.rand(count, generator=random) < 0.6,
            torch.rand(count, generator=random) < 0.7,
            torch.randint(-1, 4, (count,), generator=random),
        )
    return vectors, labels, roles


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("with_roles", [False, True])
def test_neighbours_are_those_of_a_plain_search(monkeypatch, seed, with_roles):
    monkeypatch.setattr(topk, "TILE", 17)
    monkeypatch.setattr(topk, "QUERIES", 7)
    vectors, labels, roles = some(seed, with_roles=with_roles)
    queries, of = sample_queries(labels, roles, 0)
    assert len(queries) == of > 0
    found = find_neighbours(vectors, labels, queries, roles=roles, count=5)
    unit, klass = vectors.double().numpy(), labels.numpy()
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    bins = np.zeros((2, BINS))
    for place, query in enumerate(found.queries):
        seen = np.arange(len(unit)) != query
        if roles is not None:
            sequence = roles.sequence.numpy()
            seen &= roles.gallery.numpy()
            seen &= (sequence[query] < 0) | (sequence != sequence[query])
        images = np.flatnonzero(seen)
        cosines, same = unit[images] @ unit[query], klass[images] == klass[query]
        # What is of the class comes after what is as close.
        order = np.lexsort((same, -(cosines - same * 2.0**-23)))[:5]
        got = found.images[place][found.images[place] >= 0]
        assert len(got) == min(5, len(images))
        np.testing.assert_allclose(unit[got] @ unit[query], cosines[order], atol=2e-7)
        np.testing.assert_array_equal(klass[got] == klass[query], same[order])
        np.testing.assert_array_equal(found.right[place][: len(got)], same[order])
        assert found.match_cosine[place] == pytest.approx(cosines[same].max(), abs=1e-7)
        assert klass[found.match[place]] == klass[query]
        if (~same).any():
            assert found.other_cosine[place] == pytest.approx(cosines[~same].max(), abs=1e-7)
        else:
            assert found.other[place] == -1
        for part, mask in zip(bins, (same, ~same), strict=True):
            cell = np.clip(np.floor((cosines[mask] + 1) * 2**16), 0, BINS - 1).astype(int)
            part += np.bincount(cell, minlength=BINS)
    for counts, part in zip((found.pairs.same, found.pairs.different), bins, strict=True):
        assert counts.sum() == part.sum()
        assert np.abs(counts - part).sum() <= 0.01 * part.sum() + 4  # at the edges of bins


def test_ties_rank_the_own_class_last_and_copies_by_row():
    x = torch.eye(3)[[0, 0, 0, 1, 0, 0]]
    labels = torch.tensor([0, 0, 1, 2, 1, 0])
    found = find_neighbours(x, labels, torch.tensor([0, 4]), count=4)
    assert found.images.tolist() == [[2, 4, 1, 5], [0, 1, 5, 2]]
    assert found.match.tolist() == [1, 2]
    assert found.other.tolist() == [2, 0]
    assert (found.cosines == 1).all()


def test_many_queries_are_sampled(monkeypatch):
    _, labels, _ = some(3)
    monkeypatch.setattr(query_neighbours, "MOST_QUERIES", 20)
    queries, of = sample_queries(labels, None, 0)
    everyone = {i for i in range(len(labels)) if (labels == labels[i]).sum() > 1}
    assert len(queries) == 20 < of == len(everyone)
    assert set(queries.tolist()) < everyone
    assert queries.tolist() == sorted(set(queries.tolist()))
    assert queries.tolist() != sample_queries(labels, None, 1)[0].tolist()
    assert torch.equal(queries, sample_queries(labels, None, 0)[0])


def evaluation(seed: int, *, category: bool = False, trained: bool = False):
    vectors, labels, _ = some(seed, most=200)
    records = [
        Record(
            f"{i}.jpg", str(label), "list.txt", i + 1,
            details=Details(category="ab"[label % 2]) if category else None,
        )
        for i, label in enumerate(labels.tolist())
    ]  # fmt: skip
    catalog = build_catalog(records)
    seen = np.arange(len(catalog.classes)) % 5 if trained else None
    rows = torch.arange(len(records))
    return evaluate_list(catalog, rows, vectors, trained=seen, seed=0, device=CPU)


def test_metrics_neighbours_and_pairs_agree():
    found = evaluation(5)
    hits = found.per_query.values["recall_at_1"].numpy()
    np.testing.assert_array_equal(hits == 1, ~found.neighbours.wrong)
    assert found.neighbours.queries.tolist() == found.per_query.rows.tolist()
    counted = count_pairs(found.vectors, torch.from_numpy(found.labels), device=CPU)
    np.testing.assert_array_equal(found.pairs.same, counted.same)


def test_hard_typical_and_random_queries():
    found = evaluation(6)
    margin = found.neighbours.margin
    hard = hardest(found.neighbours, found.labels, 10)
    assert np.all(np.diff(margin[hard]) >= 0)
    classes = found.query_classes[hard].tolist()
    assert max(classes.count(one) for one in classes) <= 2
    assert margin[hard[0]] == margin.min()
    for place in range(len(margin)):  # whatever is harder than the last has two of its class before
        if margin[place] < margin[hard[-1]] and place not in hard:
            assert classes.count(found.query_classes[place]) == 2
    middle = typical(found.neighbours, 6, set(hard))
    easier = [p for p in range(len(margin)) if p not in hard and margin[p] > margin[middle].max()]
    harder = [p for p in range(len(margin)) if p not in hard and margin[p] < margin[middle].min()]
    assert abs(len(easier) - len(harder)) <= 1
    drawn = random(found.neighbours, 6, {*hard, *middle}, seed=1)
    assert len({*hard, *middle, *drawn}) == 22
    assert drawn == random(found.neighbours, 6, {*hard, *middle}, seed=1)
    assert drawn != random(found.neighbours, 6, {*hard, *middle}, seed=2)


def test_ties_are_ranked_as_in_the_scores():
    """A right image that is better by one epsilon of float32 is tied, and stands behind."""

    def at(steps):
        cosine = steps / 2**26
        return [cosine, (1 - cosine**2) ** 0.5]

    steps = 2**25
    for more, first in ((8, 2), (9, 1)):
        x = torch.tensor([[1.0, 0.0], at(steps + more), at(steps)], dtype=torch.float64)
        labels = torch.tensor([0, 0, 1])
        found = find_neighbours(x, labels, torch.tensor([0]), count=2)
        assert found.images[0, 0] == first
        assert measure_queries(x, labels).values["recall_at_1"][0] == (first == 1)


def test_confused_classes_are_counted():
    found = evaluation(7)
    labels, first = found.labels, found.neighbours.images[:, 0]
    counts: dict[tuple[int, int], int] = {}
    for query, image in zip(found.neighbours.queries, first, strict=True):
        if labels[query] != labels[image]:
            pair = tuple(sorted((int(labels[query]), int(labels[image]))))
            counts[pair] = counts.get(pair, 0) + 1
    shown = confusions(found.neighbours, labels, count=9, examples=2)
    assert [one.wrong for one in shown] == sorted(counts.values(), reverse=True)[:9]
    for one in shown:
        assert counts[tuple(sorted(one.classes))] == one.wrong
        assert one.queries == np.isin(found.query_classes, one.classes).sum()
        assert 1 <= len(one.examples) <= 2
        images = [image for pair in one.examples for image in pair]
        assert len(set(images)) == len(images)
        for query, image in one.examples:
            assert {int(labels[query]), int(labels[image])} == set(one.classes)


def test_groups_add_up_to_all_queries():
    found = evaluation(8, category=True, trained=True)
    divisions = breakdowns(found)
    assert [one.title for one in divisions] == [
        "By size of the class", "By training images", "By category",
    ]  # fmt: skip
    total = float(found.per_query.values["map_at_r"].sum())
    for one in divisions:
        assert sum(part.queries for part in one.groups) == len(found.neighbours.queries)
        added = sum(part.queries * part.intervals["map_at_r"].value for part in one.groups)
        assert added == pytest.approx(total, rel=1e-9)
        for part in one.groups:
            interval = part.intervals["recall_at_1"]
            assert interval.low <= interval.value <= interval.high
    names = [part.name for part in divisions[1].groups]
    assert names == ["none", "1", "2", "3 to 4"]
    saw = found.trained[found.query_classes]
    assert [part.queries for part in divisions[1].groups] == [
        int(mask.sum()) for mask in (saw == 0, saw == 1, saw == 2, (saw == 3) | (saw == 4))
    ]


def test_the_map_is_the_same_on_any_number_of_threads():
    code = (
        "import json, numpy as np\n"
        "from lookalike.reporting.embedding_map import project\n"
        "random = np.random.default_rng(0)\n"
        "centres = random.normal(size=(4, 32))\n"
        "vectors = np.repeat(centres, 30, 0) + 0.3 * random.normal(size=(120, 32))\n"
        "vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)\n"
        "print(json.dumps(project(vectors.astype(np.float32), 0).tolist()))\n"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True,
            env={**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
        ).stdout
        for threads in ("1", "2")
    ]  # fmt: skip
    assert said[0] == said[1]
    places = np.array(json.loads(said[0]))
    assert places.shape == (120, 2)
    assert 0 <= places.min() <= places.max() <= 1
    # The closest point is of the same group.
    away = ((places[:, None] - places[None]) ** 2).sum(2) + np.eye(120) * 9
    assert np.mean(away.argmin(1) // 30 == np.arange(120) // 30) > 0.95


def test_the_map_shows_whole_classes():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(50), 20))
    drawn = sample_points(labels, 0, most=100)
    assert drawn.tolist() == sorted(set(drawn.tolist()))
    _, counts = np.unique(labels[drawn], return_counts=True)
    assert len(drawn) == 100
    assert sorted(counts)[1:] == [12] * (len(counts) - 1)
    assert sample_points(labels, 0, most=1000).tolist() == list(range(1000))
    assert drawn.tolist() != sample_points(labels, 1, most=100).tolist()


def test_a_sprite_sheet_has_each_image_in_its_cell(tmp_path):
    colours = {}
    records = []
    for i in range(7):
        colour = tuple(int(c) for c in np.random.default_rng(i).integers(0, 256, 3))
        size = (40, 20) if i == 2 else (30, 30)
        Image.new("RGB", size, colour).save(tmp_path / f"{i}.png")
        records.append(Record(str(tmp_path / f"{i}.png"), "x", "list.txt", i))
        colours[i] = colour
    records.append(Record(str(tmp_path / "missing.png"), "x", "list.txt", 8))
    sheet = make_sprite_sheet(records, [0, 2, 3, 5, 6, 7], name="s", side=96, threads=2)
    assert sheet.cells.keys() == {0, 2, 3, 5, 6}
    image = Image.open(io.BytesIO(base64.b64decode(sheet.uri.split(",")[1]))).convert("RGBA")
    side = 48  # the largest picture has 40 pixels
    assert image.size == (side * sheet.columns, side * sheet.lines)
    for row in sheet.cells:
        across, down = (float(part[:-1]) for part in sheet.position(row).split())
        # What CSS does: at 0 % the left sides meet, at 100 % the right ones.
        x = round(across / 100 * (image.width - side)) + side // 2
        y = round(down / 100 * (image.height - side)) + side // 2
        np.testing.assert_allclose(image.getpixel((x, y))[:3], colours[row], atol=12)
        corner = image.getpixel((x, y - side // 2 + 1))
        assert (corner[3] < 128) == (row == 2)  # what is flat has nothing above it


def test_long_curves_are_averaged_in_intervals():
    random = np.random.default_rng(0)
    values = random.normal(5, 1, 1000).tolist()
    metrics = [
        {"step": i + 1, "loss": None if i == 500 else value, "lr": 0.1, "skipped": 0}
        for i, value in enumerate(values)
    ]
    metrics.insert(0, {"step": 0, "recall_at_1": 0.5, "map_at_r": 0.25, "r_precision": 0.3})
    found = {one.title: one for one in metric_curves(metrics, best=0)}
    assert list(found) == ["Validation", "Loss", "Learning rate"]
    [line] = found["Loss"].lines
    assert len(line.steps) == MOST_POINTS
    assert np.nanmin(line.low) == min(v for i, v in enumerate(values) if i != 500)
    assert np.all(line.low <= line.values)
    assert np.all(line.values <= line.high)
    drawn = draw(found["Loss"])
    assert drawn["lines"][0]["band"]
    assert [one.name for one in found["Validation"].lines] == ["Recall@1", "MAP@R", "R-precision"]
    assert draw(found["Validation"])["lines"][0]["dots"]


def test_curves_of_two_runs_share_their_axes():
    ours = [{"step": i, "loss": 1.0 + i, "lr": 0.1} for i in range(1, 5)]
    theirs = [{"step": i, "loss": 2000.0, "lr": 0.1} for i in range(1, 9)]
    drawn = draw(next(one for one in metric_curves(ours, theirs, best=None) if one.title == "Loss"))
    assert drawn["names"] == ["loss", "loss (other)"]
    assert drawn["logarithmic"]
    assert [tick.text for tick in drawn["y"]] == ["1", "10", "100", "1,000", "10,000"]
    ends = [line["points"][-1][0] for line in drawn["lines"]]
    assert ends[0] < ends[1] == pytest.approx(drawn["right"])


def test_a_loss_that_is_never_finite_is_an_empty_chart():
    metrics = [{"step": i, "loss": None, "lr": 0.1, "skipped": i} for i in range(1, 5)]
    found = {one.title: draw(one) for one in metric_curves(metrics, best=None)}
    assert found["Loss"]["empty"]
    assert any(title.startswith("Skipped steps") for title in found)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 0.93), (0, 1e-4), (3, 3), (-2, 7), (0, 12345), (0.81, 0.83)]
)
def test_ticks_are_round_and_enclose_the_values(low, high):
    ticks, first, last = nice(low, high, 4)
    assert first <= low <= high <= last
    assert 2 <= len(ticks) <= 7
    assert all(len(number(tick)) <= 7 for tick in ticks)


def test_a_histogram_has_the_shares_of_its_bins():
    same, different = np.zeros(8, int), np.zeros(8, int)
    same[5:7], different[2:5] = [10, 20], [5, 50, 25]
    drawn = draw_histogram(same, different, threshold=0.1)
    assert drawn["same"].count("L") == 2 * 2 + 1
    assert drawn["different"].count("L") == 2 * 3 + 1
    assert drawn["left"] < drawn["threshold"] < drawn["right"]
    corners = re.findall(r"[ML]([\d.]+) ([\d.]+)", drawn["same"])
    heights = [float(corners[1][1]), float(corners[3][1])]
    base, top = drawn["bottom"], drawn["top"]
    assert (base - heights[0]) / (base - top) == pytest.approx(0.5, abs=0.01)
    assert (base - heights[1]) / (base - top) == pytest.approx(1.0)
