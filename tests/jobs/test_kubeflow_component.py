"""The component of pipelines: mistakes in one line; `test_same_curve.py` runs it."""

import sys

import pytest

from lookalike.errors import MissingExtraError
from lookalike.jobs.kubeflow_component import run_training, training_component


def test_mistake_ends_the_component_in_one_line() -> None:
    with pytest.raises(SystemExit, match=r"^error: .*config.yaml:1: optim.speed") as end:
        run_training("optim: {speed: 1}\n", [], {}, None, None)
    assert "\n" not in str(end.value.code)


def test_without_kfp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kfp", None)
    with pytest.raises(MissingExtraError, match=r"lookalike\[kfp\]"):
        training_component("lookalike:0.1")
