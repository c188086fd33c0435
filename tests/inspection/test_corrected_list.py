"""Corrected lists: only the wanted rows differ, and nothing is overwritten."""

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


def test_a_folder_becomes_a_table(tmp_path):
    for name in ("a/1.jpg", "b/2.jpg"):
        (tmp_path / "set" / name).parent.mkdir(parents=True)
        (tmp_path / "set" / name).touch()
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
