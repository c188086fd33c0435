"""Corrected lists: only the wanted rows differ, and nothing is overwritten."""

import re

import pytest

from lookalike.data.readers import read_records
from lookalike.data.readers.annotation import AnnotationOptions
from lookalike.errors import DataError, LookalikeError, RunError
from lookalike.inspection.corrected_list import Correction, write_corrected

TEXT = "# cats\r\n\r\nimg/a b.jpg\t007\r\n  ./img/b.jpg  8 \r\nimg/c.jpg 9"


def changes(source, wanted, options=AnnotationOptions(), format="auto"):  # noqa: B008
    """Corrections of rows by their number among the records."""
    records = read_records(str(source), format, options)
    return [
        Correction(records[row].line, records[row].place, records[row].label, after)
        for row, after in wanted.items()
    ]


def test_an_image_list_keeps_all_its_other_bytes(tmp_path):
    source, target = tmp_path / "l.txt", tmp_path / "new.txt"
    source.write_bytes(TEXT.encode())
    assert write_corrected(str(source), changes(source, {0: "new", 2: None}), target) == 2
    assert target.read_bytes() == TEXT.replace("007", "new").removesuffix("img/c.jpg 9").encode()
    assert source.read_bytes() == TEXT.encode()


def test_a_label_behind_a_tab_may_hold_blanks(tmp_path):
    source, target = tmp_path / "l.txt", tmp_path / "new.txt"
    source.write_text("img/a b.jpg\tred boot\n  img/b.jpg\t blue boot \n")
    wanted = changes(source, {0: "blue boot", 1: "cap"})
    assert write_corrected(str(source), wanted, target) == 2
    assert target.read_text() == "img/a b.jpg\tblue boot\n  img/b.jpg\t cap \n"


def test_a_table_keeps_its_details(tmp_path):
    source, target = tmp_path / "l.csv", tmp_path / "new.csv"
    source.write_text(
        "label,path,x_1,y_1,x_2,y_2,split,is_query,camera,w\n"
        'a,"img/a,b.jpg",1,2,30,40,train,,0,2.5\n'
        "b,img/c.jpg,,,,,test,true,1,1\n"
        "b,/x/d.jpg,1,2,3,40,test,false,1,0\n"
    )
    options = AnnotationOptions(weight_column="w")
    wanted = changes(source, {1: "c", 2: None}, options)
    assert write_corrected(str(source), wanted, target, options=options) == 2
    before, after = (read_records(str(each), options=options) for each in (source, target))
    assert [one.uri for one in after] == [one.uri for one in before[:2]]
    assert [one.label for one in after] == ["a", "c"]
    assert [one.details for one in after] == [one.details for one in before[:2]]
    assert [one.details.weight for one in after] == [2.5, 1.0]


def folder(tmp_path):
    for name in ("a/1.jpg", "b/2.jpg"):
        (tmp_path / "set" / name).parent.mkdir(parents=True)
        (tmp_path / "set" / name).touch()


def test_a_folder_becomes_a_table(tmp_path):
    folder(tmp_path)
    target = tmp_path / "new.csv"
    write_corrected(str(tmp_path / "set"), changes(tmp_path / "set", {1: "a"}), target)
    assert [one.label for one in read_records(str(target))] == ["a", "a"]


@pytest.mark.parametrize("label", ["two words", "a.jpg", "new\n/etc/passwd 1", "#", "nan"])
def test_what_a_list_would_read_as_something_else_is_no_label(tmp_path, label):
    source, target = tmp_path / "l.txt", tmp_path / "new.txt"
    source.write_bytes(TEXT.encode())
    try:
        write_corrected(str(source), changes(source, {1: label}), target)
    except DataError:
        assert not target.exists()
    else:
        assert [one.label for one in read_records(str(target))] == ["7", label, "9"]


def test_refusals(tmp_path):
    source, target = tmp_path / "l.txt", tmp_path / "new.txt"
    source.write_bytes(TEXT.encode())
    wanted = changes(source, {1: "x"})
    target.write_text("mine")
    with pytest.raises(RunError, match="exists; choose another name"):
        write_corrected(str(source), wanted, target)
    assert target.read_text() == "mine"
    with pytest.raises(RunError, match="save the corrected list there too"):
        write_corrected(str(source), wanted, tmp_path / "other/new.txt")
    every = changes(source, dict.fromkeys(range(3)))
    with pytest.raises(DataError, match="no image would be left"):
        write_corrected(str(source), every, tmp_path / "new2.txt")
    source.write_text("img/other.jpg 1\n")
    with pytest.raises(DataError, match=r"l\.txt:4: has changed since it was checked"):
        write_corrected(str(source), wanted, tmp_path / "new3.txt")
    with pytest.raises(LookalikeError, match="no such file"):
        write_corrected(
            str(source), changes(source, {0: "x"}), tmp_path / "none/l.txt",
            options=AnnotationOptions(image_root=str(tmp_path)),
        )  # fmt: skip


def saved(source, target, wanted, options):
    """A list with corrections and the list that it came from, both by the same options."""
    write_corrected(str(source), wanted, target, options=options)
    return (read_records(str(each), options=options) for each in (source, target))


def several(source, wanted, options):
    records = read_records(str(source), options=options)
    return [
        Correction(one.line, one.place, options.label_separator.join(one.labels), after)
        for row, after in wanted.items()
        for one in [records[row]]
    ]


@pytest.mark.parametrize("name", ["l.csv", "l.txt"])
def test_all_labels_of_an_image_stay(tmp_path, name):
    source, target = tmp_path / name, tmp_path / f"new-{name}"
    head, between = ("path,label\n", ",") if name == "l.csv" else ("", " ")
    rows = ("a.jpg cat|pet", "b.jpg dog|pet", "c.jpg dog")
    source.write_text(head + "".join(row.replace(" ", between) + "\n" for row in rows))
    options = AnnotationOptions(label_separator="|")
    wanted = several(source, {0: "tiger", 2: "dog | 007"}, options)
    before, after = saved(source, target, wanted, options)
    assert [one.labels for one in before] == [("cat", "pet"), ("dog", "pet"), ("dog",)]
    assert [one.labels for one in after] == [("tiger",), ("dog", "pet"), ("dog", "7")]


def test_the_settings_of_a_run_read_its_corrected_table(tmp_path):
    source, target = tmp_path / "l.csv", tmp_path / "new.csv"
    source.write_text(
        "label,photo,individual,Category,family,w\n"
        "x,a.jpg,i1,cat,felid,2\nx,b.jpg,i2,cat,felid,3\ny,c.jpg,i3,dog,canid,1\n"
    )
    options = AnnotationOptions(
        path_column="photo", label_column="individual", coarser_columns=("category", "family"),
        weight_column="w",
    )  # fmt: skip
    before, after = saved(source, target, changes(source, {1: "i1"}, options), options)
    assert [one.label for one in after] == ["i1", "i1", "i3"]
    assert [one.details for one in after] == [one.details for one in before]
    assert after[0].details.coarser == ("cat", "felid")
    assert target.read_text().startswith("photo,individual,category,family,w\n")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (AnnotationOptions(label_column="path"), r"set: .* where .*1\.jpg would be read with"),
        (AnnotationOptions(coarser_columns=("genus",)), r"a fault: .*set:2: no label"),
    ],
)
def test_a_table_that_would_be_read_as_something_else_is_refused(tmp_path, options, reason):
    folder(tmp_path)
    target = tmp_path / "new.csv"
    wanted = changes(tmp_path / "set", {1: "b"}, options)
    with pytest.raises(DataError, match="cannot be saved as a table") as caught:
        write_corrected(str(tmp_path / "set"), wanted, target, options=options)
    assert re.search(reason, str(caught.value))
    assert "\n" not in str(caught.value)
    assert not target.exists()


def test_a_relative_table_is_saved_with_full_addresses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source, target = tmp_path / "lists/l.csv", tmp_path / "lists/new.csv"
    source.parent.mkdir()
    source.write_text("path,label\nimg/a.jpg,1\nimg/b.jpg,2\n")
    write_corrected("lists/l.csv", changes("lists/l.csv", {1: "1"}), target)
    addresses = [str(tmp_path / f"lists/img/{name}.jpg") for name in "ab"]
    assert [one.uri for one in read_records("lists/new.csv")] == addresses


def test_images_without_a_weight_have_the_weight_of_one(tmp_path):
    folder(tmp_path)
    options = AnnotationOptions(weight_column="w")
    wanted = changes(tmp_path / "set", {1: "a"}, options)
    _, after = saved(tmp_path / "set", tmp_path / "new.csv", wanted, options)
    assert [(one.label, one.details.weight) for one in after] == [("a", 1.0), ("a", 1.0)]
