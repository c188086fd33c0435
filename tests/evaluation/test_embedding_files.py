"""`lookalike evaluate --embeddings`: files of any program, and errors."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import lookalike
from lookalike.errors import ConfigError, DataError
from lookalike.evaluation.testset import from_files
from lookalike.metrics.clustering import nmi
from lookalike.metrics.scores import score
from lookalike.storage.claimed_sizes import read_npy
from program import run

IMAGES = 60


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def drawn():
    generator = np.random.default_rng()
    labels = np.repeat(np.arange(12), 5)
    vectors = generator.normal(size=(12, 8))[labels] + generator.normal(size=(IMAGES, 8))
    return vectors.astype(np.float32), labels


def table(name, vectors, labels, **more):
    columns = {"vector": list(vectors), "label": labels, **more}
    pq.write_table(pa.table(columns), name)


def evaluate(monkeypatch, *arguments):
    return run(monkeypatch, "evaluate", *arguments)


def figures(monkeypatch, capsys, name):
    assert evaluate(monkeypatch, "--embeddings", name, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_roles_are_read_as_in_any_table(folder, monkeypatch, capsys):
    vectors, labels = drawn()
    asks = np.arange(IMAGES) % 5 < 2
    kinds = {
        "bool": (asks, ~asks),
        "text": tuple([["False", "True"][int(x)] for x in one] for one in (asks, ~asks)),
        "number": (asks.astype(float), (~asks).astype(np.int64)),
    }
    found = {}
    for name, (query, gallery) in kinds.items():
        table(f"{name}.parquet", vectors, labels, is_query=query, is_gallery=gallery)
        found[name] = figures(monkeypatch, capsys, f"{name}.parquet")
        assert (found[name]["queries"], found[name]["gallery"]) == (24, 36)
    for name in ("text", "number"):
        assert found[name]["intervals"] == found["bool"]["intervals"]
    table("junk.parquet", vectors, labels, is_query=["maybe"] * IMAGES)
    assert evaluate(monkeypatch, "--embeddings", "junk.parquet") == 2
    assert "junk.parquet:1: is_query is 'maybe'; write true or false" in capsys.readouterr().err


def test_empty_cells_are_ignored(folder, monkeypatch, capsys):
    vectors, labels = drawn()
    table("plain.parquet", vectors, labels)
    plain = figures(monkeypatch, capsys, "plain.parquet")
    for name in ("sequence", "camera"):
        table("empty.parquet", vectors, labels, **{name: [""] * IMAGES})
        found = figures(monkeypatch, capsys, "empty.parquet")
        assert (found["map_at_r"], found["queries"]) == (plain["map_at_r"], plain["queries"])


def test_every_kind_of_float_is_measured(folder, monkeypatch, capsys):
    vectors, labels = drawn()
    Path("labels.txt").write_text("".join(f"{label}\n" for label in labels))
    expected = score(vectors, labels).map_at_r
    for kind in ("<f4", ">f4", "<f8", ">f8", np.longdouble):
        np.save("x.npy", np.asfortranarray(vectors.astype(kind)))
        assert evaluate(
            monkeypatch, "--embeddings", "x.npy", "--labels", "labels.txt", "--json"
        ) == 0  # fmt: skip
        assert json.loads(capsys.readouterr().out)["map_at_r"] == pytest.approx(expected, abs=1e-6)


def _write_broken(name):
    vectors, labels = drawn()
    buffer = io.BytesIO()
    if name == "archive.npy":
        np.savez(buffer, vectors)
        Path(name).write_bytes(buffer.getvalue())
    elif name == "text.npy":
        Path(name).write_text("0.5 0.25\n")
    elif name == "integers.npy":
        np.save(name, (100 * vectors).astype(np.int8))
    elif name == "nan.npy":
        vectors[7, 3] = np.nan
        np.save(name, vectors)
    elif name == "null.parquet":
        table(name, [*vectors[:4], None, *vectors[5:]], labels)
    elif name == "hole.parquet":
        rows = vectors.tolist()
        rows[9][2] = None
        table(name, rows, labels)
    elif name == "text.parquet":
        table(name, ["0.5,0.25"] * IMAGES, labels)
    else:
        table(name, [*vectors[:6], vectors[6][:5], *vectors[7:]], labels)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("archive.npy", "not a .npy file of numbers"),
        ("text.npy", "not a .npy file of numbers"),
        ("integers.npy", "int8 of shape (60, 8); write them as float32"),
        ("nan.npy", "nan.npy: vector 7 (from 0) is not finite"),
        ("null.parquet", "row 5 holds no vector"),
        ("hole.parquet", "row 10 lacks a number"),
        ("text.parquet", "the column vector holds string; expected lists of numbers"),
        ("ragged.parquet", "row 7 has 5 numbers, row 1 has 8"),
    ],
)
def test_errors_name_file_and_row(folder, monkeypatch, capsys, name, said):
    _write_broken(name)
    labels = []
    if name.endswith(".npy"):
        Path("labels.txt").write_text("1\n" * IMAGES)
        labels = ["--labels", "labels.txt"]
    assert evaluate(monkeypatch, "--embeddings", name, *labels) == 2
    message = capsys.readouterr().err
    assert name in message
    assert said in message
    assert "diverged" not in message
    assert "pickle" not in message


def test_mismatched_paths_are_refused(folder, monkeypatch, capsys):
    vectors, labels = drawn()
    np.save("x.npy", vectors)
    Path("labels.txt").write_text("".join(f"{label}\n" for label in labels))
    Path("x.paths.txt").write_text("a.jpg\n" * 59)
    assert evaluate(monkeypatch, "--embeddings", "x.npy", "--labels", "labels.txt") == 2
    assert "x.paths.txt: 59 paths of 60 vectors" in capsys.readouterr().err


def test_a_table_in_a_pipe_is_not_cut_off(folder, monkeypatch, capsys):
    labels = np.repeat(np.arange(12), [25] * 6 + [5] * 6)  # of two sizes
    vectors = np.random.default_rng().normal(size=(len(labels), 8))
    monkeypatch.setenv("COLUMNS", "40")
    names = ["m[/red].parquet", "[bold]x.parquet", "plain.parquet", "d.parquet"]
    Path("m[").mkdir()
    for name in names:
        noise = np.random.default_rng().normal(size=vectors.shape)
        table(name, vectors + 0.1 * noise, labels)
    pairs = [part for name in names for part in ("--embeddings", name)]
    assert evaluate(monkeypatch, *pairs) == 0
    shown = capsys.readouterr().out
    assert "…" not in shown
    for name in names:
        assert f"classes by gallery images, {name}" in shown
    [head] = [line for line in shown.splitlines() if line.startswith("%")]
    assert head.split()[-1] == "p"
    assert head.count("95 % interval") == 3


@pytest.mark.parametrize(
    ("k", "said"),
    [
        ("9223372036854775808", "--k 9223372036854775808"),
        ("9000000000", "k = 9000000000: every k is a number from 1 to 1,000,000,000"),
        ("1,,2", "--k 1,,2"),
        ("1e3", "--k 1e3"),
        ("0", "k = 0: every k"),
    ],
)
def test_invalid_k(folder, monkeypatch, capsys, k, said):
    vectors, labels = drawn()
    table("x.parquet", vectors, labels)
    assert evaluate(monkeypatch, "--embeddings", "x.parquet", "--k", k) == 2
    assert said in capsys.readouterr().err


def test_python_takes_arrays_paths_and_one_file(folder):
    vectors, labels = drawn()
    assert score(vectors, labels) == score(torch.from_numpy(vectors), torch.from_numpy(labels))
    assert nmi(vectors, labels) == nmi(torch.from_numpy(vectors), labels)
    np.save("x.npy", vectors)
    Path("labels.txt").write_text("".join(f"{label}\n" for label in labels))
    found = lookalike.compare(
        embeddings="x.npy", labels=Path("labels.txt"), per_class=Path("c.csv"), output=Path("out")
    )
    assert found.evaluations[0].scores == score(vectors, labels)
    assert Path("out/evaluation.json").exists()
    assert Path("c.csv").exists()
    with pytest.raises(ValueError, match="number"):
        score(vectors, labels.astype(str))
    with pytest.raises(ValueError, match="shape"):
        score(vectors[:, :0], labels)
    with pytest.raises(ValueError, match="every k"):
        score(vectors, labels, ks=(1.5,))
    with pytest.raises(ConfigError, match="k = 0"):
        lookalike.compare(embeddings="x.npy", labels="labels.txt", recall=(0,))


def test_labels_beside_an_array_are_taken(folder, monkeypatch, capsys):
    vectors, labels = drawn()
    np.save("x.npy", vectors)
    Path("given.txt").write_text("".join(f"{label}\n" for label in labels))
    assert evaluate(monkeypatch, "--embeddings", "x.npy", "--labels", "given.txt", "--json") == 0
    expected = json.loads(capsys.readouterr().out)
    assert evaluate(monkeypatch, "--embeddings", "x.npy") == 2
    assert "give them with --labels" in capsys.readouterr().err
    Path("given.txt").rename("x.labels.txt")
    assert figures(monkeypatch, capsys, "x.npy")["map_at_r"] == expected["map_at_r"]
    Path("x.labels.txt").write_text("one\n")
    assert evaluate(monkeypatch, "--embeddings", "x.npy") == 2
    assert "x.labels.txt: 1 labels of 60 vectors" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(2**40, 8), (60, 2**50), (61, 8), (2**62, 2**62), (59, 8)])
def test_a_header_that_claims_another_size_takes_no_memory(folder, monkeypatch, capsys, shape):
    np.save("x.npy", drawn()[0])
    with open("x.npy", "rb+") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
    assert evaluate(monkeypatch, "--embeddings", "x.npy") == 2
    assert "its header claims" in capsys.readouterr().err


def varint(number: int) -> bytes:
    found = b""
    while number > 127:
        found += bytes([number & 127 | 128])
        number >>= 7
    return found + bytes([number])


def test_a_footer_that_claims_more_than_the_file_holds_takes_no_memory(folder, monkeypatch, capsys):
    """The number of rows and values (60) in Thrift's zigzag form, in place of which 2^40 stands."""
    table("x.parquet", *drawn())
    content = Path("x.parquet").read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    begin = len(content) - 8 - length
    body, footer = content[:begin], content[begin:-8]
    places = [at for at in range(len(footer)) if footer[at : at + 2] == b"\x16" + varint(2 * 60)]
    assert places
    for at in places:
        for claim in (2**40, 2**62):
            wrong = footer[: at + 1] + varint(2 * claim) + footer[at + 2 :]
            size = len(wrong).to_bytes(4, "little")
            Path("x.parquet").write_bytes(body + wrong + size + b"PAR1")
            assert evaluate(monkeypatch, "--embeddings", "x.parquet") == 2
            assert "x.parquet: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    ["", "{", "{'descr': '<f4", "{'descr': '<f4', 'shape': (3, 2), 'fortran_order': 0", "[" * 500,
     "{'descr': 'no', 'fortran_order': False, 'shape': (1,)}", "{1: 2}", "\0\0", "x = 3", "é"],
)  # fmt: skip
def test_unparsable_headers_are_refused(text):
    header = text.encode("latin-1") + b"\n"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with pytest.raises(DataError, match=r"^x\.npy: not a \.npy file of numbers"):
        read_npy(io.BytesIO(data), len(data), "x.npy")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_blank_lines_behind_the_labels_are_no_labels(folder, end):
    np.save("v.npy", np.eye(4, 8, dtype=np.float32))
    Path("l.txt").write_bytes(end.join(["a", "a", "b", "b", "", ""]).encode())
    test, _ = from_files(["v.npy"], "l.txt")
    assert len(test.catalog) == 4
