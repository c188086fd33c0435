"""`lookalike export --input tensor`, the runtimes of a certificate, and the images of one."""

import importlib.util
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

import lookalike
from lookalike.cli import app
from lookalike.data.decoding.decode import load_image
from lookalike.errors import ConfigError
from lookalike.exporting import exported as exported_module
from lookalike.exporting.exported import ExportedModel
from lookalike.model.embedder import Embedder

HAS_OPENVINO = importlib.util.find_spec("openvino") is not None


@pytest.fixture(scope="module", params=[pytest.param(48, marks=pytest.mark.slow), (48, 32)])
def model(request, tmp_path_factory):
    """The folder of a model without training: of squares, and of upright pictures."""
    torch.manual_seed(0)
    embedder = Embedder.create(
        "test_resnet", pretrained=False, image_size=request.param, embedding_dim=16
    )
    folder = tmp_path_factory.mktemp("model")
    embedder.save(folder)
    return folder


def about_of(path):
    return json.loads({e.key: e.value for e in onnx.load(path).metadata_props}["lookalike"])


def test_a_tensor_in_and_a_unit_vector_out(model, shapes, tmp_path):
    path = tmp_path / "model.onnx"
    lookalike.export(model, input="tensor", output=path, data=str(shapes / "val.txt"), threads=2)
    embedder = lookalike.load(model)
    size = embedder.preprocess.image_size
    height, width = (size, size) if isinstance(size, int) else size
    [entry] = onnx.load(path).graph.input
    assert entry.name == "tensor"
    assert entry.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [d.dim_param or d.dim_value for d in entry.type.tensor_type.shape.dim] == [
        "batch", 3, height, width,
    ]  # fmt: skip

    # As its documentation says, by NumPy alone.
    files = sorted((shapes / "images").glob("10*.jpg"))[:5]
    seen = [embedder.preprocess.prepare(load_image(file)).numpy() for file in files]
    mean, std = (
        np.array(x)[:, None, None] for x in (embedder.preprocess.mean, embedder.preprocess.std)
    )
    tensor = ((np.stack(seen) / 255 - mean) / std).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 5):
        [vectors] = session.run(["embedding"], {"tensor": tensor[:count]})
        np.testing.assert_allclose(vectors, embedder.embed(files)[:count], atol=2e-6)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)

    about = about_of(path)
    assert about["input"] == (
        "RGB, preprocessed as by `model.preprocess`: float32 (B, 3, "
        f"{height}, {width}), (x / 255 - mean) / std"
    )
    names = [text.partition(" ")[0] for text in about["certified_for"]]
    assert names == ["onnxruntime", "openvino"][: 1 + HAS_OPENVINO]
    assert about["other_runtimes"].startswith("not certified: measure them before use")

    # lookalike runs it with its own preprocessing.
    read = lookalike.load(path)
    np.testing.assert_allclose(read.embed(files), embedder.embed(files), atol=2e-6)


@pytest.mark.skipif(not HAS_OPENVINO, reason="the extra openvino is not installed")
def test_openvino_gives_the_same_vectors(model, shapes, tmp_path):
    path = tmp_path / "model.onnx"
    lookalike.export(model, input="tensor", output=path, data=str(shapes / "val.txt"), threads=2)
    files = sorted((shapes / "images").glob("10*.jpg"))[:5]
    vectors = exported_module.load_openvino(path).embed(files)
    np.testing.assert_allclose(vectors, lookalike.load(model).embed(files), atol=2e-6)


def test_a_runtime_that_gives_other_vectors_is_not_certified(
    model, shapes, tmp_path, monkeypatch, caplog
):
    from lookalike.exporting import export_formats

    def turned(path):
        right = exported_module.load_onnx(path)
        return ExportedModel(
            lambda images: right.embed_pictures(list(images)).numpy()[:, ::-1], right.embedding_dim
        )

    monkeypatch.setattr(export_formats.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(export_formats, "load_openvino", turned)
    path = tmp_path / "model.onnx"
    lookalike.export(model, input="tensor", output=path, data=str(shapes / "val.txt"), threads=2)
    assert [text.partition(" ")[0] for text in about_of(path)["certified_for"]] == ["onnxruntime"]
    assert "not certified for openvino: the exported model is not the trained one" in caplog.text


def test_pictures_are_certified_for_onnxruntime_only(model, shapes, tmp_path):
    path = tmp_path / "model.onnx"
    lookalike.export(model, output=path, data=str(shapes / "val.txt"), threads=2)
    about = about_of(path)
    assert about["certified_for"] == [f"onnxruntime {onnxruntime.__version__}"]
    assert "does in OpenVINO 2026.4 (use --input tensor)" in about["other_runtimes"]
    assert about["measured_on"] == "val.txt"


@pytest.mark.parametrize(
    ("format", "input", "words"),
    [
        ("onnx", "pixels", r"input='pixels' is not one of picture, tensor, which onnx has$"),
        ("timm", "tensor", r"input='tensor' is not one of picture, which timm has; onnx has it$"),
    ],
)
def test_inputs_that_there_are_not(model, format, input, words):
    with pytest.raises(ConfigError, match=words):
        lookalike.export(model, format, input=input, output="x.onnx")


@pytest.fixture(scope="module")
def unmeasured(shapes, tmp_path_factory):
    """A run without a validation list."""
    output = tmp_path_factory.mktemp("unmeasured") / "run"
    lookalike.train(
        train=str(shapes / "train.txt"), output=str(output), backbone="test_resnet", epochs=1,
        max_steps=1, pretrained=False, image_size=32, embedding_dim=16, batch_size=8, threads=2,
        device="cpu",
    )  # fmt: skip
    return output


def test_a_run_without_validation_images_is_certified_on_its_training_images(
    unmeasured, shapes, caplog
):
    done = CliRunner().invoke(app, ["export", str(unmeasured), "--input", "tensor"])
    assert done.exit_code == 0, done.output
    assert f"{unmeasured} has no validation list" in caplog.text
    about = about_of(unmeasured / "exports/model-tensor.onnx")
    assert about["measured_on"] == "train.txt (training images)"
    assert about["certificate"]["images"] == len((shapes / "train.txt").read_text().splitlines())
    made = lookalike.export(unmeasured, "safetensors", threads=2)
    assert "of train.txt (training images): each image" in (made.path / "README.md").read_text()


@pytest.mark.parametrize("model", [48], indirect=True)
def test_a_tensor_in_eight_bits(model, shapes, tmp_path):
    path, listed = tmp_path / "model.onnx", str(shapes / "val.txt")
    lookalike.export(
        model, input="tensor", precision="int8", output=path, data=listed, ranges=listed,
        max_recall_change=0.2, threads=2,
    )  # fmt: skip
    graph = onnx.load(path).graph
    assert [entry.name for entry in graph.input] == ["tensor"]
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in graph.node}
    about = about_of(path)
    assert (about["precision"], about["input_kind"]) == ("int8", "tensor")
    files = sorted((shapes / "images").glob("10*.jpg"))[:5]
    vectors = lookalike.load(path).embed(files)
    cosines = (vectors * lookalike.load(model).embed(files)).sum(1)
    assert (cosines > 0.9).all()
    assert cosines.min() < 1 - 1e-6
