"""The exported graphs against the trained model: every family, every size, every batch."""

import json
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import timm
import torch

from lookalike.data.image_size import height_width
from lookalike.data.loading.preprocess import Preprocess
from lookalike.exporting import artefact_digest, onnx_model, onnx_preprocess
from lookalike.exporting.export_formats import write_onnx, write_program
from lookalike.exporting.exported import ExportedModel
from lookalike.model.embedder import Embedder

SIZES = [
    (1, 1), (2, 2), (1, 2), (1, 5000), (3000, 20), (17, 160), (161, 20), (64, 64), (64, 65),
    (65, 64), (71, 71), (72, 71), (128, 128), (300, 200),
]  # fmt: skip


def pictures(rng: np.random.Generator, height: int, width: int, count: int = 1) -> np.ndarray:
    """Smooth colours with noise, (count, height, width, 3) uint8."""
    y, x, phase = np.ogrid[:height, :width, :3]
    waves = [
        127 + 90 * np.sin(y / rng.uniform(3, 40) + phase) * np.cos(x / rng.uniform(3, 40) - phase)
        for _ in range(count)
    ]
    noise = rng.integers(-20, 21, (count, height, width, 3))
    return (np.stack(waves) + noise).clip(0, 255).astype(np.uint8)


def drift(embedder: Embedder, exported: ExportedModel, batch: np.ndarray) -> float:
    """The largest 1 - cosine, in float64."""
    ours = embedder.embed_batch(torch.stack([embedder.preprocess.prepare(p) for p in batch]))
    theirs = exported.embed_pictures(list(batch)).double().numpy()
    ours = ours.double().numpy()
    assert theirs.shape == (len(batch), embedder.embedding_dim)
    assert np.allclose(np.linalg.norm(theirs, axis=1), 1, atol=1e-6)
    return float((((ours - theirs) ** 2).sum(axis=1) / 2).max())


def of_this_machine(content: bytes) -> list[bytes]:
    """File paths of the exporting machine in an artefact."""
    folders = [Path(module.__file__).parent for module in (torch, timm, onnx_model)]
    return [name for folder in folders if (name := str(folder).encode()) in content]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("side", "crop_pct"), [(64, 1.0), (64, 0.9), (65, 0.875), ((96, 48), 0.9)])
def test_the_preprocessing_graph_gives_the_pixels_of_prepare(interpolation, side, crop_pct):
    preprocess = Preprocess(side, crop_pct, (0.5,) * 3, (0.5,) * 3, interpolation)
    model = onnx_preprocess.preprocessing_graph(preprocess, 10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    sizes = [*SIZES, (700, 500), *(tuple(map(int, rng.integers(1, 400, 2))) for _ in range(20))]
    for height, width in sizes:
        batch = pictures(rng, height, width, 2)
        ours = np.stack([preprocess.prepare(one).numpy() for one in batch]).astype(int)
        theirs = session.run(None, {"images": batch})[0].astype(int)
        assert ours.shape == theirs.shape, (height, width)
        off = np.abs(ours - theirs)
        large = min(height, 8 * width) * min(width, 8 * height) > onnx_preprocess.EXACT_PIXELS
        # Small ones: float32 rounds a sum in a hundred thousand. Large ones: Pillow's weights.
        assert off.max() <= (2 if large else 1), (height, width)
        assert (off > 0).mean() < (0.02 if large else 0.001), (height, width)


def test_sizes_are_those_of_prepare_for_every_shape():
    """The graph's integers, as formulas, against Python's floats and rounding."""
    for side, target in [(64, 64), (64, 71), (65, 74), (224, 256), ((96, 40), (107, 45))]:
        for height in range(1, 120):
            for width in (1, 2, 3, 17, 64, 65, 119, 500, 3000):
                top, left = (max(0, a - 8 * b) // 2 for a, b in ((height, width), (width, height)))
                kept = height - 2 * top, width - 2 * left
                least = height_width(target)
                crop_pct = height_width(side)[0] / least[0]
                preprocess = Preprocess(side, crop_pct, (0.5,) * 3, (0.5,) * 3)
                assert preprocess.resized == least
                assert _resized(preprocess, height, width) == (
                    max(least[0], least[1] * kept[0] // kept[1]),
                    max(least[1], least[0] * kept[1] // kept[0]),
                )


def _resized(preprocess: Preprocess, height: int, width: int) -> tuple[int, int]:
    """The size that `prepare` resizes to."""
    from unittest import mock

    found = []

    def resize(part, new_height, new_width, interpolation):
        found.append((new_height, new_width))
        return torch.zeros(3, new_height, new_width, dtype=torch.uint8)

    with mock.patch("lookalike.data.loading.preprocess.resize", resize):
        preprocess.prepare(np.zeros((height, width, 3), np.uint8))
    return found[0]


# One or two layers of a kind: their graphs repeat, and take torch seconds to export. Whole ones are
# measured in benchmarks/export.py.
FAMILIES = {
    "resnet18": (64, {"layers": (1, 1, 1, 1)}),
    "vit_tiny": ((64, 48), {"depth": 2}),
    "swint_tiny": (112, {"depths": (2, 2, 2, 2)}),
    "xcit_tiny": (48, {"depth": 2}),
}


@pytest.mark.parametrize(
    "backbone",
    [
        "resnet18",
        "vit_tiny",
        *(pytest.param(b, marks=pytest.mark.slow) for b in list(FAMILIES)[2:]),
    ],
)
def test_a_model_of_each_family_keeps_its_vectors_in_onnxruntime(monkeypatch, tmp_path, backbone):
    side, shallow = FAMILIES[backbone]
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, **shallow))
    torch.manual_seed(0)
    embedder = Embedder.create(
        backbone, pretrained=False, image_size=side, embedding_dim=64, crop_pct=0.9
    ).eval()
    exported = write_onnx(embedder, "fp32", tmp_path / "m.onnx", None).reread()
    rng = np.random.default_rng(0)
    high, wide = height_width(side)
    for count in (1, 2, 7, 32):
        assert drift(embedder, exported, pictures(rng, high + 9, 2 * wide + 3, count)) <= 1e-6
    for height, width in [(high, wide), (1, 5000), (3000, 20), (1, 1), (3 * high, wide + 1)]:
        assert drift(embedder, exported, pictures(rng, height, width)) <= 1e-6
    assert drift(embedder, exported, pictures(rng, 700, 600, 2)) <= 1e-4  # with Pillow's weights


def test_the_network_alone_gives_the_vectors_to_float_rounding(tmp_path):
    torch.manual_seed(0)
    embedder = Embedder.create("test_resnet", pretrained=False, image_size=64, embedding_dim=64)
    graph = onnx_model.network_graph(embedder.eval())
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    images = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8)
    [found] = session.run(None, {"pixels": images.numpy()})
    assert np.allclose(found, embedder.embed_batch(images).numpy(), atol=2e-6)
    assert not of_this_machine(graph.SerializeToString())


@pytest.mark.parametrize(
    ("backbone", "side", "crop_pct"), [("test_resnet", (96, 48), 1.0), ("test_vit", 64, 0.9)]
)
def test_a_torch_export_program_gives_the_same_bits_after_reloading(
    tmp_path, backbone, side, crop_pct
):
    torch.manual_seed(0)
    embedder = Embedder.create(
        backbone, pretrained=False, image_size=side, embedding_dim=32, crop_pct=crop_pct
    ).eval()
    artefact = write_program(embedder, "fp32", tmp_path / "m.pt2", None)
    artefact.finish({"certificate": {"drift": 0.0}}, '{"thresholds": []}')
    program = artefact.reread()
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate(SIZES):
        batch = pictures(rng, height, width, 1 + number % 4)
        prepared = torch.stack([embedder.preprocess.prepare(one) for one in batch])
        found = program.embed_pictures(list(batch))
        assert torch.allclose(found, embedder.embed_batch(prepared), atol=1e-6), (height, width)
    with zipfile.ZipFile(tmp_path / "m.pt2") as archive:
        texts = {name.rsplit("/", 1)[-1]: archive.read(name) for name in archive.namelist()
                 if "extra" in name}  # fmt: skip
        assert not of_this_machine(b"".join(map(archive.read, archive.namelist())))
    about = json.loads(texts["lookalike.json"])
    assert about.pop("sha256") == artefact_digest.of_entries(
        tmp_path / "m.pt2", but="/lookalike.json"
    )
    assert about == {"certificate": {"drift": 0.0}}
    assert texts["calibration.json"] == b'{"thresholds": []}'
