"""Number of requests to the storage of a run: its upload, and reading of its files."""

import json
from collections import Counter

import pytest

from lookalike import storage
from lookalike.commands import run_info
from lookalike.errors import StorageError
from lookalike.run import Run
from lookalike.training.remote_run import saved_config
from lookalike.training.uploader import Uploader

OUTPUT = "s3://shop/runs/x"


@pytest.fixture
def run(tmp_path):
    """A directory with the files that the uploader sends first."""
    run = Run(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    for file in (run.resolved, run.config, run.classes, run.metrics, run.log):
        file.write_text("{}\n")
    return run


def save(run, step):
    name = f"step-{step:08d}"
    (run.checkpoints / name).mkdir()
    (run.checkpoints / name / "network.safetensors").write_bytes(b"weights")
    state = {
        "format": "lookalike checkpoint 2", "id": name, "files": {"network.safetensors": 7},
        "loss_scale": [1.0, 0], "progress": {"step": step},
    }  # fmt: skip
    (run.checkpoints / name / "state.json").write_text(json.dumps(state))
    (run.checkpoints / "latest").write_text(f"{name}\n")


def upload(run, bucket):
    """Requests of an upload of one snapshot, by method and what comes after the run's key."""
    uploader = Uploader(run, OUTPUT, keep=3)
    uploader.start()
    bucket.counts.clear()
    uploader.finish()
    return requests(bucket)


def requests(bucket):
    return {(m, path.removeprefix("/shop").removeprefix("/runs/x/")): n
            for (m, path), n in bucket.counts.items()}  # fmt: skip


def sent(*names):
    """A file is written, and its size asked for."""
    return {(method, name): 1 for name in names for method in ("PUT", "GET")}


def test_a_checkpoint_costs_its_files_one_removal_and_one_listing(bucket, run):
    uploader = Uploader(run, OUTPUT, keep=3)
    uploader.start()
    save(run, 1)
    bucket.counts.clear()
    uploader.finish()
    place = "checkpoints/step-00000001"
    files = sent(f"{place}/network.safetensors", f"{place}/state.json", "checkpoints/latest",
                 "metrics.jsonl", "log.txt")  # fmt: skip
    assert requests(bucket) == {**files, ("DELETE", f"{place}/state.json"): 1, ("GET", ""): 1}


def test_a_stored_checkpoint_is_not_sent_again(bucket, run):
    save(run, 1)
    upload(run, bucket)
    found = upload(run, bucket)  # by another start of the run
    state = "checkpoints/step-00000001/state.json"
    assert found == {**sent("metrics.jsonl", "log.txt", "checkpoints/latest"), ("GET", state): 1,
                     ("GET", ""): 2}  # fmt: skip


def test_a_resumed_run_keeps_as_many_checkpoints_as_before(bucket, run):
    for step in (1, 2, 3, 9):  # 9 is broken here, so that the run resumes at 3
        save(run, step)
        upload(run, bucket)
    storage.remove_file(f"{OUTPUT}/checkpoints/step-00000001/state.json")  # incomplete
    save(run, 4)
    upload(run, bucket)  # by another start of the run
    left = {name.split("/")[0] for name in storage.sizes_below(f"{OUTPUT}/checkpoints")}
    assert left - {"latest"} == {"step-00000002", "step-00000003", "step-00000004"}


def test_files_that_stay_the_same_are_sent_once(bucket, run):
    uploader = Uploader(run, OUTPUT, keep=3)
    uploader.start()
    for step in (2, 3):
        save(run, step)
        with run.metrics.open("a") as file:
            file.write("{}\n")
        uploader.checkpoint_saved()
        while uploader.busy:
            pass
    uploader.finish()
    writes = Counter({name: n for (m, name), n in requests(bucket).items() if m == "PUT"})
    assert writes["config.yaml"] == writes["resolved.yaml"] == writes["classes.json"] == 1
    assert writes["log.txt"] == 1
    assert writes["metrics.jsonl"] == writes["checkpoints/latest"] == 2
    assert storage.read_bytes(f"{OUTPUT}/metrics.jsonl") == run.metrics.read_bytes()


def test_files_of_a_run_are_read_by_one_request_each(bucket, run):
    save(run, 1)
    upload(run, bucket)
    storage.write_bytes(f"{OUTPUT}/resolved.yaml", b"train: {epochs: 3}")
    bucket.counts.clear()
    assert saved_config(OUTPUT).train.epochs == 3
    assert requests(bucket) == {("GET", "resolved.yaml"): 1}
    bucket.counts.clear()
    run_info.history(OUTPUT)
    assert run_info.environment(OUTPUT) == []  # there is none
    names = ("metrics.jsonl", "log.txt", "environment.json")
    assert requests(bucket) == {("GET", name): 1 for name in names}
    bucket.counts.clear()
    assert saved_config("s3://shop/none") is None
    assert sum(bucket.counts.values()) == 2


def test_a_missing_file_is_none_and_a_folder_is_an_error(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    assert storage.read_if_exists(str(tmp_path / "file")) == b"x"
    assert storage.read_if_exists(str(tmp_path / "none")) is None
    assert storage.read_if_exists(str(tmp_path / "file/below")) is None
    with pytest.raises(StorageError, match="is a directory"):
        storage.read_if_exists(str(tmp_path))
