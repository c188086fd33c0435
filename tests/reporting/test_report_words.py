"""Words, signs and colours of the report: only what the data hold."""

import re

import pytest
import torch

from lookalike.data.catalog import build_catalog
from lookalike.data.record import Record
from lookalike.metrics.bootstrap import differences
from lookalike.reporting.evaluation_data import Evidence, gather
from lookalike.reporting.headline import side_by_side, verdict
from lookalike.reporting.image_panels import Album, gallery
from lookalike.reporting.report_data import Content, Story
from lookalike.reporting.report_page import render
from lookalike.reporting.selection import hardest

CLASSES, EACH, DIM = 12, 4, 16


def evidence(noise: float, seed: int = 0, classes: int = CLASSES, each: int = EACH) -> Evidence:
    """What a model finds whose images lie around the centres of their classes, with noise."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(each)
    vectors = torch.eye(DIM)[:classes][labels]
    vectors = vectors + noise * torch.randn(len(labels), DIM, generator=rng) / DIM**0.5
    records = [
        Record(f"/none/{i}.jpg", f"c{label:02d}", "/lists/shown.txt", i + 1)
        for i, label in enumerate(labels.tolist())
    ]
    return gather(
        build_catalog(records), torch.arange(len(labels)),
        torch.nn.functional.normalize(vectors, dim=1), trained=None, seed=0,
        device=torch.device("cpu"),
    )  # fmt: skip


GOOD, GOOD_TOO, WEAK = evidence(0.1), evidence(0.1, 1), evidence(3.0)
MEASURED = [
    {"step": 0, "recall_at_1": 0.5, "recall_at_8": 0.9, "map_at_r": 0.4, "r_precision": 0.4},
    {"step": 9, "recall_at_1": 0.6, "recall_at_8": 0.9, "map_at_r": 0.5, "r_precision": 0.5},
]


def content(first: Evidence | None, second: Evidence | None = None, /, **more: object) -> Content:
    values: dict = {
        "story": Story("a/run", MEASURED), "facts": [], "settings": [], "environment": [],
        "evidence": first, "other_evidence": second, "validated_on": "/lists/val.txt",
        "other": None if second is None else Story("b/run", MEASURED),
        "other_validated_on": "" if second is None else "/lists/val.txt", "threads": 0,
    }  # fmt: skip
    return Content(**(values | more))


def test_a_difference_is_the_other_minus_this_run_as_in_evaluate():
    rows = {row["name"]: row for row in side_by_side(content(WEAK, GOOD))}
    expected = differences(WEAK.per_query.values, GOOD.per_query.values, WEAK.asked)["map_at_r"]
    row = rows["MAP@R"]
    assert row["gain"] == pytest.approx(expected.value)
    assert row["interval"] == expected
    assert row["gain"] > 0
    turned = {row["name"]: row for row in side_by_side(content(GOOD, WEAK))}
    assert turned["MAP@R"]["gain"] == pytest.approx(-row["gain"])


def cells(html: str) -> list[str]:
    table = html.partition('class="versus"')[2].partition("</table>")[0]
    return re.findall(r'<td class="(n[^"]*)">[+\u2212\d]', table)[2::3]


def test_only_differences_beyond_chance_have_a_colour():
    html = render(content(WEAK, GOOD))
    assert "the other minus this run" in html
    assert set(cells(html)) == {"n up"}
    assert set(cells(render(content(GOOD, WEAK)))) == {"n down"}
    same = render(content(GOOD, GOOD_TOO))
    assert set(cells(same)) == {"n"}
    tiles = html.partition('class="tiles"')[2].partition("</section>")[0]
    assert "before training" in tiles  # a difference of which no interval is known
    assert not re.search(r'class="(up|down)"', tiles)


def test_the_hardest_queries_are_described_as_they_are():
    def note(found: Evidence) -> str:
        return gallery(Album(found), 0)[0]["note"]

    assert not GOOD.found.wrong.any()
    assert note(GOOD).startswith("all find a right image first")
    assert note(evidence(9.0)) == "a wrong image is closer than any right one, by the most"
    some = next(
        found
        for found in (evidence(noise / 10) for noise in range(4, 40))
        if 1 < found.found.wrong.sum() < 5
    )
    wrong = int(some.found.wrong[hardest(some.found, some.labels, 10)].sum())
    assert note(some).startswith(f"for the first {wrong} queries a wrong image is closer")


def test_another_list_is_told_from_the_one_of_the_curve():
    html = render(content(GOOD, own=False, listed="/lists/shown.txt"))
    assert (
        "The validation curve is of the list that this run was measured on during training, "
        "/lists/val.txt; the rest of this page shows /lists/shown.txt."
    ) in html
    assert "The validation curve is of" not in render(content(GOOD))


def test_curves_and_scores_of_different_lists_are_not_compared():
    html = render(content(GOOD, WEAK, other_validated_on="/lists/other.txt"))
    assert "The validation curves of the two runs are not comparable" in html
    without = content(None, None, other=Story("b/run", MEASURED), other_validated_on="/lists/o.txt")
    assert side_by_side(without) == []
    assert "The scores are not compared: this run was measured on /lists/val.txt" in render(without)
    alike = content(None, None, other=Story("b/run", MEASURED), other_validated_on="/lists/val.txt")
    assert [row["gain"] for row in side_by_side(alike)] == [0, 0, 0, 0]
    assert "not comparable" not in render(alike)


def of_list(val_list: str) -> Story:
    return Story("a/run", [{**record, "val_list": val_list} for record in MEASURED])


def test_lists_are_compared_by_their_content():
    own = of_list("0123")
    changed = content(None, None, story=own, other=of_list("4567"),
                      other_validated_on="/lists/val.txt")  # fmt: skip
    assert side_by_side(changed) == []
    html = render(changed)
    words = "both were measured on /lists/val.txt, whose content changed between the trainings"
    assert f"The scores are not compared: {words}" in html
    assert f"The validation curves of the two runs are not comparable: {words}" in html
    assert words in render(content(GOOD, WEAK, story=own, other=of_list("4567")))
    moved = content(None, None, story=own, other=own, other_validated_on="/moved/val.txt")
    assert len(side_by_side(moved)) == 4
    assert "not comparable" not in render(moved)


def test_nothing_has_no_sign():
    from lookalike.reporting.report_page import _points

    assert [_points(x) for x in (0.0, -0.0001, 0.0001, 0.012, -0.003)] == [
        "0.0", "0.0", "0.0", "+1.2", "\u22120.3",
    ]  # fmt: skip
    assert "\u22120.00" not in render(content(WEAK))


def test_one_is_counted_as_one():
    two = evidence(0.1, classes=1, each=2)
    assert verdict(content(two, own=False)).endswith("on 2 images of 1 class.")
    html = render(content(two, own=False, listed="x"))
    assert not re.search(r"(?<![\d,.])1 (classes|queries|images|pairs)\b", html)
