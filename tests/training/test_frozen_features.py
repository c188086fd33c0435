"""Training on stored features of a frozen backbone: exact, resumable, shared by runs."""

import json
import shutil
from itertools import islice

import numpy as np
import pytest
import safetensors.torch
import torch
from engine_process import TINY, curve, records

from lookalike.commands.train import train
from lookalike.config.config import Config
from lookalike.data.catalog import open_catalog
from lookalike.data.loading.bad_images import BadImages
from lookalike.data.loading.batch import Batch
from lookalike.data.loading.feature_parts import FeatureParts
from lookalike.data.loading.image_source import PLAIN
from lookalike.data.loading.sequential import EvalLoader
from lookalike.distributed.world import World
from lookalike.errors import ConfigError, DataError, StorageError
from lookalike.model.embedder import Embedder
from lookalike.model.frozen_features import FrozenFeatures, pooled_features
from lookalike.model.inference import embed_records
from lookalike.model.neck import pool
from lookalike.training import build
from lookalike.training.build_heads import create_heads, metric_loss
from lookalike.training.checkpoint import embedder_weights
from lookalike.training.request_lists import open_catalogs
from lookalike.training.resolve import resolve
from lookalike.training.time_budget import Length
from lookalike.training.validation import Validator

FROZEN = ["train.freeze_backbone=true", "train.cache_features=true", "train.report=false"]


def settings(shapes, output, *more):
    fixed = ["model.backbone=test_resnet", "run.device=cpu", *TINY]
    return Config.load(
        None, [f"data.train={shapes / 'train.txt'}", f"run.output={output}", *fixed, *more]
    )


def whole(loader):
    return next(iter(loader)).images


def without_calibration(*_, **__):
    """In place of `Validator.calibrate`, which reads the images of the validation set."""
    raise DataError("not measured here")


@pytest.fixture
def catalog(shapes):
    return open_catalog(str(shapes / "train.txt"))


@pytest.mark.parametrize(
    ("backbone", "poolings"),
    [
        ("test_resnet", ("gem", "avg", "max")), ("test_vit", ("cls", "gem")),
        ("test_resnet", ("avg", "quarters")),
    ],
)  # fmt: skip
def test_features_are_those_of_the_frozen_forward_pass(catalog, tmp_path, backbone, poolings):
    torch.manual_seed(1)
    embedder = Embedder.create(
        backbone, pretrained=False, image_size=32, embedding_dim=12, pooling="+".join(poolings)
    )
    stored = FrozenFeatures(embedder, catalog.records, tmp_path, poolings=poolings, list_id="a")
    bad = BadImages()
    stored.compute(bad=bad)
    loader = EvalLoader(
        catalog.records,
        preprocess=embedder.preprocess,
        batch_size=64,
        bad=BadImages(),
    )
    [batch] = loader
    with torch.no_grad():
        features, beside = embedder.eval().features(batch.images)
    for place, kind in enumerate(poolings):
        expected = pool(features, kind, beside)
        found = stored.parts.take(np.arange(len(catalog)))[:, place]
        assert torch.equal(found[:, : expected.shape[1]], expected), kind
        assert not found[:, expected.shape[1] :].any()
    # Other batches round differently.
    some = np.array([40, 3, 3, 17])
    alone = pooled_features(embedder, batch.images[some], poolings)
    torch.testing.assert_close(stored.parts.take(some), alone, rtol=1e-5, atol=1e-6)
    expected = embed_records(embedder, catalog.records, bad=BadImages())
    found = stored.embedded(embedder)
    assert torch.equal(found.vectors, expected.vectors)
    assert torch.equal(found.rows, expected.rows)


def test_folder_follows_from_weights_list_preprocessing_and_options(catalog, tmp_path):
    torch.manual_seed(1)
    embedder = Embedder.create("test_resnet", pretrained=False, image_size=32, embedding_dim=12)

    def folder(list_id="a", poolings=("gem",), **more):
        found = FrozenFeatures(
            embedder, catalog.records, tmp_path, poolings=poolings, list_id=list_id, **more
        )
        return found.parts.folder.name

    names = [
        folder(), folder("b"), folder(poolings=("avg",)), folder(precision=torch.bfloat16),
        folder(options={"allow_truncated": True}),
    ]  # fmt: skip
    with torch.no_grad():
        embedder.neck.projections[0].weight.zero_()
        assert folder() == names[0]
        next(embedder.backbone.parameters()).view(-1)[0] += 1e-3
    assert len({*names, folder()}) == 6


def test_training_on_features_is_training_on_images_without_augmentation(shapes, tmp_path):
    """Both networks see the same rows; every weight is the same after four steps."""
    config = settings(shapes, tmp_path / "run", *FROZEN, "train.ema=0.5", "model.pooling=max+gem")
    trained, losses = [], []
    for stored in (False, True):
        torch.manual_seed(0)
        catalog, _ = open_catalogs(config)
        margin = metric_loss(config)
        embedder = build.create_embedder(config, margin)
        used = resolve(config, margin, embedder, World(), len(catalog.classes))
        heads = create_heads(used, margin, catalog, World())
        parts = build.create_trained(used, embedder, heads, World())
        loader = build.create_loader(used, embedder, catalog, BadImages(), World(), PLAIN)
        images = whole(
            EvalLoader(
                catalog.records, preprocess=embedder.preprocess, batch_size=64,
                bad=BadImages(),
            )
        )  # fmt: skip
        frozen = FrozenFeatures(
            embedder, catalog.records, tmp_path / "features", poolings=parts.network.poolings,
            list_id="a",
        )  # fmt: skip
        assert frozen.poolings == ("max", "gem", "avg")
        frozen.compute(bad=BadImages())
        loader.use_features(frozen.parts, 1)
        step = build.create_step(used, parts, World())
        step.prepare(frozen=True)
        parts.optimizer.param_groups[0]["lr"] = 0.1
        found = []
        for number, batch in zip(range(4), loader.epoch(0), strict=False):
            assert batch.images.shape == (8, 3, embedder.backbone.dim)
            taken = batch if stored else Batch(images[batch.rows], batch.classes, batch.rows)
            found.append(step(taken, number).losses["loss"])
        losses.append(found)
        trained.append(parts)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    live, cached = (each.network.state_dict() for each in trained)
    assert live.keys() == cached.keys()
    for name, value in live.items():
        torch.testing.assert_close(cached[name], value, rtol=1e-4, atol=1e-6)
    for name, head in trained[0].heads.items():
        torch.testing.assert_close(trained[1].heads[name].weight, head.weight, rtol=1e-4, atol=1e-6)


def test_interrupted_run_on_features_has_the_same_curve_and_reads_no_image_again(
    shapes, tmp_path, monkeypatch
):
    more = [
        *FROZEN, f"data.val={shapes / 'val.txt'}", "train.epochs=3", "train.ema=0.9",
        "train.checkpoint_every_steps=9", "train.keep_checkpoints=9", "optim.schedule=constant",
        "optim.warmup_steps=0",
    ]  # fmt: skip
    once = train(settings(shapes, tmp_path / "once", *more))
    cut = settings(shapes, tmp_path / "cut", *more, "train.max_steps=12")
    run = train(cut)
    shutil.rmtree(run.checkpoints / "step-00000012")
    with monkeypatch.context() as without_images:
        without_images.setattr(EvalLoader, "__iter__", lambda _: iter(()))
        without_images.setattr(Validator, "calibrate", without_calibration)
        train(cut.with_settings({"train__max_steps": 18}), resume=True)
    assert curve(once.path) == curve(run.path)
    live = train(
        settings(
            shapes, tmp_path / "live", *more, "train.cache_features=false", "train.max_steps=1"
        )
    )
    first, same = ({**records(run.path)[0], "seconds": 0} for run in (once, live))
    assert first == same
    losses = [record["loss"] for record in records(once.path) if "loss" in record]
    assert losses[-1] < losses[0]


def test_weights_between_start_and_end_are_measured_on_features(shapes, tmp_path, monkeypatch):
    """Statistics of the classification branch are measured on them, too."""
    passes = []
    monkeypatch.setattr(
        "lookalike.training.validation.embed_records", lambda *_, **__: passes.append(1)
    )
    more = [*FROZEN, f"data.val={shapes / 'val.txt'}", "train.interpolate=true",
            "train.epochs=1", "train.report=false"]  # fmt: skip
    monkeypatch.setattr(Validator, "calibrate", without_calibration)
    run = train(settings(shapes, tmp_path / "run", *more))
    assert not passes
    last = records(run.path)[-1]
    assert len(last["points"]) == 5
    monkeypatch.undo()
    held_out = open_catalog(str(shapes / "val.txt"))
    validator = Validator(held_out, open_catalog(str(shapes / "train.txt")))
    assert validator.measure(Embedder.load(run.model))[0] == pytest.approx(last["map_at_r"])


@pytest.fixture
def halfway(monkeypatch):
    """The point half of the way from start to end is the one that is kept."""
    monkeypatch.setattr("lookalike.training.interpolation.best_point", lambda points, _: points[2])


def validator_of(shapes):
    return Validator(open_catalog(str(shapes / "val.txt")), open_catalog(str(shapes / "train.txt")))


@pytest.mark.parametrize("cached", [True, False])
def test_weights_between_keep_a_backbone_that_never_learned(shapes, tmp_path, halfway, cached):
    more = ["train.freeze_backbone=true", f"train.cache_features={str(cached).lower()}",
            f"data.val={shapes / 'val.txt'}", "train.interpolate=true", "train.epochs=1",
            "train.report=false", "train.freeze_batchnorm=false", "optim.lr=0.1"]  # fmt: skip
    torch.manual_seed(1)
    before = Embedder.create("test_resnet", pretrained=False, image_size=32, embedding_dim=16)
    for name, value in before.named_buffers():  # statistics of a pretrained backbone
        if name.endswith(("running_mean", "running_var")):
            value.uniform_(0.5, 1.5)
    before.save(tmp_path / "before")
    more += [f"model.pretrained={tmp_path / 'before/model.safetensors'}"]
    run = train(settings(shapes, tmp_path / "run", *more))
    start, model = (
        safetensors.torch.load_file(folder / "model.safetensors")
        for folder in (run.start, run.model)
    )
    same = {name: torch.equal(value, start[name]) for name, value in model.items()}
    assert all(same[name] for name in same if name.startswith("backbone."))
    assert not all(same.values())
    found = validator_of(shapes).measure(Embedder.load(run.model))[0]
    assert found == pytest.approx(records(run.path)[-1]["map_at_r"], abs=1e-9)


@pytest.mark.parametrize("ema", ["0", "0.8"])
def test_features_are_not_used_for_a_backbone_that_learned_before(shapes, tmp_path, halfway, ema):
    """Weights between start and end, and averages, of a run that is frozen on a resume."""
    request = settings(
        shapes, tmp_path / "run", f"data.val={shapes / 'val.txt'}", "train.interpolate=true",
        "train.report=false", "optim.lr=0.1", "optim.schedule=constant", f"train.ema={ema}",
        "train.epochs=1",
    )  # fmt: skip
    train(request)
    changes = {"train__freeze_backbone": True, "train__cache_features": True, "train__epochs": 2}
    run = train(request.with_settings(changes), resume=True)
    *_, end, between = [record for record in records(run.path) if "map_at_r" in record]
    validator = validator_of(shapes)
    assert between["interpolation"] == 0.5
    found = validator.measure(Embedder.load(run.model))[0]
    assert found == pytest.approx(between["map_at_r"], abs=1e-9)
    last = Embedder.load(run.model)
    last.load_state_dict(embedder_weights(run.checkpoints / f"step-{end['step']:08d}"))
    assert validator.measure(last)[0] == pytest.approx(end["map_at_r"], abs=1e-9)


@pytest.mark.parametrize("frozen", [True, False])
def test_time_budget_times_steps_on_features_where_all_are(shapes, tmp_path, monkeypatch, frozen):
    taken = []

    def length(budget, parts, run, world, *, frozen, epoch, began, passes):
        [batch] = islice(parts.loader.epoch(epoch), 1)
        taken.append((frozen, batch.images.dtype))
        return Length(1, 6, 1)

    monkeypatch.setattr("lookalike.commands.train.fit_length", length)
    which = "train.freeze_backbone=true" if frozen else "train.freeze_backbone_epochs=1"
    more = [which, "train.cache_features=true", "train.time_budget=1m", "train.report=false"]
    train(settings(shapes, tmp_path / "run", *more))
    assert taken == [(frozen, torch.float32 if frozen else torch.uint8)]


def test_head_first_then_the_backbone_on_images(shapes, tmp_path):
    run = train(
        settings(
            shapes, tmp_path / "run", "train.freeze_backbone_epochs=1", "train.cache_features=true",
            f"data.val={shapes / 'val.txt'}", "train.epochs=2", "train.report=false",
            "train.checkpoint_every=1", "train.keep_checkpoints=9", "data.augment=trivial_augment",
        )
    )  # fmt: skip
    start, frozen, free = (
        safetensors.torch.load_file(run.checkpoints / f"step-{step:08d}/network.safetensors")
        for step in (0, 6, 12)
    )
    name = "embedder.backbone.model.layer4.0.conv1.weight"
    assert torch.equal(start[name], frozen[name])
    assert not torch.equal(frozen[name], free[name])
    neck = "embedder.neck.projections.0.weight"
    assert not torch.equal(start[neck], frozen[neck])
    assert len(list(run.features.iterdir())) == 2


def test_runs_share_a_folder_and_bad_images_are_replaced(tmp_path, shapes):
    shutil.copytree(shapes, tmp_path / "shapes")
    (tmp_path / "shapes/images/3-2.jpg").write_bytes(b"no image")
    more = [*FROZEN[:1], f"train.cache_features={tmp_path / 'kept'}", "train.report=false",
            "train.epochs=1", "data.max_bad_images=1"]  # fmt: skip
    first = train(settings(tmp_path / "shapes", tmp_path / "first", *more))
    [folder] = (tmp_path / "kept").iterdir()
    written = {path.name: path.stat().st_mtime_ns for path in folder.glob("part-*")}
    assert set(written) == {"part-00000.npy", "part-00000.bad.json"}
    second = train(settings(tmp_path / "shapes", tmp_path / "second", *more))
    assert curve(first.path) == curve(second.path)
    assert not second.features.exists()
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("part-*")} == written
    bad = [json.loads(line) for line in second.bad_images.read_text().splitlines()]
    assert [each["row"] for each in bad] == [20]
    (tmp_path / "shapes/images/4-2.jpg").write_bytes(b"no image")
    shutil.rmtree(folder)
    with pytest.raises(DataError, match="more than the 1 that"):
        train(settings(tmp_path / "shapes", tmp_path / "third", *more))


def test_another_limit_on_images_computes_features_anew(tmp_path, shapes):
    folder = tmp_path / "features"
    shutil.copytree(shapes, tmp_path / "set")
    with next((tmp_path / "set/images").glob("3-*.jpg")).open("ab") as image:
        image.write(bytes(20_000))  # behind the end of the picture
    size, seconds = "data.max_image_size", "data.image_timeout"
    limits = [[f"{size}=15KB"], [], [f"{size}=256000000"], [f"{seconds}=9"]]
    left_out = []
    for number, more in enumerate(limits):
        fixed = [*FROZEN[:1], FROZEN[2], "train.epochs=1", "data.max_bad_images=1", *more]
        output = tmp_path / f"run{number}"
        run = train(settings(tmp_path / "set", output, *fixed, f"train.cache_features={folder}"))
        left_out.append(len(list(run.read(run.bad_images))))
    assert left_out == [1, 0, 0, 0]
    assert len(list(folder.iterdir())) == 3


def test_parts_are_written_once_and_broken_ones_again(tmp_path):
    parts = FeatureParts(tmp_path, 1000, (2, 3), batch_size=64)
    assert len(parts) == 4
    assert parts.rows_of(3) == range(768, 1000)
    values = np.random.default_rng(0).random((1000, 2, 3), np.float32)
    for part in (0, 2, 3):
        rows = parts.rows_of(part)
        parts.write(part, values[rows.start : rows.stop], {770: "torn"} if part == 3 else {})
    assert parts.missing() == [1]
    with pytest.raises(StorageError, match=r"part-00001\.npy: is missing or broken"):
        parts.open()
    parts.write(1, values[256:512], {})
    parts.open()
    assert parts.bad == {770: "torn"}
    rows = np.array([999, 0, 300, 300, 511, 512])
    np.testing.assert_array_equal(parts.take(rows), values[rows])
    file = tmp_path / "part-00002.npy"
    file.write_bytes(file.read_bytes()[:-1])
    (tmp_path / "part-00003.bad.json").write_text("{")
    assert FeatureParts(tmp_path, 1000, (2, 3), batch_size=64).missing() == [2, 3]


def test_parts_of_long_lists_are_bounded(tmp_path):
    wide = FeatureParts(tmp_path, 10**7, (2, 2048), batch_size=64)
    assert 4 * wide.rows * 2 * 2048 <= 64 * 2**20
    assert wide.rows % 64 == 0


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["train.freeze_backbone=false"], r"=true keeps the features of a frozen backbone; set"),
        (["data.augment=trivial_augment"], r"^data\.augment=\['trivial_augment'\] has no effect"),
        (["data.repeats=2"], r"^data\.repeats=2 has no effect"),
        (["train.cache_features=s3://bucket/f"], "give a folder of this machine, or true"),
    ],
)
def test_settings_that_contradict_it_are_refused(shapes, tmp_path, more, words):
    with pytest.raises(ConfigError, match=words):
        train(settings(shapes, tmp_path / "run", *FROZEN, *more))


@pytest.mark.slow
def test_two_workers_share_the_parts_and_give_the_scores_of_one(tmp_path, many_shapes, shapes):
    more = [*FROZEN, f"data.train={many_shapes}", f"data.val={shapes / 'val.txt'}",
            "train.epochs=2", "loss.classification_weight=0"]  # fmt: skip
    found = [
        train(settings(shapes, tmp_path / str(workers), *more, f"run.workers={workers}"))
        for workers in (1, 2)
    ]
    parts = [sorted(run.features.rglob("*.npy")) for run in found]
    assert [path.relative_to(found[0].features) for path in parts[0]] == [
        path.relative_to(found[1].features) for path in parts[1]
    ]
    for one, two in zip(*parts, strict=True):
        assert one.read_bytes() == two.read_bytes()
    alone, together = (records(run.path) for run in found)
    for one, two in zip(alone, together, strict=True):
        for name in {"loss", "map_at_r"} & one.keys():
            assert two[name] == pytest.approx(one[name], rel=1e-4)
