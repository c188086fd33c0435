"""Scores by groups of queries."""

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
