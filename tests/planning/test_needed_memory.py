"""Lines about the memory of a run before it starts, and the update that is chosen by it."""

import numpy as np
import pytest
import yaml

import lookalike
from lookalike.commands.plan import plan_memory
from lookalike.commands.summary import log_needed_memory
from lookalike.config.config import Config
from lookalike.distributed.world import World
from lookalike.training import resolve as resolve_module
from lookalike.training.build import create_embedder
from lookalike.training.build_heads import metric_loss
from lookalike.training.resolve import FUSED_FROM, gradient_bytes, resolve

SMALL = {
    "model.backbone": "test_resnet", "model.image_size": 32, "model.embedding_dim": 512,
    "model.pretrained": False, "train.batch_size": 8,
}  # fmt: skip
MILLION = 1_000_000


def resolved(classes: int, **changes):
    asked = Config().with_values(SMALL | {k.replace("__", "."): v for k, v in changes.items()})
    margin = metric_loss(asked)
    embedder = create_embedder(asked, margin)
    return asked, resolve(asked, margin, embedder, World(), classes), embedder


@pytest.mark.parametrize(
    ("classes", "changes", "fused"),
    [
        (MILLION, {}, True),
        (MILLION, {"loss__classification_weight": 0}, True),
        (MILLION // 4, {}, False),
        (MILLION // 4, {"head__centres": 3}, True),
        (MILLION, {"head__fused_update": False}, False),
        (10, {"head__fused_update": True}, True),
        (10, {"head__dtype": "bf16"}, True),
        (10, {}, False),
    ],
)
def test_the_update_follows_from_request_and_classes(classes, changes, fused):
    _, config, _ = resolved(classes, **changes)
    assert config.head.fused_update is fused
    sharded = config.with_values({"head.parallel": "model"})  # nor does it from the workers
    assert gradient_bytes(sharded, classes, 1.0) == gradient_bytes(config, classes, 1.0)


def test_gradients_that_are_counted_are_those_of_the_heads():
    _, config, _ = resolved(1000, loss__nested_dims=[32, 64], head__centres=2)
    assert gradient_bytes(config, 1000, 1.0) == 4 * 1000 * (2 * (512 + 32 + 64) + 512)
    assert gradient_bytes(config, 1000, 0.0) == 4 * 1000 * 2 * (512 + 32 + 64)
    assert 4 * MILLION * 512 >= FUSED_FROM


def test_the_memory_of_a_million_classes_is_logged_with_cheaper_settings(caplog, monkeypatch):
    monkeypatch.setattr("lookalike.commands.plan.resident", lambda: 500 * 10**6)
    caplog.set_level("INFO", "lookalike")  # threads of SDKs log too
    asked, config, embedder = resolved(MILLION)
    need = plan_memory(config, embedder, MILLION, World(), limit=7 * 10**9)
    assert need.memory.head_gradients == 0
    heads = 2 * MILLION * 512 * 4
    assert np.isclose(need.memory.head_weights + need.memory.head_optimizer, 2 * heads, rtol=0.01)
    log_needed_memory(need, config, asked)
    first, second = caplog.records
    assert "updated in the backward pass, since their gradients would take 2 GB" in first.message
    assert second.levelname == "WARNING"
    assert "of the 7 GB that a worker has (class weights 8.19 GB" in second.message
    assert "head.dtype=bf16 (" in second.message
    assert "head.parallel=model" not in second.message  # it fits before that


def test_little_memory_is_not_logged(caplog):
    caplog.set_level("INFO", "lookalike")  # threads of SDKs log too
    asked, config, embedder = resolved(1000)
    assert plan_memory(config, embedder, 1000, World(), limit=80 * 10**9) is None
    log_needed_memory(None, config, asked)
    assert not caplog.records
    need = plan_memory(config, embedder, 1000, World(), limit=1)  # which all exceed
    log_needed_memory(need, config, asked)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_micro_batches_need_less():
    _, config, embedder = resolved(1000, train__accumulate=4)
    need = plan_memory(config, embedder, 1000, World(), limit=1)
    _, config, embedder = resolved(1000)
    whole = plan_memory(config, embedder, 1000, World(), limit=1)
    assert whole.memory.activations > 3 * need.memory.activations


def test_training_logs_its_memory_first_and_records_the_update(shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(resolve_module, "FUSED_FROM", 8 * 4 * 8)
    monkeypatch.setattr("lookalike.commands.plan.installed", lambda: 200_000_000)
    run = lookalike.train(
        train=str(shapes / "train.txt"), output=str(tmp_path / "run"), backbone="test_resnet",
        pretrained=False, image_size=32, embedding_dim=8, batch_size=8, max_steps=1, device="cpu",
    )  # fmt: skip
    assert yaml.safe_load(run.resolved.read_text())["head"]["fused_update"] is True
    assert "fused_update" not in run.config.read_text()
    lines = run.log.read_text()
    assert lines.index("that a worker has") < lines.index("classes x 8")
