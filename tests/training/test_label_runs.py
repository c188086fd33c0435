"""Runs on images of several classes and on coarser classes: curves, resume, what is refused."""

import json
import re

import numpy as np
import pytest
import torch
from engine_process import TINY, curve, records

import lookalike
from lookalike.config.config import Config
from lookalike.data.catalog import Catalog
from lookalike.data.classes import Classes
from lookalike.data.hierarchy import HierarchyLevel
from lookalike.data.record import Record
from lookalike.distributed.world import World
from lookalike.training.build_heads import create_heads, loss_weights, metric_loss
from lookalike.training.step import coarser_classes


@pytest.fixture(scope="module")
def lists(shapes, tmp_path_factory):
    """Training and validation list with a second label, and a file of coarser classes."""
    folder, labels = tmp_path_factory.mktemp("labels"), set()
    for name in ("train", "val"):
        lines = (shapes / f"{name}.txt").read_text().split("\n")
        found = []
        for number, line in enumerate(filter(None, lines)):
            path, _, label = line.rpartition(" ")
            second = f"+side{number % 2}" if number % 3 else ""
            found.append(f"{shapes / path} {label}{second}\n")
            labels |= {label, f"side{number % 2}"}
        (folder / f"{name}.txt").write_text("".join(found))
    above = "".join(f"{label} {label[0]} all\n" for label in sorted(labels))
    (folder / "above.txt").write_text("label first whole\n" + above)
    return folder


def settings(lists, loss, output, steps):
    return [
        f"data.train={lists / 'train.txt'}", "data.label_separator=+", f"run.output={output}",
        f"data.hierarchy={lists / 'above.txt'}", "model.backbone=test_resnet", "run.device=cpu",
        *TINY, f"loss.name={loss}", "loss.hierarchy_weight=0.5", "optim.schedule=constant",
        f"train.max_steps={steps}",
    ]  # fmt: skip


@pytest.mark.parametrize("loss", ["cosface", "supcon"])
def test_training_resumes_to_the_same_curve(lists, tmp_path, loss):
    more = ["loss.memory=20"] if loss == "supcon" else ["head.fused_update=true"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for output, steps in ((whole, 2), (parts, 1), (parts, 2)):
        config = Config.load(None, [*settings(lists, loss, output, steps), *more])
        lookalike.train(config, resume=(output, steps) == (parts, 2))
    assert curve(parts) == curve(whole)
    assert {"metric_loss", "level_1_loss", "level_2_loss"} <= records(whole)[0].keys()


def test_measured_at_each_level_in_training_as_in_evaluation(lists, tmp_path):
    more = [f"data.val={lists / 'val.txt'}", "train.report=false"]
    run = lookalike.train(Config.load(None, [*settings(lists, "cosface", tmp_path, 1), *more]))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    scores = [each for each in map(json.loads, lines) if "recall_at_1" in each]
    measured = max(scores, key=lambda each: each["map_at_r"])  # of the step whose model is kept
    assert measured["whole_map_at_r"] == measured["whole_recall_at_1"] == 1
    found = lookalike.compare(
        run, lists / "val.txt", hierarchy=str(lists / "above.txt"), full=True,
        device="cpu", threads=0,
    ).to_dict()  # fmt: skip
    for key in ("recall_at_1", "map_at_r"):
        assert found[key] == pytest.approx(measured[key], abs=1e-9)
        assert found["levels"]["first"][key] == pytest.approx(measured[f"first_{key}"], abs=1e-9)
    assert 0 < found["hierarchical_average_precision"] <= 1
    for data in (None, lists / "val.txt"):
        lookalike.report(run.path, data=data, output=tmp_path / "page.html", device="cpu")
        page = (tmp_path / "page.html").read_text()
        assert re.search(
            r"<h3>By level .*<th>label</th>.*<th>first</th>.*<th>whole</th>", page, re.S
        )


def test_coarser_classes_stand_once_in_a_row():
    of_class = torch.tensor([0, 0, 1, 2])
    assert coarser_classes(torch.tensor([3, 1]), of_class).tolist() == [2, 0]
    rows = torch.tensor([[0, 1, 2], [1, 3, -1], [2, -1, -1]])
    assert coarser_classes(rows, of_class).tolist() == [[0, -1, 1], [0, 2, -1], [1, -1, -1]]


def test_each_level_has_a_head_and_a_part_of_the_weight():
    config = Config().with_values(
        {"loss.name": "adaptive_arcface", "loss.weight": 2.0, "loss.hierarchy_weight": 0.5,
         "data.hierarchy": "genus,family", "loss.classification_weight": 0.0,
         "head.precision": "fp32", "model.embedding_dim": 6}
    )  # fmt: skip
    levels = (
        HierarchyLevel("genus", ("a", "b", "c"), np.array([0, 0, 1, 2])),
        HierarchyLevel("family", ("x", "y"), np.array([0, 0, 0, 1])),
    )
    names = tuple("cdlw")
    records = tuple(Record(f"/{n}.jpg", names[n % 4], "a.txt", n) for n in range(6))
    catalog = Catalog(records, np.arange(6) % 4, Classes(names), levels=levels)
    heads = create_heads(config, metric_loss(config), catalog, World())
    assert {name: head.num_classes for name, head in heads.items()} == {
        "metric": 4, "level_1": 3, "level_2": 2,
    }  # fmt: skip
    assert heads["level_1"].class_counts.tolist() == [4, 1, 1]
    assert heads["level_2"].class_counts.tolist() == [5, 1]
    assert loss_weights(config, 2) == {
        "metric": 2.0, "classification": 0.0, "level_1": 0.5, "level_2": 0.5,
    }  # fmt: skip


def test_a_weight_needs_a_hierarchy(lists, tmp_path):
    with pytest.raises(lookalike.LookalikeError, match=r"needs data.hierarchy"):
        lookalike.train(
            train=str(lists / "train.txt"), output=str(tmp_path / "run"), hierarchy_weight=0.5,
            backbone="test_resnet", pretrained=False, device="cpu", image_size=32,
        )  # fmt: skip
