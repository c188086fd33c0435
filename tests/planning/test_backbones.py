"""The list of backbones: facts against timm, bytes against the plan, filters, page and console."""

import importlib.util
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import timm
import torch

import lookalike
from lookalike import cli
from lookalike.errors import LookalikeError
from lookalike.model import BACKBONES, CURRENT_BACKBONES, POOLINGS, timm_name
from lookalike.planning.backbone_facts import (
    EMBEDDING_DIM,
    IMAGE_SIZE,
    known_facts,
    measure_facts,
    timm_facts,
)
from lookalike.planning.backbone_families import FAMILIES, TASKS, commercial_use, family_of

DOCS = Path(__file__).parents[2] / "docs"
LISTED = [name for family in FAMILIES for name in family.members]
FEW = ("mobilenetv4_small",)
SMALLEST = {family.members[0] for family in FAMILIES}


def marks(name: str) -> tuple[pytest.MarkDecorator, ...]:
    """Measuring all takes half an hour of a core, and changes only with torch and timm."""
    if name in FEW:
        return ()
    return (pytest.mark.slow if name in SMALLEST else pytest.mark.release,)


def names(found) -> list[str]:
    return [entry.facts.name for entry in found.entries]


def test_every_name_is_listed_once_with_facts():
    assert len(LISTED) == len(set(LISTED))
    assert set(LISTED) >= {*BACKBONES, *CURRENT_BACKBONES}
    assert list(known_facts()) == LISTED
    for family in FAMILIES:
        assert family.pooling in POOLINGS
        assert family.tasks.keys() <= set(TASKS)
        for claim in family.tasks.values():
            assert claim.source
            assert claim.text
            assert claim.rank > 0
    assert family_of("test_resnet") is None


@pytest.mark.parametrize("name", LISTED)
def test_the_facts_are_those_of_timm(name):
    facts = asdict(known_facts()[name])
    assert {key: facts[key] for key in timm_facts(name)} == timm_facts(name)
    weights = timm.models.get_pretrained_cfg(timm_name(name))
    assert (facts["licence"], facts["hub"]) == (weights.license, weights.hf_hub_id)
    assert facts["timm"].partition(".")[::2] == (weights.architecture, weights.tag)
    assert commercial_use(facts["licence"]) != "unknown"
    if facts["patch"] is not None and facts["patch"] >= 8:
        assert facts["native"][0] % facts["patch"] == 0


@pytest.mark.parametrize("name", [pytest.param(n, marks=marks(n)) for n in LISTED])
def test_the_measured_facts_can_be_measured_again(name):
    known = known_facts()[name]
    again, before = asdict(measure_facts(name, IMAGE_SIZE)), asdict(known)
    for now, then in zip(again.pop("profiles"), before.pop("profiles"), strict=True):
        assert now.pop("norm_channels") == then.pop("norm_channels")
        assert now.pop("blocks")  # the table has no use for them, and holds none
        assert not then.pop("blocks")
        assert now == pytest.approx(then, rel=0.02)  # torch versions keep other tensors
    assert again == before
    with torch.device("meta"):
        try:
            model = timm.create_model(timm_name(name), num_classes=0, img_size=IMAGE_SIZE)
        except TypeError:  # of any size
            model = timm.create_model(timm_name(name), num_classes=0)
    # Without the attention pool, which only model.pooling=map keeps.
    count = sum(p.numel() for key, p in model.named_parameters() if "attn_pool" not in key)
    assert known.parameters == count


def test_a_step_has_three_times_the_operations_of_a_forward_pass():
    """Two a multiply-accumulate; attention has its first product again in the backward pass."""
    for name, facts in known_facts().items():
        for images in (2, 64):
            each = facts.profile(images).flops / images / (2 * facts.macs)
            assert 2.9 < each < 3.13, name
        if facts.patch is None:  # depthwise convolutions among them
            assert each < 3.03, name


def test_bytes_are_those_of_the_plan():
    entry = lookalike.backbones("resnet18", batch_size=48, classes=7000, image_size=96).entries[0]
    plan = lookalike.plan(
        classes=7000, gpu="h100", backbone="resnet18", image_size=96, batch_size=48,
        embedding_dim=EMBEDDING_DIM, optim__name="adamw", classification_weight=0,
        pretrained=False, recipe="component",
    )  # fmt: skip
    assert entry.training_bytes == pytest.approx(plan.memory.peak, rel=0.01)
    profile = entry.facts.profile(48)
    assert profile.activations == pytest.approx(plan.network.activations, rel=0.01)
    assert profile.flops == pytest.approx(plan.network.flops, rel=1e-6)
    # 2 operations a multiply-accumulate, backward twice forward but for the first layer.
    assert entry.facts.macs * 48 * 6 == pytest.approx(profile.flops, rel=0.05)


def test_filters_and_order():
    everything = lookalike.backbones()
    assert names(everything) == LISTED
    assert not everything.omitted
    for task in TASKS:
        found = lookalike.backbones(task=task)
        ranks = [entry.tasks[task].rank for entry in found.entries]
        assert ranks == sorted(ranks)
        assert ranks[0] == 1
        assert len(found.entries) + len(found.omitted) == len(LISTED)
    assert names(lookalike.backbones(task="products"))[0].startswith("siglip2")
    assert {"siglip2_base", "dinov2_base", "dinov3_base"} <= {
        *names(lookalike.backbones(task="general"))
    }
    small = lookalike.backbones(size="small")
    assert all(10e6 <= entry.facts.parameters < 40e6 for entry in small.entries)
    free = lookalike.backbones(licence="open")
    assert {entry.facts.licence for entry in free.entries} <= {"apache-2.0", "mit", "bsd-3-clause"}
    allowed = lookalike.backbones(licence="commercial")
    assert set(names(allowed)) - set(names(free)) == {
        name for name in LISTED if name.startswith("dinov3")
    }
    fitting = lookalike.backbones(memory="4GB", batch_size=32)
    assert 0 < len(fitting.entries) < len(LISTED)
    assert all(entry.training_bytes <= 4e9 for entry in fitting.entries)
    more = {entry.facts.name: entry.training_bytes for entry in everything.entries}
    assert all(more[entry.facts.name] > entry.training_bytes for entry in fitting.entries)
    assert set(fitting.omitted.values()) == {"memory"}


def test_speed_on_an_accelerator_and_its_memory():
    found = lookalike.backbones(gpu="t4")
    speeds = {entry.facts.name: entry.images_per_second for entry in found.entries}
    assert speeds["mobilenetv4_small"] > speeds["resnet50"] > speeds["dinov2_base"]
    assert found.limit == 16e9
    assert all(entry.training_bytes <= 16e9 for entry in found.entries)


def test_other_models_are_measured_and_may_lack_weights():
    asked = ["test_resnet", "convnext_atto_rms", "test_resn*"]
    found = lookalike.backbones(asked, image_size=64, pretrained_only=True)
    assert names(found) == ["test_resnet"]
    assert found.entries[0].facts.image_size == 64
    assert not found.entries[0].tasks
    assert found.omitted == {"convnext_atto_rms": "pretrained"}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"task": "cars"}, "--task cars: takes products, faces, animals, general"),
        ({"size": "huge"}, "--size huge: takes tiny, small, base, large"),
        ({"licence": "gpl"}, "--licence gpl: takes commercial, open"),
        ({"memory": "much"}, "--memory much: not a size"),
        ({"batch_size": 0}, "--batch-size 0: not a number above 0"),
        ({"image_size": 3}, "--image-size 3: takes the side"),
        ({"gpu": "abacus"}, "abacus"),
        ({"names": "resnet5O"}, "close names: .*resnet50"),
        ({"names": "nothing*"}, "matches no backbone"),
        ({"names": "*"}, "give a narrower pattern"),
        ({"names": "hf-hub:timm/resnet18"}, "give a name of timm"),
    ],
)
def test_a_wrong_request_is_one_line(asked, words):
    with pytest.raises(LookalikeError, match=words) as caught:
        lookalike.backbones(**asked)
    assert "\n" not in str(caught.value)


def call(monkeypatch, capsys, *arguments: str) -> str:
    monkeypatch.setattr("sys.argv", ["lookalike", "backbones", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    return capsys.readouterr().out


def test_the_console_shows_the_table_the_evidence_and_what_was_left_out(monkeypatch, capsys):
    out = call(monkeypatch, capsys, "--task", "products", "--memory", "8GB")
    assert out.index("siglip2_base") < out.index("resnet50")
    assert "SigLIP 2: B/16 at 384 px 46.1" in out
    assert "[LookBench README" in out
    assert "left out: " in out
    assert "by task" in out
    out = call(monkeypatch, capsys, "--memory", "1kB")
    assert "none: relax a filter" in out


def test_json_is_one_object(monkeypatch, capsys):
    found = json.loads(call(monkeypatch, capsys, "--size", "tiny", "--json"))
    lines = {line["name"]: line for line in found["backbones"]}
    pe = lines["pe_tiny"]
    assert pe["mean"] == [0.5, 0.5, 0.5]
    assert pe["pooling"] == "map"
    assert pe["patch"] == 16
    assert pe["training_bytes"] > 10**9
    assert found["image_size"] == IMAGE_SIZE


def test_the_tables_of_the_page_are_what_the_script_makes():
    spec = importlib.util.spec_from_file_location("make_backbones", DOCS / "make_backbones.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert (DOCS / "backbones.md").read_text("utf-8") == script.page()
