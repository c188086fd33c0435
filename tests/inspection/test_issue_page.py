"""The page in a browser, the JSON, and the command."""

import json
import shutil
from pathlib import Path

import pytest

import lookalike
from lookalike import storage
from lookalike.inspection import issue_page
from lookalike.run import Run
from program import run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TRICKY = "<script>alert(1)</script>&'\"_" + "long" * 20


@pytest.fixture(scope="module")
def written(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with doctor.json and doctor.html about lists with faults."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(shapes / "images", folder / "images")
    lines = (shapes / "train.txt").read_text()
    shutil.copy(folder / "images/0-0.jpg", folder / "images/copy.jpg")
    shutil.copy(folder / "images/1-0.jpg", folder / f"images/{'x' * 120}.jpg")
    (folder / "images/broken.jpg").write_bytes(b"\xff\xd8nothing")
    lines += f"images/copy.jpg {TRICKY}\nimages/{'x' * 120}.jpg 1\nimages/broken.jpg 2\n"
    (folder / "train.txt").write_text(lines)
    return folder


def doctor(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    return run(monkeypatch, "doctor", *words)


def test_the_command_prints_advice_and_writes_the_files(
    written, shapes, tmp_path, monkeypatch, capsys
):
    code = doctor(
        monkeypatch, "--train", written / "train.txt", "--val", shapes / "val.txt",
        "--output", tmp_path, "data.threads=2",
    )  # fmt: skip
    assert code == 0
    out = capsys.readouterr().out
    assert "cannot be read" in out
    assert "Decide on one label for each" in out
    found = json.loads((tmp_path / "doctor.json").read_text())
    kinds = {finding["kind"]: finding["count"] for finding in found["findings"]}
    assert kinds["unreadable"] == kinds["two_labels_exact"] == kinds["duplicates_exact"] == 1
    html = (tmp_path / "doctor.html").read_text()
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_without_images_and_with_a_missing_list(written, monkeypatch, capsys):
    assert doctor(monkeypatch, "--train", written / "train.txt", "--no-images") == 0
    assert "images/s" not in capsys.readouterr().out
    assert doctor(monkeypatch, "--train", written / "none.txt") == 2
    assert "none.txt" in capsys.readouterr().err


def test_the_number_of_images_is_limited(shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(issue_page, "MOST_IMAGES", 12)
    lines = "".join(f"images/{i % 8}-{i // 8}.jpg {i}\n" for i in range(48))
    (shapes / "lone.txt").write_text(lines)
    arguments = ("--train", shapes / "lone.txt", "--output", tmp_path, "data.threads=2")
    assert doctor(monkeypatch, *arguments) == 0
    html = (tmp_path / "doctor.html").read_text()
    assert 1 <= html.count("data:image/jpeg") <= 24
    assert "more, in doctor.json" in html


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on this machine")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_the_whole_page(written, shapes, tmp_path, monkeypatch, scheme):
    from playwright.sync_api import sync_playwright

    arguments = ("--train", written / "train.txt", "--output", tmp_path, "data.threads=2")
    assert doctor(monkeypatch, *arguments) == 0
    address = (tmp_path / "doctor.html").as_uri()
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width in (1280, 390):
            shown = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            said: list[str] = []
            asked: list[str] = []
            shown.on("console", lambda message, said=said: said.append(message.text))
            shown.on("pageerror", lambda error, said=said: said.append(str(error)))
            shown.on("request", lambda request, asked=asked: asked.append(request.url))
            shown.goto(address)
            assert said == []
            assert [url for url in asked if not url.startswith("data:")] == [address]
            inner = shown.evaluate("document.documentElement.scrollWidth")
            assert inner <= width, f"{inner} pixels wide on {width}"
            pictures = shown.locator("img")
            assert pictures.count() > 0
            assert shown.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
        browser.close()


def test_lists_images_and_results_in_storage(shapes):
    for file in [shapes / "train.txt", shapes / "val.txt", *(shapes / "images").iterdir()]:
        storage.write_bytes(f"memory://shop/{file.relative_to(shapes)}", file.read_bytes())
    storage.write_bytes("memory://shop/images/broken.jpg", b"nothing")
    more = storage.read_bytes("memory://shop/train.txt") + b"images/broken.jpg 1\nimages/no.jpg 1\n"
    storage.write_bytes("memory://shop/train.txt", more)
    remote = lookalike.doctor(
        train="memory://shop/train.txt", val="memory://shop/val.txt", output="memory://shop/out"
    )
    local = lookalike.doctor(train=str(shapes / "train.txt"), val=str(shapes / "val.txt"))
    kinds = [{finding.kind for finding in one.issues} for one in (remote, local)]
    assert kinds[0] == kinds[1] | {"unreadable"}
    found = json.loads(storage.read_bytes("memory://shop/out/doctor.json"))
    broken = next(one for one in found["findings"] if one["kind"] == "unreadable")
    assert [group["note"] for group in broken["groups"]] == [
        "not an image (starts with b'nothi')", "no such file or directory",
    ]  # fmt: skip
    assert b"data:image/jpeg" in storage.read_bytes("memory://shop/out/doctor.html")


def test_a_run_may_be_trained_into_the_folder_of_the_results(tmp_path):
    for name in ("doctor.json", "doctor.html"):
        (tmp_path / name).write_text("")
    assert not Run.create(tmp_path).exists()
