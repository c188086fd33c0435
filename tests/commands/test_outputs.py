"""Places of results that cannot be written to: one line before any work, in every command."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from lookalike.errors import StorageError
from lookalike.model.embedder import Embedder
from lookalike.storage import retry
from lookalike.storage.output_checks import check_output_file, check_output_folder
from program import run


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    Embedder.create("test_resnet", pretrained=False, image_size=32, embedding_dim=8).save(folder)
    return folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "MODEL", "--data", "none.txt", "--output", "file"], "file is a file"),
        (["evaluate", "MODEL", "--data", "none.txt", "--output", "file/a/b"], "file is a file"),
        (["evaluate", "MODEL", "--data", "none.txt", "--output", "used"],
         "used/evaluation.json: is a folder"),
        (["evaluate", "MODEL", "--data", "none.txt", "--per-class", "folder.csv"],
         "folder.csv: is a folder"),
        (["evaluate", "MODEL", "--data", "none.txt", "--per-query", "file/q.csv"],
         "file/q.csv: cannot be written"),
        (["evaluate", "MODEL", "--data", "none.txt", "--per-class", "/proc/q.csv"],
         "/proc/q.csv: cannot be written: /proc: "),
        (["improve", "MODEL", "--data", "none.txt", "--keep", "flip", "--output", "file/model"],
         "file/model: cannot be written"),
        (["embed", "MODEL", "none.txt", "-o", "folder.npy"], "folder.npy: is a folder"),
        (["embed", "MODEL", "none.txt", "-o", "beside.npy"], "beside.paths.txt: is a folder"),
        (["embed", "MODEL", "none.txt", "-o", "folder.parquet"], "folder.parquet: is a folder"),
        (["embed", "MODEL", "none.txt", "-o", "file/x.npy"], "file/x.npy: cannot be written"),
        (["export", "MODEL", "--data", "none.txt", "--output", "folder.onnx"],
         "folder.onnx: is a folder"),
        (["export", "MODEL", "--data", "none.txt", "--format", "safetensors", "--output", "file"],
         "file: is a file, where a folder is needed"),
        (["search", "MODEL", "q.png", "--gallery", "none.txt", "--html", "folder.html"],
         "folder.html: is a folder"),
        (["doctor", "--train", "none.txt", "--output", "file"], "file is a file"),
        (["quickstart", "--output", "file"], "file: is a file, where a folder is needed"),
        (["run", "--example", "file"], "file: is a file, where a folder is needed"),
    ],
)  # fmt: skip
def test_wrong_places_of_results_are_refused_before_any_work(
    monkeypatch, tmp_path, model, capsys, words, message
):
    """No list is there: each command would complain of it if it began."""
    refused(monkeypatch, tmp_path, model, capsys, words, message)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("evaluate MODEL --data mine.csv --per-class ./mine.csv", "mine.csv: is an input"),
        ("evaluate MODEL --query q.txt --gallery link.csv --per-query mine.csv",
         "mine.csv: is an input"),
        ("evaluate MODEL --data out/per_class.csv --output out", "per_class.csv: is an input"),
        ("evaluate MODEL --data none.txt --per-class b.csv --per-query DIR/b.csv",
         "b.csv: is the place of two results"),
        ("embed MODEL none.txt mine.parquet -o mine.parquet", "mine.parquet: is an input"),
        ("embed MODEL mine.labels.txt -o mine.npy", "mine.labels.txt: is an input"),
        ("search MODEL q.png --gallery mine.csv --html mine.csv", "mine.csv: is an input"),
        ("search MODEL mine.csv --index none --html DIR/mine.csv", "mine.csv: is an input"),
        ("search MODEL q.png --index none --add mine.csv --html link.csv", "link.csv: is an input"),
        ("report run --data mine.csv --output mine.csv", "mine.csv: is an input"),
        ("report run --output train.txt", "train.txt: is an input"),
        ("doctor --train out/doctor.json --output out", "out/doctor.json: is an input"),
        ("export MODEL --data mine.onnx -o mine.onnx", "mine.onnx: is an input"),
    ],
)  # fmt: skip
def test_results_never_replace_an_input_or_each_other(
    monkeypatch, tmp_path, model, capsys, words, named
):
    """However the places are spelled; no list holds an image, so each command ends soon."""
    files = "mine.csv mine.parquet mine.onnx mine.labels.txt train.txt run/config.yaml"
    for name in (*files.split(), "out/per_class.csv", "out/doctor.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("data: {train: train.txt}\n")
    (tmp_path / "link.csv").symlink_to("mine.csv")
    words = words.replace("DIR", str(tmp_path)).split()
    refused(monkeypatch, tmp_path, model, capsys, words, named)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("embed MODEL tables -o tables/b.parquet", "tables/b.parquet: is an input"),
        ("embed MODEL tables/*.parquet -o tables/../tables/b.parquet", "b.parquet: is an input"),
        ("embed MODEL lists/*.txt -o lists/x.npy", "lists/x.paths.txt: is an input"),
        ("evaluate MODEL --data lists/*.csv --per-class lists/c.csv", "lists/c.csv: is an input"),
        ("search MODEL lists/*.txt --gallery photos --html lists/a.txt", "a.txt: is an input"),
        ("search MODEL photos --index new --add photos --html photos/a/1.jpg",
         "photos/a/1.jpg: is an input"),
        ("report run --data photos --output photos/b/2.jpg", "photos/b/2.jpg: is an input"),
        ("report run --output photos/b/2.jpg", "photos/b/2.jpg: is an input"),
        ("doctor --train *.json --output .", "doctor.json: is an input"),
        ("export MODEL --data x*.onnx --data-format csv -o x.onnx", "x.onnx: is an input"),
    ],
)  # fmt: skip
def test_results_never_replace_what_a_folder_or_a_pattern_names(
    monkeypatch, tmp_path, model, capsys, words, named
):
    for place in ("photos/a/1.jpg", "photos/a/2.jpg", "photos/b/1.jpg", "photos/b/2.jpg"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(tmp_path / place)
    for folder in ("lists", "tables", "run"):
        (tmp_path / folder).mkdir()
    rows = [(f"../photos/{x}/{n}.jpg", x) for x in "ab" for n in (1, 2)]
    for name in ("a.txt", "x.paths.txt"):
        (tmp_path / "lists" / name).write_text("".join(f"{path} {x}\n" for path, x in rows))
    table = "path,label\n" + "".join(f"{path},{x}\n" for path, x in rows)
    (tmp_path / "lists/c.csv").write_text(table)
    (tmp_path / "x.onnx").write_text(table.replace("../", ""))
    lines = [json.dumps({"path": path[3:], "label": x}) + "\n" for path, x in rows]
    (tmp_path / "doctor.json").write_text("".join(lines))
    content = (tmp_path / "photos/a/1.jpg").read_bytes()
    for name in "ab":
        images = pa.table({"image": [content] * 2, "label": ["a", "b"]})
        pq.write_table(images, tmp_path / f"tables/{name}.parquet")
    (tmp_path / "run/config.yaml").write_text(f"data: {{train: {tmp_path}/photos}}\n")
    refused(monkeypatch, tmp_path, model, capsys, words.split(), named)


def test_results_may_lie_beside_the_images(monkeypatch, tmp_path, model):
    """Also the second time, when they are there."""
    monkeypatch.chdir(tmp_path)
    for place in ("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        Image.new("RGB", (9, 9)).save(tmp_path / place)
    for words in (
        "embed MODEL a -o a/x.parquet",
        "embed MODEL a/* -o a/x.npy",
        "search MODEL a/1.jpg --gallery a/* --html a/x.html",
        "evaluate MODEL --data . --per-class a/x.csv",
    ):
        for _ in range(2):
            assert run(monkeypatch, *(model if w == "MODEL" else w for w in words.split())) == 0


def refused(monkeypatch, tmp_path, model, capsys, words, message):
    """Run a command that ends with this line and changes nothing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    for name in ("folder.csv", "folder.npy", "folder.parquet", "folder.onnx", "folder.html"):
        (tmp_path / name).mkdir()
    (tmp_path / "used/evaluation.json").mkdir(parents=True)
    (tmp_path / "beside.paths.txt").mkdir()
    before = contents(tmp_path)
    assert run(monkeypatch, *(model if word == "MODEL" else word for word in words)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert contents(tmp_path) == before


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (PermissionError("writing alone is allowed"), None),
        (PermissionError("ExpiredToken"), "the storage refuses the credentials"),
        (ConnectionError(), "the connection was broken"),
    ],
)
def test_a_storage_that_does_not_answer_is_found_before_the_work(monkeypatch, error, refused):
    def isdir(*_):
        raise error

    monkeypatch.setattr(MemoryFileSystem, "isdir", isdir)
    monkeypatch.setitem(retry.FIRST_PAUSE, True, 0.0)
    for check in (check_output_file, check_output_folder):
        if refused is None:
            check("memory://bucket/x.csv")
        else:
            with pytest.raises(StorageError, match=f"^memory://bucket/x.csv: {refused}"):
                check("memory://bucket/x.csv")
