"""Data of a report: the run, its settings, and the evaluation of its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lookalike.data.loading.image_source import PLAIN, Source
from lookalike.metrics.calibration import Calibration
from lookalike.reporting.evaluation_data import EvaluationData
from lookalike.run import kept_score


@dataclass(frozen=True)
class RunHistory:
    """Records of a training.

    Attributes:
        name: of the run, without secrets.
        metrics: the objects of metrics.jsonl.
        trained: begin and end in words; "" if unknown.
    """

    name: str
    metrics: Sequence[Mapping[str, Any]]
    trained: str = ""

    @property
    def measured(self) -> list[Mapping[str, Any]]:
        """The evaluations during training, in order."""
        return [record for record in self.metrics if "recall_at_1" in record]

    @property
    def val_list(self) -> str:
        """Fingerprint of the list that these were measured on; "" where it is not known."""
        return str(self.measured[-1].get("val_list", "")) if self.measured else ""

    @property
    def points(self) -> list[list[float]]:
        """Measurements between start and end: weight of the end, Recall@1, MAP@R."""
        last = self.measured[-1] if self.measured else {}
        return list(last.get("points", []))

    @property
    def best(self) -> Mapping[str, Any] | None:
        """The evaluation of the model that was kept."""
        return kept_score(self.measured)


@dataclass(frozen=True)
class Setting:
    """A setting as the page shows it.

    Attributes:
        changed: whether it differs from the default.
        reason: of the recipe; "" where it did not choose.
        effects: of other values in the quality study, a value a line.
    """

    key: str
    value: str
    changed: bool
    reason: str = ""
    effects: Sequence[str] = ()


@dataclass(frozen=True)
class ReportData:
    """Everything on a report.

    Attributes:
        facts: (name, value) of model, loss and lists.
        settings: without secrets.
        environment: (name, value) of versions and devices.
        evaluation: of the model on the list; None without a list.
        lacking: reason for no evaluation; "" where there is one.
        listed: name of the list.
        own: whether that list is the one of the evaluations during training.
        validated_on: name of the list of the evaluations during training; "" without any.
        other_validated_on: the same of the other run.
        other: the run to compare with.
        other_evaluation: of its model on the same list.
        calibration: of the model, whose threshold is marked; None for one of these pairs.
    """

    history: RunHistory
    facts: Sequence[tuple[str, str]]
    settings: Sequence[Setting]
    environment: Sequence[tuple[str, str]]
    evaluation: EvaluationData | None
    lacking: str = ""
    listed: str = ""
    own: bool = True
    validated_on: str = ""
    other_validated_on: str = ""
    other: RunHistory | None = None
    other_evaluation: EvaluationData | None = None
    calibration: Calibration | None = None
    seed: int = 0
    source: Source = PLAIN

    @property
    def comparable(self) -> bool:
        """True if both trainings were validated on one list, by content if known."""
        if self.other is None:
            return False
        lists = self.history.val_list, self.other.val_list
        if all(lists):
            return lists[0] == lists[1]
        return self.validated_on == self.other_validated_on

    @property
    def lists_apart(self) -> str:
        """The lists of both runs in words, where their scores are not comparable."""
        ours, theirs = self.validated_on, self.other_validated_on
        if not ours and not theirs:
            return "neither run was validated"
        if not ours or not theirs:
            without, other = ("this", "the other") if theirs else ("the other", "this")
            return f"{without} run was not validated, {other} run on {ours or theirs}"
        if ours != theirs:
            return f"this run was validated on {ours}, the other run on {theirs}"
        return f"both runs were validated on {ours}, whose content changed between the trainings"
