"""Lists of a run: read with its columns and image folder by all commands that measure a model."""

import csv

import pytest

import lookalike
from lookalike.commands.report import report


@pytest.fixture(scope="module")
def trained(shapes, tmp_path_factory):
    """A run on tables of another folder than the images', whose label column is not `label`.

    The column `label` names two classes; the run's own, `shape`, the real ones.
    """
    folder = tmp_path_factory.mktemp("lists")
    for name in ("train", "val"):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["path", "label", "shape"])
            for number, line in enumerate((shapes / f"{name}.txt").read_text().splitlines()):
                path, shape = line.rsplit(" ", 1)
                rows.writerow([path, number % 2, f"shape {shape}"])
    run = lookalike.train(
        train=folder / "train.csv", val=folder / "val.csv", output=folder / "run",
        label_column="shape", image_root=str(shapes), backbone="test_resnet", pretrained=False,
        image_size=32, embedding_dim=16, epochs=1, batch_size=16, threads=0, device="cpu",
        report=False,
    )  # fmt: skip
    return folder, run


def test_a_list_of_the_run_is_measured_as_in_training(trained):
    folder, run = trained
    scores = lookalike.evaluate(run.path, folder / "val.csv")
    last = run.scores()[-1]
    assert scores.map_at_r == pytest.approx(last["map_at_r"])
    assert scores.num_queries == last["queries"]
    halves = lookalike.evaluate(run.path, query=folder / "val.csv", gallery=folder / "val.csv")
    assert halves.map_at_r == pytest.approx(scores.map_at_r)


def test_improve_export_and_report_read_it_alike(trained, tmp_path):
    folder, run = trained
    improved = lookalike.improve(run.path, folder / "val.csv", variants=["flip"])
    assert improved[0].scores.map_at_r == pytest.approx(run.scores()[-1]["map_at_r"])
    lookalike.export(run.path, format="safetensors", data=folder / "val.csv", output=tmp_path / "x")
    report(run.path, data=folder / "val.csv", output=tmp_path / "page.html")
    assert "shape 1" in (tmp_path / "page.html").read_text()


def test_another_list_is_read_by_its_own_names_of_columns(trained, shapes, tmp_path):
    _, run = trained
    other = tmp_path / "other.csv"
    text = (shapes / "val.txt").read_text().splitlines()
    rows = "".join(f"{shapes}/{line.rsplit(' ', 1)[0]},{line.rsplit(' ', 1)[1]}\n" for line in text)
    other.write_text("path,label\n" + rows)
    assert lookalike.evaluate(run.path, other).map_at_r == pytest.approx(
        run.scores()[-1]["map_at_r"]
    )
