"""The index against brute force in float64, and against one that is built anew."""

import numpy as np
import pytest
import torch

from lookalike.errors import DataError, MissingExtraError, RunError, StorageError
from lookalike.gallery import approximate, scan, upkeep
from lookalike.gallery.index import KINDS, Index
from lookalike.gallery.segment import encode
from lookalike.storage.locking import locked


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Structures and merges from few rows on."""
    monkeypatch.setattr(upkeep, "_CODED", 64)
    monkeypatch.setattr(upkeep, "_STRUCTURED", 500)
    monkeypatch.setattr(upkeep, "_SMALLEST", 32)


def cloud(seed: int, count: int, dim: int = 24) -> np.ndarray:
    """Vectors in clusters, of any length, some of them twice."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, count // 20), dim))
    found = centres[rng.integers(0, len(centres), count)] + 0.4 * rng.standard_normal((count, dim))
    found[count // 2 : count // 2 + count // 10] = found[: count // 10]
    return (found * rng.uniform(0.1, 9, (count, 1))).astype(np.float32)


def brute(queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Cosines (Q, N) in float64."""
    q, v = queries.astype(np.float64), vectors.astype(np.float64)
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    return q @ (v / np.linalg.norm(v, axis=1, keepdims=True)).T


def agree(index: Index, queries: np.ndarray, gallery: dict[str, np.ndarray], k: int) -> float:
    """Check cosines and order; returns the recall."""
    found = index.search(queries, k)
    ids = list(gallery)
    cosines = brute(queries, np.stack(list(gallery.values())))
    best = -np.sort(-cosines, axis=1)[:, :k]
    hits = 0
    assert found.cosines.shape == (len(queries), min(k, len(gallery)))
    for query, row in enumerate(found.ids):
        assert len(set(row)) == len(row)
        true = [cosines[query, ids.index(id)] for id in row]
        assert np.allclose(found.cosines[query], true, atol=3e-7)
        assert (np.diff(found.cosines[query]) <= 0).all()
        hits += int((np.array(true) >= best[query, -1] - 3e-7).sum())
    return hits / found.cosines.size


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 10])
def test_nearest_are_those_of_brute_force(tmp_path, kind, k):
    vectors = cloud(k, 1500)
    ids = [f"photos/{i}.jpg" for i in range(len(vectors))]
    index = Index.create(tmp_path / "x", dim=24, kind=kind)
    assert index.add(vectors=vectors, ids=ids) == 1500
    queries = np.concatenate([vectors[:40], cloud(100 + k, 60)])
    gallery = dict(zip(ids, vectors, strict=True))
    least = 0.9 if kind in ("ivf", "hnsw") else 1
    assert agree(index, queries, gallery, k) >= least
    removed = ids[100:700]
    assert index.remove([*removed, "nowhere.jpg"]) == 600
    for id in removed:
        del gallery[id]
    assert index.stats()["removed_rows"] == 600  # not yet rewritten
    assert agree(index, queries, gallery, k) >= least
    assert not set(removed) & {id for row in index.search(vectors[100:700], k).ids for id in row}
    how = {"auto": "int8", "exact": "float32"}.get(kind, kind)
    assert index.stats()["searched"] == {how: 900}


@pytest.mark.parametrize("kind", ["exact", "int8", "hnsw"])
def test_changes_lead_to_the_index_that_is_built_anew(tmp_path, kind):
    rng = np.random.default_rng(5)
    index = Index.create(tmp_path / "x", dim=24, kind=kind)
    gallery: dict[str, np.ndarray] = {}
    for step in range(30):
        some = [f"{i}" for i in rng.choice(900, rng.integers(1, 90), replace=False)]
        if step % 3 == 2:
            assert index.remove(some) == len(gallery.keys() & set(some))
            for id in some:
                gallery.pop(id, None)
        else:
            vectors = cloud(step, len(some))
            index.add(vectors=vectors, ids=some)
            for id, vector in zip(some, vectors, strict=True):
                gallery.pop(id, None)  # it moves to the end
                gallery[id] = vector
        assert len(index) == len(gallery)
    assert index.ids() == list(gallery)
    assert index.stats()["segments"] < 20
    fresh = Index.create(tmp_path / "y", dim=24, kind=kind)
    fresh.add(vectors=np.stack(list(gallery.values())), ids=list(gallery))
    queries = cloud(77, 50)
    if kind == "hnsw":
        assert agree(index, queries, gallery, 10) >= 0.95
    else:
        one, other = index.search(queries, 10), fresh.search(queries, 10)
        assert one.ids == other.ids
        assert (one.cosines == other.cosines).all()
    before = index.search(queries, 10, exact=True)
    index.compact()
    assert index.stats()["segments"] == 1
    assert index.stats()["removed_rows"] == 0
    after = Index.open(tmp_path / "x").search(queries, 10, exact=True)
    assert before.ids == after.ids
    assert (before.cosines == after.cosines).all()
    assert (index.vectors(list(gallery)) == fresh.vectors(list(gallery))).all()


def test_an_id_is_there_once_and_the_last_counts(tmp_path):
    a, b, c = np.eye(3, dtype=np.float32)
    index = Index.create(tmp_path / "x", dim=3)
    index.add(vectors=np.stack([a, b, c]), ids=["i", "j", "i"], labels=["A", "B", "C"])
    assert len(index) == 2
    assert index.search(a[None], 3).ids == [["j", "i"]]
    found = index.search(c[None], 1)
    assert (found.ids, found.labels, found.cosines.tolist()) == ([["i"]], [["C"]], [[1.0]])
    index.add(vectors=a[None], ids=["i"])
    assert len(index) == 2
    assert index.search(a[None], 1).labels == [[None]]
    assert "i" in index
    assert "k" not in index


def test_equal_vectors_keep_their_order_in_every_place(tmp_path):
    """A collapsed model: all rows are candidates, and the first added come first."""
    one = np.ones((1, 24), np.float32)
    index = Index.create(tmp_path / "x", dim=24, kind="int8")
    for step in range(5):
        index.add(vectors=np.repeat(one, 90, 0), ids=[f"{step}-{i:02}" for i in range(90)])
    found = index.search(np.repeat(one, 3, 0), 100)
    assert found.ids == [[f"0-{i:02}" for i in range(90)] + [f"1-{i:02}" for i in range(10)]] * 3
    assert (found.cosines == 1).all()


def test_codes_leave_out_what_they_say():
    vectors = cloud(3, 500).astype(np.float32)
    vectors[0] = 0
    vectors[0, 3] = 1  # the worst case for one scale for all numbers
    codes, scales, left = encode(vectors)
    rest = vectors.astype(np.float64) - codes.astype(np.float64) * scales[:, None]
    assert np.allclose(np.linalg.norm(rest, axis=1), left, rtol=1e-3, atol=1e-6)
    assert codes.min() >= -127


def test_without_int8_products_the_numbers_are_used(tmp_path, monkeypatch):
    index = Index.create(tmp_path / "x", dim=24, kind="int8")
    vectors = cloud(4, 300)
    index.add(vectors=vectors, ids=list(map(str, range(300))))
    found = index.search(vectors[:5], 7)
    real = torch._int_mm

    def saturating(a, b):
        return real(a, b).clamp(-32768, 32767)

    scan.int8_is_right.cache_clear()
    monkeypatch.setattr(torch, "_int_mm", saturating)
    assert not scan.int8_is_right()
    again = index.search(vectors[:5], 7)
    scan.int8_is_right.cache_clear()
    assert again.ids == found.ids
    assert (again.cosines == found.cosines).all()


def test_an_empty_index_and_few_images(tmp_path):
    index = Index.create(tmp_path / "x", dim=4)
    assert index.search(np.ones((2, 4), np.float32)).ids == [[], []]
    index.add(vectors=np.eye(4, dtype=np.float64), ids=list("abcd"))
    assert index.search(np.ones((1, 4), np.float16), 9).ids == [list("abcd")]
    assert index.remove("abcd") == 4
    assert index.search(np.ones((1, 4), np.float32)).cosines.shape == (1, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i.add(vectors=np.ones((1, 3)), ids=["a"]), r"shape \(N, 4\)"),
        (lambda i: i.add(vectors=np.zeros((1, 4)), ids=["a"]), "zero or not finite"),
        (lambda i: i.add(vectors=np.full((1, 4), np.nan), ids=["a"]), "zero or not finite"),
        (lambda i: i.add(vectors=np.ones((2, 4)), ids=["a"]), "2 vectors of 1 images"),
        (lambda i: i.add(vectors=np.ones((1, 4))), "vectors with their ids"),
        (lambda i: i.add(vectors=np.ones((1, 4)), ids=[""]), "not empty"),
        (lambda i: i.add([b"x"]), "give ids"),
        (lambda i: i.add(["a.jpg"]), "without an embedder"),
        (lambda i: i.search(["a.jpg"]), "without an embedder"),
        (lambda i: i.search(np.ones((1, 4)), 0), "at least 1"),
        (lambda i: i.vectors(["no"]), "not in the index"),
        (lambda i: Index.create(i.path, dim=4), "holds an index already"),
        (lambda i: Index.create(i.path / "y", dim=4, kind="lsh"), "auto, exact, int8"),
        (lambda i: Index.open(i.path / "none"), "no index here"),
        (lambda i: Index.open("s3://bucket/x"), "mapped into memory"),
    ],
)
def test_mistakes_are_told(tmp_path, change, message):
    index = Index.create(tmp_path / "x", dim=4)
    with pytest.raises((DataError, RunError), match=message):
        change(index)
    assert len(index) == 0


def test_faiss_is_asked_for_where_it_is_needed(tmp_path, monkeypatch):
    index = Index.create(tmp_path / "x", dim=24, kind="ivf")
    index.add(vectors=cloud(1, 600), ids=list(map(str, range(600))))
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"lookalike\[search\]"):
        Index.create(tmp_path / "y", dim=4, kind="hnsw")
    with pytest.raises(MissingExtraError):
        Index.open(tmp_path / "x").search(cloud(2, 1))
    assert len(Index.open(tmp_path / "x").search(cloud(2, 1), exact=True).ids[0]) == 10
    monkeypatch.setattr(upkeep, "_APPROXIMATE", 100)
    auto = Index.create(tmp_path / "z", dim=24)
    auto.add(vectors=cloud(1, 600), ids=list(map(str, range(600))))
    assert auto.stats()["searched"] == {"int8": 600}


def test_auto_takes_faiss_for_large_ones_and_keeps_it(tmp_path, monkeypatch):
    monkeypatch.setattr(upkeep, "_APPROXIMATE", 1000)
    index = Index.create(tmp_path / "x", dim=24)
    index.add(vectors=cloud(1, 1200), ids=list(map(str, range(1200))))
    assert index.stats()["searched"] == {"ivf": 1200}
    index.remove(map(str, range(400)))
    assert index.stats()["searched"] == {"ivf": 800}
    assert len(index.search(cloud(2, 3), 900).ids[0]) == 800  # more than faiss proposes


def test_one_writes_at_a_time_and_others_see_it(tmp_path, monkeypatch):
    index = Index.create(tmp_path / "x", dim=24)
    reader = Index.open(tmp_path / "x")
    vectors = cloud(1, 200)
    index.add(vectors=vectors, ids=list(map(str, range(200))))
    assert len(reader.search(vectors[:1]).ids[0]) == 10
    index.remove(map(str, range(150)))  # rewritten: the reader's files are gone
    assert set(reader.search(vectors[:1], 60).ids[0]) == set(map(str, range(150, 200)))
    monkeypatch.setattr("lookalike.gallery.store.PATIENCE", 0.2)
    busy = locked(tmp_path / "x" / "lock", "busy")
    with busy, pytest.raises(StorageError, match="another process is writing"):
        reader.remove(["151"])


def test_damage_is_told(tmp_path):
    index = Index.create(tmp_path / "x", dim=24, kind="int8")
    index.add(vectors=cloud(1, 200), ids=list(map(str, range(200))))
    [vectors] = (tmp_path / "x").rglob("vectors.npy")
    vectors.write_bytes(vectors.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"vectors\.npy: damaged"):
        Index.open(tmp_path / "x")
    (tmp_path / "x/manifest.json").write_text("{}")
    with pytest.raises(RunError, match="broken"):
        Index.open(tmp_path / "x")


def test_recall_is_what_the_effort_was_chosen_for(tmp_path):
    vectors = cloud(9, 3000, 48)
    index = Index.create(tmp_path / "x", dim=48, kind="ivf")
    index.add(vectors=vectors, ids=list(map(str, range(3000))))
    exact, near = (index.search(vectors[::7], 10, exact=flag) for flag in (True, False))
    pairs = zip(exact.ids, near.ids, strict=True)
    share = np.mean([len(set(a) & set(b)) / 10 for a, b in pairs])
    assert share >= approximate.RECALL - 0.02
