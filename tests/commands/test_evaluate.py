"""`lookalike evaluate` from the command line, and the files that it writes."""

import csv
import json
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import lookalike
import program
from lookalike.data.classes import Classes
from lookalike.errors import ConfigError, DataError
from lookalike.metrics.calibration import Calibration
from lookalike.metrics.scores import score
from lookalike.model.embedder import Embedder
from lookalike.training.run_output import RunOutput


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two untrained models: one of random weights, and one whose neck is nearly zero."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    embedder = Embedder.create("test_resnet", pretrained=False, image_size=32, embedding_dim=16)
    embedder.save(folder / "good/model")
    with torch.no_grad():
        for parameter in embedder.neck.parameters():
            parameter.copy_(torch.randn_like(parameter) * 1e-3)
    embedder.save(folder / "blind/model")
    return folder


def run(monkeypatch, *words):
    return program.run(monkeypatch, "evaluate", *words)


def numbers(capsys):
    """The one JSON object on stdout."""
    return json.loads(capsys.readouterr().out)


def test_json_of_one_model(monkeypatch, models, shapes, capsys):
    code = run(
        monkeypatch, models / "good", "--data", shapes / "val.txt", "--json", "--k", "1,3",
        "--precision", "2", "--full", "--verification", "--nmi",
    )  # fmt: skip
    assert code == 0
    found = numbers(capsys)
    vectors = lookalike.load(models / "good").embed(
        [line.rsplit(" ", 1)[0].replace("images", str(shapes / "images"), 1)
         for line in (shapes / "val.txt").read_text().splitlines()]
    )  # fmt: skip
    labels = np.repeat(np.arange(5), 4)
    alone = score(torch.from_numpy(vectors), labels, ks=(1, 3), precision=(2,), full=True).to_dict()
    for name, value in alone.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name
    for name, (low, high) in found["intervals"].items():
        assert 0 <= low <= found[name] <= high <= 1, name
        assert name in found["definitions"] or name.rsplit("_", 1)[0] + "_k" in found["definitions"]
    assert 0 < found["nmi"] <= 1
    assert found["verification"]["same_pairs"] == 30
    assert found["verification"]["different_pairs"] == 160
    assert found["verification"]["unsupported"] == [0.01, 0.001, 0.0001, 1e-05, 1e-06]
    assert found["shots_by"] == "gallery"
    assert found["shots"]["few"]["queries"] == 20


def test_table_of_one_model(monkeypatch, models, shapes, capsys):
    assert run(monkeypatch, models / "good", "--data", shapes / "val.txt", "--definitions") == 0
    shown = capsys.readouterr().out
    scores = lookalike.evaluate(models / "good", str(shapes / "val.txt"))
    assert f"{100 * scores.map_at_r:.1f}" in shown
    assert "20 queries of 5 classes, 20 images in the gallery" in shown
    assert "divided by R, not by the" in " ".join(shown.split())


def test_comparison_of_several_models(monkeypatch, models, shapes, capsys):
    data = shapes / "train.txt"
    good, blind = models / "good", models / "blind"
    assert run(monkeypatch, good, blind, good, "--data", data, "--json") == 0
    found = numbers(capsys)
    assert [one["model"] for one in found["models"]] == [str(good), str(blind), str(good)]
    first, second = found["differences"]
    gap = found["models"][1]["map_at_r"] - found["models"][0]["map_at_r"]
    assert first["map_at_r"]["difference"] == pytest.approx(gap)
    low, high = first["map_at_r"]["interval"]
    assert low <= gap <= high
    assert first["map_at_r"]["real"] == (high < 0 or low > 0)
    assert second["map_at_r"] == {"difference": 0, "interval": [0, 0], "p_value": 1, "real": False}
    assert "give the same results" in second["verdict"]
    assert run(monkeypatch, good, blind, "--data", data) == 0
    assert first["verdict"] in capsys.readouterr().out


def test_images_in_the_query_and_the_gallery_list(
    monkeypatch, models, shapes, tmp_path, capsys, caplog
):
    shapes = shutil.copytree(shapes, tmp_path / "shapes")  # other tests count its images
    lines = (shapes / "val.txt").read_text().splitlines()
    query, gallery = shapes / "query.txt", shapes / "gallery.txt"
    shutil.copy(shapes / "images/104-3.jpg", shapes / "images/copy.jpg")
    query.write_text("\n".join([*lines[::4], "images/copy.jpg 104"]) + "\n")
    # All but the first query; one that is there twice is still one image in both.
    gallery.write_text("\n".join([*lines[1:], lines[4]]) + "\n")
    good = models / "good"
    assert run(monkeypatch, good, "--query", query, "--gallery", gallery, "--json") == 0
    found = numbers(capsys)
    assert (found["queries"], found["gallery"], found["in_both"]) == (6, 19, 4)
    assert found["copies"] == 1
    assert "4 images are in the query and in the gallery list" in caplog.text
    assert "copy.jpg = " in caplog.text
    assert "104-3.jpg" in caplog.text
    gallery.write_text("images/104-0.jpg 17\nimages/100-0.jpg 100\n")
    with pytest.raises(DataError, match=r"gallery\.txt:1: .*label '17', but '104' in .*query\.txt"):
        lookalike.compare([good], query=str(query), gallery=str(gallery))


def test_files_per_class_and_per_query(monkeypatch, models, shapes, tmp_path, capsys):
    out = tmp_path / "out"
    good = models / "good"
    code = run(monkeypatch, good, "--data", shapes / "val.txt", "--output", out)
    assert code == 0
    whole = json.loads((out / "evaluation.json").read_text())
    with (out / "per_class.csv").open() as file:
        classes = list(csv.DictReader(file))
    with (out / "per_query.csv").open() as file:
        queries = list(csv.DictReader(file))
    assert [row["label"] for row in classes] == ["100", "101", "102", "103", "104"]
    assert len(queries) == 20
    for rows in (classes, queries):  # classes are of one size here
        mean = np.mean([float(row["map_at_r"]) for row in rows])
        assert mean == pytest.approx(whole["map_at_r"])
    for row in queries:
        right = row["nearest_label"] == row["label"]
        assert right == (float(row["recall_at_1"]) == 1)
        assert row["first_wrong_label"] != row["label"]
        assert float(row["first_wrong_cosine"]) <= float(row["nearest_cosine"])
        assert row["nearest_path"] != row["path"]
    lookalike.compare([good], str(shapes / "val.txt"), per_query=str(tmp_path / "q.jsonl"))
    lines = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == [row["path"] for row in queries]
    with pytest.raises(ConfigError, match=r"must end in \.csv or \.jsonl"):
        lookalike.compare([good], str(shapes / "val.txt"), per_class="x.txt")


def test_embeddings_from_files(monkeypatch, models, shapes, tmp_path, capsys):
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(12), 5)
    near = generator.normal(size=(12, 8))[labels] + 0.3 * generator.normal(size=(60, 8))
    far = near + 2 * generator.normal(size=(60, 8))
    np.save(tmp_path / "near.npy", near)
    (tmp_path / "labels.txt").write_text("".join(f"{label}\n" for label in labels))
    table = pa.table({"vector": far.astype(np.float32).tolist(), "label": labels})
    pq.write_table(table, tmp_path / "far.parquet")
    assert run(
        monkeypatch, "--embeddings", tmp_path / "near.npy", "--embeddings",
        tmp_path / "far.parquet", "--labels", tmp_path / "labels.txt", "--json",
    ) == 0  # fmt: skip
    found = numbers(capsys)
    for one, vectors in zip(found["models"], (near, far.astype(np.float32)), strict=True):
        assert one["map_at_r"] == score(torch.from_numpy(vectors), labels).map_at_r
    assert found["differences"][0]["map_at_r"]["real"]
    assert "is significantly worse than" in found["differences"][0]["verdict"]
    assert run(monkeypatch, "--embeddings", tmp_path / "far.parquet", "--json") == 0
    assert numbers(capsys)["map_at_r"] == found["models"][1]["map_at_r"]
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "short.txt").write_text("1\n2\n")
    for arguments, message in (
        (["--embeddings", tmp_path / "objects.npy", "--labels", tmp_path / "labels.txt"],
         "not a .npy file of numbers"),
        (["--embeddings", tmp_path / "near.npy", "--labels", tmp_path / "short.txt"],
         "60 vectors, but"),
        (["--embeddings", tmp_path / "near.npy"], "--labels"),
        ([], "nothing to measure"),
        ([models / "good"], "nothing to measure on"),
        ([models / "good", "--data", "x", "--query", "y"], "--data excludes"),
        ([models / "good", "--data", "x", "--labels", "y"], "--labels belongs"),
        ([models / "good", "--data", "x", "--k", "0"], "k = 0"),
        ([models / "good", "--data", "x", "--embeddings", "y.npy"], "leave out the models"),
        (["--embeddings", "y.npy", "--split", "test"], "--gallery and --split"),
    ):  # fmt: skip
        assert run(monkeypatch, *arguments) == 2
        assert message in capsys.readouterr().err


def test_a_set_without_pairs_is_refused_before_any_image_is_read(
    monkeypatch, models, tmp_path, capsys
):
    data = tmp_path / "lone.txt"
    data.write_text("no/a.jpg 1\nno/b.jpg 2\n")
    assert run(monkeypatch, models / "good", "--data", data) == 2
    assert f"{data}: retrieval cannot be measured: no class has two" in capsys.readouterr().err
    data.write_text("no/a.jpg 1\nno/b.jpg 1\n")
    np.save(tmp_path / "x.npy", np.eye(2, dtype=np.float32))
    (tmp_path / "x.labels.txt").write_text("1\n1\n")
    for words in ((models / "good", "--data", data), ("--embeddings", tmp_path / "x.npy")):
        assert run(monkeypatch, *words) == 2
        assert "all 2 images to find are of one class" in capsys.readouterr().err


def test_a_split_is_of_one_list_at_least(monkeypatch, models, shapes, tmp_path, capsys):
    rows = ["path,label,split"]
    for number, line in enumerate((shapes / "val.txt").read_text().splitlines()):
        path, label = line.rsplit(" ", 1)
        rows.append(f"{shapes / path},{label},{('test', 'other')[number % 2]}")
    (tmp_path / "queries.csv").write_text("\n".join(rows) + "\n")
    both = ["--query", tmp_path / "queries.csv", "--gallery", shapes / "val.txt"]
    assert run(monkeypatch, models / "good", *both, "--split", "test", "--json") == 0
    assert numbers(capsys)["queries"] == 10
    both = ["--query", shapes / "val.txt", "--gallery", shapes / "val.txt"]
    assert run(monkeypatch, models / "good", *both, "--split", "test") == 2
    assert "val.txt: no row names a split" in capsys.readouterr().err


def test_embeddings_with_cameras(monkeypatch, tmp_path, capsys):
    """Three images of each class in one place: alike only where one camera took them."""
    labels = np.repeat(np.arange(10), 6)
    cameras = np.tile([0, 0, 0, 1, 1, 1], 10)
    places = np.random.default_rng().permutation(20)[labels * 2 + cameras]
    vectors = np.eye(20, dtype=np.float32)[places]
    columns = {"vector": vectors.tolist(), "label": labels, "path": [f"{i}" for i in range(60)]}
    recall = {}
    for name, more in {
        "plain": {},
        "camera": {"camera": cameras},
        "both": {"camera": cameras, "sequence": cameras},
    }.items():
        pq.write_table(pa.table(columns | more), tmp_path / f"{name}.parquet")
        status = run(monkeypatch, "--embeddings", tmp_path / f"{name}.parquet", "--json")
        assert status == (2 if name == "both" else 0)
        if status == 0:
            recall[name] = numbers(capsys)["recall_at_1"]
    assert recall == {"plain": 1, "camera": 0}
    assert (
        "both.parquet: matches are excluded by `sequence` or by `camera`" in capsys.readouterr().err
    )


def test_training_writes_a_calibration(monkeypatch, shapes, many_shapes, tmp_path, capsys):
    lists = many_shapes
    output = tmp_path / "run"
    settings = {
        "backbone": "test_resnet", "pretrained": False, "image_size": 32, "embedding_dim": 16,
        "batch_size": 16, "data__threads": 1, "device": "cpu", "max_steps": 2,
    }  # fmt: skip
    lookalike.train(train=str(shapes / "train.txt"), val=str(lists), output=str(output), **settings)
    found = Calibration.load(output)
    assert (found.classes, found.images, found.seen_in_training) == (40, 120, 0)
    assert found.chose_checkpoint
    assert "many.txt" in found.source
    assert run(monkeypatch, output, "--data", lists, "--verification", "--json") == 0
    result = numbers(capsys)
    shipped = result["shipped_threshold"]
    # The same images: the rate is the calibration's own.
    assert shipped["far"] == pytest.approx(found.level().far, abs=2e-3)
    assert shipped["holds"]
    assert result["shots_by"] == "gallery"
    assert run(monkeypatch, output, "--data", shapes / "train.txt", "--json") == 0
    result = numbers(capsys)
    assert (result["shots_by"], result["shots"]["few"]["classes"]) == ("training", 8)
    # Without validation there is nothing to calibrate on.
    lookalike.train(train=str(shapes / "train.txt"), output=str(tmp_path / "none"), **settings)
    assert Calibration.load(tmp_path / "none") is None
    # Another model takes its place: what was measured with the old one must go.
    RunOutput(lookalike.Run(output)).save_model(lookalike.load(output))
    assert Calibration.load(output) is None


@pytest.mark.slow
def test_two_workers_print_the_same(monkeypatch, models, shapes, tmp_path, capsys):
    def request(workers):
        return list(map(str, [
            models / "good", "--data", shapes / "train.txt", "--verification", "--json",
            "--threads", 1, "--workers", workers, "--per-query", tmp_path / f"{workers}.csv",
        ]))  # fmt: skip

    command = [sys.executable, "-m", "lookalike", "evaluate", *request(2)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert run(monkeypatch, *request(1)) == 0
    assert numbers(capsys) == json.loads(done.stdout)
    assert (tmp_path / "1.csv").read_text() == (tmp_path / "2.csv").read_text()


def test_classes_that_were_trained_on_are_said(monkeypatch, models, shapes, tmp_path, capsys):
    run_folder = tmp_path / "run"
    shutil.copytree(models / "good/model", run_folder / "model")
    (run_folder / "config.yaml").write_text(f"data: {{train: {shapes / 'train.txt'}}}\n")
    names = sorted({line.split()[1] for line in (shapes / "train.txt").read_text().splitlines()})
    (run_folder / "classes.json").write_text(Classes(tuple(names)).to_json())
    for data, said in (
        ("train.txt", f"{len(names)} of these classes were trained on"),
        ("val.txt", ""),
    ):
        assert run(monkeypatch, run_folder, "--data", shapes / data) == 0
        printed = capsys.readouterr().out
        assert said in printed
        assert bool(said) == ("trained on" in printed)
