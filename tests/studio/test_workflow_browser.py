"""The canvas in a real browser, by keyboard alone, with real runs."""

import os
import time

import pytest
from test_studio_browser import CHROMIUM, PATIENCE, StudioProcess, browser, new_page, shoot  # noqa: F401

from lookalike.commands.quickstart import unpack_images
from lookalike.studio.run_processes import RunProcesses
from lookalike.workflow.workflow_graph import Workflow

TRAIN = {
    "model.pretrained": "false",
    "model.backbone": "test_resnet",
    "model.image_size": "32",
    "train.batch_size": "32",
    "run.device": "cpu",
    "train.max_steps": "300",
    "train.report": "false",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on this machine"),
]


@pytest.fixture
def folder(tmp_path):
    data = unpack_images(tmp_path)
    for name in ("train.txt", "test.txt"):
        lines = (data / name).read_text().splitlines(keepends=True)
        (data / name).write_text("".join(lines[: len(lines) // 10]))
    yield tmp_path
    for process in RunProcesses(tmp_path).all("run"):
        if process.is_alive():
            os.kill(process.pid, 9)


HEARD = """
window.heard = [];
addEventListener("DOMContentLoaded", () => {
  const said = document.getElementById("said");
  if (said) new MutationObserver(() => { if (said.textContent) heard.push(said.textContent); })
    .observe(said, { childList: true });
});
"""
"""Keeps every announcement of a page; on the page itself the next one replaces it."""

NEXT_HEARD = """text => {
  const at = heard.findIndex(each => each.includes(text));
  if (at >= 0) heard.splice(0, at + 1);
  return at >= 0;
}"""


class Keys:
    """A user without a mouse, of a page not yet opened."""

    def __init__(self, page):
        self.page = page
        page.add_init_script(HEARD)

    def is_on(self, selector):
        return self.page.evaluate("each => document.activeElement.matches(each)", selector)

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def go(self, selector, key="Tab", most=160):
        """Press a key until the focus is on an element; it must be seen there."""
        for _ in range(most):
            if self.is_on(selector):
                break
            self.press(key)
        assert self.is_on(selector), selector
        outline = self.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", selector

    def type(self, text):
        self.press("Control+a")
        self.page.keyboard.type(text)
        self.press("Tab")

    def says(self, text, seconds=PATIENCE / 1000):
        """Wait for an announcement that comes after the one of the last call."""
        until = time.monotonic() + seconds
        while not self.page.evaluate(NEXT_HEARD, text):
            assert time.monotonic() < until, (text, self.page.evaluate("heard"))
            self.page.wait_for_timeout(50)

    def add(self, uses, name=None):
        if self.is_on("#node *"):
            self.press("Escape")
        self.go(f"[data-add={uses}]", "Shift+Tab")
        self.press("Enter")
        self.says(f"{uses} is added")
        if name is None:
            assert self.is_on(f"[data-focus='node:{uses}']")
            return
        self.press("Enter")
        self.page.wait_for_selector("#node-name")
        self.page.wait_for_selector("#node-name:focus")
        self.type(name)
        self.says(f"{uses} is now {name}")

    def set(self, key, text):
        """A field of the panel that is shown, in whatever tab it is."""
        field = f"[id='f-{key}']"
        panel = self.page.locator(field).evaluate("each => each.closest('[role=tabpanel]')?.id")
        if panel and not self.page.is_visible(f"#{panel}"):
            self.go("[role=tab]", "Shift+Tab")
            self.go(f"[role=tab][aria-controls={panel}]", "ArrowRight", 3)
        if not self.page.locator(field).is_visible():
            self.go(f"#{panel} .more > summary" if panel else ".more > summary")
            self.press("Enter")
        self.go(field)
        if self.page.locator(field).evaluate("each => each.tagName") == "SELECT":
            self.page.keyboard.type(text)
            self.press("Tab")
        else:
            self.type(text)

    def connect(self, source, target):
        """From an output to an input, on the canvas; the focus is on some node of it."""
        node, port = source.split(".")
        self.node(node)
        self.go(f"[data-focus='out:{node}:{port}']")
        self.press("Enter")
        self.says(f"Connecting {source}")
        self.go(f"[data-focus='in:{target.replace('.', ':')}']", "ArrowDown", 12)
        self.press("Enter")
        self.says(f"{source} is connected")

    def node(self, name):
        """To a node, from another one: by rows, as the arrow keys go."""
        self.go(".title", "Shift+Tab")
        for keys in (["ArrowLeft"] * 6, ["ArrowUp"] * 6):
            self.press(*keys)
        for _ in range(6):
            row = self.page.evaluate("document.activeElement.dataset.focus")
            for _ in range(6):
                if self.is_on(f"[data-focus='node:{name}']"):
                    return
                self.press("ArrowRight")
            self.press(*["ArrowLeft"] * 6, "ArrowDown")
            if self.page.evaluate("document.activeElement.dataset.focus") == row:
                break
        raise AssertionError(name)


def state(page, node):
    return page.locator(f"[data-node={node}] .state")


def test_the_example_is_built_run_stopped_and_finished_by_keyboard(folder, browser):  # noqa: F811
    studio = StudioProcess(folder)
    try:
        wrong = []
        page = new_page(browser, wrong)
        keys = Keys(page)
        page.goto(f"{studio.address}/workflow")
        keys.go("#file")
        keys.press("Control+a")
        page.keyboard.type("flow.yaml")
        keys.press("Enter")
        page.wait_for_selector("#workflow[data-ready=yes]")

        keys.go("[data-add=read]")
        for name, file in (("read_train", "data/train.txt"), ("read_val", "data/test.txt")):
            keys.add("read", name)
            keys.set("list", file)
        keys.add("train", "fit")
        keys.press("Escape")
        assert keys.is_on("[data-focus='node:fit']")
        page.wait_for_selector("[data-node=fit] .wrong:has-text('the input train is missing')")
        keys.connect("read_train.list", "fit.train")
        keys.connect("read_val.list", "fit.val")
        page.wait_for_selector("#faults-panel[hidden]", state="attached")
        keys.node("fit")
        keys.press("Enter")
        page.wait_for_selector("#node-name:focus")
        assert "read_train.list" in page.inner_text("#winner-train")
        for key, text in TRAIN.items():
            keys.set(key, text)
        keys.set("train.max_steps", "many")
        page.wait_for_selector("[id='error-train.max_steps']:has-text(\"train.max_steps='many'\")")
        keys.go("[id='f-train.max_steps']", "Shift+Tab")
        keys.type(TRAIN["train.max_steps"])
        keys.add("evaluate")
        keys.add("export")
        keys.go("[data-focus='node:export']")
        keys.connect("fit.run", "evaluate.model")
        keys.connect("read_val.list", "evaluate.data")
        keys.connect("fit.run", "export.model")
        keys.node("export")
        keys.press("Shift+ArrowDown")
        keys.says("export is in column 3, row 3.")
        keys.go("[data-focus='in:export:model']")
        keys.press("Delete")
        keys.says("not connected any more")
        keys.press("Control+z")
        keys.says("Undone.")
        keys.add("doctor")
        keys.press("Delete")
        keys.says("doctor is removed")
        keys.press("Control+s")
        keys.says("Saved.")

        nodes = Workflow.load(folder / "flow.yaml").nodes
        assert {name: dict(node.inputs) for name, node in nodes.items()}.keys() == {
            "read_train", "read_val", "fit", "evaluate", "export",
        }  # fmt: skip
        assert str(nodes["export"].inputs["model"]) == "fit.run"
        assert nodes["fit"].settings["train.max_steps"] == 300
        before = (folder / "flow.yaml").read_text()

        keys.go("#run", "Shift+Tab")
        keys.press("Enter")
        keys.says("The workflow runs.")
        page.wait_for_selector("[data-node=fit] .state.running")
        page.reload()
        page.wait_for_selector("[data-node=fit] .state.running")
        page.wait_for_selector("[data-node=fit] .note:has-text('of 300 steps')")
        shoot(browser, page.url, "canvas")
        keys.go("#stop")
        keys.press("Enter")
        page.wait_for_selector("#run:has-text('Go on')")
        assert state(page, "fit").inner_text() == "stopped"
        assert list(folder.glob(".lookalike/flow/fit/1/run/checkpoints/step-*"))
        keys.go("#run", "Shift+Tab")
        keys.press("Enter")
        for name in ("fit", "evaluate", "export"):
            page.wait_for_selector(f"[data-node={name}] .state.done")
        keys.says("The run is done.")
        assert not (folder / ".lookalike/flow/fit/2").exists(), "it went on where it stopped"
        assert (folder / "flow.yaml").read_text() == before
        keys.node("evaluate")
        keys.press("Enter")
        page.wait_for_selector("#node-results li:has-text('Recall@1')")
        keys.press("Escape")
        keys.node("fit")
        keys.press("Enter")
        page.wait_for_selector("#node-results a:has-text('Run')")
        keys.go("#node-results a")
        keys.press("Enter")
        page.wait_for_selector("#live .state.finished")
        assert wrong == []
    finally:
        studio.kill()


def test_nodes_are_connected_and_moved_by_mouse(folder, browser):  # noqa: F811
    file = folder / "flow.yaml"
    file.write_text(
        "# head\na: {uses: read, with: {list: data/train.txt}}\n"
        "b: {uses: train, with: {epochs: 1}}\nc: {uses: export}\n"
    )
    studio = StudioProcess(folder)
    try:
        page = new_page(browser)
        keys = Keys(page)
        page.goto(f"{studio.address}/workflow/canvas?file=flow.yaml")
        page.wait_for_selector("#workflow[data-ready=yes]")

        def drag(source, target=None, by=(0, 0), before_the_end=lambda: None):
            begin, end = (page.locator(f"[data-focus='{each}']").bounding_box() for each in
                          (source, target or source))  # fmt: skip
            page.mouse.move(begin["x"] + 12, begin["y"] + 9)
            page.mouse.down()
            page.mouse.move(end["x"] + 12 + by[0], end["y"] + 9 + by[1], steps=4)
            before_the_end()
            page.mouse.up()

        def painted_anew():
            """The state is asked for every five seconds."""
            with page.expect_response("**/workflow/state?**"):
                pass
            page.evaluate("new Promise((done) => setTimeout(done, 300))")

        drag("out:a:list", "in:b:train")
        keys.says("a.list is connected to train of b.")
        page.wait_for_selector("[data-node=b] .wrong:empty", state="attached")  # c moves up
        drag("out:a:list", "in:c:model")
        keys.says("model takes run, and not a.list")
        page.click("[data-focus='out:b:run']")
        page.click("[data-focus='in:c:model']")
        keys.says("b.run is connected to model of c.")
        drag("node:c", by=(0, 220), before_the_end=painted_anew)
        keys.says("c is moved.")
        page.click("[data-focus='node:b']")
        page.select_option("#input-train", "")
        page.wait_for_selector("[data-node=b] .wrong:has-text('the input train is missing')")
        page.click("#undo")
        page.wait_for_selector("[data-node=b] .wrong:empty", state="attached")
        page.click("#save")
        keys.says("Saved.")
        assert file.read_text() == (
            "# head\n\na:\n  uses: read\n  with: {list: data/train.txt}\n  at: [0, 0]\n\n"
            "b:\n  uses: train\n  inputs: {train: a.list}\n  with: {epochs: 1}\n  at: [1, 0]\n\n"
            "c:\n  uses: export\n  inputs: {model: b.run}\n  at: [2, 1]\n"
        )
    finally:
        studio.kill()
