"""Bitwise identical training on the same images and labels in every input form."""

import json
import shutil
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from engine_process import curve

from lookalike.commands.evaluate import evaluate
from lookalike.commands.train import train


def as_list(folder, pairs):
    (folder / "list.txt").write_text("".join(f"{path} {label}\n" for path, label in pairs))
    return folder / "list.txt"


def as_manifest(folder, pairs):
    lines = [
        json.dumps({"data": {"source": str(path)}, "label-1": {"results": [{"data": label}]}})
        for path, label in pairs
    ]
    (folder / "manifest.jsonl").write_text("\n".join(lines))
    return folder / "manifest.jsonl"


def as_folder(folder, pairs):
    for path, label in pairs:
        (folder / "photos" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / "photos" / label)
    return folder / "photos"


def as_shards(folder, pairs):
    for number in range(2):
        with tarfile.open(folder / f"{number}.tar", "w") as archive:
            for path, label in pairs[number * 20 : 20 + number * 40]:
                (folder / "label").write_text(label)
                archive.add(path, f"{path.stem}.jpg")
                archive.add(folder / "label", f"{path.stem}.cls")
    return folder / "{0..1}.tar"


def as_csv(folder, pairs):
    rows = "".join(f"{label},{path}\n" for path, label in pairs)
    (folder / "table.csv").write_text("label,path\n" + rows)
    return folder / "table.csv"


def as_parquet(folder, pairs):
    paths, labels = zip(*pairs, strict=True)
    pq.write_table(pa.table({"path": map(str, paths), "label": labels}), folder / "t.parquet")
    return folder / "t.parquet"


def embedded(pairs):
    images = [{"bytes": path.read_bytes(), "path": path.name} for path, _ in pairs]
    return pa.table({"image": images, "label": [label for _, label in pairs]})


def as_parquet_with_images(folder, pairs):
    pq.write_table(embedded(pairs), folder / "images.parquet")
    return folder / "images.parquet"


def as_arrow_with_images(folder, pairs):
    table = embedded(pairs)
    file = folder / "images.arrow"
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return file


FORMS = (
    as_list, as_manifest, as_folder, as_shards, as_csv, as_parquet, as_parquet_with_images,
    as_arrow_with_images,
)  # fmt: skip


@pytest.fixture(scope="module")
def pairs(shapes):
    """Images and labels in the order of `<label>/<name>`, as a folder has them."""
    lines = [line.rsplit(" ", 1) for line in (shapes / "train.txt").read_text().splitlines()]
    return [(shapes / path, label) for path, label in lines]


@pytest.mark.slow
def test_all_input_forms_train_identically(pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))
    curves = {}
    for form in FORMS:
        source = form(tmp_path, pairs)
        train(
            train=str(source), output=str(tmp_path / form.__name__), backbone="test_resnet",
            pretrained=False, image_size=32, embedding_dim=8, batch_size=8, max_steps=4,
            device="cpu", threads=2, log_every=1, val=str(source), checkpoint_every=1,
        )  # fmt: skip
        # Its fingerprint names the list: there the addresses of the images differ.
        curves[form.__name__] = [
            [value for value in record if value[0] != "val_list"]
            for record in curve(tmp_path / form.__name__)
        ]
    assert len(curves["as_list"]) >= 5
    assert {n: c for n, c in curves.items() if c != curves["as_list"]} == {}


def test_one_table_gives_training_validation_boxes_and_queries(pairs, tmp_path):
    rows = ["path,label,split,is_query,is_gallery,sequence,x_1,y_1,x_2,y_2"]
    for number, (path, label) in enumerate(pairs):
        if number % 2:
            rows.append(f"{path},{label},train,,,,2,2,30,30")
        else:
            asks = number % 4 == 0
            rows.append(f"{path},{label},validation,{asks},{not asks},{number // 8},,,,")
    (tmp_path / "all.csv").write_text("\n".join(rows))
    run = train(
        train=str(tmp_path / "all.csv"), output=str(tmp_path / "run"), backbone="test_resnet",
        pretrained=False, image_size=32, embedding_dim=8, batch_size=8, max_steps=2, device="cpu",
    )  # fmt: skip
    measured = len(pairs) - len(pairs) // 2
    scores = run.scores()[-1]
    assert scores["gallery"] == measured // 2
    assert scores["queries"] + scores["lone_queries"] == measured - measured // 2
    again = evaluate(run.path, str(tmp_path / "all.csv"), device="cpu")
    assert again.map_at_r == run.scores()[run_best(run)]["map_at_r"]


def run_best(run):
    scores = [record["map_at_r"] for record in run.scores()]
    return scores.index(max(scores))
