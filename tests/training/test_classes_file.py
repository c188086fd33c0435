"""Errors of classes.json: broken, or of another run."""

from types import SimpleNamespace

import pytest

from lookalike.commands.models import training_counts
from lookalike.data.classes import Classes
from lookalike.errors import DataError, RunError
from lookalike.run import Run
from lookalike.training.open_run import newest_of


@pytest.fixture
def run(tmp_path):
    (tmp_path / "train.txt").write_text("a.jpg boot\nb.jpg shoe\n")
    (tmp_path / "config.yaml").write_text(f"data:\n  train: {tmp_path}/train.txt\n")
    return Run(tmp_path)


@pytest.mark.parametrize("content", [b"{", b'["boot"]', b"\xff", b"version https://git-lfs"])
def test_broken_classes_file_is_named(run, content):
    run.classes.write_bytes(content)
    for read in (
        lambda: newest_of(run, SimpleNamespace(classes=Classes(("boot", "shoe")))),
        lambda: training_counts(run.path),
    ):
        with pytest.raises(DataError, match=f"^{run.classes}: not a list of classes"):
            read()


def test_other_classes_are_refused_on_resume(run):
    run.classes.write_text(Classes(("boot", "cap")).to_json(), encoding="utf-8")
    with pytest.raises(RunError, match="are not those that the run began with"):
        newest_of(run, SimpleNamespace(classes=Classes(("boot", "shoe"))))
