"""The page in a browser, the command, and failures."""

import json
import logging
import re
import shutil
from pathlib import Path

import pytest
import torch

import lookalike
from lookalike import storage
from lookalike.commands import report as command_module
from lookalike.commands import run_info
from lookalike.config.config import Config
from lookalike.errors import LookalikeError, StorageError
from lookalike.model.inference import Embedded
from program import run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TRICKY = "<script>alert(1)</script>&'\"_" + "long" * 12

SMALL = {
    "backbone": "resnet18", "pretrained": False, "image_size": 32, "embedding_dim": 32,
    "batch_size": 16, "data__threads": 2, "log_every": 1, "device": "cpu", "lr": 0.01,
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with lists of shapes, and two runs, `one` and `two`."""
    folder = tmp_path_factory.mktemp("report")
    shutil.copytree(shapes / "images", folder / "images")
    shutil.copy(shapes / "train.txt", folder)
    lines = (shapes / "val.txt").read_text()
    shutil.copy(folder / "images/100-0.jpg", folder / "images/again.jpg")
    lines += f"images/again.jpg {TRICKY}\nimages/101-0.jpg 1\nimages/102-0.jpg 1\n"
    (folder / "val.txt").write_text(lines)
    for name, epochs in (("one", 3), ("two", 2)):
        lookalike.train(
            train=str(folder / "train.txt"), val=str(folder / "val.txt"),
            output=str(folder / name), epochs=epochs, **SMALL,
        )  # fmt: skip
    return folder


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    return run(monkeypatch, "report", *words)


def test_each_training_ends_with_a_report(runs):
    html = (runs / "one/report.html").read_text()
    run = lookalike.Run(runs / "one")
    best = max(run.scores(), key=lambda record: record["map_at_r"])
    tiles = re.findall(r'<p class="big">([\d.]+) %', html)
    keys = ("recall_at_1", "recall_at_8", "map_at_r", "r_precision")
    assert [float(tile) for tile in tiles] == [round(100 * best[key], 1) for key in keys]
    assert "&lt;script&gt;alert(1)" in html
    assert "<script>alert" not in html
    ran_with = json.loads(run.environment.read_text())
    assert ran_with["lookalike"] == lookalike.__version__
    assert ran_with["torch"] in html


def test_the_page_does_not_depend_on_the_number_of_threads(runs, tmp_path):
    pages = []
    for threads in (1, 3):
        place = tmp_path / f"{threads}.html"
        assert lookalike.report(runs / "one", output=place, threads=threads) == str(place)
        pages.append(place.read_bytes())
    # After the page the training's log has more lines, maybe of the next minute.
    first, again = (
        re.sub(rb"(Trained [\d-]+ [\d:]+ to) [\d: -]+", rb"\1", page)
        for page in ((runs / "one/report.html").read_bytes(), pages[0])
    )
    assert first == again
    assert pages[0] == pages[1]
    assert len(pages[0]) < 300_000


def test_each_image_is_in_the_file_once(runs):
    html = (runs / "one/report.html").read_text()
    assert html.count("data:image/webp") == 1  # all are in the gallery: there is no second sheet
    cells = re.findall(r'class="p large"[^>]*style="[^"]*background-position:([^"]+)"', html)
    assert (
        len(set(cells)) == 23
    )  # of 24 images one is the same as another, but has a line of its own


def test_the_command_compares_two_runs_and_logs_the_place(runs, tmp_path, monkeypatch, caplog):
    place = tmp_path / "pages/both.html"
    with caplog.at_level(logging.INFO, "lookalike"):
        code = command(monkeypatch, runs / "one", "--compare", runs / "two", "--output", place)
    assert code == 0
    assert str(place) in caplog.text
    html = place.read_text()
    assert "Comparison with report" in html
    assert "/two" in html
    scores = lookalike.compare([runs / "one", runs / "two"], str(runs / "val.txt"))
    means = [one.scores.recall[1] for one in scores.evaluations]
    [row] = re.findall(r"<tr><th>Recall@1</th>(.*?)</tr>", html)[:1]
    shown = [float(x) for x in re.findall(r'class="n">([\d.]+) %', row)]
    assert shown == [round(100 * mean, 1) for mean in means]


def test_models_are_compared_on_the_images_that_both_have(runs, tmp_path, monkeypatch):
    contents, embedded = [], []

    def without_one(*arguments, **options):
        found = embed(*arguments, **options)
        embedded.append(found)
        lost = len(embedded) - 1
        return Embedded(found.vectors[1:], found.rows[1:]) if lost else found

    embed = command_module.embed_records
    monkeypatch.setattr(command_module, "embed_records", without_one)
    monkeypatch.setattr(command_module, "render", lambda content: contents.append(content) or "")
    lookalike.report(runs / "one", compare=runs / "two", output=tmp_path / "r.html", device="cpu")
    [content] = contents
    here, there = content.evaluation, content.other_evaluation
    assert len(here.labels) == len(there.labels) == len(embedded[0].rows) - 1
    assert torch.equal(here.vectors, embedded[0].vectors[1:])


def test_another_list_in_place_of_the_validation_list(runs, tmp_path, monkeypatch):
    code = command(
        monkeypatch, runs / "one", "--data", runs / "train.txt", "--output", tmp_path, "--device",
        "cpu",
    )  # fmt: skip
    assert code == 0
    html = (tmp_path / "report.html").read_text()
    assert "48 images of 8 classes, 8 of them seen in training" in html
    assert "before training" not in html  # that was another list
    found = lookalike.evaluate(runs / "one", str(runs / "train.txt"))
    assert f"for {100 * found.recall[1]:.1f} % of the queries" in html


def test_mistakes_are_one_line(runs, tmp_path, monkeypatch, capsys):
    assert command(monkeypatch, tmp_path) == 2
    assert "no run here" in capsys.readouterr().err
    assert command(monkeypatch, runs / "one", "--compare", tmp_path / "none") == 2
    assert "none: no run here" in capsys.readouterr().err
    assert command(monkeypatch, runs / "one", "--data", tmp_path / "none.txt") == 2
    assert "none.txt" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert command(monkeypatch, runs / "one", "--output", tmp_path / "file/r.html") == 2
    assert "r.html: cannot be written" in capsys.readouterr().err


def test_without_a_validation_list_it_has_the_curves(runs, tmp_path):
    run = lookalike.train(
        train=str(runs / "train.txt"), output=str(tmp_path / "run"), epochs=1, **SMALL
    )
    html = run.report.read_text()
    assert "There was no validation list" in html
    assert 'aria-label="Loss"' in html
    assert "webp" not in html


def test_missing_lists_leave_out_the_images_only(runs, tmp_path, caplog):
    shutil.copytree(runs / "one", tmp_path / "one")
    text = (tmp_path / "one/resolved.yaml").read_text().replace(str(runs), "/gone")
    (tmp_path / "one/resolved.yaml").write_text(text)
    page = (tmp_path / "one/report.html").read_bytes()
    with pytest.raises(
        StorageError,
        match=r"^/gone/train.txt: .*/one names it; give --data LIST; "
        r".*one/report.html stays as it is",
    ):
        lookalike.report(tmp_path / "one")
    assert (tmp_path / "one/report.html").read_bytes() == page
    (tmp_path / "one/report.html").unlink()
    lookalike.report(tmp_path / "one")
    assert "the images are left out: /gone/train.txt" in caplog.text
    assert "Recall@1" in (tmp_path / "one/report.html").read_text()
    lookalike.report(tmp_path / "one", data=str(runs / "val.txt"))
    assert "scores by training images of each class are left out" in caplog.text
    assert "webp" in (tmp_path / "one/report.html").read_text()


def test_a_failed_report_does_not_fail_the_training(runs, tmp_path, caplog, monkeypatch):
    settings = {**SMALL, "train": str(runs / "train.txt"), "output": str(tmp_path / "run")}
    lookalike.train(epochs=1, report=False, **settings)
    assert not (tmp_path / "run/report.html").exists()
    (tmp_path / "run/report.html").mkdir()  # nothing can be written there
    run = lookalike.train(epochs=1, resume=True, **settings)
    assert "no report was written" in caplog.text
    assert "report.html" in caplog.text
    assert "lookalike report" in caplog.text
    assert lookalike.load(run.path).embedding_dim == 32
    (tmp_path / "run/report.html").rmdir()

    def broken(content: object) -> str:
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr(command_module, "render", broken)
    lookalike.train(epochs=1, resume=True, **settings)
    assert "ZeroDivisionError: a mistake of ours" in caplog.text


def test_the_report_of_a_remote_run_is_uploaded(shapes, tmp_path):
    for file in [shapes / "train.txt", shapes / "val.txt", *(shapes / "images").iterdir()]:
        storage.write_bytes(f"memory://shots/{file.relative_to(shapes)}", file.read_bytes())
    lookalike.train(
        train="memory://shots/train.txt", val="memory://shots/val.txt",
        output="memory://shots/run", run__workdir=str(tmp_path / "work"), epochs=1, **SMALL,
    )  # fmt: skip
    page = storage.read_bytes("memory://shots/run/report.html")
    assert page == (tmp_path / "work/report.html").read_bytes()
    assert b"data:image/webp" in page
    place = lookalike.report("memory://shots/run", output="memory://shots/pages")
    assert place == "memory://shots/pages/report.html"
    assert b"data:image/webp" in storage.read_bytes(place)


def test_settings_names_and_errors_have_no_secrets(runs):
    hidden = "s3://user:SECRET@shop/list.txt?X-Amz-Signature=SECRET"
    keys = ("data.train", "data.val", "data.classes", "model.pretrained", "run.output")
    config = Config().with_values({**dict.fromkeys(keys, hidden), "train.start_from": hidden})
    told = {setting.key: setting.value for setting in run_info.settings(config, {})}
    assert "SECRET" not in " ".join(told.values())
    assert told["data.val"] == "s3://shop/list.txt"
    assert "SECRET" not in run_info.name_of(hidden)
    with pytest.raises(LookalikeError) as error:
        lookalike.report("memory://user:SECRET@nowhere/run?key=SECRET")
    assert "SECRET" not in str(error.value)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("chromium is not on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        shown = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield shown
        shown.close()


@pytest.fixture(scope="module")
def page_of_two(runs: Path) -> str:
    return Path(
        lookalike.report(runs / "one", compare=runs / "two", output=runs / "b.html")
    ).as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_the_whole_page(browser, page_of_two, width, scheme):
    shown = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.on("request", lambda request: asked.append(request.url))
    shown.goto(page_of_two)
    inner = shown.evaluate("document.documentElement.scrollWidth")
    assert inner <= width, f"{inner} pixels wide on {width}"
    sizes = shown.evaluate(
        """() => Promise.all(
            [...document.querySelectorAll(".row .p, .plane .p")].map(async (one) => {
                const image = new Image();
                image.src = getComputedStyle(one).backgroundImage.slice(5, -2);
                await image.decode();
                return Math.min(image.naturalWidth, one.getBoundingClientRect().width);
            }))"""
    )
    assert len(sizes) > 100
    assert min(sizes) > 10
    shown.locator("svg[data-points]").first.hover()
    assert "step" in shown.locator(".tip").inner_text()
    shown.locator('[data-zoom="1.5"]').click()
    assert "scale(1.5)" in shown.locator(".plane").get_attribute("style")
    shown.locator('[data-zoom="0"]').click()
    shown.locator('.plane .p[title="103"]').first.click(force=True)
    assert re.search(r": \d images?", shown.locator(".selected").inner_text())
    assert shown.locator(".hit").count() >= 1
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [page_of_two]
    shown.close()


def test_without_javascript_the_map_is_static(browser, page_of_two):
    context = browser.new_context(java_script_enabled=False, viewport={"width": 390, "height": 900})
    shown = context.new_page()
    shown.goto(page_of_two)
    assert shown.locator(".plane .p").count() == 23  # images of the list
    assert not shown.locator(".tools").is_visible()
    assert not shown.locator(".scripted").is_visible()
    context.close()


def test_the_page_is_printable(browser, page_of_two):
    shown = browser.new_page()
    shown.goto(page_of_two)
    shown.emulate_media(media="print")
    assert not shown.locator("nav").is_visible()
    assert (
        shown.evaluate("getComputedStyle(document.querySelector('.p')).printColorAdjust") == "exact"
    )
    assert len(shown.pdf(format="A4")) > 50_000
    shown.close()
