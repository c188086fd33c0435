"""Images from elsewhere that are kept on this machine."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from picture_files import write_catalog
from quick_server import quick_server
from test_remote_loaders import elsewhere, evaluator, same, trainer

from lookalike.config.config import Config
from lookalike.data.loading.bad_images import BadImages
from lookalike.data.loading.image_source import Source
from lookalike.errors import ConfigError
from lookalike.storage.byte_size import in_bytes
from lookalike.storage.disk_cache import DiskCache

LARGE = 10**9


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    return write_catalog(tmp_path_factory.mktemp("good"), 61)


@pytest.fixture
def server():
    with quick_server() as server:
        yield server


def entries(folder):
    return sorted(p for p in Path(folder).rglob("*") if p.is_file() and len(p.name) == 40)


def size_of(folder):
    total = 0
    for path in entries(folder):
        with contextlib.suppress(FileNotFoundError):  # others may be making room
            total += path.stat().st_size
    return total


def written(folder):
    return int((Path(folder) / "lookalike-images-1" / "size").read_text())


def test_second_epoch_sends_no_requests(server, local, tmp_path):
    remote = elsewhere(server, local)
    for number in range(3):  # the third with a new object, as another run has
        source = Source(cache=DiskCache(tmp_path, LARGE))
        for epoch in range(2):
            # As many images as there are: each epoch has them all.
            same(
                list(trainer(remote, batch_size=61, source=source).epoch(epoch)),
                list(trainer(local, batch_size=61).epoch(epoch)),
            )
        same(list(evaluator(remote.records, source=source)), list(evaluator(local.records)))
        assert sum(server.counts.values()) == 61, number
    assert len(entries(tmp_path)) == 61
    assert written(tmp_path) == size_of(tmp_path)


def test_parts_of_a_file_are_separate_entries(server, local, tmp_path):
    remote = elsewhere(server, local, "parts")
    source = Source(cache=DiskCache(tmp_path, LARGE))
    for epoch in range(2):
        same(
            list(trainer(remote, batch_size=61, source=source).epoch(epoch)),
            list(trainer(local, batch_size=61).epoch(epoch)),
        )
    assert sum(server.counts.values()) == 61


def test_the_same_address_of_another_storage_is_another_image(tmp_path, monkeypatch):
    cache = DiskCache(tmp_path, LARGE)
    for scheme, name in (("s3", "AWS_ENDPOINT_URL"), ("oss", "OSS_ENDPOINT")):
        for place in ("http://one", "http://two"):
            monkeypatch.setenv(name, place)
            assert cache.get(f"{scheme}://shop/a", None) is None
            cache.put(f"{scheme}://shop/a", None, place.encode())
        monkeypatch.setenv(name, "http://one")
        assert cache.get(f"{scheme}://shop/a", None) == b"http://one"
    assert cache.get("s3://shop/a", (0, 10)) is None


@pytest.mark.parametrize("damage", ["cut", "empty", "bit", "swapped", "longer"])
def test_damaged_entries_are_fetched_again(server, local, tmp_path, damage, caplog):
    remote = elsewhere(server, local)
    source = Source(cache=DiskCache(tmp_path, LARGE))
    expected = list(evaluator(local.records))
    same(list(evaluator(remote.records, source=source)), expected)
    first, second = entries(tmp_path)[:2]
    content = first.read_bytes()
    first.write_bytes(
        {
            "cut": content[: len(content) // 2],
            "empty": b"",
            "bit": content[:500] + bytes([content[500] ^ 1]) + content[501:],
            "swapped": second.read_bytes(),
            "longer": content + b"x",
        }[damage]
    )
    same(list(evaluator(remote.records, source=source)), expected)
    assert sum(server.counts.values()) == 62
    assert first.read_bytes() == content
    same(list(evaluator(remote.records, source=source)), expected)
    assert sum(server.counts.values()) == 62
    assert "damaged in the cache" in caplog.text


def test_incomplete_image_is_not_cached(server, local, tmp_path):
    remote = elsewhere(server, local)
    whole = dict(server.bodies)

    def half_first(key, count):
        server.bodies[key] = whole[key][: len(whole[key]) // 2] if count == 1 else whole[key]

    server.plan = half_first
    bad, cache = BadImages(), DiskCache(tmp_path, LARGE)
    source = Source(requests=1, cache=cache)
    same(list(evaluator(remote.records, bad=bad, source=source)), list(evaluator(local.records)))
    assert not len(bad)
    for record in remote.records:
        assert cache.get(record.uri, None) == whole[record.uri.rsplit("/", 1)[1]]
    assert written(tmp_path) == size_of(tmp_path)


def test_least_recently_used_entry_is_evicted_first(tmp_path):
    old = DiskCache(tmp_path, 10_000)
    for number in range(9):
        old.put(f"http://x/{number}", None, bytes(1000 - 12))
    for age, path in enumerate(entries(tmp_path)):
        os.utime(path, ns=(0, (age + 1) * 10**9))
    ages = {p.name: p.stat().st_mtime_ns for p in entries(tmp_path)}
    new = DiskCache(tmp_path, 10_000)
    youngest = [n for n in range(9) if ages[Path(old.entry_path(f"http://x/{n}", None)).name] < 4e9]
    assert new.get(f"http://x/{youngest[0]}", None) is not None  # in use now
    for number in range(9, 12):
        new.put(f"http://x/{number}", None, bytes(1000 - 12))
        assert new.get(f"http://x/{number}", None) is not None
        assert size_of(tmp_path) == written(tmp_path) <= 10_000
    gone = [n for n in range(9) if new.get(f"http://x/{n}", None) is None]
    assert set(youngest[1:]) <= set(gone)
    assert youngest[0] not in gone
    assert max(ages, key=ages.get) in {p.name for p in entries(tmp_path)}


def test_a_list_larger_than_the_cache_keeps_a_part(server, local, tmp_path):
    """Each image would go before its turn, if a run made room for itself by what it just read."""
    remote = elsewhere(server, local)
    total = sum(len(body) for body in server.bodies.values())
    limit = total // 2
    source = Source(cache=DiskCache(tmp_path, limit))
    asked = []
    for epoch in range(4):
        server.counts.clear()
        same(
            list(trainer(remote, batch_size=61, source=source).epoch(epoch)),
            list(trainer(local, batch_size=61).epoch(epoch)),
        )
        asked.append(sum(server.counts.values()))
        assert size_of(tmp_path) <= limit
    assert asked[0] == 61
    assert asked[1] == asked[2] == asked[3] < 40


def test_room_reserved_by_a_writing_thread_stays_reserved(tmp_path, monkeypatch):
    """A sweep counts what is being written, which would be beyond the limit once it is there."""
    old = DiskCache(tmp_path, 1000)
    for number in range(3):
        old.put(f"http://x/old{number}", None, bytes(288))
    for path in entries(tmp_path):
        os.utime(path, (0, 0))
    cache, makedirs = DiskCache(tmp_path, 1000), os.makedirs
    writing, swept = threading.Event(), threading.Event()
    writer = threading.Thread(target=cache.put, args=("http://x/slow", None, bytes(388)))

    def held(*words, **more):
        if threading.current_thread() is writer:
            writing.set()
            assert swept.wait(60)
        makedirs(*words, **more)

    monkeypatch.setattr(os, "makedirs", held)
    writer.start()
    assert writing.wait(60)
    for number in range(4):
        cache.put(f"http://x/quick{number}", None, bytes(288))
    swept.set()
    writer.join()
    assert cache.get("http://x/slow", None) == bytes(388)
    assert 0 < size_of(tmp_path) == written(tmp_path) <= 1000


def test_own_entries_stay_when_the_file_clock_is_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time_ns", lambda: 2 * 10**18)  # as the kernel's coarse clock is
    cache = DiskCache(tmp_path, 1000)
    for number in range(9):
        cache.put(f"http://x/{number}", None, bytes(288))
    assert [cache.get(f"http://x/{n}", None) is not None for n in range(4)] == [True] * 3 + [False]


def test_other_files_are_left_alone(tmp_path):
    mine = [tmp_path / "a.jpg", tmp_path / "ab" / ("a" * 40), tmp_path / "lookalike-images-1/note"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(100))
        os.utime(path, (0, 0))
    cache = DiskCache(tmp_path, 1000)
    for number in range(20):
        cache.put(f"http://x/{number}", None, bytes(300))
    assert all(path.exists() for path in mine)


def test_content_larger_than_the_cache_is_not_cached(tmp_path):
    cache = DiskCache(tmp_path, 1000)
    cache.put("http://x/1", None, bytes(2000))
    assert cache.get("http://x/1", None) is None
    cache.put("http://x/2", None, bytes(200))
    assert cache.get("http://x/2", None) == bytes(200)


WORK = """
import random, sys
from lookalike.storage.disk_cache import DiskCache
folder, seed = sys.argv[1], int(sys.argv[2])
cache, dice = DiskCache(folder, 200_000), random.Random(seed)
print("ready", flush=True)
for turn in range(int(sys.argv[3])):
    if turn % 50 == 0:
        cache = DiskCache(folder, 200_000)
    number = dice.randrange(300)
    content = random.Random(number).randbytes(500 + 20 * number)
    kept = cache.get(f"http://x/{number}", None)
    assert kept is None or kept == content, number
    if kept is None:
        cache.put(f"http://x/{number}", None, content)
print("end", flush=True)
"""


@pytest.fixture
def workers(tmp_path):
    """Four processes that use a cache: two come to an end, two never do."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORK, tmp_path, str(seed), str(10**6 if seed > 1 else 1500)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for seed in range(4)
    ]  # fmt: skip
    yield started
    for process in started:
        process.kill()
        process.communicate()


def test_several_processes_some_of_them_killed(tmp_path, workers):
    for process in workers:
        assert process.stdout.readline() == "ready\n"
    for process in workers[2:]:
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        # Not more than the limit, and what each may be about to write.
        assert size_of(tmp_path) <= 200_000 + 4 * 7_000
    for process in workers[:2]:
        out, err = process.communicate(timeout=60)
        assert (out, err) == ("end\n", "")
    assert size_of(tmp_path) <= 200_000 + 4 * 7_000
    cache = DiskCache(tmp_path, 200_000)
    cache.put("http://x/new", None, bytes(150_000))  # has all counted anew
    assert cache.get("http://x/new", None) == bytes(150_000)
    assert size_of(tmp_path) == written(tmp_path) <= 200_000


def test_files_of_killed_processes_are_removed(tmp_path):
    cache = DiskCache(tmp_path, 1000)
    left = cache.folder / ".aside-1-1-1"
    left.write_bytes(bytes(500))
    os.utime(left, (0, 0))
    young = cache.folder / ".aside-2-2-2"
    young.write_bytes(bytes(500))
    (cache.folder / "size").write_bytes(b"nonsense")
    again = DiskCache(tmp_path, 1000)
    assert not left.exists()
    assert young.exists()
    again.put("http://x/1", None, bytes(500))
    assert written(tmp_path) == 512


def test_a_full_disk_does_not_end_a_run(server, local, tmp_path, monkeypatch, caplog):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    remote = elsewhere(server, local)
    source = Source(cache=DiskCache(tmp_path, LARGE))
    same(list(evaluator(remote.records, source=source)), list(evaluator(local.records)))
    assert caplog.text.count("no space left on device") >= 1
    assert not [p for p in cache_files(tmp_path) if p.name != "size"]
    assert written(tmp_path) == 0


def cache_files(folder):
    return [p for p in Path(folder).rglob("*") if p.is_file()]


def test_a_folder_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file: cannot be the cache of images: .*data\.cache$"):
        DiskCache(tmp_path / "file", 1000)


@pytest.mark.parametrize(
    ("text", "size"),
    [("50GB", 50 * 10**9), ("1.5 TiB", 3 * 2**39), ("64gib", 2**36), ("1000", 1000),
     ("2kb", 2000), ("3M", 3 * 10**6)],
)  # fmt: skip
def test_sizes(text, size):
    assert in_bytes(text) == size
    assert Config.load(overrides=[f"data.cache_size={text}"]).data.cache_size == text


@pytest.mark.parametrize("text", ["50XB", "GB", "-1GB", "0", "1iB", "50 GB each"])
def test_no_sizes(text):
    with pytest.raises(ConfigError, match=r"data\.cache_size='.*' is no size; write a number"):
        Config.load(overrides=[f"data.cache_size='{text}'"])


def test_secrets_are_not_in_the_cache(tmp_path):
    cache = DiskCache(tmp_path, 1000)
    cache.put("https://me:hush@host/a.jpg?key=hush", None, b"x")
    for path in [*tmp_path.rglob("*")]:
        assert "hush" not in str(path)
        assert not path.is_file() or b"hush" not in path.read_bytes()
