"""Texts, signs and colours of the report."""

import re

import pytest
import torch

from lookalike.commands.run_info import validated_on
from lookalike.config.config import Config
from lookalike.data.catalog import build_catalog
from lookalike.data.record import Record
from lookalike.metrics.bootstrap import differences
from lookalike.pages import points
from lookalike.reporting.evaluation_data import EvaluationData, evaluate_list
from lookalike.reporting.headline import compare_scores, headline
from lookalike.reporting.image_panels import ImageCollector, hardest, query_panels
from lookalike.reporting.report_data import ReportData, RunHistory
from lookalike.reporting.report_page import render

CLASSES, EACH, DIM = 12, 4, 16


def evaluation(
    noise: float, seed: int = 0, classes: int = CLASSES, each: int = EACH
) -> EvaluationData:
    """Neighbours of images that lie around the centres of their classes, with noise."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(each)
    vectors = torch.eye(DIM)[:classes][labels]
    vectors = vectors + noise * torch.randn(len(labels), DIM, generator=rng) / DIM**0.5
    records = [
        Record(f"/none/{i}.jpg", f"c{label:02d}", "/lists/shown.txt", i + 1)
        for i, label in enumerate(labels.tolist())
    ]
    return evaluate_list(
        build_catalog(records), torch.arange(len(labels)),
        torch.nn.functional.normalize(vectors, dim=1), trained=None, seed=0,
        device=torch.device("cpu"),
    )  # fmt: skip


GOOD, GOOD_TOO, WEAK = evaluation(0.1), evaluation(0.1, 1), evaluation(3.0)
MEASURED = [
    {"step": 0, "recall_at_1": 0.5, "recall_at_8": 0.9, "map_at_r": 0.4, "r_precision": 0.4},
    {"step": 9, "recall_at_1": 0.6, "recall_at_8": 0.9, "map_at_r": 0.5, "r_precision": 0.5},
]


def content(
    first: EvaluationData | None, second: EvaluationData | None = None, /, **more: object
) -> ReportData:
    values: dict = {
        "history": RunHistory("a/run", MEASURED), "facts": [], "settings": [], "environment": [],
        "evaluation": first, "other_evaluation": second, "validated_on": "/lists/val.txt",
        "other": None if second is None else RunHistory("b/run", MEASURED),
        "other_validated_on": "" if second is None else "/lists/val.txt",
    }  # fmt: skip
    return ReportData(**(values | more))


def test_a_difference_is_the_other_minus_this_run_as_in_evaluate():
    rows = {row["name"]: row for row in compare_scores(content(WEAK, GOOD))}
    expected = differences(WEAK.per_query.values, GOOD.per_query.values, WEAK.query_classes)[
        "map_at_r"
    ]
    row = rows["MAP@R"]
    assert row["gain"] == pytest.approx(expected.value)
    assert row["interval"] == expected
    assert row["gain"] > 0
    turned = {row["name"]: row for row in compare_scores(content(GOOD, WEAK))}
    assert turned["MAP@R"]["gain"] == pytest.approx(-row["gain"])


def cells(html: str) -> list[str]:
    table = html.partition('class="versus"')[2].partition("</table>")[0]
    return re.findall(r'<td class="(n[^"]*)">[+\u2212\d]', table)[2::3]


def test_only_significant_differences_have_a_colour():
    html = render(content(WEAK, GOOD))
    assert "the other minus this run" in html
    assert set(cells(html)) == {"n up"}
    assert "b/run is significantly better than this run: MAP@R +" in html
    assert set(cells(render(content(GOOD, WEAK)))) == {"n down"}
    same = render(content(GOOD, GOOD_TOO))
    assert set(cells(same)) == {"n"}
    tiles = html.partition('class="tiles"')[2].partition("</section>")[0]
    assert "before training" in tiles  # a difference of which no interval is known
    assert not re.search(r'class="(up|down)"', tiles)


def test_the_hardest_queries_are_described_as_they_are():
    def note(found: EvaluationData) -> str:
        return query_panels(ImageCollector(found), 0)[0]["note"]

    assert not GOOD.neighbours.wrong.any()
    assert note(GOOD).startswith("all have a nearest image of the same class")
    assert note(evaluation(9.0)) == "nearest image of a different class, by the largest margins"
    some = next(
        found
        for found in (evaluation(noise / 10) for noise in range(4, 40))
        if 1 < found.neighbours.wrong.sum() < 5
    )
    wrong = int(some.neighbours.wrong[hardest(some.neighbours, some.labels, 10)].sum())
    assert note(some).startswith(
        f"the first {wrong} queries have a nearest image of a different class"
    )


def test_a_curve_of_another_list_has_a_notice():
    html = render(content(GOOD, own=False, listed="/lists/shown.txt"))
    assert (
        "The validation curve is of the list that training was validated on, /lists/val.txt; the "
        "rest of this page is of /lists/shown.txt."
    ) in html
    assert "The validation curve is of" not in render(content(GOOD))


def test_curves_and_scores_of_different_lists_are_not_compared():
    html = render(content(GOOD, WEAK, other_validated_on="/lists/other.txt"))
    assert "The validation curves of the two runs are not comparable" in html
    without = content(
        None, None, other=RunHistory("b/run", MEASURED), other_validated_on="/lists/o.txt"
    )
    assert compare_scores(without) == []
    assert "The scores are not compared: this run was validated on /lists/val.txt" in render(
        without
    )
    alike = content(
        None, None, other=RunHistory("b/run", MEASURED), other_validated_on="/lists/val.txt"
    )
    assert [row["gain"] for row in compare_scores(alike)] == [0, 0, 0, 0]
    assert "not comparable" not in render(alike)


def of_list(val_list: str) -> RunHistory:
    return RunHistory("a/run", [{**record, "val_list": val_list} for record in MEASURED])


def test_lists_are_compared_by_their_content():
    own = of_list("0123")
    changed = content(None, None, history=own, other=of_list("4567"),
                      other_validated_on="/lists/val.txt")  # fmt: skip
    assert compare_scores(changed) == []
    html = render(changed)
    words = (
        "both runs were validated on /lists/val.txt, whose content changed between the trainings"
    )
    assert f"The scores are not compared: {words}" in html
    assert f"The validation curves of the two runs are not comparable: {words}" in html
    assert words in render(content(GOOD, WEAK, history=own, other=of_list("4567")))
    moved = content(None, None, history=own, other=own, other_validated_on="/moved/val.txt")
    assert len(compare_scores(moved)) == 4
    assert "not comparable" not in render(moved)


def test_a_loss_that_is_never_finite_has_a_chart_without_lines():
    metrics = [{"step": i, "loss": None, "lr": 0.1, "skipped": i} for i in range(1, 5)]
    assert "no finite values" in render(content(None, history=RunHistory("a/run", metrics)))


def test_zero_has_no_sign():
    assert [points(x) for x in (0.0, -0.0001, 0.0001, 0.012, -0.003)] == [
        "0.0", "0.0", "0.0", "+1.2", "\u22120.3",
    ]  # fmt: skip
    assert "\u22120.00" not in render(content(WEAK))


def between_start_and_end(kept: float, *, start: float, end: float) -> RunHistory:
    """A training whose weights at `kept` of the way from start to end are the model."""
    first, last = ({**MEASURED[0], "recall_at_1": s, "map_at_r": s} for s in (start, end))
    chosen = {**(first if kept == 0 else last), "step": 9, "interpolation": kept}
    points = [[0.0, start, start], [1.0, end, end]]
    return RunHistory("a/run", [first, {**last, "step": 9}, {**chosen, "points": points}])


def test_the_kept_start_is_named_in_the_headline():
    history = between_start_and_end(0.0, start=0.5, end=0.4)
    words = "Training gained nothing: the model is the one from before the first step"
    assert words in headline(content(WEAK, history=history))
    page = render(content(WEAK, history=history))
    assert words in page
    assert "Training gained nothing here: the model is the one before training." in page
    history = between_start_and_end(1.0, start=0.1, end=0.9)
    page = render(content(GOOD, history=history))
    assert "gained nothing" not in page
    assert "Between start and end" in page


@pytest.mark.parametrize(("start", "would_do"), [(0.99, True), (0.05, False)])
def test_a_start_that_would_do_is_said(start, would_do):
    evaluated = evaluation(1.5)
    found = headline(content(evaluated, history=between_start_and_end(1.0, start=start, end=0.99)))
    assert ("The model before training would do as well" in found) == would_do


def test_one_is_counted_as_one():
    two = evaluation(0.1, classes=1, each=2)
    assert headline(content(two, own=False)).endswith("on 2 images of 1 class.")
    html = render(content(two, own=False, listed="x"))
    assert not re.search(r"(?<![\d,.])1 (classes|queries|images|pairs)\b", html)


def test_a_run_without_validation_is_named_as_such():
    config = Config().with_settings({"train": "train.txt"})
    assert validated_on(config, RunHistory("a/run", [])) == ""
    assert (
        validated_on(config, RunHistory("a/run", MEASURED)) == "the split validation of train.txt"
    )
    words = content(None, None, other=RunHistory("b/run", []), other_validated_on="").lists_apart
    assert words == "the other run was not validated, this run on /lists/val.txt"
    neither = content(None, None, history=RunHistory("a/run", []), validated_on="",
                      other=RunHistory("b/run", []))  # fmt: skip
    assert neither.lists_apart == "neither run was validated"
