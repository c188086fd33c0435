"""`embed`: what is embedded, to the bit what evaluation has, and going on after a kill."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import embed_process
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import lookalike
from lookalike import storage
from lookalike.commands import embed as command
from lookalike.data.inputs import read_places
from lookalike.data.loading.bad_images import BadImages
from lookalike.distributed.world import World
from lookalike.errors import ConfigError, DataError, RunError, StorageError
from lookalike.model.embedder import Embedder
from lookalike.model.inference import embed_records
from lookalike.storage.file_lock import locked
from lookalike.vectors.vector_files import read_images
from lookalike.vectors.vector_parts import Part, Parts, Request


@pytest.fixture
def many(photos: Path) -> Path:
    """A list of 210 lines, two of them bad, every third without a label."""
    paths = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.jpg")) * 10
    lines = [f"{path} {i % 7}" if i % 3 else path for i, path in enumerate(paths)]
    lines[70] = "broken.jpg x"
    lines[71] = "missing.jpg"
    (photos / "broken.jpg").write_bytes(b"no image")
    (photos / "list.txt").write_text("\n".join(lines))
    return photos / "list.txt"


@pytest.fixture
def parts_of_64(monkeypatch):
    monkeypatch.setattr(command, "PART_SIZE", 64)


@pytest.fixture
def memory():
    yield "memory://bucket"
    fsspec.filesystem("memory").store.clear()


def rows_of(table: Path) -> tuple[list[str], np.ndarray]:
    records, vectors = zip(*read_images(str(table)), strict=True)
    return [record.uri for some in records for record in some], np.concatenate(vectors)


def evaluated(model: Path, images: Path) -> tuple[list[str], np.ndarray]:
    """Paths and vectors as evaluation has them."""
    records = read_places([images])
    embedder = lookalike.load(model, device="cpu")
    embedded = embed_records(embedder, records, bad=BadImages(), quiet=True)
    return [records[row].uri for row in embedded.rows.tolist()], embedded.vectors.numpy()


@pytest.mark.parametrize("workers", [1, 2])
def test_vectors_are_those_of_evaluation_to_the_bit(model, many, tmp_path, workers):
    paths, vectors = evaluated(model, many)
    output = tmp_path / "v.parquet"
    count = lookalike.embed(model, many, output, workers=workers, threads=1, device="cpu")
    assert count == len(paths) == 208
    found, written = rows_of(output)
    assert found == paths
    assert (written == vectors).all()
    assert not list(tmp_path.glob(".v*"))


def test_files_of_vectors_serve_in_any_folder(model, photos, cache, tmp_path, monkeypatch):
    """Paths of a list are relative where it is embedded, and absolute in the file."""
    monkeypatch.chdir(tmp_path)
    Path("list.txt").write_text("photos/100/0.jpg a\n./photos/101/../101/1.jpg b\n")
    for name in ("v.parquet", "v.npy"):
        lookalike.embed(model, "list.txt", name, device="cpu")
    files = [str(photos / "100/0.jpg"), str(photos / "101/1.jpg")]
    assert rows_of(tmp_path / "v.parquet")[0] == files
    assert Path("v.paths.txt").read_text().splitlines() == files
    (tmp_path / "other").mkdir()
    monkeypatch.chdir("other")
    for name in ("v.parquet", "v.npy"):
        found = lookalike.search(
            model,
            files[0],
            gallery=f"../{name}",
            index=name + ".index",
            html="p.html",
            device="cpu",
        )
        assert [one.id for one in found.answers[0].neighbours] == files


def test_relative_paths_of_older_files_need_their_folder(
    model, photos, cache, tmp_path, monkeypatch
):
    """Earlier versions wrote paths as the list had them."""
    monkeypatch.chdir(tmp_path)
    for name in ("v.parquet", "v.npy"):
        lookalike.embed(model, "photos/100", name, device="cpu")
    table = pq.read_table("v.parquet")
    names = [path.removeprefix(f"{tmp_path}/") for path in table["path"].to_pylist()]
    table = table.set_column(table.schema.get_field_index("path"), "path", pa.array(names))
    pq.write_table(table, "v.parquet")
    Path("v.paths.txt").write_text("".join(f"{name}\n" for name in names))
    (tmp_path / "other").mkdir()

    def search(folder, index):
        monkeypatch.chdir(tmp_path / folder)
        for name in ("v.parquet", "v.npy"):
            words = {"gallery": tmp_path / name, "index": name + index, "device": "cpu"}
            yield lambda words=words: lookalike.search(model, photos / "100/0.jpg", **words)

    for call in search(".", ".here"):
        assert call().answers[0].neighbours[0].id == str(photos / "100/0.jpg")
    for call in search("other", ".there"):
        with pytest.raises(DataError, match=r"v\.\w+: its paths are relative \(photos/100/0.jpg\)"):
            call()


def test_files_and_what_is_beside_them(model, many, tmp_path, parts_of_64, caplog):
    lookalike.embed(model, many, tmp_path / "v.parquet", device="cpu")
    assert "broken.jpg: not an image" in caplog.text
    assert "missing.jpg: no such file" in caplog.text
    lookalike.embed(model, many, tmp_path / "v.npy", device="cpu")
    table = pq.read_table(tmp_path / "v.parquet")
    assert table.schema.names == ["path", "label", "vector"]
    assert table.schema.field("vector").type.list_size == 16
    assert (np.load(tmp_path / "v.npy") == np.stack(table["vector"].to_numpy())).all()
    paths, labels = table["path"].to_pylist(), table["label"].to_pylist()
    assert (tmp_path / "v.paths.txt").read_text().splitlines() == paths
    assert (tmp_path / "v.labels.txt").read_text().splitlines() == [x or "" for x in labels]
    assert labels[:4] == [None, "1", "2", None]
    assert len(labels) == 208


def test_boxes_are_separate_images(model, photos, tmp_path):
    table = photos / "t.csv"
    table.write_text(
        "path,x_1,y_1,x_2,y_2\nalone.jpg,0,0,20,20\nalone.jpg,10,10,40,40\nalone.jpg,,,,\n"
    )
    assert lookalike.embed(model, table, tmp_path / "v.parquet", device="cpu") == 3
    found = pq.read_table(tmp_path / "v.parquet")
    assert found.schema.names == ["path", "label", "x_1", "y_1", "x_2", "y_2", "vector"]
    assert found["x_2"].to_pylist() == [20, 40, None]
    [(records, vectors)] = read_images(str(tmp_path / "v.parquet"))
    assert [r.details and r.details.box for r in records] == [
        (0, 0, 20, 20),
        (10, 10, 40, 40),
        None,
    ]
    assert len(np.unique(vectors, axis=0)) == 3


def test_resumes_after_a_kill_at_every_step(model, many, tmp_path):
    output = tmp_path / "v.npy"
    paths, vectors = evaluated(model, many)
    process = subprocess.Popen(
        [sys.executable, embed_process.__file__, str(model), str(many), str(output)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    kills = 0
    kept: dict[str, int] = {}
    for step in range(1, 60, 2):
        process.stdin.write(f"{step}\n")
        process.stdin.flush()
        finished = output.exists()
        how = process.stdout.readline()
        if output.exists():
            assert (np.load(output) == vectors).all()
            assert (tmp_path / "v.paths.txt").read_text().splitlines() == paths
        there = {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*.part")}
        if there and not finished:
            assert kept.items() <= there.items()  # what was done is not done again
            kept = there
        if how.startswith("whole"):
            assert how.split()[1] == "0"
            break
        kills += 1
    process.stdin.close()
    assert process.wait(20) == 0
    process.stdout.close()
    assert kills >= 5
    assert output.exists()
    assert not list(tmp_path.glob(".v*"))


def test_parts_of_other_requests_are_not_mixed(model, many, tmp_path, parts_of_64, monkeypatch):
    output = tmp_path / "v.parquet"
    merge = command.merge

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "merge", stop)
    with pytest.raises(KeyboardInterrupt):
        lookalike.embed(model, many, output, device="cpu")
    assert len(list(tmp_path.glob(".v.parquet.parts/*.part"))) == 4
    monkeypatch.setattr(command, "merge", merge)
    torch.manual_seed(1)
    other = Embedder.create("test_resnet", pretrained=False, image_size=32, embedding_dim=16)
    other.save(tmp_path / "other")
    with pytest.raises(RunError, match=r"another model \(4 of them.*--restart"):
        lookalike.embed(tmp_path / "other", many, output, device="cpu")
    with pytest.raises(RunError, match="another list of images"):
        lookalike.embed(model, many.parent, output, device="cpu")
    assert lookalike.embed(tmp_path / "other", many, output, restart=True, device="cpu") == 208
    assert (rows_of(output)[1] == evaluated(tmp_path / "other", many)[1]).all()
    busy = tmp_path / ".v.parquet.parts.lock"
    monkeypatch.setattr("lookalike.storage.file_lock.PATIENCE", 0.1)
    with locked(busy, ""), pytest.raises(StorageError, match="another process is embedding"):
        lookalike.embed(model, many, output, device="cpu")


def test_from_and_to_object_storage(model, photos, cache, memory):
    for file in photos.rglob("*.jpg"):
        storage.write_bytes(f"{memory}/in/{file.relative_to(photos)}", file.read_bytes())
    storage.write_bytes(f"{memory}/in/notes.md", b"no image")
    output = f"{memory}/out/v.npy"
    assert lookalike.embed(model, f"{memory}/in", output, device="cpu") == 21
    assert set(storage.sizes_below(f"{memory}/out")) == {"v.npy", "v.paths.txt", "v.labels.txt"}
    paths = storage.read_bytes(f"{memory}/out/v.paths.txt").decode().splitlines()
    assert paths[0] == f"{memory}/in/100/0.jpg"
    assert not list((cache / "lookalike/embedding").iterdir())
    count = lookalike.embed(model, f"{memory}/in/**/1.jpg", f"{memory}/out/p.parquet", device="cpu")
    assert count == 5


def test_places(photos, memory):
    def names(*places: object) -> list[str]:
        found = read_places([str(place) for place in places])
        return [f"{Path(r.uri).parent.name}/{Path(r.uri).name}:{r.label}" for r in found]

    everything = names(photos)
    assert len(everything) == 21
    assert everything[0] == "100/0.jpg:100"
    assert everything[-1] == "photos/alone.jpg:"
    assert names(f"{photos}/*.jpg") == ["photos/alone.jpg:"]
    assert names(f"{photos}/**/0.jpg") == [f"10{i}/0.jpg:" for i in range(5)]
    assert names(f"{photos}/10[12]/?.jpg", photos / "alone.jpg") == [
        *(f"10{i}/{j}.jpg:" for i in (1, 2) for j in range(4)), "photos/alone.jpg:",
    ]  # fmt: skip
    (photos / "one.txt").write_text(
        "# two\n100/0.jpg\nmy photo.jpg\nmy photo.jpg red\n101/1.jpg x\n"
    )
    assert names(photos / "one.txt") == [
        "100/0.jpg:", "photos/my photo.jpg:", "photos/my photo.jpg:red", "101/1.jpg:x",
    ]  # fmt: skip
    (photos / "bare.csv").write_text("path\n100/0.jpg\n101/1.jpg\n")
    (photos / "some.csv").write_text("path,label\n100/0.jpg,\n101/1.jpg,y\n")
    assert names(f"{photos}/*.csv") == ["100/0.jpg:", "101/1.jpg:", "100/0.jpg:", "101/1.jpg:y"]
    (photos / "new.manifest").write_text('{"data": {"source": "100/0.jpg"}}\n')
    assert names(photos / "new.manifest") == ["100/0.jpg:"]
    (photos / "a[1].jpg").write_bytes(b"")
    assert names(photos / "a[1].jpg") == ["photos/a[1].jpg:"]
    for file in ("x/1.jpg", "x/.hidden/2.jpg", "x/y/3.jpg", "x/y/.4.jpg", "z/5.jpg", "x/6.md"):
        storage.write_bytes(f"{memory}/{file}", b"")
    assert names(f"{memory}/**/*.jpg") == ["x/1.jpg:", "y/3.jpg:", "z/5.jpg:"]
    assert names(f"{memory}/x/*.jpg") == ["x/1.jpg:"]
    assert names(f"{memory}/[!x]/*") == ["z/5.jpg:"]
    assert names(f"{memory}/key-without-suffix") == ["bucket/key-without-suffix:"]


def test_a_pattern_takes_images_by_content_and_counts_what_it_skips(photos, tmp_path, caplog):
    content = next(photos.rglob("*.jpg")).read_bytes()
    names = ["1.jpg", "2.JPG_large", "3", "4.jfif", "5.jpg.1"]
    for name in names:
        storage.write_bytes(f"{tmp_path}/.in/a/{name}", content)
    (tmp_path / ".in/a/notes.txt").write_text("not a list\n")
    (tmp_path / ".in/a/6.mp4").write_bytes(b"no image")
    with caplog.at_level("INFO", "lookalike"):
        found = read_places([f"{tmp_path}/.in/*/*"])
    assert [Path(record.uri).name for record in found] == names
    assert "2 files skipped: 1 .mp4 (e.g. a/6.mp4), 1 .txt (e.g. a/notes.txt)" in caplog.text


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("none", "no such file or folder"),
        ("none.txt", "no such file or folder"),
        ("*.gif", "no images or lists match this pattern"),
        ("empty", "no images in this folder"),
    ],
)
def test_invalid_places(tmp_path, place, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        read_places([tmp_path / place])


def test_mistakes(model, photos, tmp_path):
    with pytest.raises(ConfigError, match=r"must end in \.npy or \.parquet"):
        lookalike.embed(model, photos, tmp_path / "v.csv")
    with pytest.raises(ConfigError, match="workers=0"):
        lookalike.embed(model, photos, tmp_path / "v.npy", workers=0)
    (tmp_path / "bad.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match=r"bad\.jpg: "):
        lookalike.embed(model, tmp_path / "bad.jpg", tmp_path / "v.npy", device="cpu")
    assert not list(tmp_path.glob(".v*"))


def test_a_part_that_is_damaged_is_named(tmp_path):
    parts = Parts(tmp_path, Request("m", "i", 1, 2, 64))
    parts.write(0, Part(np.zeros(1, np.int64), np.zeros((1, 2), np.float32), {}))
    (tmp_path / "000000.part").write_bytes(bytes(100))
    for read_it in (parts.sizes, lambda: parts.read(0)):
        with pytest.raises(RunError, match=r"000000\.part: damaged"):
            read_it()


def test_workers_share_the_parts_that_the_main_one_found_missing(
    model, many, tmp_path, parts_of_64, monkeypatch
):
    """A quicker worker may have made some before this one looks."""

    class Second(World):
        def all_gather_object(self, value):
            return [[0, 1, 2], value]

    made = []
    second = Second(rank=1, size=2, local_size=2)
    monkeypatch.setattr(World, "from_env", lambda device: second)
    monkeypatch.setattr("lookalike.commands.embed.read_once", lambda read, world: read())
    monkeypatch.setattr(Parts, "missing", lambda self: [2])
    monkeypatch.setattr(Parts, "write", lambda self, number, part: made.append(number))
    assert lookalike.embed(model, many, tmp_path / "a.npy", device="cpu") == 0
    assert made == [1]


@pytest.fixture
def several(model, photos, tmp_path):
    """Lists of one image with two labels, by their names, and a run that separates them by `;`."""
    image = str(photos / "101/0.jpg")
    answer = {"results": [{"data": "b"}, {"data": "a"}]}
    pq.write_table(pa.table({"path": [image], "label": [["b", "a"]]}), tmp_path / "of.parquet")
    texts = {
        "own.txt": f"{image} b;a\n",
        "own.json": json.dumps([{"path": image, "label": ["b", "a"]}]),
        "other.json": json.dumps([{"path": image, "label": ["b", "a"]}]),
        "other.jsonl": json.dumps({"data": {"source": image}, "label-1": answer}),
        "other.txt": f"{image} b;a\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    run = tmp_path / "run"
    shutil.copytree(model, run / "model")
    lists = [str(tmp_path / "own.txt"), str(tmp_path / "own.json")]
    (run / "config.yaml").write_text(
        json.dumps({"data": {"train": lists, "label_separator": ";"}, "run": {"output": str(run)}})
    )
    return run, [tmp_path / name for name in (*texts, "of.parquet")]


def test_all_labels_of_an_image_are_kept(several, model, cache, tmp_path, monkeypatch):
    run, lists = several
    for one in lists:
        assert lookalike.embed(run, one, tmp_path / "v.parquet", device="cpu") == 1
        table = pq.read_table(tmp_path / "v.parquet")
        assert table["label"].to_pylist() == ["b;a"], one
        lookalike.embed(run, one, tmp_path / "v.npy", device="cpu")
        assert (tmp_path / "v.labels.txt").read_text() == "b;a\n"
        found = lookalike.search(run, index=tmp_path / "x", gallery=one, device="cpu")
        assert list(found.index.labels().values()) == ["b;a"]
    # A model alone names no separator.
    lookalike.embed(model, lists[2], tmp_path / "v.parquet", device="cpu")
    assert pq.read_table(tmp_path / "v.parquet")["label"].to_pylist() == ["b|a"]
    stream = io.TextIOWrapper(io.BytesIO(lists[3].read_bytes()))
    monkeypatch.setattr("sys.stdin", stream)
    lookalike.embed(run, "-", tmp_path / "v.parquet", device="cpu", workers=2)
    assert pq.read_table(tmp_path / "v.parquet")["label"].to_pylist() == ["b;a"]
