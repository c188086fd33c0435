"""Models by their place: local copies of remote ones, and their calibration."""

import fsspec
import pytest

import lookalike
from lookalike import storage
from lookalike.commands.models import ModelOrigin, calibration_of, model_folder
from lookalike.data.readers.annotation import BY_CONTENT
from lookalike.errors import RunError
from lookalike.model.embedder import Embedder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    Embedder.create("test_resnet", pretrained=False, image_size=32, embedding_dim=16).save(folder)
    return folder


@pytest.fixture
def remote(model, tmp_path, monkeypatch):
    """The model of a run in object storage."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = "memory://bucket/run"
    for path in model.iterdir():
        storage.write_file(path, f"{run}/model/{path.name}")
    yield run
    fsspec.filesystem("memory").store.clear()


def test_damaged_copy_of_a_remote_model_is_downloaded_again(remote):
    file = model_folder(remote) / "model.safetensors"
    file.write_bytes(bytes(file.stat().st_size))
    assert lookalike.load(remote, device="cpu").embedding_dim == 16
    uri = f"{remote}/model/model.safetensors"
    storage.write_bytes(uri, bytes(len(storage.read_bytes(uri))))
    with pytest.raises(RunError, match=f"{uri}: damaged"):
        lookalike.load(remote, device="cpu")


@pytest.mark.parametrize(
    ("config", "rows"),
    [
        (None, ["a.jpg"]),
        ("data: {train: x.csv}", ["a.jpg"]),
        ("data: {train: x.csv, train_split: fold1}", ["b.jpg"]),
    ],
)
def test_whitening_and_ranges_take_the_training_rows_of_a_table(tmp_path, config, rows):
    if config is not None:
        (tmp_path / "config.yaml").write_text(config)
    table = tmp_path / "x.csv"
    table.write_text("path,label,split\na.jpg,1,train\nb.jpg,1,fold1\nc.jpg,1,test\n")
    found = ModelOrigin.of(tmp_path).learned(str(table), BY_CONTENT, instead="--fit")
    assert [record.uri for record in found] == [str(tmp_path / row) for row in rows]
    table.write_text("path,label\na.jpg,1\nb.jpg,1\n")
    assert len(ModelOrigin.of(tmp_path).learned(str(table), BY_CONTENT, instead="--fit")) == 2


@pytest.mark.parametrize("place", ["run", "run/model"])
@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"3"])
def test_broken_calibration_of_a_run_or_model_folder_is_named(tmp_path, place, content):
    assert calibration_of(tmp_path / place) is None
    file = tmp_path / "run/model/calibration.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    with pytest.raises(RunError, match=f"^{file}: "):
        calibration_of(tmp_path / place)


def test_a_place_without_a_model_is_named(tmp_path, remote):
    for place in (tmp_path, "memory://bucket/other"):
        with pytest.raises(RunError, match=f"^{place}: neither a run nor a model folder"):
            lookalike.load(place, device="cpu")


def test_exports_for_other_programs_are_named(tmp_path):
    (tmp_path / "model.pt2").write_bytes(b"PK")
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm/config.json").write_text('{"architecture": "resnet18"}')
    (tmp_path / "timm/lookalike.json").write_text('{"artefact": "timm"}')
    for name, words in (("model.pt2", "a torch.export program"), ("timm", "an export for timm")):
        with pytest.raises(RunError, match=f"{name}: {words}.*; give the run, or its export as"):
            lookalike.load(tmp_path / name)
