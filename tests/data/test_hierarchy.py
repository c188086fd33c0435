"""Coarser classes: columns and files, faults, parts of a list."""

import numpy as np
import pytest

from lookalike.config.config import Config
from lookalike.data.catalog import build_catalog, with_hierarchy
from lookalike.data.held_out_classes import hold_out
from lookalike.data.readers import read_records
from lookalike.data.readers.annotation import AnnotationOptions
from lookalike.data.readers.streams import keep_list
from lookalike.errors import ConfigError, DataError
from lookalike.training.request_lists import open_catalogs

ROWS = "path,label,genus,family\na.jpg,cat,felis,felid\nb.jpg,dog,canis,canid\n"
ROWS += "c.jpg,lion,panthera,felid\nd.jpg,cat,felis,felid\n"
COLUMNS = AnnotationOptions(coarser_columns=("genus", "family"))


def table(tmp_path, text=ROWS):
    (tmp_path / "t.csv").write_text(text)
    return build_catalog(read_records(str(tmp_path / "t.csv"), options=COLUMNS))


def as_names(catalog):
    return {
        level.name: {
            label: level.names[row] if row >= 0 else None
            for label, row in zip(catalog.classes.names, level.of_class.tolist(), strict=True)
        }
        for level in catalog.levels
    }


EXPECTED = {
    "genus": {"cat": "felis", "dog": "canis", "lion": "panthera"},
    "family": {"cat": "felid", "dog": "canid", "lion": "felid"},
}


def test_columns_and_files_say_the_same(tmp_path):
    catalog = table(tmp_path)
    assert catalog.levels == ()
    found = with_hierarchy(catalog, "genus, family")
    assert as_names(found) == EXPECTED
    for number, text in enumerate([
        "label genus family\ncat felis felid\n# wild\nlion panthera felid\ndog canis canid\n",
        "label,genus,family\ncat,felis,felid\nlion,panthera,felid\ndog,canis,canid\n",
        "label\tgenus\tfamily\ncat\tfelis\tfelid\nlion\tpanthera\tfelid\ndog\tcanis\tcanid\n",
    ]):  # fmt: skip
        place = tmp_path / f"{number}.txt"
        place.write_text(text + "\n")
        assert as_names(with_hierarchy(catalog, str(place))) == EXPECTED
    (tmp_path / "plain.txt").write_text("cat felid\nlion felid\ndog canid\nowl bird\n")
    plain = with_hierarchy(catalog, str(tmp_path / "plain.txt"))
    assert as_names(plain) == {"level_1": EXPECTED["family"]}
    assert catalog.fingerprint() != found.fingerprint() != plain.fingerprint()
    kept = read_records(keep_list(catalog.records, COLUMNS), options=COLUMNS)
    assert [r.details.coarser for r in kept] == [r.details.coarser for r in catalog.records]


@pytest.mark.parametrize(
    ("text", "hierarchy", "message"),
    [
        (ROWS.replace("d.jpg,cat,felis", "d.jpg,cat,lynx"), "genus,family",
         r"t.csv:5: class 'cat' is of 'lynx', 'felid' here, but of 'felis', 'felid' in .*t.csv:2"),
        (ROWS.replace("panthera", "felis").replace("lion,felis,felid", "lion,felis,big"),
         "genus,family", "'felis' of genus is below 'felid' and below 'big' of family; correct"),
        (ROWS, "genus,,family", "write different columns"),
        (ROWS, "a.txt", r"a.txt:2: 'dog' is not a label and its coarser class, as: cat mammal"),
        (ROWS, "b.txt", r"b.txt: no line for the class 'dog', 'lion'; add one"),
        (ROWS, "c.txt", r"c.txt:2: label 'cat' is in line 1 already"),
    ],
)  # fmt: skip
def test_faults(tmp_path, text, hierarchy, message):
    (tmp_path / "a.txt").write_text("cat felid\ndog\n")
    (tmp_path / "b.txt").write_text("cat felid\n")
    (tmp_path / "c.txt").write_text("cat felid\ncat felid\n")
    if hierarchy.endswith(".txt"):
        hierarchy = str(tmp_path / hierarchy)
    with pytest.raises((ConfigError, DataError), match=message):
        with_hierarchy(table(tmp_path, text), hierarchy)


def test_faults_of_columns(tmp_path):
    with pytest.raises(DataError, match=r"t.csv:2: no label|missing value"):
        table(tmp_path, ROWS.replace("felis", ""))
    (tmp_path / "l.txt").write_text("a.jpg cat\nb.jpg dog\n")
    with pytest.raises(ConfigError, match=r"l.txt:1 has no such column; name columns of a table"):
        open_catalogs(
            Config().with_values({"data.train": str(tmp_path / "l.txt"), "data.hierarchy": "genus"})
        )
    several = build_catalog(
        read_records(
            str(tmp_path / "t.csv"),
            options=AnnotationOptions(label_separator="|", coarser_columns=("genus",)),
        )
        if (tmp_path / "t.csv").write_text("path,label,genus\na.jpg,cat|pet,felis\nb.jpg,dog,x\n")
        else ()
    )
    with pytest.raises(ConfigError, match=r"t.csv:2 has several labels"):
        with_hierarchy(several, "genus")


def test_parts_keep_their_levels(tmp_path):
    rows = "".join(f"{n}.jpg,c{n % 9},g{n % 9 // 2}\n" for n in range(36))
    (tmp_path / "t.csv").write_text("path,label,genus\n" + rows)
    options = AnnotationOptions(coarser_columns=("genus",))
    whole = with_hierarchy(
        build_catalog(read_records(str(tmp_path / "t.csv"), options=options)), "genus"
    )
    for part in hold_out(whole, 0.3, 1):
        (level,) = part.levels
        assert sorted(set(level.of_class.tolist())) == list(range(len(level.names)))
        for label, row in zip(part.classes.names, level.of_class.tolist(), strict=True):
            assert level.names[row] == f"g{int(label[1:]) // 2}"
    assert np.array_equal(whole.levels[0].coarser(np.array([0, -1])), [0, -1])
