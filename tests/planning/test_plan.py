"""`lookalike plan`: predicted bytes against the tensors that torch really makes."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

import lookalike
from lookalike.cli import app, main
from lookalike.commands.plan import parse_bytes
from lookalike.commands.show_config import show_config
from lookalike.config.config import Config
from lookalike.data.catalog import Catalog
from lookalike.data.classes import Classes
from lookalike.data.loading.batch import Batch
from lookalike.distributed.world import World
from lookalike.errors import ConfigError, CredentialsError
from lookalike.planning import facts
from lookalike.planning.communication import communication
from lookalike.planning.estimate import most_classes
from lookalike.planning.gpus import MACHINES, read_machine
from lookalike.planning.memory import memory
from lookalike.planning.network_profile import measure
from lookalike.planning.timing import speed_on
from lookalike.training.build import create_embedder, create_step, create_trained
from lookalike.training.build_heads import create_heads, metric_loss
from lookalike.training.learning_rate import set_lr
from lookalike.training.resolve import resolve

CLASSES = 3000
SMALL = {
    "model.backbone": "resnet18", "model.image_size": 32, "model.embedding_dim": 32,
    "model.pretrained": False, "train.batch_size": 8, "train.recipe": "component",
}  # fmt: skip


def small(**changes) -> Config:
    return Config().with_values({**SMALL, **{k.replace("__", "."): v for k, v in changes.items()}})


def planned(config: Config, **options):
    return lookalike.plan(config, **{"classes": CLASSES, "measure": False, **options})


def trained(config: Config, steps: int = 2):
    """The real parts of a run after some steps, and the bytes that a forward pass keeps."""
    margin = metric_loss(config)
    embedder = create_embedder(config, margin)
    config = resolve(config, margin, embedder, World(), CLASSES)
    names = tuple(map(str, range(CLASSES)))
    catalog = Catalog((), np.zeros(0, np.int64), Classes(names))
    heads = create_heads(config, margin, catalog, World())
    parts = create_trained(config, embedder, heads, World())
    step = create_step(config, parts, World())
    step.prepare(frozen=config.train.freeze_backbone)
    set_lr(parts.optimizer, 0.01, [h.update for h in parts.heads.values() if h.update is not None])
    size, side = config.train.batch_size, config.model.image_size
    pixels = torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (size,))
    for number in range(steps):
        step(Batch(pixels, labels, labels), number)
    kept = {}
    held = {t.untyped_storage().data_ptr() for t in parts.network.state_dict().values()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            kept[storage.data_ptr()] = storage
        return tensor

    narrow = config.train.precision == "bf16"
    keeping = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with keeping, torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        outputs = parts.network(pixels)
    assert outputs[0].shape == (size, config.model.embedding_dim)
    return parts, sum(storage.nbytes() for storage in kept.values())


def bytes_of(tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optim__name": "adamw", "train__ema": 0.9},
        {"optim__name": "adamw", "head__fused_update": True, "loss__name": "arcface"},
        {"head__dtype": "bf16", "head__parallel": "model", "train__precision": "bf16"},
        {"head__sample_rate": 0.2, "head__centres": 2},
        {"train__freeze_backbone": True, "optim__momentum": 0.0},
        {"model__backbone": "vit_tiny", "model__pooling": "cls"},
        {"model__backbone": "test_vit", "model__lora_rank": 4, "train__ema": 0.9},
        {"train__freeze_backbone": True, "train__ema": 0.9},
    ],
    ids=lambda changes: ",".join(changes) or "defaults",
)
def test_predicted_bytes_are_those_that_torch_allocates(changes):
    config = small(**changes)
    found = planned(config).memory
    parts, kept = trained(config)
    weights = [head.weight for head in parts.heads.values()]
    network = list(parts.network.parameters())
    state = parts.optimizer.state
    updates = [head.update for head in parts.heads.values() if head.update is not None]
    counts = parts.heads["metric"].class_counts.nbytes

    assert found.network_weights == bytes_of(parts.network.state_dict().values())
    assert found.network_gradients == bytes_of(p.grad for p in network if p.grad is not None)
    of_network = [v for p in network for v in state.get(p, {}).values() if torch.is_tensor(v)]
    assert found.network_optimizer == pytest.approx(bytes_of(of_network), rel=0.01)
    assert found.head_weights == bytes_of(weights) + counts
    assert found.head_gradients == bytes_of(w.grad for w in weights if w.grad is not None)
    of_heads = [v for w in weights for v in state.get(w, {}).values() if torch.is_tensor(v)]
    of_heads += [b for update in updates for b in update.buffers()]
    if changes.get("head__sample_rate"):
        assert found.head_optimizer == pytest.approx(bytes_of(of_heads), rel=0.1)
    else:
        assert found.head_optimizer == pytest.approx(bytes_of(of_heads), rel=0.01)
    # The outputs may be alive beside what is kept.
    outputs = 2 * 8 * 32 * 4
    assert found.activations == pytest.approx(kept, rel=0.02, abs=outputs)
    average = 0 if parts.average is None else bytes_of(parts.average.values.values())
    assert found.average == average
    assert found.logits == 0
    assert found.peak > sum(
        (found.network_weights, found.head_weights, found.head_optimizer, found.activations)
    )


def test_activations_computed_again_need_less_memory():
    usual, again = (
        planned(
            small(
                model__backbone="test_vit", model__pooling="cls",
                model__gradient_checkpointing=wanted,
            )
        ).memory
        for wanted in (False, True)
    )  # fmt: skip
    assert again.activations < usual.activations / 2
    assert again.peak - again.runtime < usual.peak - usual.runtime
    assert again.network_weights == usual.network_weights


def test_steps_on_stored_features_keep_no_activations_of_the_backbone():
    frozen, stored = (
        planned(small(train__freeze_backbone=True, train__cache_features=wanted))
        for wanted in (False, True)
    )
    assert stored.memory.network_weights == frozen.memory.network_weights
    assert stored.network.flops < frozen.network.flops / 100
    assert stored.network.features_peak > frozen.network.forward_peak  # of 64 images
    assert "passes through the backbone once" in stored.notes[-1]


def test_the_footprint_leaves_the_network_as_it_is_and_grows_with_the_batch():
    embedder = create_embedder(small(), metric_loss(small()))
    from lookalike.model.training_network import TrainingNetwork

    network = TrainingNetwork(embedder, None)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    one = measure(network, images=4, image_size=32)
    two = measure(network, images=8, image_size=32)
    assert two.activations == pytest.approx(2 * one.activations, rel=0.02)  # but statistics
    assert two.flops == 2 * one.flops
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    # What the fake tensors used must not be left behind for real ones.
    assert network(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))[0].isfinite().all()


def test_operations_of_the_network_are_those_of_its_layers():
    found = planned(small(loss__classification_weight=0, model__image_size=64))
    # ResNet-18 at 224 has 1.814 G multiply-adds forward (He et al.: 1.8 G); backward twice that,
    # less the image's gradient; at 64 px all maps are 3.5 x smaller a side.
    forward = 2 * 1.814e9 / 3.5**2
    assert found.network.flops / found.network.images == pytest.approx(3 * forward, rel=0.03)


def test_most_classes_is_the_last_number_that_fits():
    found = planned(small(head__dtype="bf16"), memory="9GB")
    runtime, limit = found.memory.runtime, 9_000_000_000

    def peak(classes: int) -> int:
        return memory(replace(found.spec, classes=classes), found.network, runtime).peak

    assert most_classes(found.spec, found.network, runtime, limit) == found.classes
    assert peak(found.classes) <= limit < peak(found.classes + 1)
    assert most_classes(found.spec, found.network, runtime, 1000) == 0


def test_shares_hold_all_classes_and_less_on_each_worker():
    one = planned(small(head__parallel="model"), classes=1_000_001)
    four = planned(small(head__parallel="model", run__workers=4), classes=1_000_001)
    assert four.spec.share == 250_001
    ratio = (four.memory.head_optimizer) / one.memory.head_optimizer
    assert ratio == pytest.approx(0.25, rel=1e-4)
    dense = planned(small(run__workers=4), classes=1_000_001)
    assert dense.memory.head_gradients == 2 * 1_000_001 * 32 * 4


def test_traffic_is_that_of_ring_collectives():
    spec = planned(small(head__parallel="model", run__workers=4)).spec
    found = planned(small(head__parallel="model", run__workers=4))
    sent = communication(spec, found.network)
    # Each worker passes on three of four parts of 2 rows of 32 floats, and their classes.
    assert sent.embeddings == 3 * 2 * (32 * 4 + 8)
    assert sent.embedding_gradients == 3 * 2 * 32 * 4
    assert sent.statistics == 3 * 12 * 8
    assert sent.head_gradients == 0
    assert sent.network_gradients == round(2 * 0.75 * found.network.learning)
    dense = planned(small(run__workers=4))
    assert dense.communication.head_gradients == round(1.5 * 2 * CLASSES * 32 * 4)
    assert planned(small()).communication.total == 0


@pytest.mark.parametrize(("batch", "device"), [(64, "cuda"), (8192, "cuda"), (64, "cpu")])
def test_fused_data_parallel_heads_exchange_the_same_chunks_for_every_batch(batch, device):
    found = planned(small(run__workers=2, head__fused_update=True))
    spec = replace(found.spec, batch=batch, classes=10**6, device=device)
    sent = communication(spec, found.network)
    # 64 MB of float32 logits of 512 rows are 32,768 classes; 2,048 on a CPU.
    chunks = math.ceil(10**6 / (32_768 if device == "cuda" else 2048))
    assert sent.head_collectives == spec.heads * (1 + chunks)
    rows = batch // 2
    if device == "cuda":
        assert memory(spec, found.network).chunks >= 2 * rows * 32_768 * 4


def test_the_head_takes_the_longer_of_products_and_bytes_on_a_gpu():
    # performance.md's floors: B, D, C = 256, 512, 10 M, fused fp32 state, bf16 products: 34 ms of
    # bytes, 13.1 ms of products; 4096, 512, 1 M: 21 ms of products, 3.4 ms of bytes.
    found = planned(
        small(train__precision="bf16", head__fused_update=True, head__parallel="model"), gpu="h100"
    )
    for batch, classes, products, moved in ((256, 10**7, 13.1, 34), (4096, 10**6, 21.0, 3.4)):
        spec = replace(found.spec, batch=batch, classes=classes, dim=512)
        result = speed_on(spec, found.network, found.communication, MACHINES["h100"])
        assert result.head_products * 1e3 == pytest.approx(products, rel=0.02)
        assert result.head_bytes * 1e3 == pytest.approx(moved, rel=0.02)
        assert result.head == max(result.head_products, result.head_bytes)


def test_changes_come_in_order_and_each_takes_less():
    found = planned(small(), classes=2_000_000, memory="1500MB")
    assert found.fits is False
    names = [change.setting.split("=")[0] for change in found.changes]
    assert names == [
        "head.fused_update", "head.dtype", "head.parallel", "head.sample_rate",
        "train.batch_size",
    ]  # fmt: skip
    first = found.changes[:3]
    assert all(change.alone < found.memory.peak for change in first)
    assert first[0].together > first[1].together > first[2].together


def test_workers_that_share_the_network_hold_a_part_of_it():
    config = small(
        model__backbone="vit_base_patch32_224", model__image_size=32, run__workers=8,
        optim__name="adamw", train__ema=0.9,
    )  # fmt: skip
    whole = planned(config, classes=100)
    found = planned(config.with_values({"train.shard_backbone": True}), classes=100)
    held, all_of_it, network = found.memory, whole.memory, whole.network
    for name in ("network_weights", "network_gradients", "network_optimizer", "average"):
        assert getattr(held, name) == pytest.approx(getattr(all_of_it, name) / 8, rel=1e-6)
    assert len(network.blocks) == 12
    assert 0.9 < sum(network.blocks) / network.weights < 1
    # With it the most is needed while all weights are gathered, or while a block has its gradients
    # twice beside its weights and those of the next one.
    outside, block = network.weights - sum(network.blocks), max(network.blocks)
    parts = held.network_weights + held.network_optimizer + held.network_gradients + held.average
    beside = max(network.weights, network.backward_peak + 2 * (outside + 2 * block))
    assert held.peak - held.runtime == pytest.approx(parts + beside, rel=0.05)
    assert held.peak - held.runtime < (all_of_it.peak - all_of_it.runtime) / 2
    # All-gathers before the forward and the backward pass, and a reduce-scatter, each of 7/8.
    sent = 2 * sum(network.blocks) + outside + network.learning
    assert found.communication.network_gradients == pytest.approx(sent * 7 / 8, rel=1e-6)
    changes = {change.setting: change.alone for change in whole.changes}
    alone = changes["train.shard_backbone=true"] - all_of_it.runtime
    assert alone == held.peak - held.runtime


def test_a_list_is_counted(shapes: Path):
    found = lookalike.plan(small(), train=str(shapes / "train.txt"), measure=False)
    assert (found.spec.classes, found.spec.images) == (8, 48)
    assert found.spec.steps_per_epoch == 6
    assert found.spec.steps == 6 * 200


def test_a_list_is_planned_with_the_settings_that_train_chooses(many_shapes: Path):
    config = Config().with_values(
        {
            "model.backbone": "test_resnet", "model.pretrained": False, "data.val_fraction": 0.25,
            "data.train": str(many_shapes), "run.workers": 8,
        }
    )  # fmt: skip
    spec = lookalike.plan(config, measure=False).spec
    shown = yaml.safe_load(show_config(config))
    assert shown["model"]["image_size"] == spec.image_size == 64  # of images of 40 px
    assert shown["train"]["batch_size"] == spec.batch == 64  # 8 on each worker
    assert (spec.classes, spec.images) == (30, 90)  # without those held out


def test_a_plan_of_a_time_budget_counts_no_steps(shapes: Path):
    found = lookalike.plan(
        small(), train=str(shapes / "train.txt"), train__time_budget="30m", measure=False
    )
    assert found.spec.steps_per_epoch
    assert found.spec.steps is None
    assert any("train.time_budget=30m" in note for note in found.notes)


def test_a_plan_goes_without_images_that_storage_refuses(many_shapes: Path, monkeypatch):
    def refuse(*_, **__):
        raise CredentialsError("no")

    monkeypatch.setattr(facts, "sample_facts", refuse)
    found = lookalike.plan(
        train=str(many_shapes), backbone="test_resnet", pretrained=False, measure=False
    )
    assert found.spec.image_size == 224


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_real_steps_are_timed_on_this_machine(workers):
    config = small(model__backbone="test_resnet", run__workers=workers)
    found = planned(config, measure=True, images=1000)
    assert found.machine is None
    assert found.speed is not None
    assert "real steps on this machine" in found.speed.source
    assert 0 < found.speed.step < 60
    assert found.speed.epoch == pytest.approx(125 * found.speed.step)
    json.dumps(found.to_dict())


def test_a_run_that_does_not_fit_this_machine_is_not_timed():
    found = planned(small(), measure=True, classes=10**10)
    assert found.speed is None
    assert any("does not fit into the memory of this machine" in note for note in found.notes)


def test_a_machine_from_a_file(tmp_path: Path):
    file = tmp_path / "m.yaml"
    file.write_text(yaml.safe_dump({"base": "a100", "name": "ours", "network": "1e9"}))
    machine = read_machine(file)
    assert (machine.name, machine.network) == ("ours", 1e9)
    assert machine.narrow == MACHINES["a100"].narrow
    for text, words in [
        ("base: a1000", "not one of h100"),
        ("base: a100\nnarow: 1", "narow is not one of"),
        ("narrow: 1", "lacks wide, bandwidth"),
        ("base: a100\nlink: fast", "link='fast': input should be a valid number"),
        ("base: a100\nlink: 0", "link=0: input should be greater than 0"),
        ("- a", "holds no fields"),
    ]:
        file.write_text(text)
        with pytest.raises(ConfigError, match=words):
            read_machine(file)
    file.write_text("base: a100\nnarow: 1\nlinc: 2")
    with pytest.raises(ConfigError, match="narow, linc are not one of base, name, wide"):
        read_machine(file)
    file.write_text("base: a100\nlink: fast\nwide: [1]")
    with pytest.raises(ConfigError) as error:
        read_machine(file)
    assert [line.partition("m.yaml: ")[2][:8] for line in str(error.value).splitlines()] == [
        "wide=[1]", "link='fa",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "number"),
    [("80GB", 80 * 10**9), ("24 GiB", 24 * 2**30), (1000, 1000), ("1.5mb", 1500000)],
)
def test_sizes(text, number):
    assert parse_bytes(text) == number


COMMAND = [f"{key}={json.dumps(value)}" for key, value in SMALL.items()]


def test_the_command_prints_tables_and_json():
    arguments = ["plan", *COMMAND, "--classes", "100000000", "--images", "1000000000"]
    arguments += ["--workers", "64", "--gpu", "h100", "train.batch_size=1024"]
    arguments += ["head.parallel=model", "train.epochs=1"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.stderr
    for words in ("100,000,000", "1,562,500 on a worker", "peak", "classes at most", "images/s"):
        assert words in done.stdout
    done = CliRunner().invoke(app, [*arguments, "--json"])
    tree = json.loads(done.stdout)
    assert tree["memory"]["logits"] == 0
    assert tree["setup"]["share"] == 1_562_500
    assert tree["traffic"]["embeddings"] > 0
    assert tree["speed"]["run"] == pytest.approx(
        tree["setup"]["steps"] * tree["speed"]["step"], rel=1e-9
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "how many classes"),
        (["--classes", "0"], "--classes 0"),
        (["--classes", "1"], "--classes 1: training needs at least 2 classes"),
        (["data.num_classes=1"], "data.num_classes=1: training needs at least 2 classes"),
        (["--classes", "9", "--gpu", "h1000"], "not one of h100"),
        (["--classes", "9", "--memory", "lots"], "write e.g. 80GB"),
        (["--classes", "9", "--gpu", "l4", "--machine", "a.yaml"], "exclude each other"),
        (["--classes", "9", "--machine", "none.yaml"], "no such file"),
        (["--classes", "9", "--workers", "9"], "train.batch_size=8 is less than the 9 workers"),
        (["data.train=none.txt"], "none.txt"),
    ],
)
def test_mistakes_are_one_line(arguments, words, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["lookalike", "plan", *COMMAND, *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert shown.count("\n") == 1


def test_micro_batches_take_less_memory_and_more_time():
    whole = planned(small(train__batch_size=64), gpu="h100")
    parts = planned(small(train__batch_size=64, train__accumulate=8), gpu="h100")
    assert parts.memory.activations < 0.7 * whole.memory.activations
    assert parts.memory.peak < whole.memory.peak
    assert parts.speed.network == pytest.approx(4 / 3 * whole.speed.network, rel=0.05)
    assert parts.speed.head == whole.speed.head


def test_a_million_classes_by_the_recipe_take_three_numbers_of_two_bytes_each():
    found = lookalike.plan(
        classes=10**6, measure=False, backbone="resnet18", image_size=32, pretrained=False
    )
    needed = found.memory
    three = needed.head_weights + needed.head_optimizer
    assert three == pytest.approx(3 * 2 * 512 * 10**6, rel=1e-6)
    assert needed.head_gradients == 0
    assert needed.peak - needed.runtime < 4.3e9
