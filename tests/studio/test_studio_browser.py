"""The studio in a real browser, with real trainings as processes of their own."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe

from lookalike.commands.quickstart import unpack_images
from lookalike.studio.page_frame import NAVIGATION
from lookalike.studio.run_processes import RunProcesses

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SHOTS = os.environ.get("LOOKALIKE_SCREENSHOTS")
"""Folder for screenshots of the pages; none are taken without."""

TINY = {
    "model.backbone": "test_resnet",
    "model.pretrained": "false",
    "model.image_size": "32",
    "model.embedding_dim": "16",
    "train.batch_size": "32",
    "train.log_every": "1",
    "train.report": "false",
    "data.threads": "1",
    "run.device": "cpu",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on this machine"),
]


class StudioProcess:
    def __init__(self, root):
        words = [sys.executable, "-m", "lookalike", "studio", "--root", str(root), "--port", "0"]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        self.address = self.process.stdout.readline().strip()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def folder(tmp_path):
    unpack_images(tmp_path)
    yield tmp_path
    for process in RunProcesses(tmp_path).all():
        if process.is_alive():
            os.kill(process.pid, 9)


@pytest.fixture
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        shown = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield shown
        shown.close()


PATIENCE = 120_000
"""Milliseconds in which a page answers on a busy machine."""

ABORTED = ("htmx:afterRequest", "htmx:sendAbort")
"""Message of htmx about a request that a reload of the page cuts off."""


def new_page(browser, wrong=None, **more):
    """A page; what its scripts complain about goes to `wrong`."""
    page = browser.new_page(**{"viewport": {"width": 1440, "height": 900}, **more})
    page.set_default_timeout(PATIENCE)

    def complained(line):
        if line.type == "error" and line.text not in ABORTED:
            wrong.append(line.text)

    if wrong is not None:
        page.on("console", complained)
        page.on("pageerror", lambda error: wrong.append(str(error)))
    return page


def until(page, expression):
    """Wait for an expression; the page's policy forbids the `eval` of `wait_for_function`."""
    end = time.monotonic() + PATIENCE / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(50)


def shoot(browser, address, name):
    if not SHOTS:
        return
    for width in (390, 1440):
        for scheme in ("light", "dark"):
            size = {"width": width, "height": 900}
            page = new_page(browser, viewport=size, color_scheme=scheme)
            page.goto(address)
            page.wait_for_load_state("networkidle")
            page.screenshot(path=Path(SHOTS) / f"{name}-{width}-{scheme}.png", full_page=True)
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, (name, width, wide)
            page.close()


def drop(page, file):
    """Drop a file of this machine on the page."""
    carried = page.evaluate_handle(
        """bytes => {
            const carried = new DataTransfer();
            carried.items.add(new File([new Uint8Array(bytes)], "a.jpg", { type: "image/jpeg" }));
            return carried;
        }""",
        list(file.read_bytes()),
    )
    page.dispatch_event("main", "drop", {"dataTransfer": carried})


def barriers(page):
    """What axe finds serious on a page; in dark, only contrasts can differ."""
    found = []
    for scheme, options in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):
        page.emulate_media(color_scheme=scheme)
        for each in Axe().run(page, options=options).response["violations"]:
            if each["impact"] in ("serious", "critical"):
                found.append((page.url, scheme, each["id"], each["nodes"][0]["html"][:200]))
    return found


def fill(page, values):
    for key, value in values.items():
        tab = page.locator(f"[id='f-{key}']").evaluate(
            "each => each.closest('[role=tabpanel]').getAttribute('aria-labelledby')"
        )
        page.click(f"#{tab}")
        page.evaluate("document.querySelectorAll('details.more').forEach(d => d.open = true)")
        field = page.locator(f"[id='f-{key}']")
        if field.evaluate("each => each.tagName") == "SELECT":
            field.select_option(value)
        else:
            field.fill(value)


def begin(page, address, output, **more):
    page.goto(f"{address}/train")
    page.click("[aria-label='Browse for Training annotation file path']")
    page.click(".browse button:has-text('data/')")
    page.click(".browse [data-pick='data/train.txt']")
    assert page.input_value("[id='f-data.train']") == "data/train.txt"
    given = {"data.val": "data/test.txt", "run.output": output, **TINY, **more}
    fill(page, given)
    page.dblclick("button:has-text('Start training')")
    page.wait_for_url("**/watch/run?**")


def wait_for(page, state):
    page.wait_for_selector(f"#live .state.{state}")


def test_a_run_from_the_form_to_its_end(folder, browser):
    studio = StudioProcess(folder)
    try:
        faults = []
        page = new_page(browser, faults)
        page.goto(f"{studio.address}/train")
        page.fill("[id='f-data.train']", "data/trian.txt")
        page.press("[id='f-data.train']", "Tab")
        page.wait_for_selector("[id='error-data.train']:has-text('no such file')")
        assert page.get_attribute("[id='f-data.train']", "aria-invalid") == "true"
        page.focus("#tab-1")
        page.keyboard.press("ArrowRight")
        assert page.is_visible("[id='f-model.backbone']")
        assert not page.is_visible("[id='f-data.train']")
        fill(page, {"data.train": "data/train.txt"})
        page.click("button:has-text('Check the data')")
        page.wait_for_selector("#answer progress")
        page.wait_for_selector("#answer pre:has-text('classes')")
        page.wait_for_selector("#give-up", state="detached")  # it has ended
        begin(page, studio.address, "runs/short", **{"train.max_steps": "12"})
        wait_for(page, "finished")
        until(page, "document.querySelector('[data-curve=loss] canvas')?.clientWidth > 99")
        page.reload()
        page.wait_for_selector("[data-curve=loss] canvas")
        page.wait_for_selector("[data-curve=map_at_r] canvas")
        assert "Recall@1" in page.inner_text("#live .facts")
        assert faults == []
        for name, path in (("train", "/train"), ("watch", "/watch")):
            shoot(browser, studio.address + path, name)
        shoot(browser, page.url, "run")
    finally:
        studio.kill()


def test_a_run_is_found_again_stopped_and_resumed(folder, browser):
    studio = StudioProcess(folder)
    try:
        page = new_page(browser)
        begin(page, studio.address, "runs/long", **{"train.epochs": "5000"})
        wait_for(page, "training")
        page.wait_for_selector("#live dt:has-text('images a second')")
        page.reload()
        wait_for(page, "training")
        studio.kill()
        studio = StudioProcess(folder)
        page.goto(f"{studio.address}/watch")
        page.click("a:has-text('runs/long')")
        wait_for(page, "training")
        page.click("button:has-text('Stop with a checkpoint')")
        wait_for(page, "stopped")
        steps = [each.name for each in (folder / "runs/long/checkpoints").glob("step-*")]
        assert steps
        page.click("button:has-text('Resume')")
        wait_for(page, "training")
        page.wait_for_selector("button:has-text('Stop with a checkpoint')")
        page.click("button:has-text('Stop with a checkpoint')")
        wait_for(page, "stopped")
    finally:
        studio.kill()


def test_a_picture_finds_its_neighbours_and_a_label_is_mended(root, trained, browser):
    lists = root / "shapes/train.txt"
    before = lists.read_text().replace("images/0-0.jpg 0", "images/0-0.jpg 5")
    lists.write_text(before)
    shutil.copytree(trained, root / "runs/two")
    studio = StudioProcess(root)
    try:
        faults = []
        page = new_page(browser, faults)
        page.goto(f"{studio.address}/look")
        page.click("button:has-text('Open')")
        page.wait_for_selector("#picture")
        drop(page, root / "shapes/images/102-0.jpg")
        page.wait_for_selector(".results li.same")
        first = page.locator(".results li").first
        assert first.locator("b").inner_text() == "102"
        assert first.locator(".decision").inner_text().startswith("same ")
        assert page.locator(".results img").count() == 12
        page.focus(".results li:nth-child(3) button")
        page.keyboard.press("Enter")
        page.wait_for_selector(".query figcaption:not(:has-text('a.jpg'))")
        found = barriers(page)

        page.click("a:has-text('Labels and images to check')")
        page.click("button:has-text('Check lists')")
        page.wait_for_selector("details.issue")
        suspects = page.locator("details.issue:has-text('closer to another class')")
        if suspects.get_attribute("open") is None:
            suspects.locator("summary").click()
        card = suspects.locator(".card", has_text=re.compile(r"train\.txt:1\b")).first
        card.locator("input[name=label]").fill("0")
        card.locator("input[name=label]").press("Enter")
        page.wait_for_selector("#corrections li:has-text('0-0.jpg, line 1')")
        assert card.locator(".now").inner_text() == "now 0"
        page.reload()
        page.wait_for_selector("#corrections li:has-text('0-0.jpg, line 1')")
        page.click("#corrections button:has-text('Save')")
        page.wait_for_selector("#corrections:has-text('Saved: shapes/train.corrected.txt')")
        saved = (root / "shapes/train.corrected.txt").read_text()
        assert saved == before.replace("images/0-0.jpg 5", "images/0-0.jpg 0")
        assert lists.read_text() == before
        found += barriers(page)
        page.click("a:has-text('Train with it')")
        assert page.input_value("[id='f-data.train']").endswith("shapes/train.corrected.txt")
        assert faults == []

        both = "run=runs/one&run=runs/two"
        for path in [each for each, _ in NAVIGATION] + [
            "/watch/run?run=runs/one", f"/watch/compare?{both}", "/look?run=none",
        ]:  # fmt: skip
            page.goto(studio.address + path)
            page.wait_for_load_state("networkidle")
            found += barriers(page)
        assert found == []
    finally:
        studio.kill()
