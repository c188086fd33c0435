"""Classes of labels, held-out classes, and error messages."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lookalike import storage
from lookalike.data.catalog import Catalog, build_catalog, check_trainable
from lookalike.data.classes import Classes, read_class_names
from lookalike.data.held_out_classes import hold_out
from lookalike.data.readers import read_records
from lookalike.errors import ConfigError, DataError, StorageError


def write(folder, labels) -> str:
    path = folder / "train.txt"
    path.write_text("".join(f"{i}.jpg {label}\n" for i, label in enumerate(labels)))
    return str(path)


def catalog_of(uri, **how) -> Catalog:
    return build_catalog(read_records(uri), **how)


def classes_of(folder, labels, **how) -> tuple[list[int], tuple[str, ...]]:
    catalog = catalog_of(write(folder, labels), **how)
    assert catalog.class_ids.dtype == np.int64
    assert len(catalog) == len(catalog.records) == len(catalog.class_ids) == len(labels)
    return catalog.class_ids.tolist(), catalog.classes.names


def complaint(folder, labels, error=DataError, **how) -> str:
    uri = write(folder, labels)
    with pytest.raises(error) as caught:
        catalog_of(uri, **how)
    return str(caught.value).replace(f"{folder}/", "")


def test_integers_alone_are_numbered_in_numeric_order(tmp_path):
    assert classes_of(tmp_path, [10, 9, "007", 7, 100]) == (
        [2, 1, 0, 0, 3],
        ("7", "9", "10", "100"),
    )
    huge = ["9" * 5000, "1" + "0" * 5000, 10**20]
    assert classes_of(tmp_path, huge)[0] == [1, 2, 0]


def test_integers_with_a_count_are_the_classes(tmp_path):
    assert classes_of(tmp_path, [2, "00", 2], num_classes=4) == ([2, 0, 2], ("0", "1", "2", "3"))
    assert complaint(tmp_path, [0, 3, 9, 3], num_classes=3) == (
        "train.txt:2: label '3' is too large for data.num_classes=3; set data.num_classes to at"
        " least 10 or leave it out\n"
        "train.txt:3: label '9' is too large for data.num_classes=3; set data.num_classes to at"
        " least 10 or leave it out\n"
        "train.txt:4: label '3' is too large for data.num_classes=3; set data.num_classes to at"
        " least 10 or leave it out"
    )
    assert complaint(tmp_path, ["1" * 5000], num_classes=3) == (
        f"train.txt:1: label '{'1' * 77}...' is too large for data.num_classes=3; leave it out"
    )
    assert complaint(tmp_path, [5] * 100, num_classes=5).endswith("\nand 90 more")


def test_text_is_numbered_in_sorted_order(tmp_path):
    assert classes_of(tmp_path, ["dog", "cat", "dog", "猫"]) == ([1, 0, 1, 2], ("cat", "dog", "猫"))
    assert classes_of(tmp_path, ["cat", "dog"], num_classes=2) == ([0, 1], ("cat", "dog"))
    # Negative integers are text, and one text makes text of all labels.
    assert classes_of(tmp_path, [10, 9, -1]) == ([1, 2, 0], ("-1", "10", "9"))


def test_text_with_another_count(tmp_path):
    assert complaint(tmp_path, ["cat", "dog", "cat", "owl", "elk"], num_classes=2) == (
        "train.txt:4: label 'owl' is one too many: the list holds 4 different labels, but"
        " data.num_classes=2; set data.num_classes to 4 or leave it out"
    )
    assert complaint(tmp_path, [7, "dog", "cat"], num_classes=5) == (
        "train.txt:2: label 'dog' is text: the list holds 3 different labels, but"
        " data.num_classes=5; set data.num_classes to 3 or leave it out"
    )


ANIMALS = ("cat", "dog", "owl")


def test_names_give_the_order(tmp_path):
    found = classes_of(tmp_path, ["owl", "cat", "owl"], classes=ANIMALS, num_classes=3)
    assert found == ([2, 0, 2], ANIMALS)


def test_labels_without_a_class_name(tmp_path):
    assert complaint(tmp_path, ["cat", "catt", "dog", "zebra", 1], classes=ANIMALS) == (
        "train.txt:2: label 'catt' is not one of the 3 classes (cat, dog, owl);"
        " fix the line (did you mean 'cat'?) or extend data.classes\n"
        "train.txt:4: label 'zebra' is not one of the 3 classes (cat, dog, owl);"
        " fix the line or extend data.classes\n"
        "train.txt:5: label '1' is not one of the 3 classes (cat, dog, owl);"
        " fix the line or extend data.classes"
    )
    names = [f"n{i}" for i in range(6000)]  # too many to look for a close one
    assert complaint(tmp_path, ["n7x"], classes=names) == (
        "train.txt:1: label 'n7x' is not one of the 6,000 classes (n0, n1, n2, n3, n4, n5, n6, n7,"
        " ... 5,992 more); fix the line or extend data.classes"
    )
    assert complaint(tmp_path, ["x"] * 12, classes=names).endswith("\nand 2 more")


def test_integers_beside_names_are_their_rows(tmp_path):
    assert classes_of(tmp_path, [2, "00"], classes=ANIMALS) == ([2, 0], ANIMALS)
    assert complaint(tmp_path, [2, 3], classes=ANIMALS) == (
        "train.txt:2: label '3' is not a row of the 3 classes (cat, dog, owl), 0 to 2;"
        " fix the line or extend data.classes"
    )


def test_names_that_are_integers_are_names(tmp_path):
    assert classes_of(tmp_path, [7, "07", 12], classes=("12", "007")) == ([1, 1, 0], ("12", "007"))
    assert "label '0' is not one of the 2 classes" in complaint(
        tmp_path, [12, 0], classes=("12", "7")
    )


def test_names_and_a_count_must_agree(tmp_path):
    assert complaint(tmp_path, ["cat"], ConfigError, classes=ANIMALS, num_classes=4) == (
        "data.num_classes=4, but data.classes holds 3 names; leave data.num_classes out"
    )


def test_an_itag_manifest_has_the_same_rules(tmp_path):
    path = tmp_path / "items.manifest"
    path.write_text(
        "".join(
            json.dumps({"data": {"source": "a.jpg"}, "label": {"results": [{"data": label}]}})
            + "\n"
            for label in ("L 2", "L 1")
        )
    )
    catalog = catalog_of(str(path))
    assert (catalog.class_ids.tolist(), catalog.classes.names) == ([1, 0], ("L 1", "L 2"))


NAMES = st.sampled_from(["cat", "dog", "7", "12", "owl"])
LABELS = st.sampled_from(["0", "1", "2", "007", "7", "12", "-1", "cat", "dog", "catt", "1" * 30])


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(LABELS, min_size=1, max_size=8),
    st.none()
    | st.lists(st.sampled_from(["cat", "dog", "7", "12", "owl"]), min_size=1, unique=True),
    st.none() | st.integers(1, 15),
)
def test_any_labels(tmp_path, labels, names, count):
    try:
        catalog = catalog_of(write(tmp_path, labels), classes=names, num_classes=count)
    except (DataError, ConfigError):
        return
    ids, found = catalog.class_ids, catalog.classes
    assert len(found.names) == len(set(found.names))
    assert ids.min() >= 0
    assert ids.max() < len(found)
    assert count in (None, len(found))
    # Equal labels and no others have the same class.
    shortest = [str(int(label)) if label.isdigit() else label for label in labels]
    assert len(set(zip(shortest, ids, strict=True))) == len(set(shortest)) == len(set(ids))
    if names is None or not set(shortest).isdisjoint(names):
        assert [found.names[i] for i in ids] == shortest


@pytest.mark.parametrize(
    "images", [["1.jpg", "2.jpg"], ["a/1.jpg", "b/2.jpg"], ["a/1.jpg", "ab/2.jpg"], ["../1.jpg"]]
)
def test_the_fingerprint_is_that_of_a_list_in_any_spelling(tmp_path, monkeypatch, images):
    here, rows = tmp_path / "here", enumerate(images)
    here.mkdir()
    (here / "list.txt").write_text("".join(f"{image} {row}\n" for row, image in rows))
    found = set()
    for folder, spellings in (
        (here, ["list.txt", "./list.txt", "../here/list.txt"]),
        (tmp_path, ["here/list.txt", f"{here}/list.txt", f"file://{here}/list.txt"]),
    ):
        monkeypatch.chdir(folder)
        found |= {catalog_of(spelling).fingerprint() for spelling in spellings}
    assert len(found) == 1


def test_labels_are_mapped_to_classes_and_back():
    classes = Classes(("cat", "007", "猫"))
    assert [classes.index(label) for label in ("猫", "7", "0007", "cat")] == [2, 1, 1, 0]
    assert "7" in classes
    assert "8" not in classes
    assert len(classes) == 3
    with pytest.raises(DataError, match=r"^label 'cart' is not one of the 3 classes"):
        classes.index("cart")


def test_classes_survive_json():
    classes = Classes(("cat", "007", "猫 \u2028\\"))
    again = Classes.from_json(classes.to_json())
    assert again == classes
    assert again.index("7") == 1
    assert "猫" in classes.to_json()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "7", '"x"', '{"classes": 7}', '{"classes": [1]}', "[" * 99_999]
)
def test_other_json_is_refused(text):
    with pytest.raises(DataError, match=r"^runs/x/classes\.json: not a list of classes; expected"):
        Classes.from_json(text, "runs/x/classes.json")


def test_names_in_a_text_or_a_sequence():
    assert read_class_names("cat, dog ,owl") == ANIMALS
    assert read_class_names(list(ANIMALS)) == ANIMALS
    assert read_class_names("cat") == ("cat",)


def test_names_in_a_file(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_bytes("\ufeffcat\r\nfire truck\r\n#3, a\r\n\r\n".encode())
    assert read_class_names(str(path)) == ("cat", "fire truck", "#3, a")
    assert read_class_names(path.as_uri()) == ("cat", "fire truck", "#3, a")
    other = path.rename(tmp_path / "names")  # an existing file under any name
    assert read_class_names(str(other))[0] == "cat"
    with pytest.raises(StorageError, match=r"^gone\.txt: no such file or directory$"):
        read_class_names("gone.txt")


def test_invalid_class_names(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("cat\n\ndog\n7\ncat\n007\n")
    with pytest.raises(DataError) as caught:
        read_class_names(str(path))
    assert str(caught.value).replace(f"{tmp_path}/", "") == (
        "classes.txt:2: an empty class name; fill it in or remove it\n"
        "classes.txt:5: 'cat' is the name of class 0 already; rename one\n"
        "classes.txt:6: '007' is the name of class 3 already; rename one"
    )
    for names in ([], "", " , ", [" "]):
        with pytest.raises(DataError, match=r"^data\.classes: name 1: no class names$"):
            read_class_names(names)
    with pytest.raises(DataError, match=r"^data\.classes: name 2: 'a\\x00' holds a control"):
        read_class_names(["cat", "a\0"])
    path.write_text("\n")
    with pytest.raises(DataError, match=r"classes\.txt:1: no class names$"):
        read_class_names(str(path))


def random_catalog(folder, seed: int) -> Catalog:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 40, 120)
    return catalog_of(write(folder, labels), num_classes=50)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.99])
def test_hold_out_takes_whole_classes(tmp_path, fraction):
    catalog = random_catalog(tmp_path, np.random.default_rng().integers(2**31))
    present = len(set(catalog.class_ids))
    train, held = hold_out(catalog, fraction, seed=0)
    # Every record is in one part, in the list's order, under the name that it had.
    for part in (train, held):
        assert [part.classes.names[i] for i in part.class_ids] == [r.label for r in part.records]
        assert [r.line for r in part.records] == sorted(r.line for r in part.records)
        assert part.class_ids.dtype == np.int64
    assert sorted([*train.records, *held.records], key=lambda r: r.line) == list(catalog.records)
    assert set(train.classes.names).isdisjoint(held.classes.names)
    assert set(train.classes.names) | set(held.classes.names) == set(catalog.classes.names)
    # Held-out classes all have images; classes without stay with the training part.
    assert set(held.class_ids) == set(range(len(held.classes)))
    assert len(held.classes) == min(max(2, round(fraction * present)), present - 2)
    assert (np.bincount(held.class_ids) >= 2).sum() >= 2
    check_trainable(train)


def test_hold_out_is_drawn_by_the_seed_alone(tmp_path):
    catalog = random_catalog(tmp_path, 0)
    first = hold_out(catalog, 0.3, seed=1)[1].classes.names
    assert hold_out(catalog, 0.3, seed=1)[1].classes.names == first
    assert hold_out(catalog, 0.3, seed=2)[1].classes.names != first
    # More images of the same classes, in another order, change nothing.
    more = catalog_of(write(tmp_path, [r.label for r in reversed(catalog.records)] * 2))
    assert hold_out(more, 0.3, seed=1)[1].classes.names == first


def test_hold_out_draws_all_classes_with_equal_probability(tmp_path):
    catalog = catalog_of(write(tmp_path, [*range(10), *range(10)]))
    drawn = [name for seed in range(400) for name in hold_out(catalog, 0.3, seed)[1].classes.names]
    counts = [drawn.count(str(name)) for name in range(10)]
    assert sum(counts) == 1200
    assert min(counts) > 70  # 120 expected, with a deviation of 9
    assert max(counts) < 170


@pytest.mark.parametrize("labels", ["a a b b c c", "a a b c d e", "a b c d"])
def test_hold_out_of_too_few_classes(tmp_path, labels):
    catalog = catalog_of(write(tmp_path, labels.split()))
    with pytest.raises(DataError, match=r"^data\.val_fraction=0\.5 cannot hold out classes: it"):
        hold_out(catalog, 0.5, seed=0)


def test_one_class_cannot_be_trained(tmp_path):
    with pytest.raises(DataError) as caught:
        check_trainable(catalog_of(write(tmp_path, [3, 3, 3]), num_classes=9))
    assert str(caught.value).replace(f"{tmp_path}/", "") == (
        "train.txt: all 3 images have the label '3'; training needs at least 2 classes"
    )
    check_trainable(catalog_of(write(tmp_path, [3, 4])))  # lone images are fine


@pytest.mark.parametrize(
    "base", ["l.txt", "/a/l.txt", "s3://b/x/l.txt", "oss://b/x/l.txt?endpoint=e"]
)
@pytest.mark.parametrize("path", ["a b.jpg", "c/d.jpg", "/e.jpg", "s3://f/g.jpg", "h:i.jpg", "\\j"])
def test_a_resolver_agrees_with_resolve(base, path):
    assert storage.resolver(base)(path) == storage.resolve(path, base)
