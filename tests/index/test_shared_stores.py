"""Stores that several workers, machines and processes fill at the same time."""

from __future__ import annotations

import shutil
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import psycopg
import pytest
from postgres_server import PostgresServer
from qdrant_client import QdrantClient, models
from qdrant_server import QdrantServer

import lookalike
from lookalike.commands import embed as command
from lookalike.distributed.world import World
from lookalike.errors import RunError, UnavailableError
from lookalike.index import pgvector_store
from lookalike.index.database_address import parse_qdrant
from lookalike.index.index import Index
from lookalike.index.postgres_connections import reported
from lookalike.index.store import ModelCheck
from lookalike.index.store_address import create_store
from lookalike.vectors.vector_parts import Parts

DIM = 8


def drawn(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


def together(action, count: int) -> list:
    """What `count` calls at the same time return."""
    barrier = threading.Barrier(count)

    def wait_and_act(_):
        barrier.wait()
        return action()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(wait_and_act, range(count)))


@pytest.fixture
def many(photos: Path) -> Path:
    """Two parts of 64 images: 69, of which two cannot be read."""
    for copied in "abc":
        for klass in ("101", "102", "103", "104"):
            shutil.copytree(photos / klass, photos / copied / klass)
    for name in ("100/1.jpg", "c/104/3.jpg"):
        (photos / name).write_bytes(b"no image")
    return photos


def test_each_machine_puts_its_parts_into_a_database(
    address: str, model: Path, many: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(command, "PART_SIZE", 64)
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "1"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)

    def on_machine(rank: int, **more) -> int:
        caplog.clear()
        caplog.set_level("INFO")
        monkeypatch.setenv("RANK", str(rank))
        return lookalike.embed(model, many, address, device="cpu", threads=1, **more)

    assert on_machine(1) == 4
    assert "left out" in caplog.text
    assert on_machine(0) == 63
    (many / "100/1.jpg").unlink()
    paths = sorted(map(str, many.rglob("*.jpg")))[:-1]
    with Index.open(address) as index:
        assert sorted(index.ids()) == paths
        vectors = lookalike.load(model, device="cpu").embed(paths)
        assert np.allclose(index.vectors(paths), vectors, atol=1e-6)
    (many / "c/104/3.jpg").unlink()  # now nothing is left to do, on either machine
    assert (on_machine(1), on_machine(0)) == (0, 0)
    assert "resumed: 1 of the 1 parts of this worker are in" in caplog.text
    assert on_machine(1, restart=True) == 3
    with Index.open(address) as index:
        index.remove(paths[5])
    assert (on_machine(1), on_machine(0)) == (0, 64)


def test_another_worker_of_the_machine_puts_its_parts_there_too(
    postgres: PostgresServer, model: Path, many: Path, monkeypatch: pytest.MonkeyPatch, cache: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """The main worker makes the index, and goes on with what the other one has not done."""

    class Second(World):
        def all_gather_object(self, value):
            return [[0, 1], value]

        def barrier(self):
            Index.create(address, embedder=lookalike.load(model, device="cpu")).close()

    monkeypatch.setattr(command, "PART_SIZE", 64)
    address = postgres.address("two_workers")
    with monkeypatch.context() as patch:
        patch.setattr(World, "from_env", lambda device: Second(rank=1, size=2, local_size=2))
        patch.setattr(Parts, "begin", lambda parts, restart: parts.folder.mkdir(parents=True))
        patch.setattr(command, "read_once", lambda read, world: read())
        assert lookalike.embed(model, many, address, threads=1, device="cpu") == 0
    with Index.open(address) as index:
        assert len(index) == 4
    caplog.set_level("INFO")
    [done] = (cache / "lookalike/embedding").glob("two_workers-*/*.part")
    assert done.name == "000001.part"
    assert lookalike.embed(model, many, address, threads=1, device="cpu") == 67
    with Index.open(address) as index:
        assert len(index) == 67


def test_processes_may_create_the_same_index(address: str) -> None:
    for index in together(lambda: Index.open_or_create(address, dim=DIM), 4):
        assert len(index) == 0
        index.close()


def test_hnsw_is_built_once(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgvector_store, "INDEXED_ROWS", 500)
    with Index.create(postgres.address("once"), dim=DIM) as index, index.loading():
        index.add(vectors=drawn(0, 1000), ids=list(map(str, range(1000))))
        together(index.compact, 3)
    with psycopg.connect(postgres.conninfo()) as connection:
        [indexes] = connection.execute(
            "SELECT count(*) FROM pg_indexes WHERE tablename = 'once' AND indexdef LIKE '%hnsw%'"
        ).fetchone()
    assert indexes == 1


def test_additions_of_the_same_images_do_not_deadlock(postgres: PostgresServer) -> None:
    vectors = drawn(1, 2)
    with (
        Index.create(postgres.address("ordered"), dim=DIM) as index,
        psycopg.connect(postgres.conninfo()) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        index.add(vectors=vectors, ids=["a", "z"])
        other.execute("UPDATE ordered SET version = 1 WHERE id = 'a'")
        adding = pool.submit(index.add, vectors=vectors, ids=["z", "a"])
        waiting = "SELECT 1 FROM pg_locks WHERE NOT granted"
        with psycopg.connect(postgres.conninfo(), autocommit=True) as observer:
            while not adding.done() and not observer.execute(waiting).fetchone():
                pass
        other.execute("SET lock_timeout = '5s'")
        other.execute("UPDATE ordered SET version = 1 WHERE id = 'z'")
        other.commit()
        assert adding.result(20) == 2


def test_a_user_who_may_only_write_can_add(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pgvector_store, "INDEXED_ROWS", 10)
    Index.create(postgres.address("written"), dim=DIM).close()
    postgres.execute("CREATE ROLE writer LOGIN")
    postgres.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON written TO writer")
    with Index.open(postgres.address("written", user="writer")) as index:
        assert index.add(vectors=drawn(2, 20), ids=list(map(str, range(20)))) == 20
        assert "HNSW is not built" in caplog.text
        assert "must be owner of table written" in caplog.text
        assert index.remove("3") == 1


def test_a_server_that_was_started_again_is_asked_again(postgres: PostgresServer) -> None:
    with Index.create(
        postgres.address("kept").replace("postgresql:", "postgres:"), dim=DIM
    ) as index:
        index.add(vectors=drawn(3, 5), ids=list("abcde"))
        postgres.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        assert index.search(drawn(3, 5)[2], 1).ids == [["c"]]


def test_an_address_may_be_of_ipv6() -> None:
    assert parse_qdrant("qdrant://[::1]:7/x") == ("[::1]", 7, "x", False)


@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError("connection failed: FATAL:  the database system is starting up"),
        psycopg.errors.TooManyConnections("FATAL:  sorry, too many clients already"),
        psycopg.errors.AdminShutdown("terminating connection due to administrator command"),
    ],
)
def test_a_server_that_is_not_ready_may_be_asked_again(error: psycopg.Error) -> None:
    with pytest.raises(UnavailableError, match="PostgreSQL does not answer"), reported("place"):
        raise error


def test_points_of_other_programs_are_named(qdrant: QdrantServer) -> None:
    place = f"qdrant://127.0.0.1:{qdrant.port}/strangers"
    with Index.create(place, dim=DIM) as index:
        index.add(vectors=drawn(4, 3), ids=list("abc"))
        point = models.PointStruct(id=str(uuid.uuid4()), vector=[1.0] * DIM, payload={})
        with closing(
            QdrantClient(grpc_port=qdrant.port, prefer_grpc=True, check_compatibility=False)
        ) as other:
            other.upsert("strangers", [point])
        for use in (index.ids, lambda: index.search(np.ones(DIM, np.float32), 1)):
            with pytest.raises(RunError, match="another program has put points into this"):
                use()
    qdrant.create("no_model", DIM, None, {"format": "lookalike gallery 1"})
    with pytest.raises(RunError, match="was not made by lookalike"):
        Index.open(f"qdrant://127.0.0.1:{qdrant.port}/no_model")


@pytest.mark.parametrize("kind", ["folder", "postgresql", "qdrant"])
@pytest.mark.parametrize("dim", [DIM, DIM + 1])
def test_an_index_that_another_model_replaces_is_refused_where_it_is_open(
    kind: str, dim: int, request: pytest.FixtureRequest, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(ModelCheck, "SECONDS", 0)
    name = f"replaced{dim}"
    if kind == "folder":
        address = str(tmp_path / name)
        remove = partial(shutil.rmtree, address)
    elif kind == "postgresql":
        server = request.getfixturevalue("postgres")
        address = server.address(name)
        remove = partial(server.execute, f"DROP TABLE {name}")
    else:
        port = request.getfixturevalue("qdrant").port
        address = f"qdrant://127.0.0.1:{port}/{name}"
        client = QdrantClient(grpc_port=port, prefer_grpc=True, check_compatibility=False)
        request.addfinalizer(client.close)
        remove = partial(client.delete_collection, name)

    with Index.create(address, dim=DIM) as index:
        index.add(vectors=drawn(1, 3), ids=["a", "b", "c"])
        remove()
        with Index.create(address, dim=DIM) as same:  # the same model: searched as before
            same.add(vectors=drawn(2, 2), ids=["d", "e"])
        assert sorted(index.search(drawn(3, 1), 9).ids[0]) == ["d", "e"]
        remove()
        store = create_store(address, model="ab" * 16, dim=dim, kind="auto")
        with closing(store):
            with pytest.raises(RunError, match="was replaced by an index of another model"):
                index.search(drawn(3, 1), 9)
            with pytest.raises(RunError, match="was replaced by an index of another model"):
                index.add(vectors=drawn(3, 1), ids=["f"])
            assert store.count() == 0
