"""Pages at their limits in a real browser: narrow, zoomed, with long names and many nodes."""

import fcntl
import json
import shutil
from urllib.parse import quote, urlencode

import pytest
from test_studio_browser import CHROMIUM, StudioProcess, browser, new_page, until  # noqa: F401
from test_workflow_browser import Keys

from lookalike.workflow.workflow_graph import Workflow

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on this machine"),
]

NAMES = ["עברית תיקייה", "عربي 😀🎉", "a" * 250, "x" * 120 + "-" + "y" * 120]

SIZES = {
    "360 px": {"viewport": {"width": 360, "height": 740}},
    "zoom of 200 % at 1440 px": {
        "viewport": {"width": 720, "height": 450},
        "device_scale_factor": 2,
    },
    "reduced motion": {"reduced_motion": "reduce"},
}

FAULTS = """() => {
  const found = [], wide = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > wide) found.push(`the page scrolls to ${document.documentElement.scrollWidth}`);
  const isScrolled = (each) => { for (let up = each.parentElement; up && up !== document.body; up = up.parentElement) if (/auto|scroll|hidden/.test(getComputedStyle(up).overflowX)) return true; };
  const seen = [...document.querySelectorAll("nav *, main *")].filter((each) => each.checkVisibility() && !each.closest(".hidden, .skip") && each.getClientRects().length);
  const place = new Map(seen.map((each) => [each, each.getBoundingClientRect()]));
  for (const [each, { left, right }] of place) {
    const told = `${each.tagName} ${each.textContent.trim().slice(0, 40)}`;
    if (!isScrolled(each) && (right > wide + 1 || left < -1)) found.push(`${told}: from ${left} to ${right}`);
    const style = getComputedStyle(each);
    if (each.clientWidth && style.display !== "inline" && !/auto|scroll/.test(style.overflowX) && /^(BUTTON|A|LABEL|P|H1|H2|H3|TD|TH|DD|LI)$/.test(each.tagName) && each.scrollWidth > each.clientWidth + 2) found.push(`${told}: cut off`);
  }
  const used = seen.filter((each) => each.matches("button, a, input, select, textarea, label, summary") && !each.closest(".u-legend"));
  used.forEach((one, at) => used.slice(at + 1, at + 40).forEach((two) => {
    const a = place.get(one), b = place.get(two);
    if (one.contains(two) || two.contains(one) || !one.closest(".tools") !== !two.closest(".tools")) return;
    if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2) found.push(`${one.textContent.slice(0, 30)} overlaps ${two.textContent.slice(0, 30)}`);
  }));
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) for (const each of seen) {
    const { animationName, transitionProperty, transitionDuration } = getComputedStyle(each);
    if (animationName !== "none" || (transitionProperty !== "none" && parseFloat(transitionDuration) > 0)) found.push(`${each.tagName} moves`);
  }
  return found.slice(0, 5);
}"""  # noqa: E501


def many_nodes(count):
    """Chains of a list, a training, and what is made of it, as text."""
    lines = []
    for at in range(count // 4):
        lines += [
            f"read_{at}: {{uses: read, with: {{list: train.txt}}}}",
            f"train_{at}: {{uses: train, inputs: {{train: read_{at}.list}}, with: {{epochs: 1}}}}",
            f"evaluate_{at}: {{uses: evaluate, inputs: {{model: train_{at}.run, "
            f"data: read_{at}.list}}}}",
            f"export_{at}: {{uses: export, inputs: {{model: train_{at}.run}}}}",
        ]
    return "\n".join(lines) + "\n"


@pytest.fixture
def studio(root, trained):
    log = "2026-11-29 07:00:00,000 INFO batch: 32 on each of 1 worker; 40 steps to do\n"
    step = {"epoch": 1, "loss": 2.5, "lr": 0.1, "images_per_second": 9.0}
    for name in NAMES:
        folder = root / "runs" / name
        shutil.copytree(trained, folder)
        (folder / "log.txt").write_text(log + f"2026-11-29 07:00:02,000 WARNING {'b' * 300}.jpg\n")
        (folder / "metrics.jsonl").write_text(
            "".join(json.dumps({"step": at, **step}) + "\n" for at in range(40))
        )
        (root / f"{name[:60]}.yaml").write_text(
            f"a: {{uses: read, with: {{list: '{name[:60]}.txt'}}}}\n"
            f"{'n' * 64}: {{uses: train, inputs: {{train: a.list}}, with: {{epochs: 1}}}}\n"
        )
    process = StudioProcess(root)
    yield process
    process.kill()


@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_cut_off_or_overlaps_whatever_the_names(studio, browser, size):  # noqa: F811
    wrong = []
    page = new_page(browser, wrong, **SIZES[size])
    paths = ["/train", "/watch", "/look", "/workflow"]
    for name in NAMES:
        run = f"runs/{name}"
        paths += [
            "/watch/run?" + urlencode({"run": run}),
            "/train?" + urlencode({"preset": f"run:{run}"}),
            "/look?" + urlencode({"run": run, "gallery": "validation"}),
            "/look/labels?" + urlencode({"run": run}),
            "/workflow/canvas?" + urlencode({"file": f"{name[:60]}.yaml"}),
        ]
    paths.append("/watch/compare?" + "&".join("run=" + quote(f"runs/{name}") for name in NAMES))
    found = {}
    for path in paths:
        page.goto(studio.address + path)
        page.wait_for_load_state("networkidle")
        if "canvas" in path:
            page.click("[data-focus='node:a']")
            page.wait_for_selector("#node-name")
        page.evaluate("document.querySelectorAll('details').forEach((each) => each.open = true)")
        for tab in page.locator("[role=tab]").all() or [None]:
            if tab is not None:
                tab.click()
            if faults := page.evaluate(FAULTS):
                found[path[:60], tab and tab.inner_text()] = faults
    assert not found, "\n".join(f"{path}: {faults}" for path, faults in found.items())
    assert wrong == []


def test_a_canvas_of_200_nodes_is_edited_by_keyboard(studio, root, browser):  # noqa: F811
    file = root / "many.yaml"
    file.write_text(many_nodes(200))
    wrong = []
    page = new_page(browser, wrong)
    keys = Keys(page)
    page.goto(f"{studio.address}/workflow/canvas?file=many.yaml")
    page.wait_for_selector("#workflow[data-ready=yes]")
    assert page.locator("#canvas .node").count() == 200
    keys.go("[data-focus='node:read_0']")
    keys.go("[data-focus='node:read_20']", "ArrowDown")
    keys.go("[data-focus='node:train_20']", "ArrowRight", 1)
    keys.go("[data-focus='out:train_20:run']")
    keys.press("Enter")
    keys.says("Connecting train_20.run")
    keys.go("[data-focus='in:export_10:model']", "ArrowDown", 30)
    keys.press("Enter")
    keys.says("train_20.run is connected to model of export_10.")
    keys.go("[data-focus='node:export_10']", "Shift+Tab")
    keys.press("Shift+ArrowDown")
    keys.says("export_10 is in column")
    keys.press("Enter")
    page.wait_for_selector("#node-name:focus")
    keys.type("exported")
    keys.says("export_10 is now exported.")
    keys.press("Control+s")
    keys.says("Saved")
    nodes = Workflow.load(file).nodes
    assert len(nodes) == 200
    assert str(nodes["exported"].inputs["model"]) == "train_20.run"
    assert wrong == []


def test_what_is_read_or_pressed_is_not_replaced(studio, root, trained, browser):  # noqa: F811
    run = root / "runs/live"
    shutil.copytree(trained, run)
    (run / "log.txt").write_text("".join(f"line {at}\n" for at in range(199)))
    page = new_page(browser)

    def until_replaced(part):
        page.evaluate(f"window.old = document.getElementById('{part}')")
        until(page, f"document.getElementById('{part}') !== window.old")

    def answered():
        with page.expect_response("**/watch/live?**"):
            pass
        page.evaluate("new Promise((done) => setTimeout(done, 300))")  # for what is done with it

    (run / ".lock").touch()
    with (run / ".lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        page.goto(f"{studio.address}/watch/run?run=runs/live")
        scrolled = "document.getElementById('log').scrollTop"
        until_replaced("logged")
        until(page, f"{scrolled} > 1000")  # its end is shown
        page.evaluate(f"{scrolled} = 77")
        page.focus("#to-look")
        until_replaced("logged")
        until(page, f"{scrolled} === 77")
        until(page, "document.activeElement.id === 'to-look'")
        page.hover("#to-look")
        page.mouse.down()
        answered()  # a request that was under way
        page.evaluate("window.old = document.getElementById('live')")
        answered()
        assert page.evaluate("document.getElementById('live') === window.old")
        page.mouse.up()
        page.wait_for_url("**/look?**")
