"""A picture and its neighbours."""

import contextlib
import io
import re
import shutil

import pytest
import yaml
from PIL import Image
from qdrant_server import QdrantServer

import lookalike
from lookalike.errors import ConfigError
from lookalike.index.index import Index
from lookalike.model.embedder import Embedder
from lookalike.serving.access import Access
from lookalike.studio.studio_app import create_app

ONE = {"run": "runs/one", "gallery": "validation"}


def picture(root, **more):
    return {"picture": ("mine.jpg", (root / "shapes/images/100-0.jpg").read_bytes()), **more}


def test_the_page_says_what_to_do_first(client):
    assert "No trained model below these folders yet" in client.get("/look").text


def test_neighbours_of_a_picture_with_verdict_and_probability(client, root, trained, started):
    assert "validation images: val.txt" in client.get("/look").text
    assert "not embedded by this model yet" in client.get("/look", params=ONE).text
    assert client.post("/look/prepare", ONE).status_code == 303
    words = started[0][started[0].index("search") :]
    assert words == ["search", str(trained), "--gallery", f"{root}/shapes/val.txt"]
    lookalike.search(trained, gallery=f"{root}/shapes/val.txt", device="cpu")
    client.post("/look/prepare", ONE)
    assert len(started) == 1  # it is done
    assert 'name="picture"' in client.get("/look/state", params=ONE).text
    answer = client.post("/look/search", ONE, files=picture(root))
    assert answer.status_code == 200, answer.text
    assert "20 images searched" in answer.text
    assert answer.text.count("data:image/jpeg;base64,") == 13
    [first, *_] = re.findall(r'<li class="(.*?)".*?<b dir="auto">(.*?)</b>', answer.text, re.S)
    assert first == ("same", "100")
    assert re.search(r'class="decision">same (&gt;)?\d+ %', answer.text)
    assert '<b class="right">Known:</b>' in answer.text
    id = f"{root}/shapes/images/100-0.jpg"
    again = client.post("/look/search", {**ONE, "image": id})
    assert again.text.count('<li class="') == 12
    assert f'value="{id}"' not in again.text  # not its own neighbour


def test_a_list_is_read_by_the_settings_of_its_run(client, root, trained, started):
    rows = [line.split() for line in (root / "shapes/val.txt").read_text().splitlines()]
    table = root / "lists/validation"  # a name that says nothing
    table.parent.mkdir()
    table.write_text("".join(f"{label},{path}\n" for path, label in [("file", "kind"), *rows]))
    data = {
        "val": "lists/validation", "format": "csv", "path_column": "file", "label_column": "kind",
        "image_root": f"{root}/shapes",
    }  # fmt: skip
    two = root / "runs/two"
    shutil.copytree(trained, two)
    (trained / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    both = {**ONE, "other": "runs/two"}
    assert client.post("/look/prepare", both).status_code == 303
    words = [words[words.index("search") + 1 :] for words in started]
    gallery = ["--gallery", str(table)]
    assert words == [[str(trained), *gallery], [str(two), *gallery, "--lists-of", str(trained)]]
    with contextlib.chdir(root):  # as the process that the studio starts
        lookalike.search(trained, gallery=table, device="cpu")
        lookalike.search(two, gallery=table, lists_of=trained, device="cpu")
        with pytest.raises(ConfigError, match=r"lists_of=.* is no run"):
            lookalike.search(two, gallery=table, lists_of=root / "runs", device="cpu")
    text = client.post("/look/search", both, files=picture(root)).text
    assert text.count("20 images searched") == 2
    assert re.search(r'<li class="same".*?<b dir="auto">100</b>', text, re.S)


def test_two_models_on_one_picture(client, root, trained, started):
    shutil.copytree(trained, root / "runs/two")
    both = {**ONE, "other": "runs/two"}
    client.post("/look/prepare", both)
    assert [words[words.index("search") + 1] for words in started] == [
        str(trained), str(root / "runs/two"),
    ]  # fmt: skip
    lookalike.search(trained, gallery=f"{root}/shapes/val.txt", device="cpu")
    text = client.post("/look/search", both, files=picture(root)).text
    assert "<h2>runs/one</h2>" in text
    assert "<h2>runs/two</h2>" in text


def test_an_index_is_searched_and_its_images_elsewhere_are_not_shown(client, root, trained):
    elsewhere = root.parent / "private.jpg"
    shutil.copy(root / "shapes/images/100-0.jpg", elsewhere)
    (root / "link.jpg").symlink_to(elsewhere)
    images = [elsewhere, root / "link.jpg", root / "shapes/images/101-0.jpg"]
    Index.build(Embedder.load(trained / "model"), images, root / "index")
    assert "index index: 3 images" in client.get("/look").text
    asked = {"run": "runs/one", "gallery": "index:index"}
    text = client.post("/look/search", asked, files=picture(root)).text
    assert text.count('<li class="') == 3
    assert text.count("no picture below the roots") == 2
    both = {**asked, "other": "runs/one"}
    assert client.post("/look/prepare", both).status_code == 303  # the same run
    shutil.copytree(trained, root / "runs/two")
    answer = client.post("/look/prepare", {**asked, "other": "runs/two"})
    assert answer.status_code == 400
    assert "an index is of one model" in answer.json()["detail"]


def test_an_index_in_a_database_is_searched(client, root, trained, tmp_path):
    with QdrantServer(tmp_path / "qdrant") as server:
        (tmp_path / "qdrant").mkdir()
        address = f"qdrant://127.0.0.1:{server.port}/shoes"
        client = type(client)(create_app([root], Access(), [address]))
        text = client.get("/look").text
        assert f"index {address}" in text
        asked = {"run": "runs/one", "gallery": f"index:{address}"}
        answer = client.post("/look/search", asked, files=picture(root))
        assert answer.status_code == 409
        assert "no index here" in answer.json()["detail"]
        images = [root / "shapes/images/101-0.jpg", root / "shapes/images/100-0.jpg"]
        Index.build(Embedder.load(trained / "model"), images, address).close()
        text = client.post("/look/search", asked, files=picture(root)).text
        assert "2 images searched" in text
        assert text.count('<li class="') == text.count("data:image/jpeg;base64,") - 1 == 2
    with pytest.raises(ConfigError, match="give qdrant://"):
        create_app([root], Access(), ["shop.index"])


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "choose a picture"),
        ({"picture": ("a.jpg", b"<html>")}, "an HTML page"),
        ({"picture": ("a.jpg", b"")}, "choose a picture"),
    ],
)
def test_what_is_no_picture_is_refused(client, trained, files, said):
    answer = client.post("/look/search", ONE, files=files)
    assert answer.status_code == 400
    assert said in answer.json()["detail"]


def test_an_image_bomb_is_refused_by_its_header(client, trained):
    stream = io.BytesIO()
    Image.new("1", (8000, 8000)).save(stream, "PNG")
    assert len(stream.getvalue()) < 20_000
    answer = client.post("/look/search", ONE, files={"picture": ("a.png", stream.getvalue())})
    assert answer.status_code == 400
    assert "pixels" in answer.json()["detail"]


def test_lists_and_models_elsewhere_are_not_read(client, root, trained, started):
    config = yaml.safe_dump({"data": {"train": "/etc/passwd", "val": f"{root.parent}/secret.txt"}})
    (trained / "config.yaml").write_text(config)
    for gallery in ("validation", "training", "index:../x", "/etc"):
        answer = client.post("/look/prepare", {**ONE, "gallery": gallery})
        assert answer.status_code == 400, gallery
    assert started == []
    shutil.move(trained / "model", root.parent / "model")
    (trained / "model").symlink_to(root.parent / "model")
    Index.build(
        Embedder.load(root.parent / "model"), [root / "shapes/images/101-0.jpg"], root / "index"
    )
    asked = {"run": "runs/one", "gallery": "index:index"}
    answer = client.post("/look/search", asked, files=picture(root))
    assert answer.status_code == 400
    assert "not below" in answer.json()["detail"]
