"""Indexes in Qdrant and in PostgreSQL with pgvector, beside exact search by NumPy."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import embed_process
import grpc
import numpy as np
import pytest
from postgres_server import PASSWORD, PostgresServer
from qdrant_client import QdrantClient
from qdrant_server import QdrantServer

import lookalike
from lookalike import cli
from lookalike.commands import embed as command
from lookalike.data.inputs import read_places
from lookalike.errors import (
    ConfigError,
    CredentialsError,
    DataError,
    LookalikeError,
    MissingExtraError,
    RunError,
    StorageError,
    UnavailableError,
)
from lookalike.index import pgvector_store, store_address
from lookalike.index.index import Index
from lookalike.index.new_images import id_of
from lookalike.index.qdrant_store import QdrantStore
from lookalike.index.recall_check import check_recall
from lookalike.index.store import SearchHits
from lookalike.index.stored_parts import StoredParts
from lookalike.model.embedder import Embedder
from lookalike.vectors.vector_parts import Part, Request

DIM = 24


def drawn(seed: int, count: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def names(rows: object) -> list[str]:
    return [f"photos/{row}.jpg" for row in rows]


def test_rows_are_added_replaced_searched_and_deleted(address: str) -> None:
    vectors, queries = drawn(1, 3000), drawn(2, 7)
    labels = [f"class {row % 5}" if row % 7 else None for row in range(3000)]
    with Index.open_or_create(address, dim=DIM) as index:
        assert len(index) == 0
        assert index.search(queries, 3).cosines.shape == (7, 0)
        assert index.add(vectors=vectors, ids=names(range(3000)), labels=labels) == 3000
        vectors[:10] = drawn(3, 10)
        index.add(vectors=7 * vectors[:10], ids=names(range(10)), labels=labels[:10])
        assert index.remove(["nothing", *names(range(100, 400)), *names([100])]) == 300
    left = np.r_[0:100, 400:3000]
    with Index.open(address) as index:
        assert (len(index), index.dim, index.model) == (2700, DIM, "")
        cosines = queries.astype(float) @ vectors[left].T.astype(float)
        best = np.argsort(-cosines, axis=1)[:, :20]
        for exact in (True, False):
            hits = index.search(queries, 20, exact=exact)
            assert hits.ids == [names(left[row]) for row in best]
            assert np.allclose(hits.cosines, np.take_along_axis(cosines, best, 1), atol=1e-6)
            assert hits.labels == [[labels[left[i]] for i in row] for row in best]
        some = np.array([labels[row] in ("class 1", "class 3") for row in left])
        among = index.search(queries[0], 9, among=("class 1", "class 3"))
        order = np.argsort(-np.where(some, cosines[0], -2))[:9]
        assert among.ids == [names(left[order])]
        assert len(index.search(queries[0], 5000).ids[0]) == 2700
        assert sorted(index.ids()) == sorted(names(left))
        assert set(index.versions().values()) == {0}
        assert "photos/5.jpg" in index
        assert "photos/150.jpg" not in index
        assert np.allclose(index.vectors(names([7, 2999])), vectors[[7, 2999]], atol=1e-6)
        assert index.records(names([8]))["photos/8.jpg"].label == "class 3"
        with pytest.raises(DataError, match="is not in the index"):
            index.vectors("photos/150.jpg")
        again = copy.copy(index)  # opens the address again
        assert len(again) == index.stats()["images"] == 2700
        again.close()


def test_hnsw_finds_nearly_the_same(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgvector_store, "INDEXED_ROWS", 1000)
    vectors, queries = drawn(4, 2400), drawn(5, 50)
    with Index.create(address, dim=DIM) as index:
        index.add(vectors=vectors, ids=names(range(2400)))
        if address.startswith("postgresql"):
            assert index.stats()["searched_by"] == "hnsw"
        near, exact = (index.search(queries, 10, exact=flag) for flag in (False, True))
        hits = sum(len(set(a) & set(b)) for a, b in zip(near.ids, exact.ids, strict=True))
        assert hits >= 0.97 * 500
        # More than HNSW keeps as candidates, and after many deletions.
        index.remove(names(range(0, 2400, 2)))
        assert len(index.search(queries[:2], 300).ids[1]) == 300
        assert len(index.search(queries[:2], 1190).ids[1]) == 1190


@pytest.mark.filterwarnings("ignore:Local mode performs exact")
def test_a_client_without_a_server_holds_an_index() -> None:
    client = QdrantClient(":memory:")
    store = QdrantStore.create("some", client, model="", dim=DIM, kind="exact")
    with Index(store) as index:
        index.add(vectors=drawn(1, 50), ids=names(range(50)), labels=["a", "b"] * 25)
        assert index.search(drawn(1, 50)[3], 1).ids == [names([3])]
        assert index.search(drawn(1, 50)[3], 1, among="a").ids != [names([3])]
        with pytest.raises(RunError, match="of this name already"):
            QdrantStore.create("some", client, model="", dim=DIM, kind="exact")


def test_other_models_and_other_tables_are_refused(
    address: str, model: Path, postgres: PostgresServer
) -> None:
    embedder = lookalike.load(model, device="cpu")
    with pytest.raises(RunError, match="no index here"):
        Index.open(address)
    Index.create(address, embedder=embedder).close()
    with pytest.raises(RunError, match="of this name already"):
        Index.create(address, embedder=embedder)
    with Index.open_or_create(address, embedder=embedder) as index:
        assert index.model == embedder.trained_fingerprint()
    other = Embedder.create("test_resnet", pretrained=False, image_size=32, embedding_dim=16)
    with pytest.raises(RunError, match="vectors of different models cannot be compared"):
        Index.open(address, other)
    wide = Embedder.create("test_resnet", pretrained=False, image_size=32, embedding_dim=20)
    with pytest.raises(RunError, match="holds vectors of 16 numbers, and this model's have 20"):
        Index.open(address, wide)
    with pytest.raises(DataError, match="kind='int8' is not one of auto, exact, hnsw"):
        Index.create(address, dim=4, kind="int8")


def test_tables_and_collections_of_others_are_refused(
    postgres: PostgresServer, qdrant: QdrantServer
) -> None:
    postgres.execute("CREATE EXTENSION IF NOT EXISTS vector")
    postgres.execute("CREATE TABLE theirs (id text, vector vector(3))")
    qdrant.create("theirs", 3, None, {})
    for place in (postgres.address("theirs"), f"qdrant://127.0.0.1:{qdrant.port}/theirs"):
        with pytest.raises(RunError, match="was not made by lookalike"):
            Index.open(place)
        with pytest.raises(RunError, match="of this name already"):
            Index.create(place, dim=3)


def test_what_the_servers_say_is_one_line(
    postgres: PostgresServer, qdrant: QdrantServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = postgres.port + 1
    for place in (
        f"qdrant://127.0.0.1:{free}/x",
        f"postgresql://someone@127.0.0.1:{free}/db/x",
        "postgresql://someone@no.such.host.invalid/db/x",
    ):
        with pytest.raises(UnavailableError, match="does not answer") as caught:
            Index.open(place)
        assert "\n" not in str(caught.value)
    with pytest.raises(StorageError, match='database "nowhere" does not exist'):
        Index.open(postgres.address("x", "nowhere"))

    over_tcp = postgres.over_tcp("shoes")
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))
    with pytest.raises(CredentialsError, match=r"PGPASSWORD or ~/\.pgpass"):
        Index.create(over_tcp, dim=3)
    monkeypatch.setenv("PGPASSWORD", "wrong-secret")
    with pytest.raises(CredentialsError, match="refuses the credentials") as caught:
        Index.create(over_tcp, dim=3)
    assert "wrong-secret" not in str(caught.value)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    Index.create(over_tcp, dim=3).close()

    postgres.execute("CREATE ROLE guest LOGIN")
    postgres.execute("CREATE DATABASE bare")
    with pytest.raises(RunError, match="lacks the extension vector"):
        Index.open(postgres.address("x", "bare"))
    with pytest.raises(RunError, match="may not create it; ask an administrator"):
        Index.create(postgres.address("x", "bare", "guest"), dim=3)
    with pytest.raises(CredentialsError, match="permission denied"):
        Index.open(postgres.address("shoes", user="guest")).ids()

    with QdrantServer(tmp_path / "keyed", key="right-secret") as server:
        place = f"qdrant://127.0.0.1:{server.port}/x"
        for key in (None, "wrong-secret"):
            if key is not None:
                monkeypatch.setenv("QDRANT_API_KEY", key)
            with pytest.raises(CredentialsError, match="set QDRANT_API_KEY") as caught:
                Index.open(place)
            assert "wrong-secret" not in str(caught.value)
        monkeypatch.setenv("QDRANT_API_KEY", "right-secret")
        (tmp_path / "keyed").mkdir()
        with Index.create(place, dim=3) as index:
            server.fail = grpc.StatusCode.RESOURCE_EXHAUSTED
            with pytest.raises(StorageError, match="Qdrant answers RESOURCE_EXHAUSTED"):
                index.search(np.ones(3), 1)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("qdrant:///some/folder", "they are pickles"),
        ("qdrant://host/", "not of the form"),
        ("qdrant://host:6333/x", "6333 is Qdrant's port for HTTP"),
        ("qdrant://host/x#y", "not of the form"),
        ("qdrant://host/x?key=hidden", "the only parameter"),
        ("qdrant://user:hidden@host/x", "not of the form"),
        ("postgresql://user:hidden@host/db/t", "must not hold a password"),
        ("postgresql://host/db/t?password=hidden", "must not hold a password"),
        ("postgresql://host/db", "not of the form"),
        ("postgresql://host:port/db/x", "'host:port' is no HOST:PORT"),
        ("postgresql://me@a:5432,b:c/db/x", "'b:c' is no HOST:PORT"),
        ("postgresql://host/db/a.b.c", "a table is TABLE or SCHEMA"),
        ("postgresql://host/db/ro;bert", "not of the form"),
        ("s3://bucket/x", "mapped into memory; give a folder"),
    ],
)
def test_wrong_addresses(place: str, message: str) -> None:
    for use in (Index.open, lambda place: Index.create(place, dim=3)):
        with pytest.raises(LookalikeError, match=message) as caught:
            use(place)
        assert "hidden" not in str(caught.value)
        assert isinstance(caught.value, (ConfigError, RunError))


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a wrong address before them, as it can be corrected without."""
    for package, extra, right, wrong in (
        ("qdrant_client", "qdrant", "qdrant://host/t", "qdrant://host:6333/t"),
        ("psycopg", "pgvector", "postgresql://host/db/t", "postgresql://host/db"),
    ):
        monkeypatch.setitem(__import__("sys").modules, package, None)
        assert store_address.BACKENDS[right.partition(":")[0]].extra == extra
        for use in (Index.open, store_address.check_client):
            with pytest.raises(MissingExtraError, match=rf"lookalike\[{extra}\]"):
                use(right)
        for use in (Index.open, store_address.check_index_place):
            with pytest.raises(ConfigError):
                use(wrong)


def test_an_address_is_checked_before_the_model_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As is its client: there is no model here, which each command would name."""
    wrong, right = "qdrant://host:6333/t", "qdrant://host/t"
    monkeypatch.setitem(__import__("sys").modules, "qdrant_client", None)
    model = tmp_path / "none"
    for use in (
        lambda place: lookalike.embed(model, tmp_path, place),
        lambda place: lookalike.search(model, tmp_path, index=place),
    ):
        with pytest.raises(ConfigError, match="6333 is Qdrant's port for HTTP"):
            use(wrong)
        with pytest.raises(MissingExtraError, match=r"lookalike\[qdrant\]"):
            use(right)
    with pytest.raises(RunError, match="mapped into memory; give a folder"):
        lookalike.search(model, tmp_path, index="s3://bucket/x")


def test_search_keeps_its_index_in_a_database(address: str, model: Path, photos: Path) -> None:
    query, words = photos / "101/2.jpg", {"device": "cpu", "threads": 1, "k": 21}
    expected = lookalike.search(model, query, index=photos.parent / "x", gallery=photos, **words)
    found = lookalike.search(model, query, index=address, gallery=photos, **words)
    assert [one.id for one in found.answers[0].neighbours] == [
        one.id for one in expected.answers[0].neighbours
    ]
    (photos / "alone.jpg").unlink()
    found = lookalike.search(
        model, query, index=address, add=photos / "103", remove=[photos / "100", "*/alone.jpg"],
        html=photos.parent / "page.html", **words,
    )  # fmt: skip
    assert len(found.index) == 16
    assert found.answers[0].neighbours[0].id == str(query)
    assert "data:image" in (photos.parent / "page.html").read_text()
    for outcome in (found, expected):
        outcome.index.close()


def test_embed_writes_into_a_database_and_resumes(
    address: str, model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, cache: Path,
) -> None:  # fmt: skip
    caplog.set_level("INFO")
    for copied in "abc":
        shutil.copytree(photos / "101", photos / copied / "more")
        shutil.copytree(photos / "102", photos / copied / "most")
        shutil.copytree(photos / "103", photos / copied / "rest")
        shutil.copytree(photos / "104", photos / copied / "last")
    monkeypatch.setattr(command, "PART_SIZE", 64)
    words = {"device": "cpu", "threads": 1}
    with monkeypatch.context() as patch:
        write = StoredParts.write

        def cut_off(parts: StoredParts, number: int, part: object) -> None:
            write(parts, number, part)
            if number == 0:
                raise KeyboardInterrupt

        patch.setattr(StoredParts, "write", cut_off)
        with pytest.raises(KeyboardInterrupt):
            lookalike.embed(model, photos, address, **words)
    with Index.open(address) as index:
        assert len(index) == 64
    assert lookalike.embed(model, photos, address, **words) == 69
    assert "64 of 69 images were done before" in caplog.text
    caplog.clear()
    found = lookalike.search(
        model, photos / "101/2.jpg", index=address, gallery=photos, k=21, **words
    )
    assert "added" not in caplog.text
    caplog.clear()
    paths = sorted(map(str, photos.rglob("*.jpg")))
    vectors = lookalike.load(model, device="cpu").embed(paths)
    assert sorted(found.index.ids()) == paths
    assert np.allclose(found.index.vectors(paths), vectors, atol=1e-6)
    assert found.index.records(paths[:1])[paths[0]].label == "100"
    found.index.close()


def test_rows_that_the_database_has_lost_are_embedded_again(
    address: str, model: Path, photos: Path, tmp_path: Path
) -> None:
    embedder = lookalike.load(model, device="cpu")
    records = read_places([photos])
    request = Request(embedder.fingerprint(), "", 21, 16, 8)
    with Index.open_or_create(address, embedder=embedder) as index:
        parts = StoredParts(tmp_path / "parts", request, index, records)
        parts.begin(restart=False)
        vectors = embedder.embed([record.uri for record in records])
        for number in range(3):
            rows = np.array(request.rows(number))
            parts.write(number, Part(rows, vectors[rows], {}))
        assert (parts.missing(), len(index), parts.sizes()) == ([], 21, 21)
        index.remove(id_of(records[9]))
        parts.begin(restart=False)
        assert parts.missing() == [1]
        parts.begin(restart=True)
        assert parts.missing() == [0, 1, 2]


@pytest.mark.slow
def test_a_killed_embed_loses_nothing(
    postgres: PostgresServer, model: Path, photos: Path, cache: Path
) -> None:
    address = postgres.address("killed")
    kills = [*range(1, 40, 9), 10_000]
    done = subprocess.run(
        [sys.executable, embed_process.__file__, str(model), str(photos), address],
        input="".join(f"{kill}\n" for kill in kills),
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "killed" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("whole 0")
    paths = sorted(map(str, photos.rglob("*.jpg")))
    with Index.open(address) as index:
        assert sorted(index.ids()) == paths
        vectors = lookalike.load(model, device="cpu").embed(paths)
        assert np.allclose(index.vectors(paths), vectors, atol=1e-6)


def test_recall_is_counted_against_an_exact_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    vectors = np.repeat(drawn(6, 300), 2, axis=0)  # each twice, so that there are ties
    with Index.create(tmp_path / "x", dim=DIM, kind="exact") as index:
        index.add(vectors=vectors, ids=names(range(600)))
        found = check_recall(index, 50, 7)
        assert (found.queries, found.own, found.recall, found.worst) == (50, True, 1.0, 1.0)
        assert found.cosine_error < 1e-6
        assert 0 < found.p50_ms <= found.p99_ms
        search = index.store.search

        def half(queries, k, *, exact, among):
            hits = search(queries, k, exact=exact, among=among)
            kept = [0, *range(1, k, 2)]  # every second neighbour
            ids, labels = (
                [[row[i] for i in kept] for row in rows] for rows in (hits.ids, hits.labels)
            )
            return SearchHits(ids, hits.cosines[:, kept], labels)

        monkeypatch.setattr(index.store, "search", half)
        assert check_recall(index, 50, 8).recall == pytest.approx(0.5)
        new = check_recall(index, 0, 9, queries=drawn(7, 20))
        assert (new.own, new.queries) == (False, 20)
        assert new.recall == pytest.approx(5 / 9)
        index.remove(names(range(1, 600)))
        with pytest.raises(DataError, match="has no two images"):
            check_recall(index, 5)


def test_the_command_reports_recall_and_latency(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = ["lookalike", "search", str(model), "--index", str(tmp_path / "x")]
    monkeypatch.setattr(sys, "argv", [*words, "--gallery", str(photos), "--check", "9", "-k", "3"])
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().out
    assert "recall of the 3 nearest: 100.00 % of 9 queries" in said
    assert "p50" in said
    monkeypatch.setattr(sys, "argv", [*words, "--check", "5", "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    assert json.loads(capsys.readouterr().out)["check"]["queries"] == 5
