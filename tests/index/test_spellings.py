"""One place under several spellings, and `~` for the home folder."""

import os
import pwd
import shutil
from pathlib import Path

import numpy as np
import pytest

import lookalike
from lookalike import storage
from lookalike.config.config import Config
from lookalike.data.record import Details, Member, Record, image_keys
from lookalike.evaluation import testset
from lookalike.index.index import Index
from lookalike.inspection.list_checks import distinct_rows
from lookalike.planning.gpus import read_machine
from lookalike.run import Run


@pytest.fixture
def spelled(photos, tmp_path, monkeypatch):
    """A function that gives the spellings of a file below `photos`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    (tmp_path / "elsewhere/link").symlink_to(tmp_path / "photos/102")

    def spellings(name):
        (tmp_path / "one.jpg").unlink(missing_ok=True)
        (tmp_path / "one.jpg").symlink_to(photos / name)
        return [
            str(photos / name), f"photos/{name}", f"./photos//{name}", f"photos/../photos/{name}",
            f"elsewhere/link/../{name}", f"link/{name}", f"file://{photos}/{name}",
            f"~/photos/{name}", "one.jpg",
        ]  # fmt: skip

    return spellings


def test_paths_of_this_machine(spelled, photos):
    spellings = spelled("102/1.jpg")
    assert {storage.canonicalizer()(place) for place in spellings} == {
        os.path.realpath(spellings[0])
    }
    one = storage.canonicalizer()
    for _ in range(20):  # beyond some of a folder, its links are listed
        assert len(set(map(one, spellings))) == 1
    assert one("photos/102/2.jpg") != one("photos/102/1.jpg")
    assert (
        storage.canonicalizer()("photos/")
        == storage.canonicalizer()("link/.")
        == str(photos.resolve())
    )
    assert one("none/a.jpg") == f"{Path.cwd()}/none/a.jpg"


def test_addresses():
    same = [
        ["http://h/a/b.jpg", "HTTP://H:80/a/b.jpg", "http://me:pw@h/a/%62.jpg#x"],
        ["https://h/a?id=1", "https://h:443/a?id=1&X-Amz-Signature=3"],
        ["s3://b/k.jpg", "S3://b/k.jpg", "s3a://b/k.jpg"],
        ["gs://b/k", "gcs://b/k"],
        ["s3://b/./k.jpg"], ["http://h/a/./b.jpg"], ["s3://b//k.jpg"], ["http://h/a%2Fb.jpg"], ["https://h/a?id=2"],
        ["s3://b/%6b.jpg"], ["http://h:443/a/b.jpg"],
    ]  # fmt: skip
    found = [set(map(storage.canonicalizer(), uris)) for uris in same]
    assert [len(texts) for texts in found] == [1] * len(same)
    assert len(set.union(*found)) == len(same)


def test_parts_of_files_and_boxes_are_images_of_their_own(spelled):
    key = image_keys()
    records = [
        Record(uri, "1", "x", 1, member, details)
        for uri in ("photos/alone.jpg", "./link/alone.jpg")
        for member in (None, Member("a", 0, 5), Member("b", 5, 5))
        for details in (None, Details(box=(0, 0, 5, 5)))
    ]
    assert len({key(record) for record in records}) == 6
    assert distinct_rows(records) == [0, 1, 2, 3, 4, 5]


def test_image_in_both_lists_is_one_in_all_spellings(spelled, photos, tmp_path):
    names = [f"102/{n}.jpg" for n in range(4)] + [f"103/{n}.jpg" for n in range(4)]
    (tmp_path / "gallery.txt").write_text("".join(f"photos/{n} {n[:3]}\n" for n in names))
    query = spelled(names[0])
    for place in query[:-3] + query[-1:]:  # a list's own paths have no `~`
        (tmp_path / "query.txt").write_text(f"{place} 102\n")
        made = testset.from_query_and_gallery("query.txt", "gallery.txt")
        assert (len(made.catalog), made.in_both) == (8, 1), place
        assert made.roles.query.sum() == 1


def test_a_query_finds_itself_and_an_index_holds_it_once(spelled, photos, tmp_path, model):
    spellings = spelled("102/1.jpg")
    found = lookalike.search(model, gallery="photos", index="index", device="cpu")
    count = len(found.index)
    for place in spellings:
        answer = lookalike.search(model, place, index="index", k=3, device="cpu").answers[0]
        assert [one.itself for one in answer.neighbours] == [True, False, False], place
        grown = lookalike.search(model, index="index", add=place, device="cpu")
        assert len(grown.index) == count, place
    both = lookalike.search(
        model, gallery=["link", "photos", *spellings], index=tmp_path / "both", device="cpu"
    )
    assert len(both.index) == count
    # Named in another way and changed since, it is still one.
    shutil.copy(photos / "103/1.jpg", photos / "102/1.jpg")
    os.utime(photos / "102/1.jpg", (1, 1))
    changed = lookalike.search(model, "photos/103/1.jpg", index="index", add="link", device="cpu")
    assert len(changed.index) == count
    assert changed.answers[0].neighbours[1].cosine > 0.9999
    # What cannot be read any more stays as it was.
    (photos / "102/1.jpg").write_bytes(b"cut off")
    again = lookalike.search(model, "photos/103/1.jpg", index="index", add="photos", device="cpu")
    assert len(again.index) == count


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    yield tmp_path
    assert not (tmp_path / "work/~").exists()


def test_home_of_users(home):
    me = pwd.getpwuid(os.getuid())
    assert storage.local_path("~") == str(home)
    assert storage.local_path(f"~{me.pw_name}/a.jpg") == os.path.join(me.pw_dir, "a.jpg")
    assert storage.local_path("~no-such-user/a") == "~no-such-user/a"
    assert storage.local_path("a~b/~c.jpg") == "a~b/~c.jpg"


def test_home_in_the_arguments_of_every_command(home, photos, model, shapes):
    shutil.copytree(model, home / "model")
    (home / "list.txt").write_text(
        "".join(f"photos/{c}/{n}.jpg {c}\n" for c in (102, 103) for n in range(4))
    )
    cpu = {"device": "cpu"}
    assert lookalike.load("~/model").embed(["~/photos/alone.jpg"]).shape == (1, 16)
    assert lookalike.load(Path("~/model")).embed([Path("~/photos/alone.jpg")]).shape == (1, 16)
    lookalike.embed("~/model", "~/photos", "~/out/v.npy", **cpu)
    assert len(np.load(home / "out/v.npy")) == 21
    lookalike.evaluate("~/model", data="~/list.txt", **cpu)
    lookalike.compare(
        "~/model", "~/list.txt", per_class="~/c.csv", per_query="~/q.csv", output="~/scores", **cpu
    )
    assert any((home / "scores").iterdir())
    assert (home / "c.csv").exists()
    assert (home / "q.csv").exists()
    lookalike.search(
        "~/model", "~/photos/alone.jpg", gallery="~/photos", index="~/index", html="~/s.html", **cpu
    )
    assert len(Index.open("~/index")) == 21
    assert (home / "s.html").exists()
    lookalike.export("~/model", "safetensors", output="~/exported", data="~/list.txt")
    assert (home / "exported/model.safetensors").exists()
    lookalike.improve(
        "~/model", "~/list.txt", variants=["flip"], keep="flip", output="~/better", **cpu
    )
    assert (home / "better").is_dir()
    lookalike.doctor(train="~/list.txt", images=False, output="~/doctor")
    assert (home / "doctor").is_dir()
    (home / "m.yaml").write_text("base: h100\n")
    assert read_machine("~/m.yaml")


def test_home_in_settings(home, photos, model):
    (home / "c.yaml").write_text("data: {train: ~/list.txt, cache: ~/cache}\nrun: {output: ~/o}\n")
    config = Config.load("~/c.yaml")
    assert config.data.train == "~/list.txt"
    run = Run.create(config.run.output)
    assert run.path == home / "o"
    from lookalike.training.request_lists import create_source

    create_source(config)
    assert (home / "cache/lookalike-images-1").is_dir()
