"""`lookalike search` as people type it, and the page."""

import io
import json
import os
import shutil
import sys
import webbrowser
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import lookalike
from lookalike.errors import ConfigError, DataError, LookalikeError, RunError
from lookalike.index.decision import decide, prior_of
from lookalike.metrics.calibration import Calibration, Level
from lookalike.metrics.far_interval import Spread
from lookalike.metrics.likelihood_ratio import LikelihoodRatio
from lookalike.metrics.open_set import OpenSet, Rejection
from lookalike.model.embedder import Embedder
from lookalike.vectors import vector_files
from program import run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def search(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    return run(monkeypatch, "search", *words)


def test_gallery_is_indexed_once_and_kept_up_to_date(
    model, photos, cache, monkeypatch, capsys, caplog
):
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


@pytest.mark.parametrize("form", ["list", "npy"])
@pytest.mark.parametrize("kept", [True, False], ids=["index", "cached gallery"])
def test_new_labels_of_a_gallery_are_taken_over(
    model, photos, cache, tmp_path, monkeypatch, form, kept
):
    """The vectors stay; an image without a label loses its own only in a gallery of its own."""
    embedder = lookalike.load(model, device="cpu")
    paths = sorted(map(str, photos.rglob("*.jpg")))[:4]
    np.save(tmp_path / "v.npy", embedder.embed(paths))
    (tmp_path / "v.paths.txt").write_text("".join(f"{path}\n" for path in paths))
    gallery = tmp_path / {"list": "list.csv", "npy": "v.npy"}[form]

    def found(*labels):
        (tmp_path / "v.labels.txt").write_text("".join(f"{label}\n" for label in labels))
        rows = "".join(f"{path},{label}\n" for path, label in zip(paths, labels, strict=True))
        (tmp_path / "list.csv").write_text("path,label\n" + rows)
        index = tmp_path / "kept.index" if kept else None
        answer = lookalike.search(model, paths[0], gallery=gallery, index=index, device="cpu")
        return {one.id: (one.label, one.cosine) for one in answer.answers[0].neighbours}

    before = found("a", "a", "b", "b")
    assert [before[path][0] for path in paths] == ["a", "a", "b", "b"]
    for path in paths[1:]:
        status = os.stat(path)
        with open(path, "r+b") as file:
            file.write(b"no picture")  # of the same size: reading it would fail
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = found("a", "shoe", "b", "")
    assert [after[path][0] for path in paths] == ["a", "shoe", "b", "b" if kept else None]
    assert [after[path][1] for path in paths] == [before[path][1] for path in paths]


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
    monkeypatch.setattr("lookalike.index.new_images.embedded", None)  # nothing is embedded
    found = lookalike.search(model, photos / "101/2.jpg", **(words | {"gallery": table}))
    assert found.answers == plain.answers
    other = Embedder.create("test_resnet", pretrained=False, image_size=32, embedding_dim=16)
    other.save(tmp_path / "other")
    assert search(monkeypatch, tmp_path / "other", photos / "101/2.jpg", "--gallery", table) == 2
    assert "holds vectors of another model" in capsys.readouterr().err


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_vectors_are_galleries(model, photos, tmp_path, monkeypatch, caplog, order):
    """With paths and labels beside, with ids, or by position."""
    monkeypatch.setattr("lookalike.vectors.vector_files.BLOCK_ROWS", 8)
    embedder = lookalike.load(model, device="cpu")
    paths = sorted(map(str, photos.rglob("*.jpg")))
    np.save(tmp_path / "v.npy", np.asarray(embedder.embed(paths), order=order))
    query = paths[5]

    def best(index):
        found = lookalike.search(
            model, query, gallery=tmp_path / "v.npy", index=tmp_path / index, device="cpu", k=1
        )
        return found.answers[0].neighbours[0]

    assert best("bare").id == f"{tmp_path}/v.npy[5]"
    assert "does not name the model" in caplog.text
    (tmp_path / "v.paths.txt").write_text("".join(f"{path}\n" for path in paths))
    (tmp_path / "v.labels.txt").write_text("".join(f"class {i}\n" for i in range(21)))
    assert (best("paths").id, best("paths").label) == (query, "class 5")
    (tmp_path / "v.ids.txt").write_text("".join(f"sku-{i}\n" for i in range(21)))
    assert best("ids").id == "sku-5"
    (tmp_path / "v.ids.txt").write_text("one\n")
    with pytest.raises(DataError, match=r"v\.ids\.txt: 1 ids of 21 vectors"):
        best("few")
    (tmp_path / "v.ids.txt").unlink()
    for wrong, message in (
        (np.zeros((3, 16), int), "expected .images, dimensions. of floats"),
        (np.zeros(3), "expected .images, dimensions. of floats"),
        (np.full((21, 16), np.nan), "zero or not finite"),
        (np.ones((21, 7)), r"vectors of 7 numbers; those of .* have 16"),
    ):
        np.save(tmp_path / "v.npy", wrong)
        with pytest.raises(DataError, match=message):
            best("wrong")


def test_damaged_files_of_vectors_are_named(model, photos, tmp_path):
    """In the pages, in the footer, and cut off."""
    table = tmp_path / "photos.parquet"
    lookalike.embed(model, photos, table, device="cpu", threads=1)
    whole = table.read_bytes()
    rng = np.random.default_rng(0)
    said: list[str] = []
    for step in range(40):
        broken = bytearray(whole)
        for place in rng.integers(4, len(whole), 3).tolist():
            broken[place] ^= 1 << int(rng.integers(8))
        table.write_bytes(broken if step % 4 else whole[: int(rng.integers(4, len(whole)))])
        index = lookalike.Index.create(tmp_path / str(step), dim=16)
        try:
            for records, vectors in vector_files.read_images(str(table)):
                index.add(records, vectors=vectors)
        except LookalikeError as error:
            said.append(str(error))
    assert len(said) > 10
    assert all("photos.parquet" in text or "vector" in text for text in said)


def test_another_model_is_refused(model, photos, tmp_path):
    index = tmp_path / "shop.index"
    lookalike.search(model, gallery=photos, index=index, device="cpu")
    other = Embedder.create("test_resnet", pretrained=False, image_size=32, embedding_dim=16)
    with pytest.raises(RunError, match="vectors of different models cannot be compared"):
        lookalike.Index.open(index, other)
    lookalike.Index.create(tmp_path / "bare", dim=16)
    with pytest.raises(RunError, match="vectors without a model"):
        lookalike.Index.open(tmp_path / "bare", other)


def test_python_builds_from_paths_arrays_and_bytes(model, photos, tmp_path, caplog):
    embedder = lookalike.load(model, device="cpu")
    paths = sorted(map(str, photos.rglob("*.jpg")))
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    images = [*paths, str(tmp_path / "broken.jpg")]
    index = lookalike.Index.build(embedder, images, tmp_path / "x", threads=2)
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
        (["--index", "{photos}/none", "--gallery", "{photos}/nothing"], "no such file or folder"),
        (["--gallery", "{photos}", "--html", "x.html"], "name a query"),
        (["--gallery", "{photos}", "--kind", "best", "{photos}/alone.jpg"], "is not one of auto"),
        (
            ["--index", "{photos}/none", "--kind", "hnsw", "{photos}/alone.jpg"],
            "kind='hnsw' is not one of auto, exact, int8",
        ),
        (
            ["--index", "qdrant://none.invalid/x", "--kind", "int8", "{photos}/alone.jpg"],
            "kind='int8' is not one of auto, exact, hnsw",
        ),
    ],
)
def test_mistakes(model, photos, cache, monkeypatch, capsys, words, message):
    assert search(monkeypatch, model, *(word.format(photos=photos) for word in words)) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not (photos / "none").exists()  # no index that holds nothing


def calibrated(threshold: float = 0.5, gallery: float = 100.0) -> Calibration:
    """A calibration whose likelihood ratio is 1 at the cosine 0.3, and rises steeply."""
    cosines = np.linspace(-1, 1, 41)
    likelihood = LikelihoodRatio(tuple(cosines.tolist()), tuple((14 * (cosines - 0.3)).tolist()))
    rejections = tuple(
        Rejection(share, threshold + (0.2 - share), share, 0.9) for share in (0.2, 0.1, 0.05, 0.01)
    )
    spread = Spread(**dict.fromkeys(Spread.__dataclass_fields__, 1.0))
    level = Level(1e-3, 0.8, 1e-3, 0.0, 1e-2, 0.5, 10, spread)
    return Calibration(
        "test", False, 0, 100, 20, 400, 4000, (level,), (), 1e-3, likelihood, 0.5,
        OpenSet(100, gallery, 0.05, rejections), 0.95,
    )  # fmt: skip


def test_match_decisions():
    calibration = calibrated()
    prior = prior_of(calibration, 100)
    assert prior == pytest.approx(calibration.even_prior(0.65))
    cosines = np.array([1.0, 0.66, 0.64, 0.2])
    ids, labels = ["q", "a", "b", "c"], [None, "A", None, None]
    answer = decide("q", ids, cosines, labels, calibration, prior)
    assert [one.same for one in answer.neighbours] == [True, True, False, False]
    assert [one.decision for one in answer.neighbours] == [
        "same 99 %", "same 53 %", "different 53 %", "different >99 %",
    ]  # fmt: skip
    assert [one.itself for one in answer.neighbours] == [True, False, False, False]
    assert answer.known is True
    assert answer.prior == prior
    below = np.array([1.0, 0.64, 0.64, 0.2])
    assert decide("q", ids, below, labels, calibration, prior).known is False  # not by itself
    assert decide("other", ids, below, labels, calibration, prior).known is True
    alone = decide("q", ids, below, labels, calibration, prior, shown=1)
    assert [one.id for one in alone.neighbours] == ["q"]
    assert alone.known is False  # by the one behind it, which is not shown
    bare = decide("q", ids, cosines, labels, None, None)
    assert bare.known is None
    assert {(one.same, one.decision) for one in bare.neighbours} == {(None, "")}


def test_the_prior_of_a_search_falls_with_the_gallery():
    calibration = calibrated()
    priors = [calibration.search_prior(size) for size in (1, 10, 100, 400, 500, 5000, 10**9)]
    assert priors == sorted(priors, reverse=True)
    assert priors[0] <= calibration.prior
    assert priors[-1] == pytest.approx(priors[-2] * 5000 / 10**9, rel=0.1)
    assert replace(calibration, open_set=None).search_prior(10**6) == 0.5
    assert prior_of(calibration, 100, 0.01) == 0.01
    assert prior_of(None, 100) is None
    for wrong in (0, 1, -0.1, 2, float("nan"), True, "0.5"):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            prior_of(calibration, 100, wrong)
    with pytest.raises(ConfigError, match="no calibration"):
        prior_of(None, 100, 0.5)


@given(
    ratios=st.lists(st.floats(-20, 20), min_size=2, max_size=9),
    cosines=st.lists(st.floats(-1, 1), min_size=1, max_size=6),
    prior=st.none() | st.floats(1e-9, 1 - 1e-9),
    size=st.integers(1, 10**8),
)
def test_decisions_agree_with_their_probabilities(ratios, cosines, prior, size):
    points = np.linspace(-1, 1, len(ratios))
    likelihood = LikelihoodRatio(tuple(points.tolist()), tuple(sorted(ratios)))
    calibration = replace(calibrated(), likelihood=likelihood)
    assumed = prior_of(calibration, size, prior)
    found = np.array(sorted(cosines, reverse=True))
    ids = [str(i) for i in range(len(found))]
    answer = decide("q", ids, found, [None] * len(ids), calibration, assumed)
    limit = calibration.cosine_of(assumed)
    for one in answer.neighbours:
        assert one.same == (one.probability >= 0.5)
        word, share = one.decision.removesuffix(" %").split()
        assert word == ("same" if one.same else "different")
        assert float(share.removeprefix(">")) >= 50
        chance = calibration.probability(one.cosine, assumed)
        assert one.probability == pytest.approx(float(chance))
        if limit is None:
            assert not one.same
        elif abs(one.cosine - limit) > 1e-5 and abs(one.probability - 0.5) > 1e-9:
            assert one.same == (one.cosine > limit)
    assert answer.known == answer.neighbours[0].same
    shares = [one.probability for one in answer.neighbours]
    # Interpolation between equal ratios rounds either way.
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(shares))


def test_everything_is_removed_only_with_yes(model, photos, tmp_path, monkeypatch, capsys):
    index = tmp_path / "index"
    assert search(monkeypatch, model, "--index", index, "--gallery", photos) == 0
    monkeypatch.chdir(tmp_path)
    for broad in ("/", ".", "*", "photos", "photos/", f"{tmp_path}/*", "/*"):
        assert search(monkeypatch, model, "--index", index, "--remove", broad) == 2
        assert "matches all 21 images" in capsys.readouterr().err
        with pytest.raises(ConfigError, match="remove_all=True"):
            lookalike.search(model, index=index, remove=broad)
    with pytest.raises(ConfigError, match="not a text or path"):
        lookalike.search(model, index=index, remove="")
    assert len(lookalike.Index.open(index)) == 21
    lookalike.search(model, index=index, remove=str(photos / "100/0.jpg"))
    assert len(lookalike.Index.open(index)) == 20
    lookalike.search(model, index=index, remove=photos / "101")
    assert len(lookalike.Index.open(index)) == 16
    with monkeypatch.context() as closed:  # as `<&-` leaves it
        closed.setattr(sys, "stdin", None)
        assert search(closed, model, "--index", index, "--remove", "/") == 2
    for answer, code, left in (("n\n", 2, 16), ("y\n", 0, 0)):  # asked on a terminal
        terminal = io.StringIO(answer)
        monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
        monkeypatch.setattr(sys, "stdin", terminal)
        assert search(monkeypatch, model, "--index", index, "--remove", "/") == code
        assert len(lookalike.Index.open(index)) == left
    lookalike.search(model, index=index, add=photos, device="cpu")
    assert search(monkeypatch, model, "--index", index, "--remove", "/", "--yes") == 0
    assert len(lookalike.Index.open(index)) == 0


@pytest.fixture
def calibrated_model(model):
    file = calibrated().save(model)
    yield model
    file.unlink()


def test_the_prior_is_chosen_and_shown(calibrated_model, photos, cache, monkeypatch, capsys):
    words = (calibrated_model, photos / "100/0.jpg", "--gallery", photos, "-k", 3)
    assert search(monkeypatch, *words, "--prior", 0.5) == 0
    out = capsys.readouterr().out
    assert "1.000  same >99 %" in out
    assert "where 50 % of such pairs are the same" in out
    for prior, share in ((0.99999, "99.999 %"), (0.999, "99.9 %"), (1e-300, "1 in 1e+300")):
        assert search(monkeypatch, *words, "--prior", prior) == 0
        assert f"where {share} of such pairs are the same" in capsys.readouterr().out
    assert search(monkeypatch, *words, "--prior", 1e-9, "--json") == 0
    [answer] = map(json.loads, capsys.readouterr().out.splitlines())
    assert answer["prior"] == 1e-9
    assert answer["known"] is False
    assert {one["same"] for one in answer["neighbours"]} == {False}
    assert max(one["probability"] for one in answer["neighbours"]) < 0.5
    assert search(monkeypatch, *words, "--prior", 1.5) == 2
    assert "--prior" in capsys.readouterr().err
    found = lookalike.search(
        calibrated_model, photos / "100/0.jpg", gallery=photos, prior=0.2, device="cpu"
    )
    assert found.prior == 0.2
    assert found.threshold == pytest.approx(0.3 + np.log(4) / 14, abs=1e-4)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on this machine")
def test_a_browser_shows_the_page(calibrated_model, photos, cache, tmp_path, monkeypatch, capsys):
    from playwright.sync_api import sync_playwright

    tricky = photos / "<b>&'"
    tricky.mkdir()
    shutil.copy(photos / "100/0.jpg", tricky / ("long" * 40 + ".jpg"))
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    words = (photos / "100/0.jpg", photos / "alone.jpg", "--gallery", photos, "-k", 22, "--open")
    assert search(monkeypatch, calibrated_model, *words, "--html", tmp_path / "page.html") == 0
    assert opened == [(tmp_path / "page.html").as_uri()]
    assert "same >99 %" in capsys.readouterr().out
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


def test_a_prior_needs_a_query():
    with pytest.raises(ConfigError, match=r"prior \(--prior\) is for the answers to queries"):
        lookalike.search("none", index="none", prior=0.1)


def test_a_cache_that_cannot_be_made_has_a_way_out(model, photos, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "file"))
    assert search(monkeypatch, model, photos / "alone.jpg", "--gallery", photos) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path}/file/galleries: cannot be made: " in error
    assert "--index PLACE, or set LOOKALIKE_CACHE" in error


def test_the_kind_of_an_index_is_chosen_once(model, photos, tmp_path, monkeypatch, capsys):
    query = photos / "alone.jpg"
    for made, same, others in (
        ("auto", ("auto", "int8"), ("exact",)),
        ("exact", ("auto", "exact"), ("int8",)),
        ("int8", ("auto", "int8"), ("exact",)),
    ):
        index = tmp_path / made
        words = (model, query, "--index", index)
        assert search(monkeypatch, *words, "--gallery", photos, "--kind", made) == 0
        for kind in same:
            assert search(monkeypatch, *words, "--kind", kind) == 0
        for kind in others:
            for more in ([], ["--gallery", photos]):
                capsys.readouterr()
                assert search(monkeypatch, *words, *more, "--kind", kind) == 2
                error = capsys.readouterr().err
                assert f"{index}: kind={made} was chosen when it was made" in error
                assert f"leave out kind={kind}" in error


def test_an_image_with_different_labels_has_the_first_one_each_time(
    model, photos, cache, tmp_path, caplog
):
    """Of files of vectors before lists, twice in one file, and of lists in their order."""
    embedder = lookalike.load(model, device="cpu")
    paths = sorted(map(str, photos.rglob("*.jpg")))[:2]
    rows = {"one": "ax", "two": "b", "twice": "cc", "none": ""}
    for name, labels in rows.items():
        some = [paths[0]] * len(labels or "-")
        np.save(tmp_path / f"{name}.npy", embedder.embed(some))
        (tmp_path / f"{name}.paths.txt").write_text("\n".join(some))
        if labels:
            (tmp_path / f"{name}.labels.txt").write_text("\n".join(labels))
    for name, label in (("d", "d"), ("e", "e")):
        text = f"path,label\n{paths[0]},{label}\n{paths[1]},all\n"
        (tmp_path / f"{name}.csv").write_text(text)

    for places, label, warned in (
        (
            ["one.npy", "two.npy"],
            "a",
            f"1 image with different labels in the gallery ({paths[0]}: ",
        ),
        (["two.npy", "one.npy"], "b", f"({paths[0]}: b and a); the first counts"),
        (["d.csv", "two.npy"], "b", f"({paths[0]}: b and d)"),
        (["d.csv", "e.csv"], "d", f"({paths[0]}: d and e)"),
        (["none.npy", "d.csv"], "d", ""),
        (["d.csv", "none.npy"], "d", ""),
    ):
        for kept in (tmp_path / "-".join(places), None):
            for again in range(3):
                caplog.clear()
                found = lookalike.search(
                    model, paths[0], gallery=[tmp_path / p for p in places], index=kept,
                    device="cpu",
                )  # fmt: skip
                answers = {one.id: one.label for one in found.answers[0].neighbours}
                assert answers[paths[0]] == label, (places, kept, again)
                assert warned in caplog.text
                assert bool(warned) == ("different labels" in caplog.text)
                assert again == 0 or "added" not in caplog.text
