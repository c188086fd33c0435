"""Weights of images: columns and files, their errors, and their way into batches."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lookalike.config.config import Config
from lookalike.data.augmentations.training_crop import Augment
from lookalike.data.catalog import build_catalog
from lookalike.data.held_out_classes import hold_out
from lookalike.data.image_weights import relative_weights, with_weights
from lookalike.data.loading.train_loader import TrainLoader
from lookalike.data.readers import read_records
from lookalike.data.readers.annotation import AnnotationOptions
from lookalike.errors import ConfigError, DataError
from lookalike.losses import PAIR_LOSSES
from lookalike.training.build_heads import metric_loss
from lookalike.training.request_lists import open_catalogs

WEIGHTS = [0.0, 2.5, 1.0, 0.5, 1.0, 3.0, 0.25, 1.0]
LABELS = ["cat", "cat", "dog", "dog", "owl", "owl", "red fox", "red fox"]
CELLS = ["0", "2.5", "", "0.5", "1", "3", "2.5e-1", "nan"]


def config(train, weights, **data):
    values = {"train": str(train), "weights": weights, **data}
    return Config.of(None, {f"data.{key}": value for key, value in values.items()})


def table(folder, cells=CELLS):
    path = folder / "train.csv"
    rows = [
        f"{i}.jpg,{label},{cell}\n"
        for i, (label, cell) in enumerate(zip(LABELS, cells, strict=True))
    ]
    path.write_text("path,label,how much\n" + "".join(rows))
    return path


@pytest.fixture
def plain(tmp_path):
    path = tmp_path / "plain.csv"
    path.write_text("path,label\n" + "".join(f"{i}.jpg,{x}\n" for i, x in enumerate(LABELS)))
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_column_of_any_table(tmp_path, kind):
    path = tmp_path / f"train.{kind}"
    cells = [None if cell in ("", "nan") else float(cell) for cell in CELLS]
    names = [f"{i}.jpg" for i in range(8)]
    if kind == "csv":
        path = table(tmp_path)
    elif kind == "parquet":
        pq.write_table(pa.table({"path": names, "label": LABELS, "how much": cells}), path)
    else:
        rows = zip(names, LABELS, cells, strict=True)
        keys = ("path", "label", "how much")
        path.write_text(
            "".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows)
        )
    catalog, _ = open_catalogs(config(path, "how_much"))
    assert catalog.weights.tolist() == WEIGHTS
    plain, _ = open_catalogs(config(path, None))
    assert plain.weights is None
    assert plain.fingerprint() != catalog.fingerprint()


def test_validation_rows_need_no_weights(tmp_path, plain):
    catalog, held_out = open_catalogs(config(table(tmp_path), "how much", val=str(plain)))
    assert catalog.weights is not None
    assert held_out.weights is None


def test_a_file_of_class_weights(tmp_path, plain):
    path = tmp_path / "weights.txt"
    path.write_text('# rare ones\nlabel,weight\nred fox\t4\n"owl" , 0.5\n\ncat 0\n')
    catalog, _ = open_catalogs(config(plain, str(path)))
    assert catalog.weights.tolist() == [0, 0, 1, 1, 0.5, 0.5, 4, 4]


def test_held_out_classes_keep_their_weights(tmp_path):
    catalog, _ = open_catalogs(config(table(tmp_path), "how much"))
    by_place = {r.uri: w for r, w in zip(catalog.records, catalog.weights, strict=True)}
    for part in hold_out(catalog, 0.5, 1):
        assert part.weights.tolist() == [by_place[record.uri] for record in part.records]


def test_only_ratios_count():
    found = relative_weights(np.array([0, 2.5, 1, 0.5], np.float32))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [0, 2.5, 1, 0.5])
    np.testing.assert_allclose(relative_weights(np.full(3, 7, np.float32)), 1)
    with pytest.raises(DataError, match="all 3 training images have the weight 0"):
        relative_weights(np.zeros(3, np.float32))


def test_batches_hold_the_weights_of_their_rows(shapes, tmp_path):
    text = (shapes / "train.txt").read_text().splitlines()
    rows = [line.rsplit(None, 1) for line in text]
    path = tmp_path / "weighted.csv"
    path.write_text("path,label,w\n" + "".join(f"{p},{x},{i}\n" for i, (p, x) in enumerate(rows)))
    catalog, _ = open_catalogs(config(path, "w", image_root=str(shapes)))
    augment = Augment(image_size=16)
    loader = TrainLoader(catalog, batch_size=4, augment=augment, seed=1)
    batch = next(loader.epoch(0))
    expected = batch.rows.numpy() / np.arange(len(rows)).mean()
    np.testing.assert_allclose(batch.weights.numpy(), expected, rtol=1e-6)
    bare, _ = open_catalogs(config(path, None, image_root=str(shapes)))
    again = next(TrainLoader(bare, batch_size=4, augment=augment, seed=1).epoch(0))
    assert again.weights is None
    assert again.images.equal(batch.images)


@pytest.mark.parametrize("cell", ["-1", "heavy", "inf", "1e40"])
def test_a_cell_that_is_no_weight(tmp_path, cell):
    with pytest.raises(DataError, match=r"train.csv:3: weight '.*' is not a number of 0 or more"):
        open_catalogs(config(table(tmp_path, ["1", cell, *CELLS[2:]]), "how much"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("heavy", "'heavy' is not a label and its weight, as: cat 2.5"),
        ("cat -1", "weight '-1' is not a number of 0 or more"),
        ("catt 2", "label 'catt' is not one of the 4 classes (cat, dog, owl, red fox); fix the la"),
        ("dog 2", "label 'dog' is in line 1 already"),
    ],
)
def test_a_line_that_is_no_class_weight(tmp_path, plain, line, message):
    path = tmp_path / "weights.csv"
    path.write_text(f"dog 1\n{line}\n")
    with pytest.raises(DataError) as caught:
        open_catalogs(config(plain, str(path)))
    assert f"weights.csv:2: {message}" in str(caught.value)


def test_no_weights_at_all(tmp_path, plain):
    with pytest.raises(DataError, match=r"no column named data.weights=mass among 'path', 'label'"):
        open_catalogs(config(plain, "mass"))
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{i}.jpg {i % 2}\n" for i in range(4)))
    with pytest.raises(ConfigError, match=r"data.weights=mass: no image has a weight there"):
        open_catalogs(config(path, "mass"))
    path = tmp_path / "empty.txt"
    path.write_text("# none\n")
    with pytest.raises(DataError, match=r"empty.txt: no weights"):
        open_catalogs(config(plain, str(path)))


def test_losses_over_classes_have_no_weights_of_images():
    for name in PAIR_LOSSES:  # over images
        metric_loss(Config.of(None, {"loss.name": name, "data.weights": "w"}))
    request = Config.of(None, {"loss.name": "proxy_anchor", "data.weights": "w"})
    with pytest.raises(ConfigError, match=r"data.weights=w and loss.name=proxy_anchor"):
        metric_loss(request)


def test_an_image_of_several_classes_has_the_mean_of_their_weights(tmp_path):
    (tmp_path / "list.txt").write_text("a.jpg cat|pet\nb.jpg dog|pet\nc.jpg cat\n")
    (tmp_path / "weights.txt").write_text("pet 5\ncat 3\n")
    options = AnnotationOptions(label_separator="|")
    catalog = build_catalog(read_records(str(tmp_path / "list.txt"), options=options))
    weighted = with_weights(catalog, str(tmp_path / "weights.txt"))
    assert weighted.weights.tolist() == [4, 3, 3]
