"""`lookalike search` as people type it, and the page."""

import json
import os
import shutil
import sys
import webbrowser
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

import lookalike
from lookalike import cli
from lookalike.errors import RunError
from lookalike.gallery.verdict import judge, limit_of
from lookalike.model.embedder import Embedder
from lookalike.retrieval.calibration import Calibration

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def search(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["lookalike", "search", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_gallery_is_indexed_once_and_followed(model, photos, cache, monkeypatch, capsys, caplog):
    caplog.set_level("INFO")
    query = photos / "102/1.jpg"
    words = (model, query, "--gallery", photos, "--threads", 2)
    assert search(monkeypatch, *words) == 0
    out = capsys.readouterr().out
    assert "21 images added" in caplog.text
    assert "1   1.000" in out
    assert "102/1.jpg  (102)  the query itself" in out
    assert "no calibration" in out
    assert search(monkeypatch, *words, "--json", "-k", 3) == 0
    [answer] = map(json.loads, capsys.readouterr().out.splitlines())
    assert answer["query"] == str(query)
    embedder = lookalike.load(model, device="cpu")
    paths = sorted(map(str, photos.rglob("*.jpg")))
    cosines = embedder.embed(paths) @ embedder.embed([str(query)])[0]
    best = [paths[i] for i in np.argsort(-cosines)[:3]]
    assert [one["id"] for one in answer["neighbours"]] == best
    assert [one["cosine"] for one in answer["neighbours"]] == pytest.approx(
        np.sort(cosines)[::-1][:3].tolist(), abs=1e-5
    )
    (photos / "100/0.jpg").unlink()
    Image.open(photos / "101/0.jpg").rotate(90).save(photos / "101/1.jpg")
    os.utime(photos / "101/1.jpg", ns=(1, 1))
    caplog.clear()
    assert search(monkeypatch, *words) == 0
    assert "1 image removed, no longer there" in caplog.text
    assert " 1 image added" in caplog.text
    caplog.clear()
    assert search(monkeypatch, *words) == 0
    assert "added" not in caplog.text


def test_an_index_is_kept_added_to_and_removed_from(
    model, photos, cache, tmp_path, monkeypatch, capsys, caplog
):
    caplog.set_level("INFO")
    index = tmp_path / "shop.index"
    monkeypatch.chdir(tmp_path)
    assert search(monkeypatch, model, "--index", index, "--gallery", "photos/100") == 0
    assert search(monkeypatch, model, "--index", index, "--add", "photos/10[12]/*.jpg") == 0
    assert search(monkeypatch, model, "--index", index, "--gallery", "photos/103") == 0
    assert len(lookalike.Index.open(index)) == 16  # what is there besides stays
    words = ("--remove", "photos/100", "--remove", "photos/101/0.jpg", "--remove", "*/102/*",
             "--remove", "photos/no.jpg")  # fmt: skip
    capsys.readouterr()
    assert search(monkeypatch, model, "--index", index, *words, "--stats") == 0
    assert "9 images removed" in caplog.text
    assert "not in the index: photos/no.jpg" in caplog.text
    assert "images        7" in capsys.readouterr().out
    found = lookalike.search(model, "photos/alone.jpg", index=index, k=99, device="cpu")
    ids = [one.id for one in found.answers[0].neighbours]
    there = [*(photos / "101").glob("[123].jpg"), *(photos / "103").glob("*")]
    assert sorted(ids) == sorted(map(str, there))


def test_only_the_asterisk_has_a_meaning_for_remove(model, photos, tmp_path, monkeypatch):
    some = tmp_path / "br"
    some.mkdir()
    names = ["a[1].jpg", "a1.jpg", "b?.jpg", "bx.jpg"]
    for name in names:
        shutil.copy(photos / "alone.jpg", some / name)
    index = tmp_path / "index"
    assert search(monkeypatch, model, "--index", index, "--gallery", some) == 0
    for pattern in (f"{some}/a[1]*", f"{some}/b?*"):
        assert search(monkeypatch, model, "--index", index, "--remove", pattern) == 0
    left = lookalike.Index.open(index).ids()
    assert sorted(left) == [f"{some}/a1.jpg", f"{some}/bx.jpg"]


def test_vectors_of_embed_are_a_gallery(model, photos, cache, tmp_path, monkeypatch, capsys):
    table = tmp_path / "photos.parquet"
    lookalike.embed(model, photos, table, device="cpu", threads=1)
    words = {"gallery": photos, "device": "cpu", "k": 21}
    plain = lookalike.search(model, photos / "101/2.jpg", **words)
    monkeypatch.setattr("lookalike.gallery.index.stream", None)  # nothing is embedded
    given = lookalike.search(model, photos / "101/2.jpg", **(words | {"gallery": table}))
    assert given.answers == plain.answers
    other = Embedder.create("test_resnet", pretrained=False, image_size=32, embedding_dim=16)
    other.save(tmp_path / "other")
    assert search(monkeypatch, tmp_path / "other", photos / "101/2.jpg", "--gallery", table) == 2
    assert "holds vectors of another model" in capsys.readouterr().err


def test_another_model_is_refused(model, photos, tmp_path):
    index = tmp_path / "shop.index"
    lookalike.search(model, gallery=photos, index=index, device="cpu")
    other = Embedder.create("test_resnet", pretrained=False, image_size=32, embedding_dim=16)
    with pytest.raises(RunError, match="vectors of different models cannot be compared"):
        lookalike.Index.open(index, other)
    lookalike.Index.create(tmp_path / "bare", dim=16)
    with pytest.raises(RunError, match="bare vectors"):
        lookalike.Index.open(tmp_path / "bare", other)


def test_python_builds_from_paths_arrays_and_bytes(model, photos, tmp_path, caplog):
    embedder = lookalike.load(model, device="cpu")
    paths = sorted(map(str, photos.rglob("*.jpg")))
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    given = [*paths, str(tmp_path / "broken.jpg")]
    index = lookalike.Index.build(embedder, given, tmp_path / "x", threads=2)
    assert "broken.jpg" in caplog.text
    assert index.ids() == paths
    pixels = np.asarray(Image.open(paths[0]))
    index.add(
        [pixels, (photos / "101/0.jpg").read_bytes()], ids=["array", "bytes"], labels=["a", None]
    )
    ids, cosines, labels = index.search([paths[0], photos / "101/0.jpg"], k=2)
    assert [set(row) for row in ids] == [{paths[0], "array"}, {str(photos / "101/0.jpg"), "bytes"}]
    assert np.allclose(cosines, 1, atol=1e-5)
    assert "a" in labels[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{photos}/alone.jpg"], "nothing to search"),
        (["--gallery", "{photos}", "--add", "{photos}"], "name it with --index"),
        (["--index", "{photos}/none", "{photos}/alone.jpg"], "no index here"),
        (["--gallery", "{photos}/nothing", "{photos}/alone.jpg"], "no such file or folder"),
        (["--gallery", "{photos}", "{photos}/no.jpg"], "no such file or folder"),
        (["--gallery", "{photos}", "--html", "x.html"], "name a query"),
        (["--gallery", "{photos}", "--kind", "best", "{photos}/alone.jpg"], "is not one of auto"),
    ],
)
def test_mistakes(model, photos, cache, monkeypatch, capsys, words, message):
    assert search(monkeypatch, model, *(word.format(photos=photos) for word in words)) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


@dataclass
class Limits:
    """An open-set calibration of a gallery of 100 images."""

    def threshold(self, share=None, gallery=None):
        if gallery > 1000:
            raise ValueError("too many")
        return 0.7


@dataclass
class Fake:
    """A calibration."""

    threshold: float
    open_set: Limits | None

    def probability(self, cosine):
        return np.asarray(cosine) / 2 + 0.5


def test_cosines_are_judged():
    calibration = Fake(0.6, Limits())
    assert limit_of(calibration, 100) == 0.7
    assert limit_of(calibration, 10_000) is None
    assert limit_of(Fake(0.6, None), 100) is None
    assert limit_of(None, 100) is None
    cosines = np.array([1.0, 0.65, 0.6, 0.2])
    ids, labels = ["q", "a", "b", "c"], [None, "A", None, None]
    answer = judge("q", ids, cosines, labels, calibration, 0.7)
    assert [one.same for one in answer.neighbours] == [True, True, True, False]
    assert [one.probability for one in answer.neighbours] == [1.0, 0.825, 0.8, 0.6]
    assert [one.itself for one in answer.neighbours] == [True, False, False, False]
    assert answer.known is False  # the query itself says nothing about the gallery
    assert judge("other", ids, cosines, labels, calibration, 0.7).known is True
    alone = judge("q", ids, cosines, labels, calibration, 0.7, shown=1)
    assert [one.id for one in alone.neighbours] == ["q"]
    assert alone.known is False  # by the one behind it, which is not shown
    bare = judge("q", ids, cosines, labels, None, None)
    assert bare.known is None
    assert {one.same for one in bare.neighbours} == {None}


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on this machine")
def test_a_browser_shows_the_page(model, photos, cache, tmp_path, monkeypatch, capsys):
    from playwright.sync_api import sync_playwright

    tricky = photos / "<b>&'"
    tricky.mkdir()
    shutil.copy(photos / "100/0.jpg", tricky / ("long" * 40 + ".jpg"))
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(Calibration, "load", lambda folder: Fake(0.9, Limits()))
    words = (photos / "100/0.jpg", photos / "alone.jpg", "--gallery", photos, "-k", 22, "--open")
    assert search(monkeypatch, model, *words, "--html", tmp_path / "page.html") == 0
    assert opened == [(tmp_path / "page.html").as_uri()]
    assert "same  100 %" in capsys.readouterr().out
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width, scheme in ((1280, "light"), (390, "dark")):
            shown = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            said: list[str] = []
            asked: list[str] = []
            shown.on("console", lambda message, said=said: said.append(message.text))
            shown.on("pageerror", lambda error, said=said: said.append(str(error)))
            shown.on("request", lambda request, asked=asked: asked.append(request.url))
            shown.goto(opened[0])
            assert said == []
            assert [url for url in asked if not url.startswith("data:")] == opened
            assert shown.evaluate("document.documentElement.scrollWidth") <= width
            assert shown.locator("section").count() == 2
            assert shown.locator("section img").count() == 2 * (1 + 22)
            assert shown.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
            assert shown.locator("figure.same").count() > 0
            assert shown.locator("b b").count() == 0
        browser.close()
