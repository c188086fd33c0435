"""`lookalike tune`: its space, its proposals, and a search of a tiny network."""

import json
import os
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import timm
from PIL import Image

import lookalike
from lookalike.commands import tune as tune_module
from lookalike.commands import tune_trials
from lookalike.commands.tune_trials import WholeListRecipe
from lookalike.config.config import CHOSEN_BY_RECIPE, Config
from lookalike.distributed import signals
from lookalike.errors import (
    ConfigError,
    Interrupted,
    RunError,
    SearchInterrupted,
    StorageError,
)
from lookalike.planning.choices_by_length import BY_LENGTH
from lookalike.planning.facts import Facts
from lookalike.planning.recipe import choose_by_file
from lookalike.planning.search_space import Range, Values, default_space, including, parse_space
from lookalike.planning.search_state import SearchFolder, Trial
from lookalike.planning.trial_proposals import propose
from lookalike.planning.tune_page import render
from lookalike.training.request_lists import create_source
from program import run

SMALL = {
    "backbone": "test_resnet", "pretrained": False, "image_size": 32, "embedding_dim": 16,
    "epochs": 1, "batch_size": 32, "threads": 0, "device": "cpu", "over": "optim.lr=1e-4..1e-2",
}  # fmt: skip


def test_space_from_texts():
    texts = ["optim.lr=1e-4..1e-2", "train.batch_size=32..64", "loss.name=cosface,arcface"]
    assert parse_space([*texts, "model.crop_pct=null,1.0"], Config()) == {
        "optim.lr": Range(1e-4, 1e-2, logarithmic=True),
        "train.batch_size": Range(32, 64, integer=True),
        "loss.name": Values(("cosface", "arcface")),
        "model.crop_pct": Values((None, 1.0)),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim.lr", "has no range"),
        ("optim.rate=1..2", "no such setting"),
        ("optim.lr=2..1", "first end is not below"),
        ("optim.lr=a..b", "are no numbers"),
        ("train.batch_size=1.5..2", "are no whole numbers"),
        ("optim.lr=-1..1", "optim.lr"),
        ("data.flip=0.5", "two different values"),
        ("data.val=a.txt,b.txt", "cannot be searched"),
        ("run.output=a,b", "cannot be searched"),
        ("optim.momentum=0.1..0.9", "is also given"),
        ("loss.name=cosface,nonsense", "loss.name"),
    ],
)
def test_wrong_spaces_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_space([text], Config().with_settings({"momentum": 0.8}))


def test_default_space_holds_the_start_and_leaves_out_what_was_given():
    used = Config().with_settings({"scale": 70, "margin": 0.1, "lr": 1e-3, "pretrained": True})
    space = including(default_space(used, {"data.flip"}, 1000), used)
    assert "data.flip" not in space
    assert "optim.backbone_lr_factor" in space
    assert space["loss.scale"] == Range(8.0, 70, logarithmic=True)
    assert space["optim.lr"].low < 1e-3 < space["optim.lr"].high
    random = used.with_settings({"pretrained": False})
    assert "optim.backbone_lr_factor" not in default_space(random, set(), 1000)


def test_a_range_around_a_start_that_is_no_number_is_refused():
    with pytest.raises(ConfigError, match="is no number"):
        including(
            {"model.image_size": Range(64, 128)}, Config.load(None, ["model.image_size=[64,32]"])
        )


def test_a_range_around_a_start_that_is_unset_is_searched():
    space = including({"model.crop_pct": Range(0.5, 1)}, Config())
    assert space == {"model.crop_pct": Range(0.5, 1)}
    tried = [({"model.crop_pct": None}, 0.5)]
    for _ in range(10):
        values = propose(space, tried, 0)
        assert 0.5 <= values["model.crop_pct"] <= 1
        tried.append((values, values["model.crop_pct"]))
    lines = [
        Trial(trial=number, settings=values, score=score, recall_at_1=score, map_at_r=score,
              seconds=1, failed="")
        for number, (values, score) in enumerate(tried)
    ]  # fmt: skip
    for shown in (lines, lines[:1]):
        assert "model.crop_pct" in render(shown, "a result", better=True, output="runs/a")


def test_proposals_follow_from_seed_and_trials_and_find_the_maximum():
    space = {"optim.lr": Range(1e-4, 1.0, logarithmic=True), "data.flip": Values((0.0, 0.5))}

    def search(seed):
        tried = [({"optim.lr": 1.0, "data.flip": 0.5}, 0.0)]
        for _ in range(30):
            values = propose(space, tried, seed)
            assert 1e-4 <= values["optim.lr"] <= 1.0
            score = 0.5 - abs(values["optim.lr"] - 0.01) - values["data.flip"] / 2
            tried.append((values, max(score, 0.0)))
        return tried

    first = search(3)
    assert first == search(3) != search(4)
    best = max(first, key=lambda one: one[1])[0]
    assert best["data.flip"] == 0.0
    assert 1e-4 <= best["optim.lr"] <= 0.04


def test_a_few_values_are_each_tried_once():
    space = {
        "loss.name": Values(("cosface", "arcface", "softmax")),
        "data.min_side": Range(1, 2, integer=True),
    }
    tried = [({"loss.name": "arcface", "data.min_side": 1}, 0.5)]
    while (values := propose(space, tried, 0)) is not None:
        tried.append((values, 0.5))
    assert len(tried) == 6
    assert len({tuple(values.items()) for values, _ in tried}) == 6


def test_page_shows_all_trials_and_escapes():
    lines = (
        ({"optim.lr": 1e-3, "loss.name": "cosface"}, 0.5, 0.6, 0.4, 3.0, ""),
        ({"optim.lr": 1e-2, "loss.name": "arcface"}, 0.6, 0.7, 0.5, 3.0, ""),
        ({"optim.lr": 1.0, "loss.name": "arcface"}, 0.0, 0.0, 0.0, 1.0, "loss <nan>"),
    )
    trials = [
        Trial(**dict(zip(Trial.model_fields, (number, *line), strict=True)))
        for number, line in enumerate(lines)
    ]
    page = render(trials, "a result", better=True, output="runs/a")
    assert "failed: loss &lt;nan&gt;" in page
    assert "60.0 %" in page
    assert page.count('class="dot k0') >= 4


@pytest.fixture(scope="module")
def hard_list(tmp_path_factory):
    """A list of 40 classes of 4 images whose colours overlap, so that no score is 0 or 1."""
    folder, rng, lines = tmp_path_factory.mktemp("hard"), np.random.default_rng(5), []
    for klass, colour in enumerate(rng.uniform(60, 195, (40, 3))):
        for view in range(4):
            seen = colour + rng.normal(0, 25, 3) + rng.normal(0, 20, (32, 32, 3))
            image = Image.fromarray(seen.clip(0, 255).astype(np.uint8))
            image.save(folder / f"{klass}-{view}.png")
            lines.append(f"{klass}-{view}.png {klass}\n")
    (folder / "train.txt").write_text("".join(lines))
    return folder / "train.txt"


@pytest.fixture(scope="module")
def found(hard_list, tmp_path_factory):
    """A search of two trials, and its directory."""
    output = tmp_path_factory.mktemp("tune") / "search"
    return lookalike.tune(train=hard_list, output=output, trials=2, **SMALL)


def test_a_search_begins_at_the_recipe_and_writes_what_train_takes(found):
    first, second = found.trials
    assert first.settings == {"optim.lr": 0.001}  # as the recipe chooses
    assert 1e-4 <= second.settings["optim.lr"] <= 1e-2
    assert all(0 < one.score < 1 and not one.failed for one in found.trials)
    lines = (found.path / "trials.jsonl").read_text().splitlines()
    assert [json.loads(line)["trial"] for line in lines] == [0, 1]
    assert "tune" in (found.path / "tune.html").read_text()
    recipe = Config.load(found.recipe)
    assert recipe.optim.name == "adamw"
    assert "data.train" not in recipe.asked()
    if not found.better:
        assert recipe.optim.lr == 0.001
        assert "nothing was better" in found.describe()
    folder = found.path / "trials" / "0001"
    assert (folder / "resolved.yaml").exists()
    assert not (folder / "model").exists()
    assert not (folder / "checkpoints").exists()
    confirmed = json.loads((folder / "confirmation.json").read_text())
    assert len(set(confirmed["classes"])) >= 6


def test_an_interrupted_search_goes_on_as_if_it_had_not_been(
    found, hard_list, tmp_path, monkeypatch
):
    real, output = tune_trials.train, tmp_path / "search"

    def interrupted(config):
        if config.run.output.endswith("0001"):
            (output / "trials" / "0001").mkdir()
            raise Interrupted(2, 1, config.run.output)
        return real(config)

    monkeypatch.setattr(tune_trials, "train", interrupted)
    with pytest.raises(SearchInterrupted, match=r"1 finished trial in .* resumes it") as stopped:
        lookalike.tune(train=hard_list, output=output, trials=2, **SMALL)
    assert stopped.value.exit_code == 130
    assert (output / "recipe.yaml").exists()
    monkeypatch.setattr(tune_trials, "train", real)
    again = lookalike.tune(train=hard_list, output=output, trials=2, **SMALL)
    assert [(o.settings, o.score) for o in again.trials] == [
        (o.settings, o.score) for o in found.trials
    ]


def test_a_signal_in_the_last_step_of_a_trial_ends_the_search(hard_list, tmp_path, monkeypatch):
    real = tune_trials.train

    def signalled(config):
        run = real(config)
        with signals.deferred():  # as in the loop of a training that is at its end
            os.kill(os.getpid(), signal.SIGTERM)
        return run

    monkeypatch.setattr(tune_trials, "train", signalled)
    with pytest.raises(SearchInterrupted, match=r"1 finished trial in ") as stopped:
        lookalike.tune(train=hard_list, output=tmp_path / "search", trials=3, **SMALL)
    assert stopped.value.exit_code == 128 + signal.SIGTERM


def test_preparation_counts_in_the_time(hard_list, tmp_path, monkeypatch):
    now = [0.0]
    for module in (tune_module, tune_trials):
        monkeypatch.setattr(module, "monotonic", lambda: now[0])
    real = tune_trials.train

    def lasting(config):
        now[0] += 30
        return real(config)

    monkeypatch.setattr(tune_trials, "train", lasting)
    monkeypatch.setattr(tune_module, "check_optuna", lambda: now.__setitem__(0, now[0] + 25))
    found = lookalike.tune(train=hard_list, output=tmp_path / "s", time="100s", **SMALL)
    assert [one.seconds for one in found.trials] == [30, 30]
    again = lookalike.tune(train=hard_list, output=tmp_path / "s", time="130s", **SMALL)
    assert len(again.trials) == 3


def test_other_settings_need_another_directory(found, hard_list):
    with pytest.raises(RunError, match=r"began with model.image_size=32, and not 40"):
        lookalike.tune(train=hard_list, output=found.path, trials=2, **{**SMALL, "image_size": 40})
    with pytest.raises(RunError, match="began with --over"):
        lookalike.tune(
            train=hard_list, output=found.path, trials=2, **{**SMALL, "over": "data.flip=0,1"}
        )


def test_a_search_goes_on_with_other_spellings_of_its_files(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    for name in ("classes.txt", "recipe.yaml", "sub/recipe.yaml"):
        (tmp_path / name).write_text("optim: {lr: 0.01}\n")
    monkeypatch.chdir(tmp_path)
    folder = SearchFolder(tmp_path / "search")

    def epochs(*overrides):
        return folder.check_same(Config.load(None, overrides), {}, "images").epochs

    begun = ["data.classes=classes.txt", "train.recipe=recipe.yaml", "data.val=val.txt"]
    folder.begin(Config.load(None, begun), [], "images", 7)
    here = tmp_path
    assert epochs(*begun) == 7
    assert epochs(*begun, "data.format=auto") == 7  # as with a list from standard input
    assert epochs("data.classes=./classes.txt", *begun[1:2], "data.val=./val.txt") == 7
    assert epochs(f"data.classes={here}/classes.txt", f"recipe={here}/recipe.yaml", begun[2]) == 7
    monkeypatch.chdir("sub")
    given = ["data.classes=../classes.txt", "recipe=../recipe.yaml", f"data.val={here}/val.txt"]
    assert epochs(*given) == 7
    with pytest.raises(RunError, match=r"began with train.recipe=recipe.yaml, and not /.*/sub/re"):
        epochs(given[0], f"recipe={here}/sub/recipe.yaml", given[2])
    with pytest.raises(RunError, match=r"began with data.val=val.txt, and not none"):
        epochs(*given[:2])
    (tmp_path / "recipe.yaml").write_text("optim: {lr: 0.02}\n")
    with pytest.raises(RunError, match=r"optim.lr=0.01 in ../recipe.yaml, and not 0.02"):
        epochs(*given)


def test_a_search_goes_on_with_its_ranges_in_other_words(tmp_path, monkeypatch):
    for name in ("a.pth", "b.pth"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    begun = ["optim.lr=1e-3..0.01", "loss.name=arcface,cosface", "model.pretrained=a.pth,b.pth"]
    config, folder = Config(), SearchFolder(tmp_path / "search")
    space = parse_space(begun, config)
    folder.begin(config, begun, "images", 7)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir("sub")
    now = [
        f"model.pretrained={tmp_path}/b.pth,../a.pth", "loss.name=CosFaceLoss,ArcFaceLoss",
        "optim.lr=0.0010..1e-2",
    ]  # fmt: skip
    found = folder.check_same(config, parse_space(now, config), "images")
    assert list(found.space.items()) == list(space.items())  # proposals follow from their order
    assert found.spellings["model.pretrained", "a.pth"] == "../a.pth"
    assert found.spellings["loss.name", "cosface"] == "CosFaceLoss"
    for other in (now[:2], [*now[:2], "optim.lr=0.001..0.02"], ["loss.name=arcface,softmax"]):
        with pytest.raises(RunError, match=r"began with --over optim.lr=1e-3..0.01 loss.name"):
            folder.check_same(config, parse_space(other, config), "images")
    with pytest.raises(ConfigError, match="two different values"):
        parse_space(["loss.name=arcface,ArcFaceLoss"], config)


def test_mistakes_are_one_line(monkeypatch, shapes, hard_list, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    (tmp_path / "timed.yaml").write_text("train: {time_budget: 1h}\n")
    given = ["tune", "--train", hard_list, "--output", tmp_path / "other"]
    small = ["model.backbone=test_resnet", "model.pretrained=false", "run.device=cpu"]
    few = ["tune", "--train", shapes / "train.txt", "--output", tmp_path / "few", *small]
    for arguments, message in [
        (given, "no end"),
        ([*given, "--time", "soon"], "is not a time"),
        ([*given, "--trials", "0"], "trials=0"),
        ([*given, "--trials", "2"], "holds no search (it has notes.txt)"),
        ([*given, "--trials", "2", "train.time_budget=1h"], "train.time_budget"),
        ([*given, "--trials", "2", "--over", "loss.margin=0.1..7"], "margin"),
        (
            [*given, "--trials", "2", "--recipe", tmp_path / "timed.yaml"],
            "timed.yaml: train.time_b",
        ),
        ([*few, "--trials", "2"], "too few classes"),
    ]:
        assert run(monkeypatch, *arguments) == 2, message
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ")
        assert message in error


def test_trial_0_has_the_rate_of_a_pretrained_backbone_and_its_recipe_goes_with_a_list(
    hard_list, tmp_path
):
    """Of trial 0, whose other settings are all given to its run."""
    weights = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(timm.create_model("test_resnet").state_dict(), weights)
    found = lookalike.tune(
        train=hard_list, output=tmp_path / "search", trials=1, **{**SMALL, "pretrained": weights}
    )
    used = Config.load(content=(found.path / "trials/0000/resolved.yaml").read_bytes(), file="x")
    recipe = Config.load(found.recipe)
    assert "optim.backbone_lr_factor" in recipe.asked()
    assert recipe.optim.backbone_lr_factor == used.optim.backbone_lr_factor
    asked = Config().with_settings({"recipe": str(found.recipe), "val": "val.txt"})
    assert "data.val_fraction" not in {choice.key for choice in choose_by_file(asked)}


@pytest.mark.parametrize("asked", [{}, {"init_from_features": True}])
def test_a_recipe_guards_where_the_start_from_features_was_asked(asked):
    request = Config().with_settings(asked)
    recipe = tune_trials.WholeListRecipe(request, SimpleNamespace())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune_trials.WholeListRecipe, "chosen", lambda self, values: {})
        assert recipe.settings({}, {}).get("train.interpolate") is (True if asked else None)


@pytest.mark.parametrize("given", [{}, {"interpolate": False}, {"val_fraction": 0.0}])
def test_the_recipe_of_a_short_list_guards_a_good_start_as_plain_training(tmp_path, given):
    """26 colours that any network tells apart."""
    weights, lines = tmp_path / "weights.safetensors", []
    safetensors.torch.save_file(timm.create_model("test_resnet").state_dict(), weights)
    rng = np.random.default_rng(0)
    for klass in range(26):
        colour = rng.integers(0, 256, 3)
        for view in range(3):
            pixels = (colour + rng.integers(-5, 5, (32, 32, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{klass}-{view}.png")
            lines.append(f"{klass}-{view}.png {klass}\n")
    (tmp_path / "train.txt").write_text("".join(lines))
    small = {**SMALL, "pretrained": weights, "train": tmp_path / "train.txt", **given}
    del small["over"]
    found = lookalike.tune(output=tmp_path / "search", trials=1, **small)
    runs = [
        lookalike.train(output=tmp_path / "plain", report=False, **small),
        lookalike.train(
            train=tmp_path / "train.txt", output=tmp_path / "tuned", recipe=found.recipe,
            report=False, device="cpu", threads=0,
        ),
    ]  # fmt: skip
    plain, tuned = (Config.load(content=run.resolved.read_bytes(), file="x") for run in runs)
    assert round(26 * plain.data.val_fraction) == (0 if given else 5)
    assert plain.train.interpolate is not bool(given)
    for key in ("data.val_fraction", "train.interpolate", "optim.backbone_lr_factor"):
        assert tuned.get(key) == plain.get(key)
    if not given:
        assert "interpolation" in runs[1].scores()[-1]


def test_a_search_from_a_recipe_that_holds_classes_out_measures_on_none_that_were_learnt(
    hard_list, tmp_path, monkeypatch
):
    (tmp_path / "recipe.yaml").write_text("data: {val_fraction: 0.1, allow_truncated: true}\n")
    measured = []

    class Runner(tune_trials.TrialRunner):
        def run(self, number, values):
            measured.append(self.held_out.classes.names)
            return super().run(number, values)

    def source(config):
        assert config.data.allow_truncated
        return create_source(config)

    monkeypatch.setattr(tune_module, "create_source", source)
    monkeypatch.setattr(tune_module, "TrialRunner", Runner)
    found = lookalike.tune(
        train=hard_list, output=tmp_path / "search", trials=1,
        recipe=tmp_path / "recipe.yaml", **SMALL,
    )  # fmt: skip
    learnt = json.loads((found.path / "trials/0000/classes.json").read_text())
    assert len(measured[0]) == 12
    assert len(learnt["classes"]) == 28
    assert not {*measured[0]} & {*learnt["classes"]}
    assert Config.load(found.recipe).data.val_fraction == 0.1


def test_a_wrong_list_is_named_before_a_missing_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(StorageError, match=r"none\.txt: no such file"):
        lookalike.tune(train=tmp_path / "none.txt", output=tmp_path / "run", trials=2)


def test_without_optuna_the_error_names_the_extra(monkeypatch, hard_list, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(lookalike.LookalikeError, match=r"lookalike\[tune\]"):
        lookalike.tune(train=hard_list, output=tmp_path / "search", trials=2)


@pytest.fixture
def recipe_of_400():
    facts = Facts(
        images=4000, classes=400, several=400, pretrained=False, convolutional=True,
        class_token=False, has_validation=False, workers=1,
    )  # fmt: skip
    request = Config.load(None, ["model.backbone=test_resnet", "model.pretrained=false"])
    return WholeListRecipe(request, facts)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {"loss.name": "arcface", "loss.margin": 17.0, "loss.scale": 20.0}),
        ({"loss.name": "cosface"}, {"loss.margin": 0.2, "loss.scale": 20.0}),
        ({"loss.name": "softmax"}, {"loss.margin": None, "loss.scale": None}),
        ({"loss.name": "supcon"}, {"loss.margin": None, "loss.scale": None}),
        ({"loss.scale": 40.0}, {"loss.name": "arcface", "loss.margin": 17.0, "loss.scale": 40.0}),
        ({"loss.name": "amsoftmax", "loss.margin": 0.3}, {"loss.margin": 0.3, "loss.scale": 20.0}),
        ({"optim.lr": 0.02}, {"optim.name": "adamw", "optim.lr": 0.02}),
        ({"optim.name": "sgd"}, {"optim.lr": Config().optim.lr}),
        ({"train.batch_size": 256}, {"optim.lr": 0.002}),
        ({"model.backbone": "vit_tiny"}, {"model.pooling": "cls+avg"}),
    ],
)
def test_what_follows_from_a_searched_setting_is_chosen_again(recipe_of_400, values, expected):
    trial = recipe_of_400.request_of_trial(values, 0.2, 3)
    assert {key: trial.get(key) for key in expected} == expected
    assert trial.train.epochs == 3
    assert all(trial.get(key) == value for key, value in values.items())


def test_a_trial_leaves_open_only_the_rate_of_the_backbone(recipe_of_400):
    """Without a time budget, nothing is chosen by the length."""
    asked = recipe_of_400.request_of_trial({}, 0.2, 3).asked()
    assert CHOSEN_BY_RECIPE - BY_LENGTH - asked == {"optim.backbone_lr_factor"}


def test_losses_are_searched_and_the_recipe_holds_what_was_given(hard_list, tmp_path):
    """Each with its own margin: that of ArcFace, in degrees, is none for another loss."""
    given = {**SMALL, "over": "loss.name=arcface,cosface,softmax,supcon", "seed": 7}
    given |= {"nested_dims": [8], "pretrained": False}
    found = lookalike.tune(train=hard_list, output=tmp_path / "search", trials=6, **given)
    assert len({one.settings["loss.name"] for one in found.trials}) >= 3
    for one in found.trials:
        assert not one.failed
        file = tmp_path / f"search/trials/{one.trial:04d}/resolved.yaml"
        used = Config.load(content=file.read_bytes(), file="x")
        assert used.loss.name == one.settings["loss.name"]
        margin = {"arcface": 17.0, "cosface": 0.2}.get(used.loss.name)
        assert margin is None or used.loss.margin == margin
    recipe = Config.load(found.recipe)
    assert recipe.model.backbone == "test_resnet"
    assert recipe.model.image_size == 32
    assert recipe.loss.nested_dims == (8,)
    assert recipe.train.epochs == 1
    assert not {"data.train", "run.output", "run.device", "data.threads"} & recipe.asked()
    run = lookalike.train(
        train=hard_list, output=tmp_path / "run", recipe=str(found.recipe), device="cpu", threads=0
    )
    used = Config.load(content=run.resolved.read_bytes(), file="x")
    assert used.loss.name == recipe.loss.name
    assert used.loss.margin == recipe.loss.margin
