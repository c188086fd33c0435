"""Models exported to object storage, and used from there."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from test_whole_run import go

import lookalike
from lookalike import storage
from lookalike.errors import ExportError, LookalikeError, StorageError
from lookalike.exporting import artefact
from lookalike.storage.output_checks import check_output_file, check_output_folder
from program import run


@pytest.fixture
def val(bucket, shapes):
    return str(shapes / "val.txt")


@pytest.mark.parametrize("scheme", ["s3", "oss"])
def test_an_onnx_file(monkeypatch, model, val, shapes, tmp_path, scheme, caplog):
    folder = f"{scheme}://shop/models"
    uri = f"{folder}/shoes.onnx"
    assert run(monkeypatch, "export", model, "-o", uri, "--data", val) == 0
    assert f"{uri}: largest drift" in caplog.text
    assert list(storage.sizes_below(folder)) == ["shoes.onnx"]
    expected = lookalike.evaluate(model, val, device="cpu")
    assert lookalike.evaluate(uri, val, device="cpu") == expected
    assert run(monkeypatch, "evaluate", uri, "--data", val, "--json") == 0
    assert run(monkeypatch, "embed", uri, val, "-o", tmp_path / "x.npy") == 0
    assert np.load(tmp_path / "x.npy").shape == (20, 16)
    image = str(shapes / "images/100-0.jpg")
    found = [
        lookalike.search(each, image, gallery=val, device="cpu", index=tmp_path / str(number))
        for number, each in enumerate((model, uri))
    ]
    theirs, ours = ([one.id for one in each.answers[0].neighbours] for each in found)
    assert theirs == ours
    with pytest.raises(LookalikeError, match="is exported already"):
        lookalike.export(uri, output=f"{folder}/twice.onnx", data=val)
    if scheme == "oss":
        address = os.environ["OSS_ENDPOINT"]
        monkeypatch.delenv("OSS_ENDPOINT")
        assert lookalike.load(f"{uri}?endpoint={address}").embedding_dim == 16


def test_file_is_replaced_only_by_a_valid_export(model, val):
    uri = "s3://shop/models/shoes.pt2"
    storage.write_bytes(uri, b"the old one")
    with pytest.raises(ExportError, match="nothing was kept"):
        lookalike.export(model, "torch_export", precision="fp16", output=uri, data=val, max_drift=0)
    assert storage.read_bytes(uri) == b"the old one"
    made = lookalike.export(model, "torch_export", output=uri, data=val)
    assert made.path == uri
    assert len(storage.read_bytes(uri)) > 1000


@pytest.mark.parametrize("scheme", ["s3", "oss"])
def test_a_folder(model, val, shapes, scheme):
    uri = f"{scheme}://shop/models/shoes"
    made = lookalike.export(model, "safetensors", output=uri, data=val)
    assert made.path == uri
    image = [str(shapes / "images/100-0.jpg")]
    expected = lookalike.load(model, device="cpu").embed(image)
    assert np.array_equal(lookalike.load(uri, device="cpu").embed(image), expected)
    names = {"README.md", "config.json", "lookalike.json", "model.safetensors"}
    assert set(storage.sizes_below(uri)) == names
    # Exported again, by another format: nothing is left that belongs to the first.
    storage.write_bytes(f"{uri}/calibration.json", b"of the first")
    storage.write_bytes(f"{uri}/notes.txt", b"somebody's")
    lookalike.export(model, "timm", output=uri, data=val)
    found = set(storage.sizes_below(uri))
    assert "calibration.json" not in found
    assert {"neck.safetensors", "notes.txt", *names} <= found
    # Never into what is something else.
    storage.write_bytes(f"{scheme}://shop/data/list.txt", b"x")
    for place in (f"{scheme}://shop/data", f"{scheme}://shop"):
        with pytest.raises(LookalikeError, match="is a folder, and no exported one"):
            lookalike.export(model, "safetensors", output=place, data=val)
    assert storage.read_bytes(f"{scheme}://shop/data/list.txt") == b"x"


def test_incomplete_folder_is_no_model(bucket, model, val):
    uri = "s3://shop/models/shoes"
    lookalike.export(model, "safetensors", output=uri, data=val)
    bucket.plan = lambda method, path, count: (
        "expired" if method == "PUT" and path.endswith("model.safetensors") else None
    )
    with pytest.raises(StorageError, match="what was exported is in ") as told:
        lookalike.export(model, "safetensors", output=uri, data=val)
    bucket.plan = lambda *_: None
    with pytest.raises(LookalikeError, match="neither a run nor a model folder"):
        lookalike.load(uri)
    kept = re.search(r"what was exported is in (\S+)$", str(told.value))[1]
    assert Path(kept).name == "shoes"
    assert lookalike.load(kept, device="cpu").embedding_dim == 16
    artefact.shutil.rmtree(Path(kept).parent)


def test_exports_of_a_remote_run_are_remote(shapes, val):
    run = "s3://shop/runs/x"
    go(str(shapes / "train.txt"), run, 1, val=val)
    made = lookalike.export(run, "torch_export")
    assert made.path == f"{run}/exports/model.pt2"
    assert "exports/model.pt2" in storage.sizes_below(run)


@pytest.mark.parametrize("scheme", ["s3", "oss", "gs"])
def test_a_bucket_that_is_not_there_is_found_before_any_work(
    monkeypatch, bucket, google, model, tmp_path, scheme, capsys
):
    """No list is there: each command would complain of it if it began."""
    monkeypatch.chdir(tmp_path)
    for words in (
        ["train", "--train", "none.txt", "--output", "URI/run"],
        ["train", "--resume", "--train", "none.txt", "--output", "URI/run"],
        ["export", model, "--data", "none.txt", "--output", "URI/shoes.onnx"],
        ["export", model, "--data", "none.txt", "--format", "safetensors", "--output", "URI/shoes"],
        ["evaluate", model, "--data", "none.txt", "--per-class", "URI/classes.csv"],
        ["embed", model, "none.txt", "--output", "URI/x.parquet"],
        ["doctor", "--train", "none.txt", "--output", "URI/doctor"],
        ["report", "none.txt", "--output", "URI/page.html"],
        ["search", model, "none.txt", "--gallery", "none.txt", "--html", "URI/page.html"],
    ):
        bare = [str(word).replace("URI", f"{scheme}://nowhere") for word in words]
        assert run(monkeypatch, *bare) == 2, words
        said = capsys.readouterr().err
        assert re.search(f"{scheme}://nowhere/[^ ]+: cannot be written: no such bucket", said), said
        assert "none.txt" not in said
    assert not storage.exists(f"{scheme}://nowhere/x")
    assert not storage.is_folder(f"{scheme}://nowhere/x")


def test_a_bucket_that_may_be_written_to_but_not_be_listed_is_accepted(google, tmp_path):
    check_output_file("gs://drop/a/x.parquet")
    check_output_folder("gs://shop/new/folder")
    (tmp_path / "x").write_bytes(b"1")
    storage.write_file(tmp_path / "x", "gs://shop/a/x")
    assert storage.read_bytes("gs://shop/a/x") == b"1"
    with pytest.raises(StorageError, match=r"gs://drop/a: permission denied$"):
        storage.sizes_below("gs://drop/a")


def test_a_status_of_gcsfs_is_named_and_not_asked_for_again(google, monkeypatch):
    class HttpError(Exception):
        code = 401

    asked = []

    def refused(path, **more):
        asked.append(path)
        raise HttpError

    HttpError.__module__ = "gcsfs.retry"
    monkeypatch.setattr(google, "ls", refused)
    with pytest.raises(StorageError, match=r"gs://shop/x: the storage answers 401 \(not logged in"):
        check_output_file("gs://shop/x")
    assert asked == ["shop"]


def test_a_uri_for_what_is_written_on_this_machine_is_refused(
    monkeypatch, model, shapes, tmp_path, capsys
):
    """It became a folder called `s3:`."""
    monkeypatch.chdir(tmp_path)
    for words in (
        ["quickstart", "--output", "s3://b/x"],
        ["run", "--example", "s3://b/x"],
        ["embed", model, tmp_path, "--output", "x.parquet", "--cache", "s3://b/x"],
        ["train", "--train", "l.txt", "--output", "memory://b/run", "run.workdir=s3://b/x"],
    ):
        assert run(monkeypatch, *words) == 2, words
        assert "s3://b/x: an address, where " in capsys.readouterr().err, words
    embedder = lookalike.load(model, device="cpu")
    with pytest.raises(LookalikeError, match="s3://b/x: an address, where a saved model is on"):
        embedder.save("s3://b/x")
    monkeypatch.setenv("LOOKALIKE_CACHE", "s3://b/x")
    image = shapes / "images/100-0.jpg"
    with pytest.raises(LookalikeError, match="s3://b/x: an address, where LOOKALIKE_CACHE is on"):
        lookalike.search(model, image, gallery=image, device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == []
