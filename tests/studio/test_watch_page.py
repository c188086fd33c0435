"""Runs as their files tell them."""

import fcntl
import json

import pytest

LOG = "2026-11-29 07:00:00,000 INFO batch: 32 on each of 1 worker; {} steps to do\n"
STEP = {"epoch": 1, "loss": 2.5, "lr": 0.1, "images_per_second": 9.0, "waiting": 0.25, "skipped": 1}


@pytest.fixture
def run(root):
    folder = root / "runs/one"
    (folder / "checkpoints/step-4").mkdir(parents=True)
    (folder / "config.yaml").write_text("optim: {lr: 0.1}\n")
    (folder / "log.txt").write_text(
        LOG.format(20)
        + "2026-11-29 07:00:01,000 INFO training: 4 of 20 steps, 3 s, 9 s left, 9 images/s\n"
        + "2026-11-29 07:00:02,000 WARNING <b>a.jpg</b> of s3://u:pw@bucket/x is broken\n"
    )
    lines = [json.dumps({"step": step, **STEP}) for step in (1, 4)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_a_run_of_a_command_line_is_watched(client, run):
    (run / ".lock").touch()
    with (run / ".lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        text = client.get("/watch/live?run=runs/one").text
    for shown in ("state training", "4 of 20 steps", "9 s left", "25.0 %", "steps left out"):
        assert shown in text
    assert 'action="/watch/stop"' not in text  # another process started it
    assert "<b>a.jpg" not in text
    assert "pw@" not in text
    text = client.get("/watch/live?run=runs/one").text
    assert "state stopped" in text
    assert 'action="/watch/resume"' in text
    (run / "log.txt").write_text(LOG.format(20) + "2026-11-29 07:00:03,000 INFO done: model\n")
    assert "state finished" in client.get("/watch/live?run=runs/one").text


def test_runs_are_compared(client, run, root):
    other = root / "runs/two"
    (other / "checkpoints").mkdir(parents=True)
    (other / "config.yaml").write_text("optim: {lr: 0.2}\ntrain: {epochs: 3}\n")
    text = client.get("/watch/compare?run=runs/one&run=runs/two").text
    assert "optim.lr" in text
    assert "train.epochs" in text
    assert "optim.momentum" not in text
    [one, two] = client.get("/watch/curves?run=runs/one&run=runs/two").json()
    assert one["loss"] == [[1, 4], [2.5, 2.5]]
    assert two["loss"] == [[], []]
    assert "runs/two" in client.get("/watch").text


def test_a_run_whose_lists_lie_elsewhere_is_not_resumed(client, run):
    (run / "config.yaml").write_text("data: {train: /etc/passwd}\n")
    answer = client.post("/watch/resume", {"run": "runs/one"})
    assert answer.status_code == 400
    assert "not below" in answer.json()["detail"]


def test_the_run_of_a_workflow_is_watched_and_resumed_by_it(client, root):
    place = root / "flows/.lookalike/flow/train/1/run"
    (place / "checkpoints/step-4").mkdir(parents=True)
    (place / "config.yaml").write_text("optim: {lr: 0.1}\n")
    (root / "flows/flow.yaml").write_text("train: {uses: train}\n")
    (root / "flows/.lookalike/other").symlink_to(root.parent)
    name = "flows/.lookalike/flow/train/1/run"
    assert f">{name}</a>" in client.get("/watch").text
    text = client.get("/watch/live", params={"run": name}).text
    assert 'href="/workflow/canvas?file=flows/flow.yaml"' in text
    assert 'action="/watch/resume"' not in text
