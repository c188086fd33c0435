"""The index against brute force in float64, and against one that is built anew."""

import hashlib
import json
import pickle
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from lookalike.errors import DataError, RunError, StorageError
from lookalike.index import compaction, folder_store, manifest, segment_scan
from lookalike.index.folder_store import FolderStore
from lookalike.index.index import Index
from lookalike.index.segment import encode
from lookalike.storage.file_lock import locked


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Structures and merges from few rows on."""
    monkeypatch.setattr(compaction, "INT8_ROWS", 64)
    monkeypatch.setattr(compaction, "LEVEL_0_ROWS", 32)


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


@pytest.mark.parametrize(("kind", "k"), [*((kind, 10) for kind in FolderStore.KINDS), ("int8", 1)])
def test_nearest_equal_brute_force(tmp_path, kind, k):
    vectors = cloud(k, 1500)
    ids = [f"photos/{i}.jpg" for i in range(len(vectors))]
    index = Index.create(tmp_path / "x", dim=24, kind=kind)
    assert index.add(vectors=vectors, ids=ids) == 1500
    queries = np.concatenate([vectors[:40], cloud(100 + k, 60)])
    gallery = dict(zip(ids, vectors, strict=True))
    assert agree(index, queries, gallery, k) == 1
    removed = ids[100:700]
    assert index.remove([*removed, "nowhere.jpg"]) == 600
    for id in removed:
        del gallery[id]
    assert index.stats()["removed_rows"] == 600  # not yet rewritten
    assert agree(index, queries, gallery, k) == 1
    assert not set(removed) & {id for row in index.search(vectors[100:700], k).ids for id in row}
    how = {"auto": "int8", "exact": "float32"}.get(kind, kind)
    assert index.stats()["searched"] == {how: 900}


@pytest.mark.parametrize("kind", ["exact", "int8"])
def test_changed_index_equals_a_new_one(tmp_path, kind):
    rng = np.random.default_rng(5)
    index = Index.create(tmp_path / "x", dim=24, kind=kind)
    gallery: dict[str, np.ndarray] = {}
    for step in range(20):
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
    before, other = index.search(queries, 10), fresh.search(queries, 10)
    assert before.ids == other.ids
    assert (before.cosines == other.cosines).all()
    index.compact()
    assert index.stats()["segments"] == 1
    assert index.stats()["removed_rows"] == 0
    after = Index.open(tmp_path / "x").search(queries, 10, exact=True)  # which it always is
    assert before.ids == after.ids
    assert (before.cosines == after.cosines).all()
    assert (index.vectors(list(gallery)) == fresh.vectors(list(gallery))).all()


def test_ids_are_unique_and_the_last_wins(tmp_path):
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


def test_rest_of_int8_codes_is_as_stated():
    vectors = cloud(3, 500).astype(np.float32)
    vectors[0] = 0
    vectors[0, 3] = 1  # the worst case for one scale for all numbers
    codes, scales, left = encode(vectors)
    rest = vectors.astype(np.float64) - codes.astype(np.float64) * scales[:, None]
    assert np.allclose(np.linalg.norm(rest, axis=1), left, rtol=1e-3, atol=1e-6)
    assert codes.min() >= -127


def test_float32_search_without_int8_products(tmp_path, monkeypatch):
    index = Index.create(tmp_path / "x", dim=24, kind="int8")
    vectors = cloud(4, 300)
    index.add(vectors=vectors, ids=list(map(str, range(300))))
    found = index.search(vectors[:5], 7)
    real = torch._int_mm

    def saturating(a, b):
        return real(a, b).clamp(-32768, 32767)

    segment_scan.has_exact_int8.cache_clear()
    monkeypatch.setattr(torch, "_int_mm", saturating)
    assert not segment_scan.has_exact_int8()
    again = index.search(vectors[:5], 7)
    segment_scan.has_exact_int8.cache_clear()
    assert again.ids == found.ids
    assert (again.cosines == found.cosines).all()


def test_an_empty_index_and_few_images(tmp_path):
    index = Index.create(tmp_path / "x", dim=4)
    assert index.search(np.ones((2, 4), np.float32)).ids == [[], []]
    index.add(vectors=np.eye(4, dtype=np.float64), ids=list("abcd"))
    assert index.search(np.ones((1, 4), np.float16), 9).ids == [list("abcd")]
    assert index.remove(list("abcd")) == 4
    assert index.search(np.ones((1, 4), np.float32)).cosines.shape == (1, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i.add(vectors=np.ones((1, 3)), ids=["a"]), r"shape \(N, 4\)"),
        (lambda i: i.add(vectors=np.zeros((1, 4)), ids=["a"]), "zero or not finite"),
        (lambda i: i.add(vectors=np.full((1, 4), np.nan), ids=["a"]), "zero or not finite"),
        (lambda i: i.add(vectors=np.ones((2, 4)), ids=["a"]), "2 vectors of 1 images"),
        (lambda i: i.add(vectors=np.ones((1, 4))), "vectors with their ids"),
        (lambda i: i.add(vectors=np.ones((1, 4)), ids=[""]), "non-empty"),
        (lambda i: i.add([b"x"]), "give ids"),
        (lambda i: i.add(["a.jpg"]), "without an embedder"),
        (lambda i: i.add(vectors=np.ones((2, 4)), ids="ab"), "2 vectors of 1 images"),
        (lambda i: i.add(vectors=np.ones((2, 4)), ids=["a", "b"], labels="x"), "one of labels"),
        (lambda i: i.add(vectors=np.ones((2, 4)), ids=["a", "b"], labels=[1, 2]), "write it as"),
        (lambda i: i.add(vectors=np.ones((1, 4)), ids="a", labels=float("nan")), "write it as"),
        (lambda i: i.add(vectors=np.ones((1, 4)), ids=[7]), "ids must be non-empty strings"),
        (lambda i: i.add(vectors=np.ones((1, 4)), ids=["a\udc80"]), "lone surrogate"),
        (lambda i: i.add(vectors=np.ones((1, 4)), ids="a", labels="\ud800"), "lone surrogate"),
        (lambda i: i.add(vectors=np.ones((1, 4), int), ids="a"), "must be floats"),
        (lambda i: i.add(vectors="abcd", ids="a"), "must be an array or a tensor"),
        (lambda i: i.add(vectors=np.full((1, 4), 1e300), ids="a"), "zero or not finite"),
        (lambda i: i.add(vectors=np.full((1, 4), 5e-324), ids="a"), "zero or not finite"),
        (lambda i: i.remove(5), "ids must be a string or several"),
        (lambda i: i.remove(b"a"), "ids must be a string or several"),
        (lambda i: i.remove([1]), "ids must be non-empty strings"),
        (lambda i: i.search(np.ones((1, 4)), True), "k=True"),
        (lambda i: i.search(np.ones((1, 4)), 2.0), "k=2.0"),
        (lambda i: i.search(np.ones((1, 4)), "3"), "k='3'"),
        (lambda i: i.search(np.full(4, np.nan)), "zero or not finite"),
        (lambda i: i.search([np.ones(4), np.ones(3)]), "the same dimension"),
        (lambda i: Index.create(Path(i.place) / "y", dim=0), "dim=0"),
        (lambda i: Index.create(Path(i.place) / "y", dim=-3), "dim=-3"),
        (lambda i: Index.create(Path(i.place) / "y", dim=True), "dim=True"),
        (lambda i: Index.create(Path(i.place) / "y", dim=1.5), "dim=1.5"),
        (lambda i: Index.create(Path(i.place) / "y", dim=10**12), "1,048,576"),
        (lambda i: i.search(["a.jpg"]), "without an embedder"),
        (lambda i: i.search(np.ones((1, 4)), 0), "at least 1"),
        (lambda i: i.vectors(["no"]), "not in the index"),
        (lambda i: Index.create(i.place, dim=4), "holds an index already"),
        (lambda i: Index.create(Path(i.place) / "y", dim=4, kind="lsh"), "auto, exact, int8"),
        (lambda i: Index.open(Path(i.place) / "none"), "no index here"),
        (lambda i: Index.open("s3://bucket/x"), "mapped into memory"),
    ],
)
def test_invalid_arguments_are_refused(tmp_path, change, message):
    index = Index.create(tmp_path / "x", dim=4)
    with pytest.raises((DataError, RunError), match=message):
        change(index)
    assert len(index) == 0


def test_one_writer_at_a_time_and_readers_see_changes(tmp_path, monkeypatch):
    index = Index.create(tmp_path / "x", dim=24)
    reader = Index.open(tmp_path / "x")
    vectors = cloud(1, 200)
    index.add(vectors=vectors, ids=list(map(str, range(200))))
    assert len(reader.search(vectors[:1]).ids[0]) == 10
    index.remove(map(str, range(150)))  # rewritten: the reader's files are gone
    assert set(reader.search(vectors[:1], 60).ids[0]) == set(map(str, range(150, 200)))
    monkeypatch.setattr("lookalike.storage.file_lock.PATIENCE", 0.2)
    busy = locked(tmp_path / "x" / "lock", "busy")
    with busy, pytest.raises(StorageError, match="another process is writing"):
        reader.remove(["151"])


def test_damage_is_an_error(tmp_path):
    index = Index.create(tmp_path / "x", dim=24, kind="int8")
    index.add(vectors=cloud(1, 200), ids=list(map(str, range(200))))
    [vectors] = (tmp_path / "x").rglob("vectors.npy")
    vectors.write_bytes(vectors.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"vectors\.npy: damaged"):
        Index.open(tmp_path / "x")
    (tmp_path / "x/manifest.json").write_text("{}")
    with pytest.raises(RunError, match="broken"):
        Index.open(tmp_path / "x")


def test_a_vector_without_a_direction_is_named_by_its_image(tmp_path):
    index = Index.create(tmp_path / "x", dim=24)
    vectors = cloud(1, 3)
    vectors[1] = 0
    with pytest.raises(DataError, match=r"^shop/b\.jpg: its vector is zero or not finite"):
        index.add(vectors=vectors, ids=["a", "shop/b.jpg", "c"])
    with pytest.raises(DataError, match=r"^vector 1 is zero"):
        index.search(vectors)


def test_single_images_ids_and_vectors(tmp_path):
    index = Index.create(tmp_path / "x", dim=4)
    one = np.eye(4, dtype=np.float32)
    assert index.add(vectors=one[0], ids="a.jpg", labels="shoe") == 1
    assert index.add(vectors=torch.from_numpy(one[1:3]), ids=(Path("b"), "c"), versions=[1, 2]) == 2
    assert index.add(vectors=[one[3]], ids=iter(["d"]), labels=iter([None])) == 1
    assert index.ids() == ["a.jpg", "b", "c", "d"]
    assert "a.jpg" in index
    assert Path("b") in index
    assert "j" not in index
    assert 7 not in index
    assert index.vectors("c").tolist() == [0, 0, 1, 0]
    assert index.vectors(["c"]).shape == (1, 4)
    assert set(index.records("b")) == {"b"}
    for query in (one[0], one[:1], torch.from_numpy(one[0]), [one[0]], one[0].tolist()):
        if not isinstance(query, list) or not isinstance(query[0], float):
            found = index.search(query, 1)
            assert (found.ids, found.labels) == ([["a.jpg"]], [["shoe"]])
    assert len(index.search(one[:2], 10**30).ids[0]) == 4
    assert index.remove("a.jpg") == 1
    assert index.remove(Path("b")) == 1
    assert index.remove(iter(["c", "nothing"])) == 1
    assert index.ids() == ["d"]
    copied = pickle.loads(pickle.dumps(index))  # noqa: S301
    assert copied.ids() == ["d"]


def test_flipped_bits_are_found(tmp_path):
    """By `check`; those of small files also when they are read."""
    path = tmp_path / "x"
    index = Index.create(path, dim=24, kind="int8")
    index.add(vectors=cloud(1, 300), ids=list(map(str, range(300))))
    index.remove(["3"])
    files = [file for file in path.rglob("*") if file.is_file() and file.name != "lock"]
    assert len(files) == 6
    rng = np.random.default_rng(0)
    for file in files:
        whole = bytearray(file.read_bytes())
        for place in (0, len(whole) - 1, *rng.integers(0, len(whole), 6).tolist()):
            broken = bytearray(whole)
            broken[place] ^= 1 << int(rng.integers(8))
            file.write_bytes(broken)
            with pytest.raises(RunError, match=rf"{re.escape(file.name)}.*") as error:
                Index.open(path).check()
            assert "copy" in str(error.value) or "index" in str(error.value)
            if file.name in ("scales.npy", "rows.arrow", "manifest.json") or "dead" in file.name:
                with pytest.raises(RunError):
                    Index.open(path).search(cloud(1, 1), 5)
        file.write_bytes(whole)
    Index.open(path).check()


def test_vectors_that_are_not_finite_are_named_by_a_search(tmp_path):
    index = Index.create(tmp_path / "x", dim=24, kind="exact")
    index.add(vectors=cloud(1, 5), ids=list("abcde"))
    [file] = (tmp_path / "x").rglob("vectors.npy")
    vectors = np.load(file)
    vectors[1] = np.nan
    np.save(file, vectors)
    with pytest.raises(RunError, match="damaged: 4 rows to find of 5; restore the index"):
        Index.open(tmp_path / "x").search(cloud(1, 1), 5)


def signed(values: dict) -> str:
    """The text of a manifest with these values and their digest."""
    content = json.dumps(values, sort_keys=True).encode()
    digest = hashlib.sha256(content).hexdigest()
    return json.dumps({"format": manifest.FORMAT, "digest": digest, **values})


def values_of(path: Path) -> dict:
    """The values of a manifest, without format and digest."""
    values = json.loads((path / "manifest.json").read_text())
    return {key: value for key, value in values.items() if key not in ("format", "digest")}


@pytest.mark.parametrize("form", ["lookalike index 1", "lookalike index 2", 7, None])
def test_an_index_of_another_version_is_refused_in_one_line(tmp_path, form):
    path = tmp_path / "x"
    Index.create(path, dim=24).add(vectors=cloud(1, 40), ids=list(map(str, range(40))))
    values = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**values, "format": form}))
    with pytest.raises(RunError, match="another version of lookalike") as error:
        Index.open(path)
    assert "remove its folder and build it again" in str(error.value)
    assert "\n" not in str(error.value)


FOREIGN = {
    "name": ["../../../outside", "/etc", "..", ".", "", "000001/../../x", "a", "0" * 40, 1, None],
    "tombstones": ["../rows.arrow", "vectors.npy", "/tmp/x", "dead-1.npy/../../x", 5],
    "search": ["hnsw", None, 1],
    "count": [-1, 1.5, "12", True, 10**30, None],
    "deleted": [-1, 99, "x"],
    "slack": [-1.0, float("nan"), float("inf"), "x"],
    "digests": [{"../../x": "0" * 64}, {"vectors.npy.sums": "x"}, ["a"], {"x.npy": "0" * 64}],
}


@pytest.mark.parametrize("key", FOREIGN)
def test_a_manifest_names_only_its_own_files(tmp_path, key):
    path = tmp_path / "deep" / "x"
    index = Index.create(path, dim=24)
    index.add(vectors=cloud(1, 12), ids=list(map(str, range(12))))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.txt").write_text("mine")
    values = values_of(path)
    for value in FOREIGN[key]:
        values["segments"][0] = {**values["segments"][0], key: value}
        (path / "manifest.json").write_text(signed(values))
        with pytest.raises(RunError, match=r"manifest\.json: broken"):
            Index.open(path)
    assert [file.name for file in outside.iterdir()] == ["mine.txt"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["deep", "outside"]


@pytest.mark.parametrize("what", ["segments", "segment", "vectors.npy", "rows.arrow", "lock"])
def test_links_that_lead_outside_are_refused_and_nothing_there_changes(tmp_path, what):
    path = tmp_path / "x"
    index = Index.create(path, dim=24)
    index.add(vectors=cloud(1, 12), ids=list(map(str, range(12))))
    [segment] = (path / "segments").iterdir()
    place = {"segments": path / "segments", "segment": segment, "lock": path / "lock"}.get(
        what, segment / what
    )
    outside = tmp_path / "outside"
    place.rename(outside)
    if outside.is_dir():
        (outside / "mine.txt").write_text("mine")
    place.symlink_to(outside)
    before = sorted(str(file) for file in outside.rglob("*"))
    with pytest.raises(RunError, match="is a link"):
        Index.open(path).remove("1")
    assert sorted(str(file) for file in outside.rglob("*")) == before


def test_an_older_manifest_never_replaces_a_newer_one(tmp_path, monkeypatch):
    """A reader has read the manifest, a writer adds, and only then the reader goes on."""
    shared = Index.create(tmp_path / "x", dim=24)
    other = Index.open(tmp_path / "x")
    vectors = cloud(1, 60)
    other.add(vectors=vectors[:20], ids=[f"a{i}" for i in range(20)])
    has_read, may_go_on = threading.Event(), threading.Event()
    real = manifest.read

    def read(folder):
        found = real(folder)
        if threading.current_thread().name == "reader":
            has_read.set()
            assert may_go_on.wait(60)
        return found

    monkeypatch.setattr(manifest, "read", read)
    reader = threading.Thread(target=shared.search, args=(vectors[:1],), name="reader")
    reader.start()
    assert has_read.wait(60)
    with monkeypatch.context() as patch:  # between a writer's view and its commit
        write = shared.store.write_segment

        def let_the_reader_go_on(*arguments):
            entry = write(*arguments)
            may_go_on.set()
            reader.join(60)
            assert not reader.is_alive()
            return entry

        shared.add(vectors=vectors[20:40], ids=[f"b{i}" for i in range(20)])
        newest = shared.store.state.generation
        patch.setattr(shared.store, "write_segment", let_the_reader_go_on)
        shared.add(vectors=vectors[40:], ids=[f"c{i}" for i in range(20)])
    assert shared.store.state.generation > newest
    assert len(shared) == len(Index.open(tmp_path / "x")) == 60
    assert shared.ids() == Index.open(tmp_path / "x").ids()


def test_concurrent_threads_lose_no_changes(tmp_path):
    shared = Index.create(tmp_path / "x", dim=24)
    objects = [shared, shared, Index.open(tmp_path / "x")]
    vectors = cloud(1, 240)
    failed: list[Exception] = []

    def write(number: int) -> None:
        try:
            for step in range(4):
                rows = range(number * 80 + step * 20, number * 80 + step * 20 + 20)
                index = objects[number]
                index.add(vectors=vectors[rows], ids=list(map(str, rows)))
                assert set(map(str, rows)) <= set(index.ids())
                index.remove(str(rows[0]))
        except Exception as error:
            failed.append(error)

    def look() -> None:
        try:
            for step in range(40):
                found = shared.search(vectors[step : step + 1], 5).ids[0]
                assert len(set(found)) == len(found)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    threads += [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    gone = {str(number * 80 + step * 20) for number in range(3) for step in range(4)}
    assert set(Index.open(tmp_path / "x").ids()) == set(map(str, range(240))) - gone
    shared.store.refresh()
    assert len(shared) == 240 - 12


def test_concurrent_creation_does_not_replace_an_index(tmp_path, monkeypatch):
    """Both found the folder empty; the second sees the first one's index under the lock."""
    real = folder_store.locked

    def first_in(*arguments):
        monkeypatch.setattr(folder_store, "locked", real)
        Index.create(tmp_path / "x", dim=24).add(vectors=cloud(1, 9), ids=list("abcdefghi"))
        return real(*arguments)

    monkeypatch.setattr(folder_store, "locked", first_in)
    with pytest.raises(RunError, match="holds an index already"):
        Index.create(tmp_path / "x", dim=24)
    assert len(Index.open(tmp_path / "x")) == 9


def test_several_that_create_an_index_at_once_all_have_it(tmp_path, monkeypatch):
    """Each finds the folder with the unfinished manifest of the first one, which is slow."""
    begun, real = threading.Event(), manifest.replacing

    @contextmanager
    def slow(path):
        with real(path) as partial:
            yield partial
            begun.set()
            time.sleep(0.5)

    monkeypatch.setattr(manifest, "replacing", slow)
    with ThreadPoolExecutor(4) as pool:
        made = [pool.submit(Index.open_or_create, tmp_path / "x", dim=24)]
        assert begun.wait(30)
        made += [pool.submit(Index.open_or_create, tmp_path / "x", dim=24) for _ in range(3)]
        assert {each.result().store.state.id for each in made} == {
            Index.open(tmp_path / "x").store.state.id
        }


def test_an_index_is_made_where_a_killed_process_began_one(tmp_path):
    (tmp_path / "x").mkdir()
    for name in ("lock", ".manifest.json.partial"):
        (tmp_path / "x" / name).write_text("{")
    assert len(Index.create(tmp_path / "x", dim=24)) == 0
    assert sorted(file.name for file in (tmp_path / "x").iterdir()) == ["lock", "manifest.json"]


@pytest.mark.parametrize("file", ["vectors.npy", "codes.npy", "scales.npy", "dead"])
def test_a_header_that_claims_more_than_the_file_holds_takes_no_memory(tmp_path, file):
    path = tmp_path / "x"
    index = Index.create(path, dim=24, kind="int8")
    index.add(vectors=cloud(1, 300), ids=list(map(str, range(300))))
    index.remove("5")
    values = values_of(path)
    [place] = path.rglob(f"{file}*.npy" if file == "dead" else file)
    with place.open("rb+") as stream:
        kind = {"codes.npy": "|i1", "dead": "|u1"}.get(file, "<f4")
        header = {"descr": kind, "fortran_order": False, "shape": (2**40, 24)}
        np.lib.format.write_array_header_1_0(stream, header)
    content = hashlib.sha256(place.read_bytes()).hexdigest()
    values["segments"][0]["digests"][place.name] = content  # as if it had been written so
    (path / "manifest.json").write_text(signed(values))
    with pytest.raises(RunError, match=r"its header claims .* and the file holds"):
        Index.open(path)
