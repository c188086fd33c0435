"""Choices of the recipe."""

import logging
from dataclasses import dataclass

import numpy as np
import pytest

from lookalike.commands.summary import log_choices
from lookalike.config.config import CHOSEN_BY_RECIPE, Config
from lookalike.errors import ConfigError
from lookalike.planning.choice import with_choices
from lookalike.planning.choices_by_length import choose_by_length
from lookalike.planning.choices_by_start import (
    choose_by_start,
    part_to_hold_out,
    poolings_to_measure,
)
from lookalike.planning.facts import Facts, network_facts
from lookalike.planning.image_sample import SampleFacts
from lookalike.planning.recipe import choose, choose_by_file
from lookalike.training.build import check_settings

SAMPLE = SampleFacts(
    images=300, side=72, queries=300, recall=0.5, mirrored_recall=0.1, mirrors_differ=True,
)  # fmt: skip


def facts(**changes):
    values = {
        "images": 5000, "classes": 800, "pretrained": True, "convolutional": True,
        "class_token": False, "has_validation": False, "workers": 1,
        "sample": SAMPLE,
    }  # fmt: skip
    values |= changes
    return Facts(**{"several": values["classes"], **values})


def chosen(config=None, **changes):
    return {each.key: each.value for each in choose(config or Config(), facts(**changes))}


def test_every_choice_is_a_valid_setting_with_a_reason():
    for changes in (
        {}, {"pretrained": False}, {"convolutional": False, "earlier": Config()},
        {"classes": 10**6, "images": 10**7, "workers": 4},
        {"classes": 10**6, "images": 10**7, "convolutional": False, "attention_pool": True},
    ):  # fmt: skip
        choices = choose(Config(), facts(**changes))
        config = with_choices(Config(), choices)
        assert len({each.key for each in choices}) == len(choices)
        for choice in choices:
            assert config.get(choice.key) == choice.value
            assert len(choice.reason) > 20
            assert len(choice.short_reason) <= 46, choice.short_reason
            assert not choice.reason.endswith(".")


@pytest.mark.parametrize(
    ("asked", "unit", "least"),
    [
        (["data.sampler=pk", "data.images_per_class=5"], 5, 5),
        (["data.sampler=pk"], 4, 4),
        (["data.repeats=3"], 3, 3),
        (["loss.name=supcon", "data.images_per_class=16"], 16, 32),
        (["loss.name=supcon", "data.repeats=4"], 16, 32),
        (["loss.name=multi_similarity", "data.images_per_class=48"], 48, 96),
    ],
)
def test_the_batch_fits_the_sampler(asked, unit, least):
    config = Config.load(overrides=asked)
    check_settings(config)  # before there is a batch
    batch = chosen(config, pretrained=False, images=48, classes=8)["train.batch_size"]
    assert batch % unit == 0
    assert batch >= least


def test_choices_contradict_no_request():
    nested = Config.load(overrides=["loss.nested_dims=[64,1024]"])
    assert "model.embedding_dim" not in chosen(nested)
    assert "model.embedding_dim" in chosen(Config.load(overrides=["loss.nested_dims=[64]"]))
    only_branch = Config.load(overrides=["loss.weight=0"])
    assert "loss.classification_weight" not in chosen(only_branch)
    whole = Config.load(overrides=["data.val_fraction=0"])
    several = {"classes": 300, "several": 300, "images": 3000, "has_validation": False}
    assert "train.interpolate" in chosen(**several)
    assert "train.interpolate" not in chosen(whole, **several)


def test_choices_fill_a_line_of_a_terminal_each(caplog):
    with caplog.at_level(logging.INFO, "lookalike"):
        log_choices(choose(Config(), facts()))
    lines = caplog.messages[1:]
    assert "  optim.name=adamw" in " ".join(lines)
    assert max(map(len, lines)) < 80
    assert (
        len(
            {
                line.find(choice.short_reason)
                for line, choice in zip(lines, choose(Config(), facts()), strict=True)
            }
        )
        == 1
    )  # in one column


def test_what_the_user_set_stays():
    given = Config.load(overrides=["optim.lr=0.5", "model.embedding_dim=64", "data.flip=0.3"])
    found = with_choices(given, choose(given, facts()))
    assert (found.optim.lr, found.model.embedding_dim, found.data.flip) == (0.5, 64, 0.3)
    assert "loss.scale" in chosen(given)


def test_the_component_recipe_keeps_the_defaults_of_the_table():
    assert choose(Config.load(overrides=["recipe=component"]), facts()) == []


def test_a_file_is_a_recipe(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("optim: {lr: 0.25}\nloss: {scale: 12, margin: 0.2}\n")
    given = Config.load(overrides=[f"recipe={file}", "loss.margin=0.3"])
    found = {each.key: each.value for each in choose_by_file(given)}
    assert found == {"loss.scale": 12.0, "optim.lr": 0.25}
    assert chosen(given) == {}
    file.write_text("recipe: component\n")
    with pytest.raises(ConfigError, match="does not name another"):
        choose_by_file(given)
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        choose_by_file(Config.load(overrides=["recipe=none.yaml"]))


def test_a_length_that_is_requested_replaces_that_of_the_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("train: {time_budget: 30m}\n")
    assert choose_by_file(Config.load(overrides=[f"recipe={file}", "train.epochs=3"])) == []


def test_recipe_beside_the_sections_of_a_file(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("recipe: component\ntrain: {epochs: 3}\n")
    config = Config.load(file)
    assert (config.train.recipe, config.train.epochs) == ("component", 3)
    file.write_text("recipe: component\ntrain: {recipe: auto}\n")
    with pytest.raises(ConfigError, match="the same setting"):
        Config.load(file)


def test_classes_are_held_out_only_to_guard_a_pretrained_start():
    assert chosen()["data.val_fraction"] == pytest.approx(40 / 800)
    assert "data.val_fraction" not in chosen(pretrained=False)
    assert "data.val_fraction" not in chosen(has_validation=True)
    assert chosen(classes=300)["data.val_fraction"] == pytest.approx(20 / 300, abs=1e-4)
    assert "data.val_fraction" not in chosen(classes=99)
    # Lone images are no queries.
    assert not {"data.val_fraction", "train.interpolate"} & chosen(several=90).keys()
    assert chosen(has_validation=True, several=0)["train.interpolate"]


def test_published_scales_stay_for_very_many_classes():
    assert "loss.scale" in chosen(classes=11_000)
    assert not {"loss.scale", "loss.margin"} & chosen(classes=10**6, images=10**7).keys()


def test_the_loss_is_chosen_where_nothing_of_it_is_requested():
    assert chosen()["loss.name"] == "arcface"
    assert chosen()["loss.margin"] == 17
    for request in ("loss.margin=0.3", "loss.scale=30", "loss.name=amsoftmax"):
        found = chosen(Config.load(overrides=[request]))
        assert "loss.name" not in found  # the margin is in the unit of the default
        assert found.get("loss.margin", 0.2) == 0.2
    assert "loss.name" not in chosen(classes=10**6, images=10**7)


def test_the_batch_suits_workers_and_sampler():
    assert chosen(workers=8)["train.batch_size"] == 64
    given = Config.load(overrides=["data.sampler=pk", "data.images_per_class=12"])
    assert chosen(given)["train.batch_size"] == 36


def test_the_image_size_follows_the_images():
    assert chosen(pretrained=False)["model.image_size"] == 96
    assert chosen()["model.image_size"] == 160  # nearer to what pretraining saw
    large = SampleFacts(300, 1200, 0, 0.0, 0.0, mirrors_differ=False)
    assert chosen(sample=large)["model.image_size"] == 224
    assert "data.flip" not in chosen(sample=large)
    assert "model.image_size" not in chosen(convolutional=False)


def test_crops_are_large():
    for changes in ({}, {"sample": None}, {"pretrained": False}):
        assert chosen(**changes)["data.min_crop"] == 0.75


def test_random_weights_take_quarters():
    assert chosen(quarters=True, pretrained=False)["model.pooling"] == "gem+quarters"
    assert "model.pooling" not in chosen(quarters=False, pretrained=False)
    assert "model.pooling" not in chosen(quarters=True)  # by the start
    assert chosen(quarters=True, convolutional=False)["model.pooling"] == "avg"
    asked = Config.load(overrides=["model.pooling=gem"])
    assert "model.pooling" not in chosen(asked, quarters=True, pretrained=False)
    stride = Config.load(overrides=["model.quarters_stride=8"])
    assert chosen(stride, quarters=True)["model.pooling"] == "gem+quarters"


@dataclass
class Start:
    """Retrieval before training."""

    recall_at_1: float
    map_at_r: float = 0.1
    num_queries: int = 100

    @property
    def recall(self):
        return {1: self.recall_at_1}


def by_start(config, starts, held_out=None):
    return {each.key: each.value for each in choose_by_start(config, starts, held_out)}


def request(*overrides):
    return Config.load(
        overrides=[
            "model.backbone=resnet18", "model.init_from_features=true", "optim.name=adamw",
            *overrides,
        ]
    )  # fmt: skip


def test_quarters_are_chosen_unless_they_retrieve_worse_before_training():
    whole = Start(0.6, 0.4)
    for quarters, expected in (
        (Start(0.7, 0.5), "gem+quarters"), (Start(0.58, 0.37), "gem+quarters"),
        (Start(0.5, 0.3), "gem+avg"), (Start(0.62, 0.2), "gem+avg"),
    ):  # fmt: skip
        found = by_start(request(), {"gem+quarters": quarters, "gem+avg": whole})
        assert found["model.pooling"] == expected
    unmeasured = {"gem+quarters": None, "gem+avg": None}
    assert by_start(request(), unmeasured)["model.pooling"] == "gem+avg"


def test_the_rate_of_the_backbone_follows_the_pooling_that_is_chosen():
    starts = {"gem+quarters": Start(0.5), "gem+avg": Start(0.9)}
    found = by_start(request(), starts)
    assert found == {"model.pooling": "gem+avg", "optim.backbone_lr_factor": 0.1}


def catalog_of(sizes):
    """What the recipe reads of a catalog with so many images in each class."""
    ids = np.repeat(np.arange(len(sizes)), sizes)
    return SizedCatalog(ids, list(map(str, range(len(sizes)))))


@dataclass
class SizedCatalog:
    class_ids: np.ndarray
    classes: list

    def __len__(self):
        return len(self.class_ids)


def test_classes_of_short_lists_are_held_out_where_the_start_is_good():
    for classes, images, held in (
        (60, 5, 12), (60, 20, 6), (41, 54, 4), (26, 35, 3), (15, 5, 3), (99, 5, 19),
    ):  # fmt: skip
        part = part_to_hold_out(request(), catalog_of([images] * classes), None)
        assert round(part * classes) == held
    short = catalog_of([5] * 40)
    few = catalog_of([5] * 14)
    assert part_to_hold_out(request(), few, None) == 0
    assert part_to_hold_out(request(), catalog_of([5] * 7 + [1] * 8), None) is None
    assert part_to_hold_out(request(), catalog_of([5] * 100), None) is None  # by the facts
    assert part_to_hold_out(request(), catalog_of([5] * 19 + [1] * 21), None) is None
    assert part_to_hold_out(request(), short, short) is None
    for given in (
        "data.val_fraction=0", "train.interpolate=false", "train.recipe=component", "data.val=v.txt"
    ):  # fmt: skip
        assert part_to_hold_out(request(given), short, None) is None
        assert part_to_hold_out(request(given), few, None) is None
    for given in ("data.val=null", "train.interpolate=true"):
        assert part_to_hold_out(request(given), short, None) is not None
    for given in ("train.interpolate=true", "train.interpolate=0.5"):
        assert part_to_hold_out(request(given), few, None) is None
    assert part_to_hold_out(request("train.interpolate=0.5"), short, None) is None
    file = "train.recipe=ours.yaml"
    assert part_to_hold_out(request(file), short, None) is None
    file_that_guards = request(file, "train.interpolate=true")
    assert part_to_hold_out(file_that_guards, short, None) == 0.2
    assert part_to_hold_out(file_that_guards, few, None) == 0
    assert part_to_hold_out(file_that_guards, catalog_of([5] * 400), None) == 0.05
    adamw = request("model.pooling=gem+avg")
    good = by_start(adamw, {"gem+avg": Start(0.8)}, 0.1)
    assert (good["data.val_fraction"], good["train.interpolate"]) == (0.1, True)
    assert "data.val_fraction" not in by_start(adamw, {"gem+avg": Start(0.5)}, 0.1)
    assert by_start(adamw, {"gem+avg": Start(0.9)}, 0.0)["train.interpolate"] == 0.25
    assert "data.val_fraction" not in by_start(adamw, {"gem+avg": Start(0.9)}, 0.0)
    assert "train.interpolate" not in by_start(adamw, {"gem+avg": Start(0.8)}, 0.0)


@pytest.mark.parametrize(
    ("overrides", "measured"),
    [
        ([], ("gem+quarters", "gem+avg")),
        (["model.pooling=gem"], ("gem",)),
        (["train.recipe=component"], ("gem+avg",)),
        (["model.backbone=vit_tiny"], ("gem+avg",)),
        (["train.start_from=runs/old"], ("gem+avg",)),
    ],
)
def test_poolings_are_measured_where_the_choice_is_open(overrides, measured):
    assert poolings_to_measure(request(*overrides)) == measured


@pytest.mark.parametrize(
    ("classes", "held"), [(100, 20), (534, 27), (5000, 200), (3 * 10**6, 200), (3 * 10**7, 200)]
)
def test_a_twentieth_of_many_classes_is_held_out(classes, held):
    found = chosen(classes=classes, images=10 * classes, several=classes)
    assert round(classes * found["data.val_fraction"]) == held


def test_transformers_are_not_pooled_by_gem():
    assert "model.pooling" not in chosen()
    assert chosen(convolutional=False)["model.pooling"] == "avg"
    assert chosen(convolutional=False, class_token=True)["model.pooling"] == "cls+avg"
    assert chosen(convolutional=False, attention_pool=True)["model.pooling"] == "map"


@pytest.mark.parametrize(
    ("backbone", "pool"), [("vit_tiny", False), ("vit_base_patch16_siglip_224", True)]
)
def test_an_attention_pool_is_found(backbone, pool):
    config = Config.load(overrides=[f"model.backbone={backbone}", "model.pretrained=false"])
    found = network_facts(config, images=10, classes=2, has_validation=True, workers=1)
    assert found.attention_pool is pool


def test_large_heads_are_narrowed_and_shared():
    million = chosen(classes=10**6, images=10**7)
    assert million["head.dtype"] == "bf16"
    assert million["loss.classification_weight"] == 0
    assert "head.parallel" not in million
    shared = chosen(classes=10**6, images=10**7, workers=8)
    assert shared["head.parallel"] == "model"
    assert "head.dtype" not in shared
    assert "head.dtype" not in chosen()


def test_more_images_take_fewer_epochs_and_larger_batches():
    sizes = (1000, 10_000, 100_000, 10_000_000)
    for pretrained in (True, False):
        epochs = [chosen(images=n, pretrained=pretrained)["train.epochs"] for n in sizes]
        assert epochs == sorted(epochs, reverse=True)
    runs = [chosen(images=n, cuda=True) for n in sizes]
    assert [run["train.batch_size"] for run in runs] == [32, 64, 256, 256]
    assert chosen(images=10_000_000)["train.batch_size"] == 64


def test_small_lists_take_small_batches_from_random_weights():
    sizes = (300, 3000, 3300, 6500)
    begun = [chosen(images=n, pretrained=False)["train.batch_size"] for n in sizes]
    assert begun == [16, 16, 32, 64]
    assert [chosen(images=n)["train.batch_size"] for n in sizes] == [32, 32, 32, 64]


def test_pretrained_networks_take_few_epochs_and_enough_steps():
    assert chosen(images=1000)["train.epochs"] == 5
    few = chosen(images=400)
    assert few["train.epochs"] * 400 / few["train.batch_size"] >= 128


def test_plain_sgd_keeps_its_own_rate():
    given = Config.load(overrides=["optim.name=sgd"])
    assert not {key for key in chosen(given) if key.startswith("optim.")}


def test_the_backbone_learns_faster_the_worse_its_start():
    def rate(config, start=None):
        starts = {} if start is None else {"gem+avg": Start(start)}
        return by_start(config, starts).get("optim.backbone_lr_factor")

    adamw = request("model.pooling=gem+avg")
    rates = [rate(adamw, recall) for recall in (0.95, 0.7, 0.3)]
    assert rates == sorted(rates)
    assert rates[0] < rates[2]
    assert rates[0] < rate(adamw) < rates[2]
    assert rate(adamw.with_values({"model.pretrained": False})) is None
    assert rate(adamw.with_values({"optim.backbone_lr_factor": 0.5}), 0.3) is None
    assert rate(adamw.with_values({"optim.name": "sgd"}), 0.3) is None


def test_facts_of_the_network_come_without_its_weights():
    found = network_facts(
        Config.load(overrides=["model.backbone=vit_tiny", "model.pretrained=false"]),
        images=10, classes=2, has_validation=True, workers=1,
    )  # fmt: skip
    assert (found.convolutional, found.class_token, found.pretrained) == (False, True, False)
    found = network_facts(
        Config.load(overrides=["model.backbone=resnet18"]),
        images=10, classes=2, has_validation=True, workers=1,
    )  # fmt: skip
    assert (found.convolutional, found.class_token) == (True, False)


def test_a_rate_of_sgd_alone_keeps_sgd():
    given = Config.load(overrides=["optim.lr=0.03"])
    assert {k: v for k, v in chosen(given).items() if k.startswith("optim.")} == {
        "optim.name": "sgd"
    }
    assert chosen(Config.load(overrides=["optim.lr=0.002"]))["optim.name"] == "adamw"


def test_a_run_that_starts_from_another_takes_its_network():
    earlier = Config.load(overrides=["model.embedding_dim=64", "loss.classification_weight=0.5"])
    given = Config.load(overrides=["train.start_from=runs/old"])
    found = chosen(given, earlier=earlier)
    assert found["model.embedding_dim"] == 64
    assert found["loss.classification_weight"] == 0.5
    assert "model.init_from_features" not in found
    assert network_facts(
        Config.load(overrides=["train.start_from=runs/old", "model.pretrained=false"]),
        images=10, classes=2, has_validation=True, workers=1,
    ).pretrained  # fmt: skip


def test_a_time_budget_leaves_the_length_open():
    assert "train.epochs" in chosen()
    assert "train.epochs" not in chosen(Config.load(None, ["train.time_budget=30m"]))


def test_an_unknown_recipe_is_refused_with_the_choices():
    with pytest.raises(ConfigError, match=r"train\.recipe='best' is neither auto nor component"):
        Config.load(overrides=["recipe=best"])


def test_the_settings_that_help_and_docs_call_chosen_are_those_of_the_recipe():
    """Each is chosen in one of these cases, and none else is, but those of an earlier run."""
    cases = (
        {}, {"pretrained": False}, {"convolutional": False},
        {"classes": 10**6, "images": 10**7, "workers": 4},
        {"classes": 3 * 10**7, "images": 10**8, "workers": 4},
    )  # fmt: skip
    found = {key for changes in cases for key in chosen(**changes)}
    found |= set(by_start(request("model.pooling=gem+avg"), {}))
    found |= {choice.key for choice in choose_by_length(request(), set(), 0.5)}
    assert found == CHOSEN_BY_RECIPE
