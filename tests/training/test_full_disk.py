"""Full or read-only disks: a one-line error, and no damage to earlier files."""

import os
import resource
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import lookalike
from lookalike import cli, storage
from lookalike.errors import LookalikeError, StorageError
from lookalike.run import Run


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory) -> Run:
    """A run of one step, made under a umask that lets the group read."""
    output = tmp_path_factory.mktemp("full") / "run"
    before = os.umask(0o027)
    try:
        return lookalike.train(
            train=str(shapes / "train.txt"), val=str(shapes / "val.txt"), output=str(output),
            backbone="test_resnet", pretrained=False, image_size=32, embedding_dim=16,
            batch_size=8, max_steps=1, device="cpu", report=False,
        )  # fmt: skip
    finally:
        os.umask(before)


@contextmanager
def limit(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes, pytest's own output included."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def content(folder) -> dict:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_all_files_follow_the_umask(run):
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in run.path.rglob("*.safetensors")}
    assert len(modes) >= 4
    assert set(modes.values()) == {0o640}


def test_full_disk_leaves_a_jsonl_file_unchanged(tmp_path):
    run = Run(tmp_path)
    run.append(run.metrics, {"step": 1})
    before = run.metrics.read_bytes()
    with (
        limit(len(before) + 5),
        pytest.raises(StorageError, match=f"{run.metrics}: cannot be written: "),
    ):
        run.append(run.metrics, {"step": 2, "loss": 0.123456789})
    assert run.metrics.read_bytes() == before


def test_full_disk_keeps_the_old_text(tmp_path):
    file = tmp_path / "classes.json"
    storage.write_text(file, "old")
    with limit(10), pytest.raises(StorageError, match=f"{file}: file too large"):
        storage.write_text(file, "new" * 100)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {file.name: "old"}


def test_concurrent_writers_of_a_text(tmp_path, monkeypatch):
    """As processes that begin together write to the user's cache."""
    file, synced = tmp_path / "versions.json", os.fsync

    def meanwhile(descriptor):
        monkeypatch.setattr(os, "fsync", synced)
        other = threading.Thread(target=storage.write_text, args=(file, "other"))
        other.start()
        other.join()

    monkeypatch.setattr(os, "fsync", meanwhile)
    storage.write_text(file, "first")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {file.name: "first"}


def test_full_disk_keeps_the_old_model(run):
    model = lookalike.load(run.path, device="cpu")
    before = content(run.model)
    with (
        limit(10_000),
        pytest.raises(StorageError, match=f"{run.model}: cannot be written: file too large"),
    ):
        model.save(run.model)
    assert content(run.model) == before


@pytest.mark.parametrize("size", [200, 20_000])
def test_full_disk_keeps_earlier_checkpoints(run, size):
    before = content(run.checkpoints)
    config = lookalike.Config.load(run.config).with_settings({"max_steps": 2})
    with limit(size), pytest.raises(LookalikeError, match=str(run.path)):
        lookalike.train(config, resume=True)
    after = content(run.checkpoints)
    assert {path: after[path] for path in before} == before
    assert not list(run.checkpoints.glob("*/*.partial"))


@pytest.mark.parametrize("name", ["v.npy", "v.parquet"])
def test_full_disk_keeps_old_vectors(run, shapes, tmp_path, name):
    output = tmp_path / name
    lookalike.embed(run.path, shapes / "val.txt", output, device="cpu")
    before = output.read_bytes()
    with limit(1200), pytest.raises(StorageError, match=r"v\.(npy|parquet).*: cannot be written: "):
        lookalike.embed(run.path, shapes / "train.txt", output, device="cpu")
    assert output.read_bytes() == before
    assert lookalike.embed(run.path, shapes / "train.txt", output, device="cpu") == 48


@pytest.mark.parametrize(
    ("form", "name"), [("safetensors", "m"), ("torch_export", "m.pt2"), ("onnx", "m.onnx")]
)
def test_full_disk_leaves_no_partial_export(run, tmp_path, form, name):
    output = tmp_path / name
    with limit(50_000), pytest.raises(StorageError, match=f"{tmp_path}.*cannot be written: "):
        lookalike.export(run.path, form, output=output)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_keeps_the_old_index(run, shapes, tmp_path):
    index, train, val = tmp_path / "index", shapes / "train.txt", shapes / "val.txt"
    lookalike.search(run.path, index=index, gallery=val, device="cpu")
    before = content(index)
    with limit(1200), pytest.raises(StorageError, match=f"{index}.*: cannot be written: "):
        lookalike.search(run.path, index=index, gallery=train, device="cpu")
    assert content(index) == before
    lookalike.search(run.path, index=index, gallery=train, device="cpu")
    assert content(index) != before


COMMANDS = {
    "train": ["train", "--train", "{list}", "--output", "{place}", "model.pretrained=false",
              "model.backbone=test_resnet", "model.image_size=32"],
    "evaluate": ["evaluate", "{run}", "--data", "{list}", "--output", "{place}"],
    "embed": ["embed", "{run}", "{list}", "-o", "{place}.npy"],
    "search": ["search", "{run}", "{list}", "--gallery", "{list}", "--index", "{place}"],
    "export": ["export", "{run}", "--format", "safetensors", "-o", "{place}"],
    "report": ["report", "{run}", "--output", "{place}.html"],
    "doctor": ["doctor", "--train", "{list}", "--output", "{place}"],
    "quickstart": ["quickstart", "--output", "{place}"],
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_output_below_a_file_is_a_one_line_error(
    run, shapes, tmp_path, monkeypatch, capsys, command
):
    (tmp_path / "file").write_text("mine")
    places = {"run": run.path, "list": shapes / "val.txt", "place": tmp_path / "file/x"}
    words = [word.format(**places) for word in COMMANDS[command]]
    monkeypatch.setattr(sys, "argv", ["lookalike", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr().err
    assert end.value.code == 2, said
    [line] = [line for line in said.splitlines() if line.startswith("error: ")]
    assert f"{tmp_path}/file" in line
    assert any(words in line for words in ("not a directory", "file exists", "is a file"))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("lines", "kept"),
    [("", 0), ('{"step": 0}\n{"step": 1, "lo\n[]\n"x"\n{"step": "1"}\n{"step": 1}\n{"st', 2)],
)
def test_broken_metrics_lines_are_named_and_skipped(tmp_path, lines, kept, caplog):
    run = Run(tmp_path)
    run.metrics.write_text(lines)
    run.remove_after(5)
    assert len(run.metrics.read_text().splitlines()) == kept
    assert all(f"{run.metrics}:{row}: is broken" in caplog.text for row in (2, 3, 4, 5) if kept)


def test_resume_without_metrics(run, caplog):
    run.metrics.unlink()
    config = lookalike.Config.load(run.config).with_settings({"max_steps": 2})
    lookalike.train(config, resume=True)
    assert f"{run.metrics}: is missing; the curves begin at step 1" in caplog.text
    assert [record["step"] for record in run.read(run.metrics)] == [2, 2]
