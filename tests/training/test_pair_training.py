"""Runs with losses that compare the images of a batch: sampler, memory, resume, what is refused."""

import logging

import pytest
import torch
from engine_process import curve, records
from safetensors.torch import load_file

import lookalike
from lookalike.config.config import Config
from lookalike.data.loading.batch import Batch
from lookalike.distributed.world import World
from lookalike.errors import ConfigError, RunError
from lookalike.losses import PAIR_LOSSES, create_loss
from lookalike.losses.pairs.batch_comparison import BatchComparison
from lookalike.losses.pairs.proxy_weights import ProxyWeights
from lookalike.model.embedder import Embedder
from lookalike.model.training_network import TrainingNetwork
from lookalike.training.build_heads import metric_loss
from lookalike.training.checkpoint import Trained
from lookalike.training.loss_scaler import LossScaler
from lookalike.training.request_lists import open_catalogs
from lookalike.training.resolve import resolve_head
from lookalike.training.sampler_choice import resolve_sampler
from lookalike.training.step import TrainStep

CLASSES, BATCH, DIM = 5, 12, 8
SMALL = {
    "backbone": "test_resnet", "pretrained": False, "image_size": 32, "embedding_dim": 16,
    "batch_size": 8, "log_every": 1, "threads": 0, "device": "cpu", "report": False,
    "recipe": "component",
}  # fmt: skip


def step_of(name, accumulate=1, precision=torch.float32):
    """A step on two losses, of the whole embedding and of its first half, with a memory."""
    torch.manual_seed(0)
    embedder = Embedder.create("test_vit", pretrained=False, image_size=32, embedding_dim=DIM)
    network = TrainingNetwork(embedder, None)
    heads, comparisons = {}, {}
    for part, dim in (("metric", DIM), ("metric_4", 4)):
        if name == "proxy_anchor":
            heads[part] = ProxyWeights(dim, CLASSES, create_loss(name))
        else:
            comparisons[part] = BatchComparison(dim, create_loss(name), memory=20)
    if precision == torch.float32:
        network.double()
        for each in (*heads.values(), *comparisons.values()):
            each.double()
    weights = [*network.parameters(), *(head.weight for head in heads.values())]
    trained = Trained(
        network, heads, torch.optim.SGD(weights, lr=0.01),
        LossScaler(enabled=precision == torch.float16), None, comparisons,
    )  # fmt: skip
    step = TrainStep(
        trained, loss_weights={"metric": 0.5, "metric_4": 0.5}, world=World(), seed=0,
        accumulate=accumulate, precision=precision,
    )  # fmt: skip
    step.prepare(frozen=False)
    return step


def do(step, number):
    generator = torch.Generator().manual_seed(number)
    images = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8, generator=generator)
    classes = torch.arange(BATCH) % CLASSES
    return step(Batch(images, classes, torch.arange(BATCH)), number)


def state(step):
    trained = step.trained
    found = dict(trained.network.state_dict())
    for name, loss in trained.losses.items():
        found |= {f"{name} {key}": value for key, value in loss.state_dict().items()}
    return {key: value.clone() for key, value in found.items()}


@pytest.mark.parametrize("name", ["proxy_anchor", *PAIR_LOSSES])
def test_micro_batches_give_the_step_of_the_whole_batch(name):
    whole, parts = step_of(name), step_of(name, accumulate=3)
    for number in range(3):
        one, other = do(whole, number), do(parts, number)
        assert one.finite
        assert other.losses == pytest.approx(one.losses, rel=1e-9)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-6)
    for key, value in state(whole).items():
        torch.testing.assert_close(state(parts)[key], value, rtol=1e-6, atol=1e-9)
    assert set(one.losses) == {"loss", "metric_loss", "metric_4_loss"}


def test_a_skipped_step_leaves_the_memory_as_it_was():
    step, peer = step_of("multi_similarity"), step_of("multi_similarity")
    for each in (step, peer):
        assert do(each, 0).finite
    before = state(step)
    backbone = step.network.embedder.backbone
    hook = backbone.register_forward_hook(lambda m, i, out: (out[0] * torch.inf, out[1]))
    assert not do(step, 1).finite
    hook.remove()
    assert all(torch.equal(value, before[key]) for key, value in state(step).items())
    assert do(step, 2).losses == do(peer, 2).losses


@pytest.mark.parametrize("name", ["proxy_anchor", "supcon", "smooth_ap"])
def test_float16_overflow_changes_nothing_and_a_lower_scale_trains(name):
    step = step_of(name, precision=torch.float16)
    step.trained.scaler.scale = 2.0**100
    before = state(step)
    assert not do(step, 0).finite
    assert all(torch.equal(value, before[key]) for key, value in state(step).items())
    step.trained.scaler.scale = 2.0**8
    assert do(step, 0).finite


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "multi_similarity", "loss__memory": 20, "nested_dims": [4], "ema": 0.9},
        {"loss": "proxy_anchor", "head__parallel": "model", "nested_dims": [4]},
        {"loss": "supcon", "classification_weight": 0.5, "accumulate": 2},
    ],
    ids=["memory", "proxies", "branch"],
)
def test_training_resumes_to_the_same_curve(shapes, tmp_path, settings):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    common = {"train": str(shapes / "train.txt"), "val": str(shapes / "train.txt"), **SMALL}
    common |= {"checkpoint_every_steps": 2, "schedule": "constant", **settings}
    for output, steps in ((whole, 5), (parts, 3), (parts, 5)):
        lookalike.train(**common, output=str(output), max_steps=steps, resume=steps == 5)
    assert curve(parts)[-1] == curve(whole)[-1]  # the run of 3 steps is measured at its end too
    steps = [[r for r in curve(run) if "lr" in dict(r)] for run in (whole, parts)]
    assert steps[0] == steps[1]
    # The nearest class is that of class weights on the embedding; other losses have none.
    last = records(whole)[-1]
    assert ("accuracy" in last) == (settings["loss"] == "proxy_anchor")
    sampler = Config.load(whole, content=(whole / "resolved.yaml").read_bytes()).data.sampler
    assert sampler == ("shuffle" if settings["loss"] == "proxy_anchor" else "pk")
    memory = whole / "checkpoints/step-00000005/memory-metric.safetensors"
    assert memory.exists() == ("loss__memory" in settings)
    if memory.exists():
        assert load_file(memory)["stored"].item() == 40
        with pytest.raises(RunError, match=r"cannot be resumed with loss.memory=9 \(it was 20\)"):
            lookalike.train(
                **{**common, "loss__memory": 9}, output=str(parts), max_steps=6, resume=True
            )


def test_a_run_starts_from_one_with_another_loss(shapes, tmp_path, caplog):
    common = {"train": str(shapes / "train.txt"), **SMALL, "max_steps": 1, "nested_dims": []}
    common["classification_weight"] = 0
    first = lookalike.train(**common, loss="arcface", output=str(tmp_path / "arcface"))
    saved = first.checkpoints / "step-00000001"
    with caplog.at_level(logging.INFO, "lookalike"):
        proxies = lookalike.train(
            **common, loss="proxy_anchor", start_from=str(saved), output=str(tmp_path / "proxies")
        )
        assert "8 of 8 classes keep their weights" in caplog.text
        pairs = lookalike.train(
            **common, loss="recall_at_k", start_from=str(proxies.path), output=str(tmp_path / "k")
        )
        assert "its network; the loss has no class weights" in caplog.text
    start = load_file(proxies.checkpoints / "step-00000000/head-metric-00000.safetensors")
    torch.testing.assert_close(
        start["weight"], load_file(saved / "head-metric-00000.safetensors")["weight"]
    )
    assert not list(pairs.checkpoints.glob("*/head-*"))
    with caplog.at_level(logging.INFO, "lookalike"):
        back = lookalike.train(
            **common, loss="arcface", start_from=str(pairs.path), output=str(tmp_path / "back"),
            init_from_features=True,
        )  # fmt: skip
    assert (
        "metric: that run has no such class weights; they start as the mean embeddings of their "
        "classes" in caplog.text
    )
    network, rows = (
        load_file(back.checkpoints / f"step-00000000/{name}.safetensors")
        for name in ("network", "head-metric-00000")
    )
    expected = load_file(pairs.checkpoints / "step-00000001/network.safetensors")
    assert all(torch.equal(value, expected[name]) for name, value in network.items())
    # Weights at random are at right angles to the classes; these classify the images.
    catalog, _ = open_catalogs(Config.of(None, {"train": common["train"]}))
    embedder = Embedder.load(back.model)
    vectors = torch.from_numpy(embedder.embed([each.uri for each in catalog.records]))
    own = torch.nn.functional.normalize(rows["weight"])[torch.from_numpy(catalog.class_ids)]
    assert (vectors * own).sum(1).mean() > 0.5


def request(**settings):
    return Config.of(None, settings)


def test_sampler_follows_the_loss_unless_it_is_given(caplog):
    supcon, arcface = create_loss("supcon"), create_loss("arcface")
    with caplog.at_level(logging.INFO, "lookalike"):
        assert resolve_sampler(request(), arcface, 1000) == "shuffle"
        assert resolve_sampler(request(), create_loss("proxy_anchor"), 1000) == "shuffle"
        assert not caplog.text
        assert resolve_sampler(request(batch_size=32), supcon, 1000) == "pk"
    assert (
        "data.sampler=pk: loss.name=supcon compares images of one class within a batch, so that "
        "each batch holds 8 classes with 4 images each" in caplog.text
    )
    assert resolve_sampler(request(sampler="pk", images_per_class=2), supcon, 1000) == "pk"
    # With fewer classes than images there are two of one; repeats are such, too.
    assert resolve_sampler(request(sampler="shuffle", batch_size=64), supcon, 63) == "shuffle"
    assert resolve_sampler(request(sampler="balanced", repeats=2), supcon, 1000) == "balanced"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "shuffle"}, r"data.sampler=shuffle draws 64 images of 64 classes, perhaps no"),
        ({"sampler": "repeat_factor"}, r"leave data.sampler out for pk, or give data.repeats=2$"),
        ({"sampler": "pk", "images_per_class": 1}, "images_per_class=1 leaves each image alone"),
        ({"batch_size": 4}, r"=4 with 4 images of each class holds a .*train.batch_size=8 or more"),
        ({"batch_size": 8, "repeats": 2}, "images_per_class=4 times data.repeats=2 holds a single"),
    ],
)
def test_batches_without_positives_or_negatives_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        resolve_sampler(request(**settings), create_loss("multi_similarity"), 64)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "supcon", "head__centres": 3}, "head.centres=3 is for the class weights of a ma"),
        ({"loss": "supcon", "filter_above": 0.4}, "head.filter_above=0.4 .*has no class weights;"),
        ({"loss": "supcon", "sample_rate": 0.1}, "head.sample_rate=0.1 .*has no class weights;"),
        ({"loss": "supcon", "head__parallel": "model"}, "head.parallel=model .*no class weights"),
        ({"loss": "supcon", "fused_update": True}, "head.fused_update=true .*no class weights"),
        ({"loss": "proxy_anchor", "sample_rate": 0.1}, "head.sample_rate=0.1 .*has proxies; use"),
        ({"loss": "proxy_anchor", "head__dtype": "bf16"}, "head.dtype=bf16 .*has proxies; use a"),
        ({"loss": "proxy_anchor", "fused_update": True}, "head.fused_update=true .*has proxies"),
        ({"loss": "arcface", "loss__memory": 9}, "loss.memory=9 keeps .*loss.name=arcface compare"),
        ({"loss": "proxy_anchor", "loss__memory": 9}, "use one of multi_similarity, supcon"),
        ({"loss": "supcon", "loss__margin": 0.1}, "loss.margin=0.1: supcon has no margin"),
    ],
)  # fmt: skip
def test_settings_without_a_meaning_are_refused(settings, message):
    def check() -> None:
        config = request(**settings)
        resolve_head(
            config, metric_loss(config), "fp32", torch.device("cpu"), classes=9, classification=0
        )

    with pytest.raises(ConfigError, match=message):
        check()


def test_settings_of_the_branch_are_allowed_beside_a_pair_loss():
    config = request(loss="supcon", sample_rate=0.5, head__parallel="model")
    loss, device = metric_loss(config), torch.device("cpu")
    found = resolve_head(config, loss, "fp32", device, classes=9, classification=1.0)
    assert found["head.fused_update"]
    config = request(loss="proxy_anchor")
    found = resolve_head(config, loss, "fp32", device, classes=10**7, classification=0)
    assert not found["head.fused_update"]
