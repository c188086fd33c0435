"""`lookalike export`: the command, the certificate, and exported models at work."""

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch

import lookalike
from lookalike import storage
from lookalike.data.catalog import Catalog
from lookalike.data.decoding.decode import load_image
from lookalike.data.record import Record
from lookalike.errors import DataError, ModelError, RunError, StorageError
from lookalike.exporting import BOUNDS, artefact, certificate, weight_folders
from lookalike.exporting.exported import ExportedModel, load_onnx
from lookalike.metrics.calibration import fit_calibration
from lookalike.model.embedder import Embedder
from lookalike.model.inference import Embedded
from lookalike.model.projection import Projection
from lookalike.storage import file_lock
from program import run


@pytest.fixture(scope="module")
def trained(shapes, tmp_path_factory):
    """A short run with a validation list."""
    output = tmp_path_factory.mktemp("trained") / "run"
    lookalike.train(
        train=str(shapes / "train.txt"), val=str(shapes / "val.txt"), output=str(output),
        backbone="test_resnet", epochs=3, pretrained=False, image_size=48, embedding_dim=32,
        batch_size=8, threads=2, device="cpu",
    )  # fmt: skip
    labels = torch.arange(40).repeat_interleave(4)
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(40, 16, generator=generator)[labels]
    vectors = centres + torch.randn(160, 16, generator=generator)
    fit_calibration(vectors, labels, source="drawn vectors").save(
        output / "model"
    )  # the list has too few classes for one
    return output


def calibration(run):
    return (run / "model/calibration.json").read_text()


@pytest.fixture(scope="module")
def onnx_file(trained):
    return lookalike.export(trained, threads=2).path


def test_the_onnx_file_is_in_the_run_and_describes_itself(trained, onnx_file):
    assert onnx_file == trained / "exports/model.onnx"
    assert [path.name for path in onnx_file.parent.iterdir()] == ["model.onnx"]
    model = onnx.load(onnx_file)
    [image], [vector] = model.graph.input, model.graph.output
    assert (image.name, image.type.tensor_type.elem_type) == ("images", onnx.TensorProto.UINT8)
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim] == [
        "batch", "height", "width", 3,
    ]  # fmt: skip
    assert [d.dim_param or d.dim_value for d in vector.type.tensor_type.shape.dim] == ["batch", 32]
    texts = {entry.key: entry.value for entry in model.metadata_props}
    assert texts["calibration"] == calibration(trained)
    about = json.loads(texts["lookalike"])
    assert about["model"]["backbone"] == "test_resnet"
    assert about["versions"]["onnxruntime"]
    found = about["certificate"]
    assert found["images"] == 20
    assert found["trained"] == found["exported"]
    assert found["trained"]["queries"] == 20
    assert 0 <= found["drift"] <= found["bounds"]["drift"] == 1e-4
    assert found["batch_sizes"] == [1, 2, 7, 32]


def test_evaluate_and_embed_take_the_onnx_file(
    monkeypatch, shapes, trained, onnx_file, tmp_path, capsys
):
    figures = []
    for model in (trained, onnx_file):
        assert run(monkeypatch, "evaluate", model, "--data", shapes / "val.txt", "--json") == 0
        figures.append(json.loads(capsys.readouterr().out))
        assert figures[-1].pop("model") == str(model)
        name = tmp_path / f"{len(figures)}.npy"
        assert run(monkeypatch, "embed", model, shapes / "images", "-o", name) == 0
        capsys.readouterr()
    assert figures[0] == figures[1]
    ours, theirs = (np.load(tmp_path / f"{n}.npy") for n in (1, 2))
    assert ours.shape == (68, 32)
    assert (1 - (ours * theirs).sum(axis=1)).max() < 1e-4
    assert (tmp_path / "1.paths.txt").read_text() == (tmp_path / "2.paths.txt").read_text()


def test_a_loaded_file_embeds_pictures_of_all_sizes_and_kinds(shapes, trained, onnx_file):
    rng = np.random.default_rng(0)
    path = str(shapes / "images/100-0.jpg")
    pictures = [
        path, Path(path).read_bytes(), load_image(path),
        *(rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in [(48, 48), (9, 200)] * 2),
    ]  # fmt: skip
    exported, embedder = lookalike.load(onnx_file), lookalike.load(trained, device="cpu")
    vectors = exported.embed(pictures, batch_size=4)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.array_equal(vectors[0], vectors[1])
    assert (1 - (vectors * embedder.embed(pictures)).sum(axis=1)).max() < 1e-4
    assert exported.about["model"] == embedder.describe()
    assert exported.calibration == calibration(trained)


def test_unreadable_images_are_skipped_by_an_exported_model_too(
    monkeypatch, shapes, onnx_file, tmp_path, caplog
):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    names = [shapes / "images/100-0.jpg", tmp_path / "broken.jpg", shapes / "images/100-1.jpg"]
    assert run(monkeypatch, "embed", onnx_file, *names, "-o", tmp_path / "v.npy") == 0
    assert "broken.jpg" in caplog.text
    assert np.load(tmp_path / "v.npy").shape == (2, 32)


def test_an_exceeded_bound_writes_nothing_and_keeps_the_old_export(
    monkeypatch, trained, tmp_path, capsys
):
    output = tmp_path / "out/model.onnx"
    words = ["export", trained, "--precision", "int8", "-o", output, "--max-recall-change", 1]
    output.parent.mkdir()
    output.write_text("an older one")
    assert run(monkeypatch, *words, "--max-drift", "1e-9") == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "the exported model is not the trained one: its largest drift is" in shown
    assert [path.name for path in output.parent.iterdir()] == ["model.onnx"]
    assert output.read_text() == "an older one"
    assert run(monkeypatch, *words, "--max-drift", 1) == 0
    assert lookalike.load(output).about["precision"] == "int8"
    drift = lookalike.load(output).about["certificate"]["drift"]
    assert 1e-9 < drift < 0.1
    types = {node.op_type for node in onnx.load(output).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= types


def test_images_that_are_read_once_only_are_no_mistake_of_ours(monkeypatch):
    parts = [Embedded(torch.ones(n, 2), torch.arange(n)) for n in (2, 1)]
    monkeypatch.setattr(certificate, "embed_records", lambda *_, **__: parts.pop(0))
    catalog = Catalog([Record("a.jpg", "1", "list.txt", 1)], np.zeros(1), None)
    exported = ExportedModel(lambda images: images, 2)
    with pytest.raises(DataError, match=r"list\.txt: some images could be read the first time"):
        certificate.certify(exported, exported, catalog, BOUNDS["fp32"])


def test_a_change_of_recall_is_a_fault_of_its_own(monkeypatch, trained, tmp_path, capsys):
    """Another network in place of the export: the drift is allowed, the neighbours are not."""
    other = Embedder.create(
        "test_resnet", pretrained=False, image_size=48, embedding_dim=32, pooling="max"
    ).eval()
    weight = other.neck.projections[0].weight.detach()
    weight.copy_(weight[:1].expand_as(weight).clone())  # all pictures in one place, or two
    embedder = lookalike.load(trained, device="cpu")
    monkeypatch.setattr(weight_folders, "in_precision", lambda embedder, precision: other)
    before = embedder.embed([np.zeros((48, 48, 3), np.uint8)])
    assert before.shape == (1, 32)
    code = run(
        monkeypatch, "export", trained, "--format", "safetensors", "-o", tmp_path / "f",
        "--max-drift", 2, "--max-recall-change", 0,
    )  # fmt: skip
    assert code == 2
    assert "Recall@1 changes by" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_fp16_is_half_the_size_and_close(trained, onnx_file, tmp_path):
    done = lookalike.export(trained, precision="fp16", output=tmp_path / "h.onnx", threads=2)
    assert done.path.stat().st_size < 0.65 * onnx_file.stat().st_size
    assert 0 < done.certificate.drift < 1e-3


@pytest.mark.parametrize("format", ["safetensors", "timm"])
def test_folders_have_weights_a_card_and_the_certificate(trained, tmp_path, format):
    folder = lookalike.export(trained, format, output=tmp_path / "out", threads=2).path
    names = {path.name for path in folder.iterdir()}
    expected = {"README.md", "config.json", "model.safetensors", "lookalike.json"}
    expected |= {"calibration.json"} | ({"neck.safetensors"} if format == "timm" else set())
    assert names == expected
    assert (folder / "calibration.json").read_text() == calibration(trained)
    about = json.loads((folder / "lookalike.json").read_text())
    assert about["certificate"]["drift"] < 1e-6
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: ")
    assert "pipeline_tag: image-feature-extraction" in card
    for text in ("| Recall@1 |", "train.txt", "val.txt", "drawn vectors (160 images of 40"):
        assert text in card
    assert str(trained.parent) not in card + json.dumps(about)
    # Made again, in the same place.
    assert lookalike.export(trained, format, output=folder, threads=2).path == folder
    assert {path.name for path in folder.iterdir()} == expected


def test_a_model_of_fewer_dimensions_is_exported(shapes, tmp_path):
    torch.manual_seed(1)
    embedder = Embedder.create(
        "test_resnet", pretrained=False, image_size=32, embedding_dim=16, pooling="gem+quarters"
    ).eval()
    projection = Projection(torch.randn(16) / 10, torch.linalg.qr(torch.randn(16, 5))[0].T)
    embedder.set_postprocessing(mirror=False, projection=projection)
    embedder.save(tmp_path / "model")
    data = str(shapes / "val.txt")
    lookalike.export(tmp_path / "model", output=tmp_path / "m.onnx", data=data, threads=2)
    image = [str(shapes / "images/100-0.jpg")]
    found = lookalike.load(tmp_path / "m.onnx", device="cpu").embed(image)
    assert found.shape == (1, 5)
    np.testing.assert_allclose(found, embedder.embed(image), atol=1e-5)


def test_our_folder_loads_as_a_model(trained, shapes, tmp_path):
    folder = lookalike.export(trained, "safetensors", output=tmp_path / "out", threads=2).path
    image = [str(shapes / "images/100-0.jpg")]
    ours, theirs = lookalike.load(trained, device="cpu"), lookalike.load(folder, device="cpu")
    assert np.array_equal(ours.embed(image), theirs.embed(image))


def test_an_index_of_the_run_accepts_its_certified_exports_and_no_other_model(
    trained, onnx_file, shapes, tmp_path
):
    images = sorted(map(str, (shapes / "images").glob("10*.jpg")))
    run_model, exported = lookalike.load(trained, device="cpu"), lookalike.load(onnx_file)
    assert exported.trained_fingerprint() == run_model.fingerprint() != exported.fingerprint()
    index = lookalike.Index.build(run_model, images, tmp_path / "of-run")
    again = lookalike.Index.open(tmp_path / "of-run", exported)
    assert [row[0] for row in again.search(images, 1).ids] == images
    by_export = lookalike.Index.build(exported, images, tmp_path / "of-export")
    assert by_export.model == index.model
    found = lookalike.Index.open(tmp_path / "of-export", run_model).search(images, 1)
    assert [row[0] for row in found.ids] == images
    folder = lookalike.export(
        trained, "safetensors", precision="fp16", output=tmp_path / "half", threads=2
    ).path
    half = lookalike.load(folder, device="cpu")
    assert half.fingerprint() != run_model.fingerprint() == half.trained_fingerprint()
    assert len(lookalike.Index.open(tmp_path / "of-run", half)) == len(images)
    with torch.no_grad():  # no longer what was certified
        next(half.parameters()).add_(1)
    with pytest.raises(RunError, match="another model"):
        lookalike.Index.open(tmp_path / "of-run", half)
    about = copy.deepcopy(exported.about)
    about["certificate"]["drift"] = 2e-4  # as int8 has it
    drifted = load_onnx(onnx_file)
    drifted.about = about
    assert drifted.trained_fingerprint() == drifted.fingerprint()
    for stranger in (drifted, Embedder.create("test_resnet", pretrained=False, image_size=48,
                                              embedding_dim=32)):  # fmt: skip
        with pytest.raises(RunError, match="another model"):
            lookalike.Index.open(tmp_path / "of-run", stranger)


def test_vectors_of_an_export_are_a_gallery_of_the_run(trained, onnx_file, shapes, tmp_path):
    table = tmp_path / "v.parquet"
    lookalike.embed(onnx_file, shapes / "images", table, device="cpu", threads=1)
    query = shapes / "images/100-0.jpg"
    index = tmp_path / "x"
    found = lookalike.search(trained, query, gallery=table, index=index, device="cpu", k=1)
    assert found.answers[0].neighbours[0].id == str(query)


def test_an_exported_model_is_copied_and_pickled_by_its_file(onnx_file, shapes, tmp_path):
    image = shapes / "images/100-0.jpg"
    moved = tmp_path / "m.onnx"
    moved.write_bytes(Path(onnx_file).read_bytes())
    model = load_onnx(moved)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301
        assert np.array_equal(again.embed(image), model.embed(image))
        assert again.fingerprint() == model.fingerprint()
        assert again.about == model.about
    text = pickle.dumps(model)
    proto = onnx.load(moved)
    proto.doc_string = "another"
    onnx.save(proto, moved)
    with pytest.raises(RunError, match=r"another file|damaged|changed"):
        pickle.loads(text)  # noqa: S301
    with pytest.raises(ModelError, match="cannot be copied or pickled"):
        pickle.dumps(ExportedModel(lambda images: images, 8))


@pytest.mark.parametrize(
    ("backbone", "pooling", "free_length"),
    [
        ("test_resnet", "gem+avg", False),
        ("test_vit", "cls+max", False),
        pytest.param("swint_tiny", "gem", False, marks=pytest.mark.slow),
        ("test_resnet", "avg", True),
        ("test_resnet", "gem+quarters", False),
    ],
)
def test_the_cards_code_gives_the_full_embedding_with_timm_alone(
    monkeypatch, shapes, tmp_path, backbone, pooling, free_length
):
    torch.manual_seed(0)
    embedder = Embedder.create(
        backbone, pretrained=False, image_size=64, crop_pct=0.9, embedding_dim=33, pooling=pooling,
        normalize=not free_length,
    ).eval()  # fmt: skip
    if embedder.neck.norm is not None:
        embedder.neck.norm.running_mean.normal_()
        embedder.neck.norm.running_var.uniform_(0.5, 2)
    embedder.save(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    lookalike.export(
        "model", "timm", output="net", data=str(shapes / "val.txt"), threads=2, max_recall_change=0
    )
    model = timm.create_model("local-dir:net", pretrained=True, num_classes=0).eval()
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, embedder.backbone.dim)
    data = timm.data.resolve_model_data_config(model)
    assert (data["input_size"], data["crop_pct"]) == ((3, 64, 64), 0.9)
    card = (tmp_path / "net/README.md").read_text()
    [code] = [part.split("```")[0] for part in card.split("```python\n") if "def embed" in part]
    space: dict = {}
    exec(code, space)
    pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    found = space["embed"](embedder.preprocess.normalise(pixels))
    assert torch.allclose(found, embedder.embed_batch(pixels), atol=1e-5)


def test_lists_are_needed_where_there_is_no_run(monkeypatch, shapes, trained, tmp_path, capsys):
    words = ["export", trained / "model", "-o", tmp_path / "m.onnx"]
    assert run(monkeypatch, *words) == 2
    assert "give --data LIST" in capsys.readouterr().err
    data = ["--data", shapes / "val.txt"]
    assert run(monkeypatch, *words, *data, "--precision", "int8") == 2
    assert "give --ranges LIST" in capsys.readouterr().err
    assert run(monkeypatch, "export", trained / "model", *data) == 2
    assert "--output PATH" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


MISTAKES = {
    "format": (["--format", "tflite"], "format='tflite' is not one of onnx, torch_export"),
    "precision": (["--format", "timm", "--precision", "int8"], "fp32, fp16, which timm has"),
    "ending": (["-o", "{out}/model.bin"], "must end in .onnx"),
    "remote": (["-o", "https://example.com/m.onnx"], "nothing can be written to a web server"),
    "no list": (["--data", "none.txt"], "none.txt: no such file"),
    "images": (["--max-images", "1"], "max_images=1 must be at least 2"),
    "a folder of others": (
        ["--format", "timm", "-o", "{here}"],
        "is a folder, and no exported one",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_line(monkeypatch, trained, tmp_path, capsys, mistake):
    words, message = MISTAKES[mistake]
    places = {"out": tmp_path / "out", "here": trained / "checkpoints"}
    assert run(monkeypatch, "export", trained, *(word.format(**places) for word in words)) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_model_of_somebody_else_and_a_broken_one_are_refused(
    monkeypatch, trained, onnx_file, tmp_path, capsys
):
    foreign = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]> g (float[1] x) => (float[1] y) {y = Neg(x)}'
    )
    onnx.save(foreign, tmp_path / "foreign.onnx")
    (tmp_path / "broken.onnx").write_bytes(onnx_file.read_bytes()[:1000])
    for name, message in [
        ("foreign", "not written by lookalike export"),
        ("broken", "not an ONNX model that onnxruntime can run"),
        ("missing", "no such file"),
    ]:
        with pytest.raises(lookalike.LookalikeError, match=message):
            lookalike.load(tmp_path / f"{name}.onnx")
    with pytest.raises(lookalike.LookalikeError, match="is exported already"):
        lookalike.export(onnx_file, output=tmp_path / "twice.onnx", data="x.txt")
    with pytest.raises(lookalike.LookalikeError, match="onnxruntime-gpu"):
        load_onnx(onnx_file, torch.device("cuda"))


def test_the_place_the_list_and_the_packages_are_checked_before_the_model_is_loaded(
    monkeypatch, trained, tmp_path
):
    """Loading takes time, and of a remote run a download."""

    def loaded(*_, **__):
        raise AssertionError("loaded")

    monkeypatch.setattr("lookalike.commands.export.load", loaded)
    (tmp_path / "file").touch()
    for words, given in (
        ("file/m.onnx: cannot be written", {"output": tmp_path / "file/m.onnx"}),
        ("must end in .onnx", {"output": tmp_path / "m.pt2"}),
        ("none: no such file", {"data": tmp_path / "none"}),
    ):
        with pytest.raises(lookalike.LookalikeError, match=words):
            lookalike.export(trained, **given)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(lookalike.LookalikeError, match=r"pip install 'lookalike\[onnx\]'"):
        lookalike.export(trained, output=tmp_path / "m.onnx")


def test_a_missing_extra_is_named_with_its_pip_command(monkeypatch, trained, onnx_file, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for act in (
        lambda: lookalike.export(trained, output=tmp_path / "m.onnx"),
        lambda: lookalike.load(onnx_file),
    ):
        with pytest.raises(lookalike.LookalikeError, match=r"pip install 'lookalike\[onnx\]'"):
            act()
    # Mistakes in the arguments come first.
    for act in (
        lambda: lookalike.export(tmp_path / "nope"),
        lambda: lookalike.export(trained, data=tmp_path / "nope"),
        lambda: lookalike.load(tmp_path / "nope.onnx"),
    ):
        with pytest.raises(lookalike.LookalikeError, match=r"nope.*: no such file"):
            act()


def test_a_remote_file_is_fetched_to_be_used(monkeypatch, shapes, trained, onnx_file, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    uri = "memory://bucket/exported/model.onnx"
    storage.write_file(onnx_file, uri)
    image = [str(shapes / "images/100-0.jpg")]
    found = lookalike.load(uri).embed(image)
    assert np.array_equal(found, lookalike.load(onnx_file).embed(image))
    scores = lookalike.evaluate(uri, str(shapes / "val.txt"))
    assert scores == lookalike.evaluate(onnx_file, str(shapes / "val.txt"))
    storage.remove_file(uri)


def test_lists_that_are_not_here_are_named_with_the_way_out(monkeypatch, shapes, tmp_path, capfd):
    """A run knows its lists by the paths that it was given, in the folder where it began."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there/data").symlink_to(shapes)
    monkeypatch.chdir(tmp_path / "there")
    lookalike.train(
        train="data/train.txt", val="data/val.txt", output="run", backbone="test_resnet",
        max_steps=1, pretrained=False, image_size=48, embedding_dim=32, batch_size=8,
        device="cpu", report=False,
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there/data").unlink()
    val = ["--data", shapes / "val.txt"]
    where = f"{tmp_path}/there, where it is not found any more: "
    unknown = "the folder where it was trained: run this there, or "
    for words, flag in (
        (["export", "there/run"], "--data"),
        (["export", "there/run", *val, "--precision", "int8"], "--ranges"),
        (["improve", "there/run", *val, "--variant", "whiten"], "--fit"),
        (["train", "--resume", "--output", "there/run"], "--train LIST and --val"),
        (["train", "--resume", "--output", "there/run", "run.workers=2"], "--train LIST and --val"),
        (["doctor", "--run", "there/run"], "--data"),
    ):
        assert run(monkeypatch, *words) == 2
        assert capfd.readouterr().err.splitlines()[-1] == (
            "error: data/train.txt: no such file or directory; there/run names it, relative to "
            f"{where}give {flag} LIST"
        )
    (tmp_path / "there/run/folders.json").unlink()  # as in a run of an earlier version
    assert run(monkeypatch, "export", "there/run") == 2
    assert f"relative to {unknown}give --data LIST" in capfd.readouterr().err
    assert run(monkeypatch, "train", "--resume", "--output", "there/run", "--train", "none") == 2
    assert capfd.readouterr().err.splitlines()[-1] == "error: none: no such file or directory"


@pytest.mark.parametrize(
    "words", [["export"], ["improve", "--data", "x"], ["embed", "x", "-o", "x.npy"]]
)
def test_a_model_that_is_not_there_is_told_so(monkeypatch, tmp_path, capsys, words):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, words[0], "nope", *words[1:]) == 2
    error = "error: nope: no such file or folder; give a run or a model folder"
    assert capsys.readouterr().err.splitlines()[-1] == error


def test_one_writes_at_a_time(tmp_path, monkeypatch):
    output = tmp_path / "model.onnx"
    monkeypatch.setattr(file_lock, "PATIENCE", 0.1)
    with artefact.atomic_output(output) as path:
        path.write_bytes(b"the first")
        with (
            pytest.raises(StorageError, match="another process is writing"),
            artefact.atomic_output(output),
        ):
            pass
    assert output.read_bytes() == b"the first"
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_an_export_behind_a_link_is_replaced_and_the_link_stays(tmp_path):
    link, folder = tmp_path / "link", tmp_path / "below/model"
    link.symlink_to("below/model")
    for content in ("first", "second"):
        with artefact.atomic_output(link) as path:
            path.mkdir()
            (path / artefact.ABOUT_FILE).write_text(content)
        assert (folder / artefact.ABOUT_FILE).read_text() == content
    assert link.is_symlink()
    assert {file.name for file in tmp_path.rglob("*")} == {
        "link", "below", "model", artefact.ABOUT_FILE
    }  # fmt: skip


def test_a_damaged_onnx_file_is_not_loaded(onnx_file, tmp_path):
    copy = tmp_path / "model.onnx"
    content = bytearray(onnx_file.read_bytes())
    initializer = onnx.load(onnx_file).graph.initializer[-1].raw_data
    content[content.find(initializer) + 5] ^= 1  # one bit of a weight
    copy.write_bytes(content)
    onnx.checker.check_model(str(copy))
    with pytest.raises(RunError, match=f"{copy}: damaged, or changed after it was exported"):
        lookalike.load(copy)


def test_an_onnx_file_without_a_digest_is_loaded_as_before(onnx_file, tmp_path):
    model = onnx.load(onnx_file)
    for entry in model.metadata_props:
        if entry.key == "lookalike":
            about = json.loads(entry.value)
            assert len(about.pop("sha256")) == 64
            entry.value = json.dumps(about)
    onnx.save(model, tmp_path / "model.onnx")
    assert lookalike.load(tmp_path / "model.onnx").embedding_dim == 32
