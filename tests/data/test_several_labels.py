"""Several labels of an image: syntax of each reader, classes, parts and samplers."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lookalike.data.catalog import build_catalog
from lookalike.data.held_out_classes import hold_out
from lookalike.data.readers import read_records
from lookalike.data.readers.annotation import AnnotationOptions
from lookalike.data.readers.streams import keep_list
from lookalike.data.record import Details, Record
from lookalike.errors import ConfigError, DataError

BAR = AnnotationOptions(label_separator="|")
EXPECTED = [("cat", "pet"), ("dog",), ("7", "cat")]


def labels_in(place, options=BAR):
    return [record.labels for record in read_records(str(place), options=options)]


def write_tar(path):
    with tarfile.open(path, "w") as archive:
        for number, labels in enumerate(["cat|pet", "dog", '{"label": [7, "cat"]}']):
            end = "json" if labels[0] == "{" else "cls"
            for name, content in (("jpg", b"x"), (end, labels.encode())):
                entry = tarfile.TarInfo(f"{number}.{name}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))


def itag(*answers):
    results = [{"data": answer} for answer in answers]
    return json.dumps({"data": {"source": "a.jpg"}, "label-1": {"results": results}})


def test_each_reader_has_a_syntax(tmp_path):
    texts = {
        "a.txt": "a.jpg cat|pet\nb c.jpg\tdog\nc.jpg 007|cat|7\n",
        "b.csv": "path,label\na.jpg,cat | pet\nb.jpg,dog\nc.jpg,7.0|cat|\n",
        "c.jsonl": '{"path": "a.jpg", "label": ["cat", "pet"]}\n'
        '{"path": "b.jpg", "label": "dog"}\n{"path": "c.jpg", "label": [7, "cat"]}\n',
        "d.manifest": "\n".join(
            [itag("cat", "pet"), itag("dog"), itag({"labels": {"which": ["7", "cat|7"]}})]
        ),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        assert labels_in(tmp_path / name) == EXPECTED, name
    table = pa.table({"path": ["a.jpg", "b.jpg", "c.jpg"],
                      "label": [["cat", "pet"], ["dog"], ["7", "cat"]]})  # fmt: skip
    pq.write_table(table, tmp_path / "e.parquet")
    assert labels_in(tmp_path / "e.parquet") == EXPECTED
    write_tar(tmp_path / "f.tar")
    assert labels_in(tmp_path / "f.tar") == EXPECTED
    for folder in ("cat|pet", "dog"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        (tmp_path / "photos" / folder / "1.jpg").write_bytes(b"\xff\xd8\xff")
    assert labels_in(tmp_path / "photos") == EXPECTED[:2]
    kept = keep_list(read_records(str(tmp_path / "a.txt"), options=BAR), BAR)
    assert labels_in(kept) == EXPECTED


def test_numbers_of_class_names_in_lists(tmp_path):
    feature = {"info": {"features": {"label": {
        "feature": {"names": ["cat", "dog", "pet"], "_type": "ClassLabel"}, "_type": "Sequence",
    }}}}  # fmt: skip
    table = pa.table({"path": ["a.jpg", "b.jpg"], "label": [[0, 2], [1]]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(feature)})
    pq.write_table(table, tmp_path / "a.parquet")
    assert labels_in(tmp_path / "a.parquet") == EXPECTED[:2]


def test_without_the_setting_a_separator_is_a_part_of_the_label(tmp_path):
    (tmp_path / "a.txt").write_text("a.jpg cat|pet\n")
    assert labels_in(tmp_path / "a.txt", AnnotationOptions()) == [("cat|pet",)]


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("a.jsonl", '{"path": "a.jpg", "label": ["a", "b"]}', AnnotationOptions(),
         r"a.jsonl:1: label \"\['a', 'b'\]\" is a list; set data.label_separator='\|'"),
        ("a.manifest", itag("cat", "dog"), AnnotationOptions(), "set data.label_separator='|'"),
        ("a.txt", "a.jpg cat|nan\nb.jpg |\nc.jpg cat", BAR,
         "a.txt:1: label 'nan' is a missing value(.|\n)*a.txt:2: no label"),
        ("a.txt", "a.jpg cat dog", AnnotationOptions(label_separator=" "),
         "blanks stand between path and label"),
    ],
)  # fmt: skip
def test_bad_rows(tmp_path, name, text, options, message):
    (tmp_path / name).write_text(text)
    with pytest.raises((ConfigError, DataError), match=message.replace("'|'", r"'\|'")):
        read_records(str(tmp_path / name), options=options)


def catalog(*labels):
    records = []
    for number, (first, *others) in enumerate(labels, 1):
        details = Details(further_labels=tuple(others)) if others else None
        records.append(Record(f"/x/{number}.jpg", first, "a.txt", number, details=details))
    return build_catalog(records)


def test_classes_of_all_labels():
    found = catalog(("b", "d"), ("a",), ("c", "a", "b"), ("a", "b"))
    assert found.classes.names == ("a", "b", "c", "d")
    assert found.all_ids.tolist() == [[1, 3, -1], [0, -1, -1], [2, 0, 1], [0, 1, -1]]
    assert found.class_sizes().tolist() == [3, 3, 1, 1]
    assert found.sampling_ids().tolist() == [3, 0, 2, 0]  # the smallest; of equal ones the first
    assert found.most_labels == 3
    single = catalog(("a",), ("b",))
    assert single.further_ids is None
    assert single.all_ids is single.class_ids


def test_the_fingerprint_changes_with_further_labels_only_where_there_are_some():
    assert catalog(("a",), ("b",)).fingerprint() == "7af23606f549cba6"
    assert catalog(("a", "b"), ("b",)).fingerprint() != catalog(("a", "c"), ("b",)).fingerprint()


def test_an_unknown_further_label_is_named():
    records = catalog(("a", "x"), ("b",)).records
    with pytest.raises(DataError, match=r"a.txt:1: label 'x' is not one of the 2 classes"):
        build_catalog(records, classes="a,b")


def test_parts_have_no_class_in_common():
    generator = np.random.default_rng()
    labels = [[f"c{x}" for x in generator.permutation(12)[: generator.integers(1, 4)]]
              for _ in range(80)]  # fmt: skip
    whole = catalog(*labels)
    for part in hold_out(whole, 0.3, 0):
        assert all(record.label in part.classes.names for record in part.records)
        for row, record in enumerate(part.records):
            mine = [part.classes.rows[x] for x in record.labels if x in part.classes.names]
            assert [x for x in part.all_ids[row].tolist() if x >= 0] == mine
    train, held = hold_out(whole, 0.3, 0)
    assert not set(train.classes.names) & set(held.classes.names)
    assert len(train) + len(held) == 80
