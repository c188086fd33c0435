"""`benchmarks/quality.py`: a step of every method, the order of trials, and the table's figures."""

import dataclasses
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PEERS = (
    "pml_arcface",
    "pml_cosface",
    "pml_subcenter_arcface",
    "pml_proxy_anchor",
    "pml_multi_similarity",
    "pml_soft_triple",
    "normface16",
    "cross_entropy",
)


@pytest.fixture
def quality(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = ("oml", "peers", "trial", "study", "tuning", "results", "effects")
    modules = {name: importlib.import_module(f"quality_{name}") for name in names}
    return SimpleNamespace(cli=importlib.import_module("quality"), **modules)


def request(quality, shapes, folder, method, settings=None):
    return quality.trial.Request(
        method=method,
        settings=settings or {},
        train=str(shapes / "train.txt"),
        test=str(shapes / "val.txt"),
        backbone="test_resnet",
        weights=None,
        image_size=32,
        epochs=1,
        batch_size=16,
        seed=0,
        threads=1,
        max_steps=1,
        oml=None,
        folder=str(folder / "run"),
        queries=str(folder / "queries.npz"),
        result="",
    )


def test_one_step_of_each_method_runs_and_is_measured(quality, shapes, tmp_path):
    methods = ("ours", "frozen", *PEERS)
    assert {*methods, "component", "oml_triplet", "oml_arcface"} == set(quality.study.METHODS)
    for method in methods:
        folder = tmp_path / method
        folder.mkdir()
        settings = {"train.batch_size": "16"} if method == "ours" else {}
        found = quality.trial.run_trial(request(quality, shapes, folder, method, settings))
        assert found["note"] == "", method
        assert found["images"] == (0 if method == "frozen" else 16), method
        with np.load(folder / "queries.npz") as file:
            assert file["classes"].tolist() == [klass for klass in range(5) for _ in range(4)]
            for metric, value in found["end"].items():
                assert value == pytest.approx(file[metric].mean())
                assert 0 < value <= 1, method


def test_training_a_peer_changes_what_it_should(quality, shapes):
    settings = quality.peers.published("pml_proxy_anchor", pretrained=True)
    catalog = importlib.import_module("lookalike.data.catalog").open_catalog(
        str(shapes / "train.txt")
    )
    common = {
        "backbone": "test_resnet",
        "weights": None,
        "image_size": 32,
        "batch_size": 16,
        "seed": 3,
        "threads": 1,
    }
    start, none = quality.peers.train_peer(settings, catalog, epochs=1, max_steps=0, **common)
    once, seen = quality.peers.train_peer(settings, catalog, epochs=5, max_steps=10, **common)
    again, _ = quality.peers.train_peer(settings, catalog, epochs=5, max_steps=10, **common)
    assert (none, seen) == (0, 160)
    changed = {
        name: not tensor.equal(start.state_dict()[name])
        for name, tensor in once.state_dict().items()
    }
    assert changed["embedding.weight"]
    assert changed["backbone.conv1.0.weight"] or any(
        value for name, value in changed.items() if name.startswith("backbone.")
    )
    assert not any(value for name, value in changed.items() if "running_mean" in name)  # frozen
    for name, tensor in once.state_dict().items():
        assert tensor.equal(again.state_dict()[name]), name


def test_a_loss_that_is_not_finite_counts_as_nothing(quality, shapes, tmp_path):
    bad = request(quality, shapes, tmp_path, "cross_entropy", {"lr": float("inf")})
    found = quality.trial.run_trial(dataclasses.replace(bad, max_steps=3))
    assert found["note"].startswith("diverged: ")
    assert found["end"] == {"recall_at_1": 0.0, "map_at_r": 0.0}
    with np.load(tmp_path / "queries.npz") as file:
        assert len(file["classes"]) == 20


def test_oml_trains_elsewhere_and_gives_vectors(quality, shapes, tmp_path):
    """Its part is played by a program that gives images of a class the same vector."""
    program = tmp_path / "python"
    program.write_text(
        f"""#!{sys.executable}
import json, sys
import numpy as np
assert sys.argv[1].endswith("quality_oml.py")
job = json.load(open(sys.argv[2]))
assert (len(job["train"]), job["epochs"], job["settings"]["margin"]) == (48, 1, 0.2)
pixels = np.load(job["test_pixels"])
assert pixels.shape == (20, 3, 32, 32) and pixels.std() > 10
np.save(job["vectors"], np.repeat(np.eye(5, dtype=np.float32), 4, 0))
finite = job["settings"]["lr"] < 1
facts = {{"seconds": 7.5, "cpu_seconds": 6.5, "images": 96, "finite": finite}}
json.dump(facts, open(job["facts"], "w"))
"""
    )
    program.chmod(0o700)
    for lr, score in ((0.1, 1.0), (1.0, 0.0)):
        folder = tmp_path / str(lr)
        asked = request(quality, shapes, folder, "oml_triplet", {"margin": 0.2, "lr": lr})
        found = quality.trial.run_trial(dataclasses.replace(asked, oml=str(program)))
        assert found["end"] == {"recall_at_1": score, "map_at_r": score}
        if score:
            assert (found["cpu_seconds"], found["images"], found["note"]) == (6.5, 96, "")


def test_oml_needs_its_python_and_the_component_is_ours_with_its_settings(quality, tmp_path):
    study, trial = quality.study.Study(tmp_path, tmp_path), quality.study.Trial
    with pytest.raises(quality.study.StudyError, match="oml_triplet needs --oml PYTHON"):
        study.settings(trial("a", "scratch", "oml_triplet", 1.0, 0))
    settings = study.settings(trial("a", "scratch", "component:optim.lr=0.1", 1.0, 0))
    config = quality.trial.Config.load(overrides=[f"{k}={v}" for k, v in settings.items()])
    assert (config.train.recipe, config.optim.lr) == ("component", 0.1)


def test_a_time_budget_replaces_the_length(quality, shapes, tmp_path):
    ours = request(quality, shapes, tmp_path, "ours")
    assert quality.trial.config_of(ours).asked() >= {"train.epochs", "data.train", "model.backbone"}
    asked = dataclasses.replace(ours, settings={"train.time_budget": "90s", "optim.lr": "1e-3"})
    config = quality.trial.config_of(asked)
    assert "train.epochs" not in config.asked()
    assert (config.train.time_budget, config.optim.lr) == ("90s", 0.001)


def test_names_of_methods(quality):
    names, parse = quality.study.names, quality.study.Method.parse
    assert names("ours,pml_cosface:scale=16,margin=0.1,ours:data.augment=[a,b],optim.lr=1e-3") == [
        "ours",
        "pml_cosface:scale=16,margin=0.1",
        "ours:data.augment=[a,b],optim.lr=1e-3",
    ]
    assert parse("pml_cosface:scale=16,lr=1e-3,crop_pct=null").settings == {
        "scale": 16,
        "lr": 0.001,
        "crop_pct": None,
    }
    assert parse("ours:optim.lr=1e-3").settings == {"optim.lr": "1e-3"}
    assert parse("pml_arcface:tuned").tuned
    for name, complaint in {
        "arc": "there is no method 'arc'",
        "ours:fast": "'fast' is not key=value",
        "pml_arcface:alpha=3": "'alpha' is no setting of arcface; there are margin, scale, ",
        "frozen:lr=1": "frozen has no settings",
    }.items():
        with pytest.raises(quality.study.StudyError, match=complaint):
            parse(name)


def test_seed_0_of_everything_comes_first(quality):
    trials = quality.study.in_order(
        ["a", "b"], ["scratch", "lite0"], ["ours", "pml_arcface"], [0, 1], [1.0]
    )
    told = [(t.seed, t.method, t.regime, t.set) for t in trials]
    assert told[:4] == [
        (0, "frozen", "scratch", "a"),
        (0, "frozen", "scratch", "b"),
        (0, "frozen", "lite0", "a"),
        (0, "frozen", "lite0", "b"),
    ]
    assert [seed for seed, *_ in told] == [0] * 12 + [1] * 10  # pretrained weights have no seed
    assert told[4:6] == [(0, "ours", "scratch", "a"), (0, "ours", "scratch", "b")]
    assert len({t.key for t in trials}) == len(trials)


def test_a_draw_is_the_same_everywhere_and_its_name_leads_back(quality):
    for base in quality.study.METHODS:
        if base in ("frozen", "component"):
            continue
        for pretrained in (False, True):
            draw = quality.tuning.draw
            assert draw(base, 0, pretrained=pretrained) == {}
            drawn = draw(base, 3, pretrained=pretrained)
            assert drawn == draw(base, 3, pretrained=pretrained)
            assert drawn != draw(base, 4, pretrained=pretrained)
            method = quality.study.Method.parse(quality.tuning.method_name(base, drawn))
            assert method.base == base
            if base == "ours":
                config = quality.trial.Config.load(
                    overrides=[f"{key}={value}" for key, value in method.settings.items()]
                )
                assert config.optim.lr == drawn["optim.lr"]
            else:
                assert method.settings == drawn
                found = quality.study.peer_settings(base, drawn, pretrained=pretrained)
                assert found["lr"] == drawn["lr"]


def made_up(study, trial, values, classes, seconds, note="", held_out_settings=None):
    """A finished trial with these values of each query."""
    (study.folder / "queries").mkdir(parents=True, exist_ok=True)
    place = f"queries/{trial.key}.npz"
    np.savez(study.folder / place, classes=classes, recall_at_1=values, map_at_r=values / 2)
    settings = study.settings(trial) if held_out_settings is None else held_out_settings
    line = {
        **vars(trial),
        "key": trial.key,
        "settings": settings,
        "complete": json.loads(json.dumps(study.complete_settings(trial))),
        "queries": place,
        "cpu_seconds": seconds,
        "note": note,
        "end": {"recall_at_1": values.mean(), "map_at_r": values.mean() / 2},
    }
    study.append("tuning.jsonl" if trial.held_out else "trials.jsonl", line)


def test_the_table_has_means_over_seeds_and_paired_differences(quality, tmp_path):
    study, trial = quality.study.Study(tmp_path, tmp_path), quality.study.Trial
    rng = np.random.default_rng(5)
    classes = np.repeat(np.arange(40), 5)
    level = rng.uniform(0.3, 0.7, 40)[classes]
    ours = [level + 0.2 + rng.normal(0, 0.02, 200) for _ in range(3)]
    peer = [level + rng.normal(0, 0.02, 200) for _ in range(3)]
    for seed in range(3):
        made_up(study, trial("a", "lite0", "ours", 1.0, seed), ours[seed], classes, 100 + seed)
        made_up(study, trial("a", "lite0", "pml_arcface", 1.0, seed), peer[seed], classes, 50)
    made_up(study, trial("a", "lite0", "cross_entropy", 1.0, 0), level * 0, classes, 9, "diverged")
    made_up(study, trial("a", "lite0", "frozen", 1.0, 0), level + 0.3, classes, 0)
    [rows] = quality.results.cells(study).values()
    assert [row.method for row in rows] == ["frozen", "ours", "pml_arcface", "cross_entropy"]
    own, other = rows[1], rows[2]
    assert own.seconds == pytest.approx(101)
    assert own.score("recall_at_1") == pytest.approx(np.mean(ours))
    gain = quality.results.advantages(own, other)["recall_at_1"]
    # Independently: classes of equal size, so that the mean of class means is the mean.
    by_class = (np.mean(ours, 0) - np.mean(peer, 0)).reshape(40, 5).mean(1)
    assert gain.value == pytest.approx(by_class.mean())
    error = by_class.std(ddof=1) / np.sqrt(40)
    assert gain.low == pytest.approx(by_class.mean() - 2.02 * error, abs=error / 3)
    assert gain.high == pytest.approx(by_class.mean() + 2.02 * error, abs=error / 3)
    # The classes differ much more than the methods: an interval that is not paired is wide.
    alone = own.intervals()["recall_at_1"]
    assert alone.high - alone.low > 5 * (gain.high - gain.low)
    text = quality.results.table(study)
    assert f"| pml_arcface | {100 * np.mean(peer):.1f} [" in text
    assert "| 9 | 1 (1 diverged) | 0.00 |" in text
    assert "- Recall@1: ours is above the best peer, pml_arcface: +" in text
    # The shortest run at or above the peer's score counts.
    assert "; ours reaches that score in 2.02 of the peer's time" in text
    half = trial("a", "lite0", "ours", 0.5, 0)
    made_up(study, half, level + 0.1, classes, 25)
    text = quality.results.table(study)
    assert "; ours × 0.5 reaches that score in 0.50 of the peer's time" in text
    made_up(study, half, level - 0.1, classes, 25)
    assert "; ours reaches that score in 2.02 " in quality.results.table(study)
    assert "- Start: ours ends below it in Recall@1 and MAP@R: Recall@1 -" in text


def test_the_overview_has_a_column_for_each_cell_and_a_difference_to_its_best_peer(
    quality, tmp_path
):
    study, trial = quality.study.Study(tmp_path, tmp_path), quality.study.Trial
    classes = np.repeat(np.arange(4), 5)
    good, fair, poor = (np.full(20, level) for level in (0.5, 0.25, 0.125))
    for method, values in (("ours", good), ("pml_arcface", poor), ("cross_entropy", fair)):
        made_up(study, trial("a", "lite0", method, 0.5, 0), values, classes, 9)
    made_up(study, trial("a", "lite0", "ours", 1.0, 0), good * 2, classes, 9)
    made_up(study, trial("a", "lite0", "frozen", 1.0, 0), poor, classes, 0)
    for seed in range(2):
        made_up(study, trial("b", "scratch", "cross_entropy", 0.5, seed), poor, classes, 9)
    *lines, gains = quality.results.overview(study, 0.5).splitlines()
    assert lines == [
        "| method | a, lite0 | b, scratch |",
        "| --- | --- | --- |",
        "| frozen | 12.5 / 6.2 |  |",
        "| ours | 50.0 / 25.0 |  |",
        "| cross_entropy | 25.0 / 12.5 | 12.5 / 6.2 (2) |",
        "| pml_arcface | 12.5 / 6.2 |  |",
    ]
    assert gains.startswith("| ours − the best peer | +25.0 [")
    assert gains.endswith("] |  |")


def test_effects_are_of_one_choice_each_against_the_recipe_of_their_time(quality, tmp_path):
    study, trial = quality.study.Study(tmp_path, tmp_path), quality.study.Trial
    classes = np.repeat(np.arange(4), 5)
    earlier = "model.pooling=gem+avg"
    for method, level in {
        "ours": 0.5,
        f"ours:{earlier}": 0.375,
        f"ours:data.min_crop=0.2,{earlier}": 0.25,  # of both, the one beside the recipe counts
        "ours:data.min_crop=0.2": 0.4375,
        f"ours:optim.lr=0.03,optim.name=sgd,{earlier}": 0.5,
        "ours:data.flip=0,train.batch_size=64": 0.25,  # two choices
        "pml_arcface": 0.125,
    }.items():
        made_up(study, trial("a", "lite0", method, 0.5, 0), np.full(20, level), classes, 9)
    found = json.loads(quality.effects.effects(study, 0.5))
    assert [(each["key"], each["value"]) for each in found] == [
        ("data.min_crop", "0.2"),
        ("model.pooling", "gem+avg"),
        ("optim.name", "sgd"),
    ]
    assert {(each["regime"], each["set"]) for each in found} == {("lite0", "a")}
    assert [each["recall_at_1"][0] for each in found] == [-6.2, -12.5, 12.5]
    assert [each["map_at_r"][0] for each in found] == [-3.1, -6.2, 6.2]
    for each in found:
        value, low, high = each["map_at_r"]
        assert low <= value <= high
    with pytest.raises(quality.study.StudyError, match="no trial of `ours:KEY=VALUE` at a scale"):
        quality.effects.effects(study, 1.0)


def test_effects_in_the_report_are_those_of_the_study_in_the_repository(quality):
    folder = BENCHMARKS / "study"
    shipped = BENCHMARKS.parent / "src/lookalike/planning/study_effects.json"
    assert quality.effects.effects(quality.study.Study(folder, folder), 0.5) == shipped.read_text()


@pytest.mark.parametrize("command", ["overview", "effects"])
def test_a_text_of_the_study_is_all_that_is_printed(quality, monkeypatch, capsys, command):
    folder = BENCHMARKS / "study"
    monkeypatch.setattr(sys, "argv", ["quality.py", command, str(folder), "--scale", "0.5"])
    assert quality.cli.main() == 0
    printed = getattr(quality.results if command == "overview" else quality.effects, command)
    assert capsys.readouterr().out == printed(quality.study.Study(folder, folder), 0.5)


def test_trials_are_missing_until_done_with_the_same_settings(quality, tmp_path, monkeypatch):
    study = quality.study.Study(tmp_path, tmp_path)
    trials = quality.study.in_order(["a"], ["scratch"], ["ours", "pml_arcface"], [0], [1.0])
    assert study.missing(trials) == trials
    classes = np.repeat(np.arange(3), 2)
    for trial in trials:
        made_up(study, trial, np.full(6, 0.5), classes, 1)
    assert study.missing(trials) == []
    settings, tuning = quality.peers.PUBLISHED["pml_arcface"]
    monkeypatch.setitem(
        quality.peers.PUBLISHED, "pml_arcface", (settings.changed({"lr": 0.5}), tuning)
    )
    assert [trial.method for trial in study.missing(trials)] == ["pml_arcface"]
    assert quality.study.Study(tmp_path, tmp_path, max_steps=1).missing(trials) == trials


def test_tuned_settings_are_the_best_of_this_set_on_held_out_classes(quality, tmp_path):
    study, trial = quality.study.Study(tmp_path, tmp_path), quality.study.Trial
    tuned = trial("a", "scratch", "pml_arcface:tuned", 1.0, 0)
    with pytest.raises(quality.study.StudyError, match="has no tuning on a, scratch: run"):
        study.settings(tuned)
    classes = np.repeat(np.arange(3), 2)
    for name, margin, score in (("a", 10, 0.4), ("a", 20, 0.6), ("a", 30, 0.5), ("b", 5, 0.9)):
        one = trial(name, "scratch", f"pml_arcface:margin={margin}", 1.0, 0, held_out=True)
        made_up(study, one, np.full(6, score), classes, 1)
    assert study.settings(tuned) == {"margin": 20}
    assert study.complete_settings(tuned)["options"] == {"margin": 20, "scale": 64}


def test_a_trial_is_claimed_once(quality, tmp_path):
    study = quality.study.Study(tmp_path, tmp_path)
    trial = quality.study.Trial("a", "scratch", "ours", 1.0, 0)
    with study.claim(trial) as mine, study.claim(trial) as also:
        assert (mine, also) == (True, False)
    with study.claim(trial) as mine:
        assert mine


def test_the_plot_is_drawn(quality, tmp_path):
    pytest.importorskip("matplotlib")
    study, trial = quality.study.Study(tmp_path, tmp_path), quality.study.Trial
    classes = np.repeat(np.arange(8), 3)
    values = np.random.default_rng(0).random((3, 24))
    made_up(study, trial("a", "lite0", "ours", 1.0, 0), values[0], classes, 10)
    made_up(study, trial("a", "lite0", "ours", 0.5, 0), values[1], classes, 5)
    made_up(study, trial("a", "lite0", "frozen", 1.0, 0), values[2], classes, 0)
    quality.results.plot(study, tmp_path / "quality.svg")
    drawn = (tmp_path / "quality.svg").read_text()
    assert "<svg" in drawn


@pytest.mark.slow
def test_a_study_runs_stops_and_resumes(quality, shapes, tmp_path, monkeypatch, capsys):
    """Through the command line, each trial in its process."""
    sets = tmp_path / "sets"
    sets.mkdir()
    (sets / "shapes").symlink_to(shapes)
    lists = {"train": "test", "train_fit": "train_dev"}
    for train, test in lists.items():
        for name, source in ((train, "train.txt"), (test, "val.txt")):
            if not (shapes / f"{name}.txt").exists():
                (shapes / f"{name}.txt").write_text((shapes / source).read_text())

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["quality.py", *arguments])
        return quality.cli.main(), capsys.readouterr()

    common = ["--sets", "shapes", "--max-steps", "1"]
    study = str(tmp_path / "study")
    code, said = call("run", study, *common, "--methods", "ours,pml_arcface")
    assert code == 0, said
    assert said.out.startswith("3 of 3 trials to run\n")
    code, said = call("tune", study, *common, "--method", "pml_arcface", "--trials", "2")
    assert code == 0, said
    code, said = call("run", study, *common, "--methods", "ours,pml_arcface,pml_arcface:tuned")
    assert said.out.startswith("1 of 4 trials to run\n")
    code, said = call("table", study)
    assert "| pml_arcface:tuned (2 trials) | " in said.out
    code, said = call("run", study, *common, "--methods", "ours", "--regimes", "lite0")
    assert (code, said.err.count("\n")) == (2, 1)
    assert "tf_efficientnet_lite0.safetensors: not there" in said.err


def test_the_table_of_the_study_in_the_repository(quality, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["quality.py", "table", str(BENCHMARKS / "study")])
    assert quality.cli.main() == 0
    table = capsys.readouterr().out
    for cell in ("cards, scratch", "flags, lite0", "emoji, lite0"):
        assert f"### {cell}" in table
    folder = BENCHMARKS / "study"
    for line in quality.study.Study(folder, folder).lines():
        found = np.load(folder / line["queries"])
        assert float(found["recall_at_1"].mean()) == pytest.approx(line["end"]["recall_at_1"])
