"""Weights between the start and the end of training."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import lookalike
from lookalike.data.catalog import open_catalog
from lookalike.errors import ConfigError, RunError
from lookalike.model.batchnorm import measure_statistics
from lookalike.model.embedder import Embedder
from lookalike.run import kept_score
from lookalike.training import checkpoint
from lookalike.training.interpolation import Point, best_point, interpolated
from lookalike.training.validation import Validator


def test_the_best_point_is_not_below_the_start_in_either_score():
    points = [Point(0, 0.93, 0.32), Point(0.5, 0.95, 0.44), Point(1, 0.91, 0.60)]
    assert best_point(points, 1000).weight == 0.5
    worse = [Point(0, 0.5, 0.5), Point(0.5, 0.6, 0.4), Point(1, 0.4, 0.9)]
    assert best_point(worse, 1000).weight == 0
    assert best_point([Point(0, 0.5, 0.5), Point(1, 0.5, 0.5)], 1000).weight == 1


def test_half_a_point_or_one_query_is_no_difference():
    points = [Point(0, 0.9, 0.3), Point(1, 0.896, 0.5)]
    assert best_point(points, 1000).weight == 1
    points = [Point(0, 0.9, 0.3), Point(1, 0.88, 0.5)]
    assert best_point(points, 1000).weight == 0
    assert best_point(points, 50).weight == 1


def test_half_way_is_kept_where_few_queries_show_no_gain():
    points = [
        Point(0, 0.92, 0.77), Point(0.5, 0.92, 0.79), Point(0.75, 0.95, 0.79), Point(1, 0.9, 0.75),
    ]  # fmt: skip
    assert best_point(points, 60).weight == 0.5
    assert best_point(points, 10_000).weight == 0.75
    gained = [Point(0, 0.7, 0.3), Point(0.5, 0.9, 0.8), Point(1, 0.95, 0.9)]
    assert best_point(gained, 60).weight == 1
    large = [Point(0, 0.6, 0.4), Point(0.5, 0.62, 0.42), Point(1, 0.79, 0.58)]
    assert best_point(large, 9).weight == 1
    start_is_best = [Point(0, 1, 1), Point(0.5, 0.967, 0.975), Point(1, 0.9, 0.9)]
    assert best_point(start_is_best, 30).weight == 0
    below = [Point(0, 0.9, 0.5), Point(0.5, 0.7, 0.4), Point(1, 0.6, 0.3)]
    assert best_point(below, 60).weight == 0


def test_interpolated_weights_and_statistics_are_put_back():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    module(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    own = {name: value.clone() for name, value in module.state_dict().items()}
    start = {name: torch.zeros_like(value) for name, value in own.items()}
    with interpolated(module, start, 0.25):
        for name, value in module.state_dict().items():
            expected = 0.25 * own[name] if value.is_floating_point() else own[name]
            assert torch.allclose(value.float(), expected.float())
    assert all(torch.equal(value, own[name]) for name, value in module.state_dict().items())


def test_measured_statistics_are_the_means_over_the_batches():
    norm = nn.BatchNorm1d(3)
    frozen = nn.BatchNorm1d(3).eval()
    network = nn.ModuleList([norm, frozen])
    network.forward = lambda images: frozen(norm(images))
    batches = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0)) * 5 + 2
    measure_statistics(network, iter(batches))
    assert torch.allclose(norm.running_mean, batches.mean(dim=(0, 1)), atol=1e-5)
    assert torch.allclose(norm.running_var, batches.var(dim=1).mean(dim=0), atol=1e-4)
    assert norm.training
    assert norm.momentum == 0.1
    assert torch.equal(frozen.running_mean, torch.zeros(3))


@pytest.fixture(scope="module")
def settings(shapes):
    return {
        "train": shapes / "train.txt", "val": shapes / "val.txt", "backbone": "resnet18",
        "pretrained": False, "image_size": 32, "embedding_dim": 16, "batch_size": 16,
        "threads": 1, "recipe": "component", "interpolate": True, "report": False,
        "lr": 0.01, "eval_every": 0,
    }  # fmt: skip


def test_the_model_is_the_best_between_start_and_end(settings, tmp_path):
    run = lookalike.train(output=tmp_path / "run", epochs=2, **settings)
    last = run.scores()[-1]
    assert [point[0] for point in last["points"]] == [0, 0.25, 0.5, 0.75, 1]
    chosen = {weight: scores for weight, *scores in last["points"]}[last["interpolation"]]
    assert [last["recall_at_1"], last["map_at_r"]] == chosen
    first = run.scores()[0]
    assert last["points"][0][1:] == [first["recall_at_1"], first["map_at_r"]]
    assert last["recall_at_1"] >= first["recall_at_1"] - 1 / first["queries"]
    assert last["map_at_r"] >= first["map_at_r"] - 1 / first["queries"]
    # The model that was saved has the scores that were recorded.
    found = lookalike.evaluate(run, data=settings["val"])
    assert found.map_at_r == pytest.approx(last["map_at_r"], abs=1e-9)
    start = Embedder.load(run.start)
    assert start.describe() == Embedder.load(run.model).describe()

    # A run that is resumed at its end keeps the model; one that goes on chooses again.
    model = (run.model / "model.safetensors").read_bytes()
    lookalike.train(output=run.path, resume=True)
    assert (run.model / "model.safetensors").read_bytes() == model
    assert len([score for score in run.scores() if "interpolation" in score]) == 1
    lookalike.train(output=run.path, resume=True, epochs=3)
    scores = run.scores()
    assert "interpolation" in scores[-1]
    assert scores[-1]["step"] == 9


def test_a_resumed_run_measures_its_start_again_at_another_image_size(settings, tmp_path, shapes):
    run = lookalike.train(output=tmp_path / "run", epochs=1, **settings)
    before = run.scores()[0]
    changed = {**settings, "image_size": 64}
    lookalike.train(output=run.path, resume=True, epochs=2, **changed)
    last = run.scores()[-1]
    start, model = Embedder.load(run.start), Embedder.load(run.model)
    assert model.preprocess.image_size == 64
    start.preprocess = model.preprocess
    lists = (open_catalog(str(shapes / name)) for name in ("val.txt", "train.txt"))
    found = Validator(*lists).measure(start)[1]
    assert last["points"][0][1:] == pytest.approx([found["recall_at_1"], found["map_at_r"]])
    assert last["points"][0][2] != before["map_at_r"]


def halfway(run):
    """Weights between those of the start and of the last checkpoint."""
    start = load_file(run.start / "model.safetensors")
    end = checkpoint.embedder_weights(checkpoint.newest(run.checkpoints)[0])
    return {name: torch.lerp(value, end[name], 0.5) for name, value in start.items()
            if value.is_floating_point() and "running" not in name}  # fmt: skip


def test_a_given_part_of_the_way_needs_no_validation_set(settings, tmp_path, caplog):
    given = {**settings, "interpolate": 0.5, "val": None, "epochs": 1}
    run = lookalike.train(output=tmp_path / "run", **given)
    assert "50 % of the way from start to end, unmeasured" in caplog.text
    model = load_file(run.model / "model.safetensors")
    for name, value in halfway(run).items():
        assert torch.allclose(model[name], value, atol=1e-6), name
    assert not run.scores()
    saved = (run.model / "model.safetensors").read_bytes()
    lookalike.train(output=run.path, resume=True)
    assert (run.model / "model.safetensors").read_bytes() == saved
    with pytest.raises(ConfigError, match=r"train\.interpolate"):
        lookalike.train(output=tmp_path / "other", **{**given, "interpolate": 1.5})


def test_the_best_point_without_a_validation_set_is_named(settings, tmp_path, caplog):
    run = lookalike.train(output=tmp_path / "run", **{**settings, "val": None, "max_steps": 1})
    assert "train.interpolate=true has no effect without one" in caplog.text
    assert not run.start.exists()


def test_a_given_part_of_the_way_is_measured_and_kept(settings, tmp_path):
    run = lookalike.train(output=tmp_path / "run", epochs=1, **{**settings, "interpolate": 0.3})
    last = run.scores()[-1]
    assert [point[0] for point in last["points"]] == [0, 0.3, 1]
    assert last["interpolation"] == 0.3
    found = lookalike.evaluate(run, data=settings["val"])
    assert found.map_at_r == pytest.approx(last["map_at_r"], abs=1e-9)


def test_weights_of_the_start_that_are_gone_are_one_clear_line(settings, tmp_path):
    run = lookalike.train(output=tmp_path / "run", epochs=1, max_steps=2, **settings)
    (run.start / "model.safetensors").unlink()
    before = run.metrics.read_text()
    with pytest.raises(RunError, match=r"start cannot be read.*train\.interpolate=false"):
        lookalike.train(output=run.path, resume=True, epochs=2, max_steps=4)
    assert run.metrics.read_text() == before  # not after the training
    record = json.loads(run.metrics.read_text().splitlines()[0])
    assert record["step"] == 0


def test_the_kept_score_is_that_of_the_model_on_disk():
    end = {"step": 6, "map_at_r": 0.6, "interpolation": 0.5}
    scores = [{"step": 0, "map_at_r": 0.1}, {"step": 6, "map_at_r": 0.8}, end]
    assert kept_score(scores) is end
    scores.append({"step": 9, "map_at_r": 0.7})  # resumed: no better end replaced the model
    assert kept_score(scores) is end
    scores += [{"step": 12, "map_at_r": None}, {"step": 15, "map_at_r": 0.9}]
    assert kept_score(scores) is scores[-1]
