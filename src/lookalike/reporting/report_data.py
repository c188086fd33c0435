"""What a report is of: all that the page needs to know of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lookalike.data.loading.image_source import PLAIN, Source
from lookalike.metrics.calibration import Calibration
from lookalike.reporting.evaluation_data import Evidence


@dataclass(frozen=True)
class Story:
    """What a run says about itself.

    Attributes:
        name: what to call it, without secrets.
        metrics: the objects of metrics.jsonl.
        trained: when, in words; empty if unknown.
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
    def best(self) -> Mapping[str, Any] | None:
        """The evaluation of the model that was kept; the first of several as good."""
        measured = [r for r in self.measured if r["map_at_r"] is not None]
        return max(measured, key=lambda record: record["map_at_r"], default=None)


@dataclass(frozen=True)
class Setting:
    """A setting as the page shows it."""

    key: str
    value: str
    changed: bool


@dataclass(frozen=True)
class Content:
    """All of a page.

    Attributes:
        story: the run.
        facts: (name, value) lines of what was trained on what.
        settings: of the run, without secrets.
        environment: (name, value) lines of versions and devices.
        evidence: what the model makes of the list; None without a list.
        listed: the list, in words.
        validated_on: what the run was measured on during training, in words; "" for nothing.
        other_validated_on: the same of the run to compare with.
        own: whether that list is the one that was measured on during training.
        lacking: why there is no evidence; empty where there is.
        other: the run to compare with.
        other_evidence: what its model makes of the same list.
        calibration: of the model, whose threshold is marked; None to choose one by these pairs.
        seed: of what is drawn at random.
        threads: threads that read pictures.
        source: of their bytes.
    """

    story: Story
    facts: Sequence[tuple[str, str]]
    settings: Sequence[Setting]
    environment: Sequence[tuple[str, str]]
    evidence: Evidence | None
    listed: str = ""
    validated_on: str = ""
    other_validated_on: str = ""
    own: bool = True
    lacking: str = ""
    other: Story | None = None
    other_evidence: Evidence | None = None
    calibration: Calibration | None = None
    seed: int = 0
    threads: int = 4
    source: Source = PLAIN

    @property
    def comparable(self) -> bool:
        """Whether the scores of both runs' trainings are of one list, by content if known."""
        if self.other is None:
            return False
        lists = self.story.val_list, self.other.val_list
        if all(lists):
            return lists[0] == lists[1]
        return self.validated_on == self.other_validated_on

    @property
    def lists_apart(self) -> str:
        """The lists of both runs in words, where their scores are not comparable."""
        ours, theirs = self.validated_on, self.other_validated_on
        if ours != theirs:
            return f"this run was measured on {ours}, the other on {theirs}"
        return f"both were measured on {ours}, whose content changed between the trainings"
