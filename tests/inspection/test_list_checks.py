"""Checks of lists alone."""

from pathlib import Path

import pytest
from PIL import Image

import lookalike
from lookalike.data.record import Details, Record
from lookalike.errors import LookalikeError
from lookalike.inspection.list_checks import distinct_rows


def check(folder: Path, train: str, val: str | None = None) -> tuple[dict, dict]:
    """Facts, and the issues by kind, of lists with this text; no image is opened."""
    (folder / "train.txt").write_text(train)
    settings = {"train": str(folder / "train.txt")}
    if val is not None:
        (folder / "val.txt").write_text(val)
        settings["val"] = str(folder / "val.txt")
    found = lookalike.doctor(images=False, **settings)
    return dict(found.facts), {issue.kind: issue for issue in found.issues}


def test_counts_and_histogram(tmp_path):
    lines = "".join(f"{i}.jpg {label}\n" for i, label in enumerate("aaaaabbbc"))
    facts, found = check(tmp_path, lines, "x.jpg c\ny.jpg d\n")
    assert facts["training"]["images"] == 9
    assert facts["training"]["classes"] == 3
    assert facts["training"]["classes_by_images"] == {"1": 1, "2": 0, "3-4": 1, "5-8": 1}
    assert facts["training"]["images_a_class"] == {"least": 1, "median": 3, "mean": 3, "most": 5}
    assert facts["validation"]["classes_shared_with_training"] == 1
    assert found.keys() == {"singletons"}
    assert found["singletons"].groups[0].rows == (8,)


def test_unusable_rows_are_listed_and_the_others_checked(tmp_path):
    head = "path,label,x_1,y_1,x_2,y_2\n"
    rows = "a.jpg,1,0,0,9,9\nb.jpg,nan,,,,\nc.jpg,2,9,0,3,9\nd.jpg,2,,,,\ne.jpg,,,,,\nd.jpg,2,,,,\n"
    facts, found = check(tmp_path, head + rows, "x.jpg 1\ny.jpg None\nz.jpg 1\n")
    assert facts["training"]["images"] == 3
    assert found["bad_rows"].severity == "wrong"
    notes = [group.note.removeprefix(f"{tmp_path}/") for group in found["bad_rows"].groups]
    lines = ["train.txt:3", "train.txt:4", "train.txt:6", "val.txt:2"]
    assert [note.split(": ")[0] for note in notes] == lines
    assert found["repeated_lines"].count == 1
    with pytest.raises(LookalikeError, match=r"train\.txt:2: label 'nan' is a missing value"):
        check(tmp_path, "path,label\na.jpg,nan\nb.jpg,nan\n")


def test_the_bad_row_that_an_error_follows_from_is_named(tmp_path):
    (tmp_path / "train.txt").write_text("a.jpg 1\nb.jpg 1\nc.jpg nan\n")
    with pytest.raises(LookalikeError) as error:
        lookalike.doctor(train=str(tmp_path / "train.txt"))
    first, second = str(error.value).splitlines()
    assert first.startswith(f"{tmp_path}/train.txt:3: label 'nan' is a missing value")
    assert second == (
        f"without these rows: {tmp_path}/train.txt: all 2 images have the label '1'; "
        "training needs at least 2 classes"
    )


def test_the_same_path_again_with_another_label_and_in_the_other_list(tmp_path):
    train = "1.jpg a\n1.jpg a\n2.jpg a\n2.jpg b\n3.jpg b\n4.jpg b\n"
    _, found = check(tmp_path, train, "3.jpg c\n5.jpg c\n5.jpg d\n")
    assert [group.rows for group in found["repeated_lines"].groups] == [(0, 1)]
    assert [group.rows for group in found["two_labels_path"].groups] == [(2, 3), (7, 8)]
    assert [group.rows for group in found["leakage_path"].groups] == [(4, 6)]
    assert found["leakage_path"].severity == "wrong"


def test_labels_that_differ_in_case_and_blanks(tmp_path):
    (tmp_path / "t.csv").write_text(
        "path,label\n1.jpg,Red Cat\n2.jpg,red  cat\n3.jpg,red_cat\n4.jpg,dog\n5.jpg,Red Cat\n"
    )
    found = lookalike.doctor(train=str(tmp_path / "t.csv"), images=False)
    [variants] = [f for f in found.issues if f.kind == "label_variants"]
    assert [group.rows for group in variants.groups] == [(0, 1, 2)]
    assert "'Red Cat' (2)" in variants.groups[0].note


def test_the_same_path_in_another_spelling(tmp_path):
    train = "1.jpg a\n./1.jpg a\nx/../1.jpg a\n2.jpg b\nhttp://h/./3.jpg b\nhttp://h/3.jpg b\n"
    _, found = check(tmp_path, train)
    assert [group.rows for group in found["repeated_lines"].groups] == [(0, 1, 2)]


def test_the_query_of_a_uri_is_not_part_of_its_path(tmp_path):
    uri = "oss://b/x/{}.jpg?endpoint=http://127.0.0.1:9/"
    _, found = check(tmp_path, "".join(f"{uri.format(i)} {i % 2}\n" for i in range(4)))
    assert found.keys() == {"no_validation"}


def test_suspicious_and_mixed_paths(tmp_path):
    train = (
        "a/1.jpg x\n__MACOSX/a/._1.jpg x\na/Thumbs.db y\na/.DS_Store y\na\\2.jpg x\n"
        "/abs/3.jpg y\ns3://bucket/4.jpg x\na/notes.doc y\na/github.git.jpg x\n"
    )
    _, found = check(tmp_path, train)
    assert [g.rows[0] for g in found["suspicious_paths"].groups] == [1, 2, 3, 4]
    assert [g.rows[0] for g in found["odd_names"].groups] == [7]
    [mixed] = found["mixed_paths"].groups
    assert mixed.note.endswith("7 relative, 1 absolute, 1 in s3://")


def test_skipped_files_of_a_folder(tmp_path):
    for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "a/3.psd").write_bytes(b"8BPS\0\1" + b"\0" * 40)
    (tmp_path / "a/notes.txt").write_text("notes")
    (tmp_path / "b/4.jpg_large").write_text("<svg/>")
    found = lookalike.doctor(train=str(tmp_path), images=False)
    by_kind = {issue.kind: issue for issue in found.issues}
    notes = [group.note for group in by_kind["skipped_images"].groups]
    assert [note.partition(" (")[0] for note in notes] == ["1 .psd", "1 .jpg_large"]
    assert [group.note for group in by_kind["skipped_files"].groups] == [
        "1 .txt (e.g. a/notes.txt)"
    ]
    assert [each["kind"] for each in found.facts["skipped_files"]] == [".psd", ".jpg_large", ".txt"]


def test_boxes_of_a_few_pixels_are_named(tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "1.jpg")
    (tmp_path / "t.csv").write_text(
        "path,label,x_1,y_1,x_2,y_2\n1.jpg,a,0,0,40,40\n1.jpg,a,5,5,7,30\n1.jpg,b,0,0,39,40\n"
    )
    found = lookalike.doctor(train=str(tmp_path / "t.csv"))
    [unreadable] = [issue for issue in found.issues if issue.kind == "unreadable"]
    [group] = unreadable.groups
    assert group.rows == (1,)
    assert "has only 2 x 25 pixels" in group.note


def test_classes_without_images_and_large_ones(tmp_path):
    lines = "".join(f"{i}.jpg {0 if i < 90 else i - 86}\n" for i in range(96))
    (tmp_path / "t.txt").write_text(lines)
    found = lookalike.doctor(train=str(tmp_path / "t.txt"), num_classes=12, images=False)
    by_kind = {issue.kind: issue for issue in found.issues}
    assert by_kind["empty_classes"].count == 5
    assert by_kind["large_classes"].groups[0].note == "0: 90 images"


def test_boxes_of_one_file_are_different_images():
    def record(box: tuple[int, int, int, int]) -> Record:
        return Record("a.jpg", "x", "t.csv", 2, None, Details(box=box))

    records = [record((0, 5, 0, 5)), record((5, 9, 0, 5)), record((0, 5, 0, 5))]
    assert distinct_rows(records) == [0, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give data.train"),
        ({"data": "a.txt"}, "give run"),
        ({"train": "none.txt"}, "none.txt: no such file"),
        ({"run": "nowhere"}, "no run here"),
        ({"run": "memory://nowhere/run"}, "no run here"),
    ],
)
def test_bad_input_is_an_error(settings, message):
    with pytest.raises(LookalikeError, match=message):
        lookalike.doctor(**settings)
