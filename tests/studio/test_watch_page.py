"""Runs as their files tell them."""

import fcntl
import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest

from lookalike.storage import file_lock
from lookalike.studio import run_processes, watched_runs
from lookalike.studio.run_processes import RunProcesses
from lookalike.studio.watched_runs import MOST_LISTED

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


@pytest.mark.parametrize(
    ("resumed", "steps"),
    [
        ("6 of 42 steps to do", "36 of 42 steps"),  # longer than before
        ("6 steps to do", "36 of 36 steps"),  # as older versions wrote it
        ("1 of 36 steps to do\n", "36 of 36 steps"),
    ],
)
def test_a_resumed_run_counts_all_steps(client, run, resumed, steps):
    with (run / "log.txt").open("a") as log:
        log.write(LOG.replace("{} steps to do", resumed))
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps({"step": 36, **STEP}) + "\n")
    assert steps in client.get("/watch/live?run=runs/one").text


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


PAGES = [
    "/watch", "/watch/list", "/watch/run?run=runs/one", "/watch/live?run=runs/one",
    "/watch/curves?run=runs/one", "/watch/compare?run=runs/one&run=runs/one",
    "/train?preset=run:runs/one", "/look?run=runs/one", "/look/labels?run=runs/one",
]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("metrics.jsonl", b'{"step": 3, "loss": "high", "images_per_second": 9.0}\n'),
        ("metrics.jsonl", b'{"images_per_second": 9.0}\n{"recall_at_1": null, "map_at_r": 1}\n'),
        ("metrics.jsonl", b'{"step": 3, "loss": NaN, "lr": null, "images_per_second": 1}\n'),
        ("metrics.jsonl", b'{"step": 3, "recall_at_1": 0.5}\n{"recall_at_1": "x"}\n[]\n{"st'),
        ("metrics.jsonl", b"\xff\xfe\x00images_per_second\n"),
        ("log.txt", b"\xff\x00 steps to do\n999 steps to do, training: , of , steps"),
        ("config.yaml", b"optim: {lr"),
        ("config.yaml", b"\xff\x00"),
        ("resolved.yaml", b""),
    ],
)
def test_half_written_files_are_no_mistake_of_ours(client, run, file, content):
    (run / file).write_bytes(content)
    for page in PAGES:
        assert client.get(page).status_code < 500, page
    assert "runs/one" in client.get("/watch/list").text


def test_a_run_that_is_removed_while_it_is_watched(client, run, root, monkeypatch):
    other = root / "runs/two"
    shutil.copytree(run, other)
    is_file, gone = Path.is_file, str(run / "metrics.jsonl")

    def vanished(path, **more):
        return str(path) == gone or is_file(path, **more)

    (run / "metrics.jsonl").unlink()
    monkeypatch.setattr(Path, "is_file", vanished)  # it goes between the look and the read
    text = client.get("/watch/list").text
    assert "runs/two" in text
    assert "runs/one" not in text
    answer = client.get("/watch/live?run=runs/one")
    assert answer.status_code == 409
    assert "cannot be read: no such file" in answer.json()["detail"]
    monkeypatch.undo()
    shutil.rmtree(run)
    answer = client.get("/watch/live?run=runs/one")
    assert answer.status_code == 400
    assert "no run here" in answer.json()["detail"]


def reads_of_logs(monkeypatch):
    """The log files that the pages read from now on."""
    found = []

    def counted(file, *given):
        found.append(file)
        return run_processes.tail(file, *given)

    monkeypatch.setattr(watched_runs, "tail", counted)
    return found


def test_a_run_that_has_ended_is_read_again_when_its_files_change(client, run, monkeypatch):
    reads = reads_of_logs(monkeypatch)
    for _ in range(3):
        assert "4 of 20 steps" in client.get("/watch/live?run=runs/one").text
    assert len(reads) == 1
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 9, **STEP}) + "\n")
    assert "9 of 20 steps" in client.get("/watch/live?run=runs/one").text
    assert len(reads) == 2


def test_two_requests_do_not_start_the_same_training(client, root, started, monkeypatch):
    monkeypatch.setattr(file_lock, "PATIENCE", 0.0)
    form = {"data.train": "train.txt", "run.output": "runs/new"}
    with RunProcesses(root).one_at_a_time():  # of another studio
        answer = client.post("/train/start", form)
    assert answer.status_code == 422
    assert "is starting another command" in answer.text
    assert not started
    assert client.post("/train/start", form).status_code == 303
    assert len(started) == 1


def test_many_runs_are_shown_a_page_at_a_time_and_found_by_name(client, root, monkeypatch):
    for number in range(MOST_LISTED + 5):
        folder = root / f"runs/n-{number:03d}"
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "config.yaml").write_text("{}")
        os.utime(folder / "config.yaml", (10**9 + number,) * 2)
    reads = reads_of_logs(monkeypatch)

    def shown(path):
        return re.findall(r"/watch/run\?run=runs/(n-\d+)", client.get(path).text)

    newest = [f"n-{number:03d}" for number in reversed(range(MOST_LISTED + 5))]
    assert shown("/watch") == newest[:MOST_LISTED]
    assert len(reads) == MOST_LISTED  # the others are not read for it
    text = client.get("/watch").text
    assert "1 to 100 of 105 runs, newest first" in text
    assert 'href="/watch?find=&amp;start=100">Older runs' in text
    assert shown("/watch?start=100") == newest[MOST_LISTED:]
    assert "Newer runs" in client.get("/watch?start=100").text
    assert shown("/watch?find=N-10") == newest[:5]
    assert "No run with &lt;b&gt; in its name" in client.get("/watch?find=<b>").text
    assert "No runs below" not in client.get("/watch?start=-5").text
    assert client.get("/train").text.count('value="run:runs/n-') == len(newest)


def test_a_run_that_is_made_in_a_known_folder_is_found(client, run, root):
    old = (time.time_ns() - 10**11,) * 2
    for folder in (root, root / "runs"):
        os.utime(folder, ns=old)  # long ago, so that its listing is kept
    assert "runs/one" in client.get("/watch").text
    shutil.copytree(run, root / "runs/two")
    assert "runs/two" in client.get("/watch").text
    shutil.rmtree(run)
    text = client.get("/watch").text
    assert "runs/two" in text
    assert "runs/one" not in text


def test_only_the_lines_that_a_curve_shows_are_parsed(client, run, monkeypatch):
    steps = 25_000
    with (run / "metrics.jsonl").open("w") as file:
        for step in range(1, steps + 1):
            file.write(json.dumps({"step": step, **STEP, "loss": step / 10}) + "\n")
            if step % 5000 == 0:
                scores = {"step": step, "recall_at_1": step / steps, "map_at_r": 0.5}
                file.write(json.dumps(scores | {"val_list": "ab"[step > 10_000]}) + "\n")
    parsed = []
    loads = json.loads
    monkeypatch.setattr(json, "loads", lambda text: parsed.append(1) or loads(text))
    [found] = client.get("/watch/curves?run=runs/one").json()
    assert len(parsed) < 1100
    assert 900 < len(found["loss"][0]) <= 1001
    assert (found["loss"][0][0], found["loss"][0][-1]) == (1, steps)
    assert found["loss"][1][-1] == steps / 10
    # Scores on another list cannot be compared with these.
    assert found["recall_at_1"] == [[15_000, 20_000, 25_000], [0.6, 0.8, 1.0]]
