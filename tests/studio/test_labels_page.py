"""Labels and images to check, corrections, and the corrected list."""

import re

import pytest
import yaml

import lookalike
from lookalike.data.readers import read_records
from lookalike.data.readers.annotation import AnnotationOptions

RUN = {"run": "runs/one"}


@pytest.fixture
def checked(client, root, trained, started):
    """Two labels exchanged, a broken image; the check has ended."""
    lists = root / "shapes/train.txt"
    lines = lists.read_text().splitlines()
    assert lines[0].endswith("0-0.jpg 0")
    lines[0] = "images/0-0.jpg 5"
    lists.write_text("\n".join(lines) + "\n")
    (root / "shapes/images/3-0.jpg").write_bytes(b"<b>no image")
    assert client.post("/look/labels/check", RUN).status_code == 303
    words = started[0][started[0].index("doctor") :]
    assert words[:3] == ["doctor", "--run", str(trained)]
    lookalike.doctor(run=trained, output=words[-1], device="cpu")
    return lists


def test_a_label_is_mended_and_the_list_saved_beside_the_old_one(client, root, checked):
    before = checked.read_text()
    text = client.get("/look/labels", params=RUN).text
    assert "images closer to another class than to their own" in text
    kind = "suspect_labels"
    cards = client.get("/look/labels/issue", params={**RUN, "kind": kind}).text
    [group] = [
        re.search(r'name="group" value="(\d+)"', card)[1]
        for card in cards.split("<form")
        if "images/0-0.jpg" in card
    ]
    assert "data:image/jpeg;base64," in cards
    row = {**RUN, "kind": kind, "group": group, "image": "0"}
    text = client.post("/look/labels/correct", {**row, "label": "<i>0"}).text
    assert "&lt;i&gt;0" in text
    assert "<i>0" not in text
    text = client.post("/look/labels/correct", {**row, "label": "00", "what": "label"}).text
    assert re.search(r'hx-swap-oob="innerHTML:.m-\w+">now 0<', text)
    assert 'value="shapes/train.corrected.txt"' in text
    broken = {**RUN, "kind": "unreadable", "group": "0", "image": "0", "what": "remove"}
    text = client.post("/look/labels/correct", broken).text
    assert "left out" in text
    assert checked.read_text() == before
    assert "now 0" in client.get("/look/labels/issue", params={**RUN, "kind": kind}).text
    save = {**RUN, "source": str(checked), "target": "shapes/train.corrected.txt"}
    text = client.post("/look/labels/save", save).text
    assert "Saved: shapes/train.corrected.txt, 47 images." in text
    saved = (root / "shapes/train.corrected.txt").read_text()
    wanted = before.replace("images/0-0.jpg 5", "images/0-0.jpg 0")
    assert saved == re.sub(r"images/3-0.jpg 3\n", "", wanted)
    assert checked.read_text() == before
    answer = client.post("/look/labels/save", save)
    assert answer.status_code == 409
    assert "choose another name" in answer.json()["detail"]
    [link] = re.findall(r'<a href="(/train\?[^"]+)">Train with it', text)
    text = client.get(link.replace("&amp;", "&")).text
    assert ">shapes/train.corrected.txt</textarea>" in text


def test_corrections_are_taken_back(client, checked):
    row = {**RUN, "kind": "unreadable", "group": "0", "image": "0"}
    client.post("/look/labels/correct", {**row, "label": "7"})
    text = client.get("/look/labels", params=RUN).text  # after a reload
    assert re.search("<b.*>3</b> → <b.*>7</b>", text)
    text = client.post("/look/labels/undo", {**RUN, "number": "0"}).text
    assert "→" not in text
    client.post("/look/labels/correct", {**row, "label": "7"})
    text = client.post("/look/labels/correct", {**row, "label": "3"}).text  # as it was
    assert "→" not in text
    assert client.post("/look/labels/undo", {**RUN, "number": "0"}).status_code == 400


@pytest.mark.parametrize(
    "more",
    [
        {"label": ""},
        {"label": "a\nb 0"},
        {"label": "nan"},
        {"group": "-1", "label": "a"},
        {"group": "99999", "label": "a"},
        {"image": "1", "label": "a"},
        {"image": "²", "label": "a"},
        {"kind": "../x", "label": "a"},
        {"run": "../x", "label": "a"},
    ],
)
def test_wrong_corrections_are_refused(client, checked, more):
    row = {**RUN, "kind": "unreadable", "group": "0", "image": "0"}
    assert client.post("/look/labels/correct", {**row, **more}).status_code == 400


def test_lists_elsewhere_are_neither_checked_nor_written(client, root, trained, started, checked):
    row = {**RUN, "kind": "unreadable", "group": "0", "image": "0", "label": "7"}
    client.post("/look/labels/correct", row)
    (root / "out").symlink_to(root.parent)
    for target in ("../new.txt", "/tmp/new.txt", "out/new.txt", f"{root.parent}/new.txt", "a/\0"):
        save = {**RUN, "source": str(checked), "target": target}
        assert client.post("/look/labels/save", save).status_code == 400, target
    assert not (root.parent / "new.txt").exists()
    (trained / "config.yaml").write_text("data: {train: /etc/passwd}\n")
    assert client.post("/look/labels/check", RUN).status_code == 400
    assert len(started) == 1


def test_images_with_several_labels_are_corrected_as_their_list_writes_them(
    client, root, trained, started
):
    lists = root / "shapes/several.csv"
    rows = [line.rsplit(" ", 1) for line in (root / "shapes/train.txt").read_text().splitlines()]
    (root / "shapes/images/3-0.jpg").write_bytes(b"<b>no image")
    rows[0][1] = "5"  # its image is of class 0
    lists.write_text(
        "path,one\n" + "".join(f"{path},{label}|all-{label}\n" for path, label in rows)
    )
    settings = {"train": str(lists), "label_column": "one", "label_separator": "|"}
    (trained / "config.yaml").write_text(yaml.safe_dump({"data": settings}))
    assert client.post("/look/labels/check", RUN).status_code == 303
    lookalike.doctor(run=trained, output=started[0][-1], device="cpu")
    row = {**RUN, "kind": "unreadable", "group": "0", "image": "0"}
    assert "3|all-3" in client.get("/look/labels/issue", params=row).text
    text = client.post("/look/labels/correct", {**row, "label": "03| new"}).text
    assert re.search(r"<b.*>3\|all-3</b> → <b.*>3\|new</b>", text)
    doubtful = {**RUN, "kind": "suspect_labels"}
    [card] = [
        card
        for card in client.get("/look/labels/issue", params=doubtful).text.split("<form")
        if "images/0-0.jpg" in card
    ]
    [offered] = re.findall(r'name="label" list="known" value="([^"]*)"', card)
    assert offered in ("5|all-5|0", "5|all-5|all-0")
    hidden = dict(re.findall(r'name="(group|image)" value="(\d+)"', card))
    text = client.post("/look/labels/correct", {**doubtful, **hidden, "label": offered}).text
    assert 'value="shapes/several.corrected.csv"' in text
    save = {**RUN, "source": str(lists), "target": "shapes/several.corrected.csv"}
    assert "Saved: " in client.post("/look/labels/save", save).text
    options = AnnotationOptions(label_column="one", label_separator="|")
    before, after = (
        {one.uri: one.labels for one in read_records(str(place), options=options)}
        for place in (lists, root / "shapes/several.corrected.csv")
    )
    changed = {uri.rpartition("/")[2]: after[uri] for uri in before if before[uri] != after[uri]}
    assert changed == {"3-0.jpg": ("3", "new"), "0-0.jpg": tuple(offered.split("|"))}


def test_a_corrected_list_is_trained_with_by_its_own_format(client, trained):
    """A table, whatever the format of the list that was corrected."""
    (trained / "config.yaml").write_text("data: {train: shapes/train.manifest, format: itag}\n")
    preset = {"preset": f"run:{RUN['run']}"}
    chosen = re.compile("<option selected>(itag|ClsSourceItag)</option>")
    assert chosen.search(client.get("/train", params=preset).text)
    link = {**preset, "train": "shapes/train.corrected.csv"}
    assert not chosen.search(client.get("/train", params=link).text)
