"""The same images and labels in every form that data may have: the same training, to the bit."""

import json
import shutil
import tarfile

import pytest
from engine_process import curve

from lookalike.verbs.train import train


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


@pytest.fixture(scope="module")
def pairs(shapes):
    """Images and labels in the order of `<label>/<name>`, as a folder has them."""
    lines = [line.rsplit(" ", 1) for line in (shapes / "train.txt").read_text().splitlines()]
    return [(shapes / path, label) for path, label in lines]


def test_every_form_of_the_data_trains_alike(pairs, tmp_path):
    curves = {}
    for form in (as_list, as_manifest, as_folder, as_shards):
        source = form(tmp_path, pairs)
        train(
            train=str(source), output=str(tmp_path / form.__name__), backbone="test_resnet",
            pretrained=False, image_size=32, embedding_dim=8, batch_size=8, max_steps=4,
            device="cpu", threads=2, log_every=1, val=str(source), checkpoint_every=1,
        )  # fmt: skip
        curves[form.__name__] = curve(tmp_path / form.__name__)
    assert len(curves["as_list"]) >= 5
    assert all(curve == curves["as_list"] for curve in curves.values())
