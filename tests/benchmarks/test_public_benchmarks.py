"""Lists from the layouts of official archives, on stand-ins of the same shape."""

import importlib.util
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from lookalike.config.config import Config
from lookalike.data.readers import read_records
from lookalike.errors import DataError

ROOT = Path(__file__).parents[2]
PUBLIC = ROOT / "benchmarks" / "public"


def module(name: str):
    spec = importlib.util.spec_from_file_location(name, PUBLIC / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def script():
    before = list(sys.path)
    yield module("prepare")
    sys.path[:] = before


def images(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"\xff\xd8\xff")


def cub200(root: Path) -> None:
    names = ["001.Albatross/A_0001_1.jpg", "001.Albatross/A_0002_2.jpg", "100.Pelican/P_0003_3.jpg",
             "101.Pelican/P_0004_4.jpg", "200.Yellowthroat/Y_0005_5.jpg"]  # fmt: skip
    images(root, *(f"images/{name}" for name in names))
    lines = "".join(f"{number} {name}\n" for number, name in enumerate(names, 1))
    (root / "images.txt").write_text(lines)
    (root / "image_class_labels.txt").write_text("1 1\n2 1\n3 100\n4 101\n5 200\n")
    (root / "train_test_split.txt").write_text("1 0\n2 1\n3 1\n4 1\n5 0\n")


def annotations(file: Path, field: str, rows: list[tuple[str, int]]) -> None:
    kinds = [(field, object), ("bbox_x1", object), ("class", object), ("test", object)]
    table = np.zeros((1, len(rows)), kinds)
    for at, (name, number) in enumerate(rows):
        table[0, at] = (name, 3, number, 0)
    file.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(str(file), {"annotations": table, "class_names": np.zeros((1, 3))})


def cars196(root: Path) -> None:
    rows = [("car_ims/000001.jpg", 1), ("car_ims/000002.jpg", 98), ("car_ims/000003.jpg", 99)]
    images(root, *(name for name, _ in rows))
    annotations(root / "cars_annos.mat", "relative_im_path", rows)


def cars196_in_two_parts(root: Path) -> None:
    images(root, "cars_train/00001.jpg", "cars_train/00002.jpg", "cars_test/00001.jpg")
    annotations(
        root / "devkit/cars_train_annos.mat", "fname", [("00001.jpg", 1), ("00002.jpg", 98)]
    )
    annotations(root / "cars_test_annos_withlabels.mat", "fname", [("00001.jpg", 99)])


def sop(root: Path) -> None:
    head = "image_id class_id super_class_id path\n"
    train = ["1 1 1 bicycle_final/111_0.JPG", "2 1 1 bicycle_final/111_1.JPG",
             "3 2 12 coffee_maker_final/112_0.JPG"]  # fmt: skip
    test = ["4 11319 12 toaster_final/113_0.JPG", "5 11319 12 toaster_final/113_1.JPG"]
    (root / "Ebay_train.txt").write_text(head + "\n".join(train) + "\n")
    (root / "Ebay_test.txt").write_text(head + "\n".join(test) + "\n")
    images(root, *(line.split()[3] for line in train + test))


def inshop(root: Path) -> None:
    folder = "img/WOMEN/Blouses_Shirts"
    rows = [
        (f"{folder}/id_00000001/02_1_front.jpg", "id_00000001", "train"),
        (f"{folder}/id_00000001/02_2_side.jpg", "id_00000001", "train"),
        (f"{folder}/id_00000002/01_1_front.jpg", "id_00000002", "query"),
        (f"{folder}/id_00000002/01_2_side.jpg", "id_00000002", "gallery"),
        ("img/MEN/Denim/id_00000004/01_1_front.jpg", "id_00000004", "gallery"),
    ]
    lines = [f"{path:70} {item} {role}" for path, item, role in rows]
    text = f"{len(rows)}\nimage_name item_id evaluation_status\n" + "\n".join(lines) + "\n"
    (root / "Eval").mkdir(parents=True)
    (root / "Eval/list_eval_partition.txt").write_text(text)
    images(root, *(f"Img/{path}" for path, _, _ in rows))


def inaturalist(root: Path) -> None:
    train = ["train_val2018/Plantae/7477/3b60.jpg", "train_val2018/Plantae/7477/3b61.jpg",
             "train_val2018/Aves/3000/aa.jpg"]  # fmt: skip
    test = ["train_val2018/Aves/3001/bb.jpg", "train_val2018/Aves/3001/cc.jpg"]
    splits = root / "Inat_dataset_splits"
    splits.mkdir()
    (splits / "Inaturalist_train_set1.txt").write_text("\n".join(train))
    (splits / "Inaturalist_test_set1.txt").write_text("\n".join(test) + "\n")
    images(root, *train, *test)


def market1501(root: Path) -> None:
    names = [
        "bounding_box_train/0002_c1s1_000451_03.jpg", "bounding_box_train/0002_c3s1_000551_01.jpg",
        "query/0003_c1s1_000776_00.jpg", "query/0004_c6s3_094992_00.jpg",
        "bounding_box_test/0003_c4s6_015641_00.jpg", "bounding_box_test/0004_c5s1_000001_00.jpg",
        "bounding_box_test/0000_c1s1_000151_01.jpg", "bounding_box_test/-1_c1s1_000401_03.jpg",
    ]  # fmt: skip
    images(root, *names)
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (root / folder / "Thumbs.db").write_bytes(b"x")


# Benchmark, its stand-in, and the lists expected of it: name, label, query, gallery, camera.
STAND_INS = [
    ("cub200", cub200, [("A_0001_1.jpg", "1"), ("A_0002_2.jpg", "1"), ("P_0003_3.jpg", "100")],
     [("P_0004_4.jpg", "101"), ("Y_0005_5.jpg", "200")]),
    ("cars196", cars196, [("000001.jpg", "1"), ("000002.jpg", "98")], [("000003.jpg", "99")]),
    ("cars196", cars196_in_two_parts, [("00001.jpg", "1"), ("00002.jpg", "98")],
     [("00001.jpg", "99")]),
    ("sop", sop, [("111_0.JPG", "1"), ("111_1.JPG", "1"), ("112_0.JPG", "2")],
     [("113_0.JPG", "11319"), ("113_1.JPG", "11319")]),
    ("inshop", inshop,
     [("02_1_front.jpg", "id_00000001"), ("02_2_side.jpg", "id_00000001")],
     [("01_1_front.jpg", "id_00000002", True, False), ("01_2_side.jpg", "id_00000002", False, True),
      ("01_1_front.jpg", "id_00000004", False, True)]),
    ("inaturalist", inaturalist,
     [("3b60.jpg", "Plantae/7477"), ("3b61.jpg", "Plantae/7477"), ("aa.jpg", "Aves/3000")],
     [("bb.jpg", "Aves/3001"), ("cc.jpg", "Aves/3001")]),
    ("market1501", market1501,
     [("0002_c1s1_000451_03.jpg", "2", None, None, "1"),
      ("0002_c3s1_000551_01.jpg", "2", None, None, "3")],
     [("0003_c1s1_000776_00.jpg", "3", True, False, "1"),
      ("0004_c6s3_094992_00.jpg", "4", True, False, "6"),
      ("0000_c1s1_000151_01.jpg", "0", False, True, "1"),
      ("0003_c4s6_015641_00.jpg", "3", False, True, "4"),
      ("0004_c5s1_000001_00.jpg", "4", False, True, "5")]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "stand_in", "train", "test"), STAND_INS, ids=[s[1].__name__ for s in STAND_INS]
)
def test_lists_of_an_archive(script, tmp_path, name, stand_in, train, test):
    root, output = tmp_path / "data set", tmp_path / "lists"
    root.mkdir()
    stand_in(root)
    place = script.prepare(name, root, output, incomplete=True)
    config = Config.load(place, [f"run.output={tmp_path}/run"])
    assert config.data.val is None  # nothing is chosen on test classes
    assert config.data.val_fraction > 0
    for uri, expected in ((config.data.train, train), (str(output / "test.csv"), test)):
        records = read_records(uri)
        assert all(Path(record.uri).is_file() for record in records)
        for record, row in zip(records, expected, strict=True):
            details = record.details
            roles = (None, None) if details is None else (details.is_query, details.is_gallery)
            camera = None if details is None else details.camera
            seen = (Path(record.uri).name, record.label, *roles, camera)
            assert seen[: len(row)] == row
            if len(row) == 2:
                assert roles == (None, None)
    with pytest.raises(DataError, match=r"the train list has .* published are"):
        script.prepare(name, root, output)


def test_a_coarser_class_goes_with_products_and_species(script, tmp_path):
    for name, stand_in, first in (
        ("sop", sop, "bicycle"), ("inshop", inshop, "WOMEN/Blouses_Shirts"),
        ("inaturalist", inaturalist, "Plantae"),
    ):  # fmt: skip
        root = tmp_path / name
        root.mkdir()
        stand_in(root)
        config = Config.load(script.prepare(name, root, root / "lists", incomplete=True))
        assert read_records(config.data.train)[0].details.category == first


@pytest.mark.parametrize("name", ["ms1mv3", "glint360k"])
def test_faces_are_read_as_they_come(script, tmp_path, name):
    content = struct.pack("<IfQQ", 0, 7.0, 1, 0) + b"\xff\xd8\xff"
    record = struct.pack("<II", 0xCED7230A, len(content)) + content
    with pytest.raises(DataError, match=r"train\.rec: not there; unpack"):
        script.prepare(name, tmp_path, tmp_path / "lists")
    (tmp_path / "train.rec").write_bytes(record + b"\0")
    config = Config.load(script.prepare(name, tmp_path, tmp_path / "lists"))
    assert [record.label for record in read_records(config.data.train)] == ["7"]
    assert config.data.val is None
    assert config.data.val_fraction > 0


@pytest.mark.parametrize(
    ("name", "stand_in", "change", "words"),
    [
        ("cub200", cub200, lambda root: (root / "images.txt").unlink(), r"images\.txt: not there"),
        ("cub200", cub200, lambda root: (root / "images.txt").write_text("1 a b\n"),
         r"images\.txt:1: 3 columns, expected 2"),
        ("cub200", cub200, lambda root: (root / "images/001.Albatross/A_0001_1.jpg").unlink(),
         "A_0001_1.jpg: an image of the train list is not there"),
        ("cars196", cars196, lambda root: scipy.io.savemat(root / "cars_annos.mat", {"a": 1}),
         r"cars_annos\.mat: no annotations with relative_im_path and class"),
        ("inshop", inshop, lambda root: (root / "Eval/list_eval_partition.txt").write_text(
            "1\nhead\nimg/a.jpg id_1 val\n"), "status 'val' is none of train, query, gallery"),
        ("inaturalist", inaturalist, lambda root: (
            root / "Inat_dataset_splits/Inaturalist_test_set1.txt").write_text("a.jpg\n"),
         r"test_set1\.txt:1: 'a\.jpg' is not"),
        ("market1501", market1501, lambda root: images(root, "query/a.jpg"),
         "a.jpg: not named IDENTITY"),
    ],
)  # fmt: skip
def test_another_layout_is_one_line(script, tmp_path, name, stand_in, change, words, capsys):
    stand_in(tmp_path)
    change(tmp_path)
    arguments = [name, str(tmp_path), str(tmp_path / "lists"), "--incomplete"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["prepare.py", *arguments])
        assert script.main() == 2
    said = capsys.readouterr().err
    assert re.search(words, said), said
    assert said.count("\n") == 1
    assert not (tmp_path / "lists").exists()


def test_every_recipe_is_there_and_on_the_page(script):
    recipes = {path.stem for path in PUBLIC.glob("*.yaml")}
    assert recipes == set(script.BENCHMARKS)
    page = (ROOT / "docs/public_benchmarks.md").read_text("utf-8")
    for name in recipes:
        Config.load(PUBLIC / f"{name}.yaml")
        assert f"`{name}`" in page
    assert "not reproduced here" in page
