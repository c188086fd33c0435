"""PAI iTAG manifests: answers, stages, policies, and never a traceback."""

import json
import logging

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lookalike.data.readers import read_records
from lookalike.errors import DataError

OSS = "oss://b.oss-cn-hangzhou.aliyuncs.com/a 1.jpg"


def item(answer, key="label-143", **more) -> dict:
    return {"data": {"source": OSS}, key: {"results": [{"data": answer}]}, **more}


def stage(answer) -> dict:
    return {"results": [{"data": answer}]}


def write(folder, *items) -> str:
    path = folder / "items.manifest"
    lines = [one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in items]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def read(uri):
    return read_records(uri, "itag")


def labels(uri) -> list[str]:
    return [record.label for record in read(uri)]


def complaint(folder, *items) -> str:
    with pytest.raises(DataError) as caught:
        read(write(folder, *items))
    return str(caught.value).replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("cat", "cat"),
        ("Label 222", "Label 222"),
        (" 007 ", "7"),
        (7, "7"),
        ("labels", "labels"),
        (["cat"], "cat"),
        ({"labels": {"单选": "cat"}}, "cat"),
        ({"labels": {"any question": "cat"}}, "cat"),
        ({"labels": {"one": "cat", "two": "", "three": None}}, "cat"),
        ({"labels": {"one": ["cat"], "two": []}}, "cat"),
        ({"labels": ["cat"]}, "cat"),
        ({"labels": "cat"}, "cat"),
        ({"labels": {"one": "cat", "two": "cat"}}, "cat"),
    ],
)
def test_answers(tmp_path, answer, label):
    record = read(write(tmp_path, "\ufeff", item(answer), ""))[0]
    assert (record.uri, record.label, record.line) == (OSS, label, 2)
    assert record.origin == f"{tmp_path}/items.manifest:2"


def test_the_documented_item(tmp_path):
    line = (
        '{"data":{"source":"oss://b.oss-cn-hangzhou.aliyuncs.com/a.jpg"},"label-1435504604476547072"'
        ':{"results":[{"questionId":"4","data":"Label 222","markTitle":"Single-choice",'
        '"type":"survey/value"}]}}\r'
    )
    for format in ("auto", "itag", "ClsSourceItag"):
        record = read_records(write(tmp_path, line), format)[0]
        assert record.uri == "oss://b.oss-cn-hangzhou.aliyuncs.com/a.jpg"
        assert record.label == "Label 222"


def test_later_stages_count_over_earlier_ones(tmp_path):
    more = {"label-1-verify": stage("c"), "label-1-check": stage("b")}
    found = labels(
        write(
            tmp_path,
            item("a", "label-1", **more),
            item("a", "label-1", **{"label-1-check": stage("b")}),
            item("a", "label-1", **{"label-1-check": None, "label-1-verify": {}}),
        )
    )
    assert found == ["c", "b", "a"]


def test_items_without_an_answer_are_skipped_and_counted(tmp_path, caplog):
    emptied = item("a", "label-1", **{"label-1-verify": {"results": []}})
    empty = ["", "  ", None, [], {}, {"labels": {}}, {"labels": {"q": None}}, {"labels": None}]
    uri = write(
        tmp_path,
        item("cat"),
        {"data": {"source": OSS}},
        {"data": {"source": OSS}, "label-1": {"results": None}},
        {"data": {"source": OSS}, "label-1": {"results": [{}]}},
        emptied,
        *map(item, empty),
    )
    with caplog.at_level(logging.WARNING, logger="lookalike"):
        assert labels(uri) == ["cat"]
    assert caplog.messages == [f"{uri}: 12 of 13 items skipped: no answer"]
    assert complaint(tmp_path, emptied) == (
        "items.manifest: the manifest holds no labelled image (1 item without an answer)"
    )


def test_images(tmp_path):
    uri = write(
        tmp_path,
        {"data": {"source": "sub/a.jpg"}, "label": stage("1")},
        {"data": {"picture": "/b.jpg"}, "label": stage("2")},
        {"data": {"source": "s3://b/c.jpg", "id": 7}, "label": stage("2")},
    )
    assert [record.uri for record in read(uri)] == [
        f"{tmp_path}/sub/a.jpg",
        "/b.jpg",
        "s3://b/c.jpg",
    ]


def test_bad_lines(tmp_path):
    no_source = "data.source is missing; it must be the image's path or URI"
    only = "only single choices can be read"
    export = "export the manifest again"
    beyond = "is not JSON that can be parsed (number or nesting too large); write one object a line"
    cases = [
        ("{'a': 1}", "\"{'a': 1}\" is not JSON (Expecting property name enclosed in double quotes"
                     " at column 2); write one object a line"),
        ("[1]", "'[1]' is not a JSON object; write one object a line"),
        (item(["cat", "dog"]),
         "2 labels ('cat', 'dog'), but an image has one class; keep one of them, or set "
         "data.label_separator='|' (evaluate: --label-separator '|') to take all"),
        (item("cat", **{"label-2": stage("dog")}),
         "2 labels ('cat', 'dog'), but an image has one class; keep one of them, or set "
         "data.label_separator='|' (evaluate: --label-separator '|') to take all"),
        (item(1.5), f"an answer is neither a text nor an integer; {only}"),
        (item({"x": 1}), f"an answer is an object without 'labels'; {only}"),
        (item("a\nb"), "label 'a\\nb' holds a control character; remove it"),
        ({"label": stage("cat")}, no_source),
        ({"data": {"source": 7}, "label": stage("cat")}, no_source),
        ({"data": {"x": "a", "y": "b"}, "label": stage("cat")}, no_source),
    ]  # fmt: skip
    lines = complaint(tmp_path, *(case for case, _ in cases)).split("\n")
    assert lines == [f"items.manifest:{i}: {text}" for i, (_, text) in enumerate(cases, 1)]
    cases = [
        ({"data": {"source": "a\0"}, "label": stage("cat")},
         "data.source 'a\\x00' holds a control character; remove it"),
        ({"data": {"source": "http://[a"}, "label": stage("cat")},
         "data.source 'http://[a' is not a valid URI; correct it"),
        ({"data": {"source": "a"}, "label": 7}, f"'label' holds no list of results; {export}"),
        ({"data": {"source": "a"}, "label": [7]},
         f"a result of 'label' is not an object; {export}"),
        ("[" * 100_000, f"'{'[' * 77}...' {beyond}"),
        ('{"a": ' + "1" * 5000 + "}",
         f"'{{\"a\": {'1' * 71}...' {beyond}"),
        (item(True), f"an answer is neither a text nor an integer; {only}"),
    ]  # fmt: skip
    lines = complaint(tmp_path, *(case for case, _ in cases)).split("\n")
    assert lines == [f"items.manifest:{i}: {text}" for i, (_, text) in enumerate(cases, 1)]
    assert complaint(tmp_path, *["7"] * 30).endswith("\nand 20 more")


def test_an_empty_manifest(tmp_path):
    assert complaint(tmp_path, "", " ") == (
        "items.manifest: the manifest holds no labelled image (0 items without an answer)"
    )


FUZZ = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
KEYS = st.sampled_from(
    ["data", "source", "label", "label-1", "label-1-check", "label-1-verify", "results", "labels"]
) | st.text(max_size=3)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4)
)
ANSWERS = JSON | st.fixed_dictionaries({"labels": JSON})
ITEMS = st.fixed_dictionaries(
    {"data": st.fixed_dictionaries({"source": LEAVES | st.just("a.jpg")}) | JSON},
    optional={
        key: st.fixed_dictionaries(
            {"results": st.lists(st.fixed_dictionaries({"data": ANSWERS}), max_size=2) | JSON}
        )
        | JSON
        for key in ("label", "label-1-check", "label-1-verify")
    },
)


def check(path) -> None:
    try:
        records = read(str(path))
    except DataError as error:
        lines = str(error).split("\n")
        assert 1 <= len(lines) <= 11
        assert all(line.startswith((str(path), "and ")) for line in lines)
        assert all(line.isprintable() for line in lines)
        return
    assert records
    for record in records:
        assert record.label == record.label.strip() != ""
        assert record.uri
        (record.uri + record.label).encode()


@FUZZ
@given(st.lists(ITEMS | JSON, min_size=1, max_size=4))
@example([{"data": {"source": "\ud800"}, "label": {"results": [{"data": "a"}]}}])
@example([{"data": {"source": "a"}, "label": {"results": [{"data": "\ud800"}]}}])
def test_any_json(tmp_path, items):
    path = tmp_path / "items.manifest"
    path.write_text("\n".join(map(json.dumps, items)))
    check(path)


@FUZZ
@given(st.binary() | st.text().map(str.encode))
def test_any_bytes(tmp_path, content):
    path = tmp_path / "items.manifest"
    path.write_bytes(b"{" + content)
    check(path)


@FUZZ
@given(st.lists(ITEMS, min_size=1, max_size=4))
def test_each_item_is_read_or_skipped(tmp_path, items):
    path = tmp_path / "items.manifest"
    path.write_text("\n".join(map(json.dumps, items)))
    sole = []
    for one in items:  # each alone has the fate that it has among others
        alone = tmp_path / "alone.manifest"
        alone.write_text(json.dumps(one))
        try:
            sole += [(record.uri, record.label) for record in read(str(alone))]
        except DataError as error:
            if "holds no labelled image" not in str(error):
                with pytest.raises(DataError):
                    read(str(path))
                return
    if not sole:
        return
    assert [(record.uri, record.label) for record in read(str(path))] == sole
