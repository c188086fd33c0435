"""Scores by groups of queries."""

import numpy as np
import pytest

from lookalike.reporting.slices import breakdowns


def test_groups_add_up_to_all_queries(random_evaluation):
    found = random_evaluation(8, category=True, trained=True)
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


def test_levels_of_a_hierarchy_have_scores(random_evaluation, tmp_path):
    classes = random_evaluation(3).names
    file = tmp_path / "genera.txt"
    file.write_text(
        "label class\n" + "".join(f"{name} genus{int(name) // 2 % 3}\n" for name in classes)
    )
    found = random_evaluation(3, hierarchy=str(file))
    levels, *others = breakdowns(found)
    assert (levels.title, [one.title for one in others]) == ("By level", ["By size of the class"])
    fine, genera = levels.groups
    assert (fine.name, genera.name) == ("label", "class")
    assert fine.intervals["recall_at_1"].value == pytest.approx(
        float(found.per_query.values["recall_at_1"].mean())
    )
    # Brute force, on all pairs of images; the twins of two classes are of one genus.
    genus = np.array([int(found.name(image)) // 2 % 3 for image in range(len(found.labels))])
    cosines = found.vectors.numpy() @ found.vectors.numpy().T
    np.fill_diagonal(cosines, -2)
    hits = genus[cosines.argmax(1)] == genus
    assert genera.queries == len(hits)
    assert genera.intervals["recall_at_1"].value == pytest.approx(hits.mean())
    assert genera.intervals["recall_at_1"].value > fine.intervals["recall_at_1"].value
