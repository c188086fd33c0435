"""The files that `load` reads: damaged, exchanged, hostile."""

import copy
import json
import os
import pickle
import random
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import lookalike
from lookalike.data.classes import Classes
from lookalike.errors import DataError, LookalikeError, RunError
from lookalike.metrics.calibration import Calibration
from lookalike.model.embedder import Embedder
from lookalike.model.projection import Projection


def small(**options) -> Embedder:
    torch.manual_seed(0)
    return Embedder.create(
        "test_resnet", pretrained=False, image_size=32, embedding_dim=8, **options
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    small().save(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def without_digest(folder):
    """As older versions saved it: damaged weights are not known by their digest."""
    described = json.loads((folder / "config.json").read_text())
    del described["sha256"]
    (folder / "config.json").write_text(json.dumps(described))


CHANGES = [
    ({"backbone": 5}, "backbone=5: input should be a valid string"),
    ({"backbone": "nonsense"}, "nor a timm model"),
    ({"backbone": "hf-hub:some/thing"}, "backbone='hf-hub:some/thing': string should match"),
    ({"backbone": "test_vit"}, "backbone_dim=96, but test_vit has 64 channels"),
    ({"backbone_args": {"layers": [10**9]}}, "backbone_args holds something"),
    ({"backbone_args": {"layers": "x"}}, "timm cannot build it"),
    ({"backbone_dim": 97}, "has backbone_dim=97"),
    ({"embedding_dim": 2**19}, "embedding_dim=524288; the two files belong"),
    ({"embedding_dim": True}, "embedding_dim=True: input should be a valid integer"),
    ({"embedding_dim": "8"}, "embedding_dim='8': input should be a valid integer"),
    ({"pooling": "mean"}, "pooling is none of"),
    ({"pooling": "cls"}, "neck leads from"),
    ({"projected_dim": 9}, "projected_dim is more than embedding_dim"),
    ({"projected_dim": 4}, "projection.mean has nothing, and the network of config.json shape"),
    ({"free_length": True}, "neck.norm.weight has nothing"),
    ({"format": "other"}, "format='other'"),
    ({"colour": 1}, "colour is not a key"),
    ({"preprocess": 3}, "preprocess=3: input should be a mapping"),
    (
        {"preprocess": {"image_size": 10**9}},
        "preprocess.image_size=1000000000: input should be less",
    ),
    ({"preprocess": {"image_size": [32, 0]}}, "preprocess.image_size=[32, 0]"),
    ({"preprocess": {"mean": [0.5, 0.5, float("nan")]}}, "preprocess.mean.2=nan"),
    ({"preprocess": {"std": [0.5, 0.5, float("inf")]}}, "preprocess.std.2=inf"),
    ({"preprocess": {"std": [0.5, 0.5, 0.0]}}, "preprocess.std.2=0.0"),
    ({"preprocess": {"crop_pct": 1e-400}}, "preprocess.crop_pct=0.0"),
    ({"preprocess": {"crop_pct": 1e-320}}, "preprocess.crop_pct"),
    ({"preprocess": {"interpolation": "lanczos"}}, "preprocess.interpolation='lanczos'"),
]


@pytest.mark.parametrize(("change", "words"), CHANGES, ids=[str(change) for change, _ in CHANGES])
def test_a_changed_description_is_one_line(folder, change, words):
    path = folder / "config.json"
    described = json.loads(path.read_text())
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(described.get(key), dict)
        described[key] = described[key] | value if both else value
    path.write_text(json.dumps(described))
    with pytest.raises(RunError) as caught:
        lookalike.load(folder, device="cpu")
    assert words in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize(
    "content", [None, "folder", b"", b"null", b"[" * 100_000, b"\xff\xfe{}", b'{"a": 1'], ids=str
)
def test_a_file_that_is_something_else_is_one_line(folder, name, content):
    (folder / name).unlink()
    if content == "folder":
        (folder / name).mkdir()
    elif content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(RunError, match=r"model") as caught:
        lookalike.load(folder, device="cpu")
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


@contextmanager
def without_rights():
    """Permissions count: the superuser, whom they do not bind, becomes nobody."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "."])
def test_a_file_that_may_not_be_read_is_one_line(saved, name):
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)  # pytest's own folders are closed to others
        folder = shutil.copytree(saved, Path(place) / "model")
        (folder / name).chmod(0)
        with without_rights(), pytest.raises(RunError, match="permission denied") as caught:
            lookalike.load(folder, device="cpu")
        (folder / name).chmod(0o755)
    assert str(folder / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_of_another_network_are_named(folder):
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    name = "backbone.model.bn1.running_var"
    del tensors[name]
    safetensors.torch.save_file(tensors, path)
    without_digest(folder)
    with pytest.raises(RunError, match=rf"{name} has nothing, and the network of config\.json"):
        lookalike.load(folder, device="cpu")


def outcome(folder, picture) -> str:
    """The outcome of loading; a traceback fails the test."""
    try:
        vectors = lookalike.load(folder, device="cpu").embed([picture])
    except LookalikeError as error:
        return "refused" if "\n" not in str(error) else "several lines"
    return "loaded" if np.isfinite(vectors).all() else "not finite"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_no_damage_gives_a_traceback_or_a_vector_that_is_not_finite(folder, name):
    without_digest(folder)
    rng = random.Random(7)
    whole = (folder / name).read_bytes()
    picture = np.zeros((40, 40, 3), np.uint8)
    outcomes = set()
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            # Most of a weights file is numbers; its header is what can be misread.
            at = rng.randrange(min(len(data), 4000))
            data[at : at + rng.choice((0, 1, 1, 1, 9))] = rng.choice(
                (b"", b"9", b"-", b"e9", b"[", b"null", rng.randbytes(1))
            )
        (folder / name).write_bytes(data)
        outcomes.add(outcome(folder, picture))
    assert {"refused"} <= outcomes <= {"refused", "loaded"}


LEVEL = {
    "target": 0.01, "threshold": 0.5, "far": 0.009, "far_low": 0.001, "far_high": 0.1, "tar": 0.9,
    "false_accepts": 3,
    "spread": {"classes": 9, "of_pairs": 0.1, "of_classes": 0.1, "degrees": 4.0, "alike": 0.1},
}  # fmt: skip
CALIBRATION = {
    "format": "lookalike calibration 1", "source": "a list", "chose_checkpoint": False,
    "seen_in_training": 0, "images": 90, "classes": 9, "same_pairs": 90, "different_pairs": 900,
    "levels": [LEVEL], "unsupported": [0.001], "default_far": 0.01,
    "likelihood": {"cosines": [0.1, 0.9], "log_ratios": [-3.0, 3.0]}, "prior": 0.01,
    "open_set": None, "confidence": 0.95,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"format": "lookalike calibration 9"}, "format='lookalike calibration 9'"),
        ({"levels": [LEVEL | {"threshold": float("nan")}]}, "levels.0.threshold=nan"),
        ({"levels": [LEVEL | {"threshold": 5.0}]}, "levels.0.threshold=5.0"),
        ({"levels": [LEVEL | {"target": "x"}]}, "levels.0.target='x'"),
        ({"levels": []}, "no threshold for a false-accept rate of 0.01"),
        ({"levels": 3}, "levels=3"),
        ({"prior": float("inf")}, "prior=inf"),
        ({"images": -1}, "images=-1"),
        ({"likelihood": {"cosines": [], "log_ratios": []}}, "not of one length above 0"),
        ({"likelihood": {"cosines": [0.9, 0.1], "log_ratios": [1, 2]}}, "cosines: falls"),
        ({"open_set": {"queries": 1}}, "open_set"),
        ({"confidence": None}, "confidence=None"),
    ],
    ids=str,
)
def test_a_changed_calibration_is_one_line(tmp_path, change, words):
    (tmp_path / "calibration.json").write_text(json.dumps(CALIBRATION | change))
    if words is None:
        found = Calibration.load(tmp_path)
        assert json.loads(json.dumps(found.to_dict()))["levels"] == [LEVEL]
        return
    with pytest.raises(RunError, match=r"calibration\.json: ") as caught:
        Calibration.load(tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "5", "[" * 100_000, '{"classes": {}}', '{"classes": [1]}'])
def test_a_changed_list_of_classes_is_one_line(text):
    with pytest.raises(DataError, match="not a list of classes"):
        Classes.from_json(text)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("pooling", ["gem+avg+max", "gem"])
@pytest.mark.parametrize("free_length", [False, True])
def test_a_model_of_other_precision_gives_nearly_the_same_vectors(dtype, pooling, free_length):
    embedder = small(pooling=pooling, normalize=not free_length).eval()
    embedder.set_postprocessing(
        mirror=True, projection=Projection(torch.rand(8) / 9, torch.rand(5, 8))
    )
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    expected = embedder.embed_batch(images)
    found = copy.deepcopy(embedder).to(dtype).embed_batch(images)
    assert found.dtype == torch.float32
    assert (found * expected).sum(dim=1).min() > 0.99


def test_a_loaded_model_can_be_copied_and_pickled(saved):
    model = lookalike.load(saved, device="cpu")
    picture = np.full((40, 40, 3), 90, np.uint8)
    expected = model.embed([picture])
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301
        assert np.array_equal(again.embed([picture]), expected)
        assert again.fingerprint() == model.fingerprint()
        # A copy has weights of its own.
        with torch.no_grad():
            next(again.parameters()).zero_()
        assert np.array_equal(model.embed([picture]), expected)


def test_a_copy_of_a_compiled_model_uses_its_own_weights(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: lambda images: function(images))
    model = small().eval()
    model.backbone.compile_features()
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    expected = model.embed_batch(images)
    again = copy.deepcopy(model)
    with torch.no_grad():
        next(model.parameters()).zero_()
    assert torch.equal(again.embed_batch(images), expected)
