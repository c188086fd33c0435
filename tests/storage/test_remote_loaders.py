"""Loaders of remote images: the properties of tests/data/loading/test_loaders.py."""

import asyncio
import dataclasses
import gc
import io
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from picture_files import write_catalog
from quick_server import Handler, quick_server

from lookalike import storage
from lookalike.data.augmentations import create_augmentations
from lookalike.data.augmentations.training_crop import Augment
from lookalike.data.catalog import Catalog
from lookalike.data.decoding import partial_jpeg as part_module
from lookalike.data.decoding.decode import decode
from lookalike.data.loading.bad_images import BadImages
from lookalike.data.loading.image_source import REQUESTS, Source
from lookalike.data.loading.preprocess import Preprocess
from lookalike.data.loading.read_ahead import ReadAhead
from lookalike.data.loading.sequential import EvalLoader
from lookalike.data.loading.train_loader import TrainLoader
from lookalike.data.record import Member, Record
from lookalike.errors import CredentialsError, DataError, StorageError, UnavailableError
from lookalike.inspection.image_facts import read_image_facts
from lookalike.model.embedder import Embedder
from lookalike.storage import client_registry, event_loop, retry

AUGMENT = Augment(24, then=create_augmentations([], color_jitter=0.3, grayscale=0.2))
PREPROCESS = Preprocess(24, 0.875, (0.5,) * 3, (0.25,) * 3)
NUM = 61


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setitem(retry.FIRST_PAUSE, True, 0.001)
    yield
    gc.collect()
    assert not [t for t in threading.enumerate() if t.name.startswith("lookalike-data")]
    wait_for(lambda: not requests_in_flight())


@pytest.fixture
def server():
    """One for each test: requests that were cancelled may reach a server after the test."""
    with quick_server() as server:
        yield server


def requests_in_flight():
    return [t for t in list(_tasks()) if not t.done()]


def _tasks():
    import asyncio

    return asyncio.all_tasks(event_loop.running_loop())


def wait_for(fact):
    until = time.monotonic() + 10
    while not fact():
        assert time.monotonic() < until
        time.sleep(0.005)


def elsewhere(server, local: Catalog, where="http") -> Catalog:
    """The same images on the server, whole or as parts of one file."""
    contents = [Path(r.uri).read_bytes() if Path(r.uri).exists() else None for r in local.records]
    if where == "parts":
        server.bodies["all.tar"] = b"".join(c or b"" for c in contents)
    offset, records = 0, []
    for row, (record, content) in enumerate(zip(local.records, contents, strict=True)):
        if where == "parts":
            member = Member(f"{row}.jpg", offset, len(content))
            uri = f"{server.address}/all.tar"
            records.append(dataclasses.replace(record, uri=uri, member=member))
            offset += len(content)
            continue
        if content is not None:
            server.bodies[f"{row}.jpg"] = content
        uri = f"{server.address}/{row}.jpg"
        if where == "s3" and content is not None:
            server.bodies[f"shop/{row}.jpg"] = content
        if where == "s3":
            uri = f"s3://shop/{row}.jpg"
        if where == "memory":
            uri = f"memory://shop/{row}.jpg"
            if content is not None:
                fsspec.filesystem("memory").pipe_file(f"/shop/{row}.jpg", content)
        records.append(dataclasses.replace(record, uri=uri))
    return Catalog(tuple(records), local.class_ids, local.classes)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    return write_catalog(tmp_path_factory.mktemp("good"), NUM)


@pytest.fixture
def remote(server, local):
    return elsewhere(server, local)


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken")
    made = write_catalog(folder, NUM, broken=(3, 11))
    (folder / "17.jpg").unlink()
    return made


def trainer(catalog, *, threads=2, requests=REQUESTS, **change):
    settings = {"batch_size": 5, "augment": AUGMENT, "seed": 7} | change
    source = settings.pop("source", None) or Source(threads=threads, requests=requests)
    return TrainLoader(catalog, source=source, **settings)


def evaluator(records, *, threads=2, **change):
    settings = {"preprocess": PREPROCESS, "batch_size": 5, "bad": BadImages()} | change
    settings.setdefault("source", Source(threads=threads))
    return EvalLoader(records, **settings)


def same(a, b):
    assert len(a) == len(b) > 0
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x.images, y.images)
        assert torch.equal(x.classes, y.classes)
        assert torch.equal(x.rows, y.rows)


@pytest.mark.parametrize("where", ["http", "parts", "memory"])
def test_remote_images_give_the_same_batches(server, local, where):
    remote = elsewhere(server, local, where)
    for epoch, start in ((0, 0), (1, 7)):
        expected = list(trainer(local, threads=0).epoch(epoch, start))
        for threads, requests in ((0, 9), (1, 1), (3, 4), (2, 128)):
            loader = trainer(remote, threads=threads, requests=requests)
            same(list(loader.epoch(epoch, start)), expected)
    expected = list(evaluator(local.records))
    same(list(evaluator(remote.records, source=Source(requests=16))), expected)
    fsspec.filesystem("memory").store.clear()


def test_lists_of_both_kinds(server, local, remote):
    for here in (lambda row: row % 2, lambda row: row < 40, lambda row: row >= 40):
        records = tuple(
            (local if here(row) else remote).records[row] for row in range(len(local.records))
        )
        mixed = Catalog(records, local.class_ids, local.classes)
        same(list(trainer(mixed).epoch(0)), list(trainer(local).epoch(0)))


def test_local_images_send_no_requests(local, monkeypatch):
    monkeypatch.setattr(ReadAhead, "__init__", None)
    same(list(trainer(local).epoch(0)), list(trainer(local, threads=0).epoch(0)))


@pytest.mark.parametrize("threads", [0, 3])
def test_bad_images_are_replaced_as_on_a_disk(server, broken, threads):
    server.bodies.clear()
    remote, expected, bad = elsewhere(server, broken), BadImages(), BadImages()
    for epoch in range(2):
        same(
            list(trainer(remote, bad=bad, threads=threads).epoch(epoch)),
            list(trainer(broken, bad=expected, threads=0).epoch(epoch)),
        )
    assert bad.reasons == expected.reasons
    assert set(bad.reasons) == {3, 11, 17}
    assert server.counts["17.jpg"] == 1  # asking again does not change that
    assert server.counts["3.jpg"] == 2  # read twice, and never again
    again, expected = BadImages(), BadImages()
    same(
        list(evaluator(remote.records, bad=again, threads=threads)),
        list(evaluator(broken.records, bad=expected)),
    )
    assert again.reasons == expected.reasons
    server.counts.clear()
    list(trainer(remote, bad=bad, threads=threads).epoch(2))
    assert not {"3.jpg", "11.jpg", "17.jpg"} & set(server.counts)


def test_truncated_answers_are_retried(server, local, remote):
    whole = dict(server.bodies)

    def half_first(key, count):
        content = whole[key]
        server.bodies[key] = content[: len(content) // 2] if count == 1 else content

    bad = BadImages()
    server.plan = half_first
    with_half = trainer(remote, bad=bad, source=Source(requests=1)).epoch(0)
    # One server thread at a time changes the bodies, so that no other is asked meanwhile.
    seen = list(with_half)
    server.plan = lambda *_: None
    server.bodies.update(whole)
    same(seen, list(trainer(local).epoch(0)))
    assert len(bad) == 0


def test_faults_do_not_change_batches(server, local, remote):
    moments, seen = {2: 503, 5: "reset", 7: "cut", 11: 500, 13: "slow"}, []

    def moment(key, count):
        seen.append(key)
        return moments.get(len(seen) % 17)

    server.plan = moment
    bad = BadImages()
    loader = trainer(remote, bad=bad, threads=3)
    for epoch in range(2):
        same(list(loader.epoch(epoch)), list(trainer(local).epoch(epoch)))
    assert len(bad) == 0
    assert len(seen) > 2 * 60


def test_requests_in_flight_are_many_and_bounded(server, remote):
    server.delay = 0.02
    list(trainer(remote, threads=1, requests=24).epoch(0))
    assert 12 < server.most <= 24


def test_bytes_in_flight_are_bounded(server):
    size = 100_000
    for key in range(40):
        server.bodies[f"big{key}"] = bytes(size)
    requests = ReadAhead(32, most_bytes=5 * size)
    where = [f"{server.address}/big{key}" for key in range(40)]
    # The sizes of members of an archive are known before they arrive.
    records = [Record(uri, "0", "x", 1, member=Member("one", 0, size)) for uri in where]
    pending = [requests.fetch(record) for record in records]
    wait_for(lambda: sum(each.done() for each in pending) == 5)
    time.sleep(0.05)
    assert [each.done() for each in pending] == [True] * 5 + [False] * 35
    assert server.most <= 5
    assert pending[0].take() == bytes(size)
    pending[1].release()
    pending[1].release()  # counts once
    wait_for(lambda: pending[6].done())
    time.sleep(0.02)
    assert not pending[7].done()
    requests.close()


def test_image_larger_than_the_buffer_is_read(server):
    server.bodies["big"] = bytes(100_000)
    requests = ReadAhead(4, most_bytes=10)
    record = Record(f"{server.address}/big", "0", "x", 1)
    pending = [requests.fetch(record) for _ in range(3)]
    for number, each in enumerate(pending):
        wait_for(each.done)
        assert sum(other.done() for other in pending) == number + 1
        assert len(each.take()) == 100_000
    requests.close()


def test_a_failing_batch_comes_after_the_good_ones_before_it(server, local, remote, monkeypatch):
    order = [int(row) for made in trainer(local, threads=0).epoch(0) for row in made.rows]
    late = f"{order[27]}.jpg"

    async def refuse(uri, **_):
        if uri.endswith(f"/{late}"):
            raise CredentialsError("refused")
        return server.bodies[uri.rsplit("/", 1)[1]]

    monkeypatch.setattr("lookalike.storage.fetch_bytes", refuse)
    bad, seen = BadImages(), []
    batches = trainer(remote, bad=bad).epoch(0)
    with pytest.raises(CredentialsError, match="refused"):
        seen.extend(batches)
    same(seen, list(trainer(local).epoch(0))[:5])
    assert len(bad) == 0
    with pytest.raises(CredentialsError):
        list(evaluator(remote.records, bad=bad))
    with pytest.raises(CredentialsError):
        read_image_facts(remote.records, range(NUM), source=Source(threads=2), quiet=True)
    assert len(bad) == 0


@pytest.fixture
def bucket(server, local, monkeypatch, tmp_path):
    """The images under s3://."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key", "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server.address, "AWS_CONFIG_FILE": str(tmp_path / "none"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    client_registry.client_of("s3://b/k").forget("s3://b/k")
    yield elsewhere(server, local, "s3")
    client_registry.client_of("s3://b/k").forget("s3://b/k")


@pytest.mark.parametrize("where", ["remote", "bucket"])
def test_images_that_never_arrive_are_bad(server, request, where):
    remote, never = request.getfixturevalue(where), ("/5.jpg", "/7.jpg", "/9.jpg")
    server.plan = lambda key, count: 503 if f"/{key}".endswith(never) else None
    bad = BadImages()
    (made,) = trainer(remote, bad=bad, batch_size=61, threads=2).epoch(0)
    assert bad.reasons == dict.fromkeys((5, 7, 9), "the storage answers 503")
    assert not {5, 7, 9} & set(made.rows.tolist())
    assert {n for n in server.counts.values() if n > 4} == {7}


def test_outage_does_not_count_as_bad_images(server, local, bucket):
    """It ends the work instead: who would want a run that goes on without a thousand images?"""
    out, expected = [], list(trainer(local).epoch(0))

    def fail_from(number):
        return lambda key, count: 503 if sum(server.counts.values()) > number else None

    server.plan = fail_from(30)
    bad = BadImages()
    batches = trainer(bucket, bad=bad, source=Source(requests=8)).epoch(0)
    with pytest.raises(UnavailableError, match=r"answers 503, and the storage does not answer"):
        out.extend(batches)
    assert 0 < len(out) < 12
    same(out, expected[: len(out)])
    assert not len(bad)
    server.plan = fail_from(0)
    with pytest.raises(UnavailableError):
        list(evaluator(bucket.records, bad=bad))
    with pytest.raises(UnavailableError):
        read_image_facts(bucket.records, range(NUM), source=Source(threads=2), quiet=True)
    assert not len(bad)
    server.plan = lambda *_: None
    same([*out, *trainer(bucket, bad=bad).epoch(0, len(out))], expected)


def test_internal_errors_are_raised(remote, monkeypatch):
    def explode(data, **options):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(part_module, "decode", explode)
    with pytest.raises(ZeroDivisionError, match="ours"):
        next(trainer(remote).epoch(0))


def test_too_many_bad_images(server, tmp_path):
    catalog = elsewhere(server, write_catalog(tmp_path, 30, broken=tuple(range(30))))
    with pytest.raises(DataError, match=r"^\d+ images cannot be read, among them train\.txt:\d"):
        next(trainer(catalog).epoch(0))


@pytest.mark.parametrize("how", ["close", "forget", "error"])
def test_closing_ends_the_requests(server, local, remote, monkeypatch, how):
    # The first batches come, the rest waits for ever.
    order = [int(row) for made in trainer(local, threads=0).epoch(0) for row in made.rows]
    first = {f"{row}.jpg" for row in order[:10]}
    held = threading.Event()

    def hold(key, count):
        if key not in first:
            held.wait(10)

    server.plan = hold
    if how == "error":
        fatal = server.bodies[f"{order[7]}.jpg"]
        monkeypatch.setattr(
            part_module, "decode", lambda data, **options: 1 / 0 if data == fatal else decode(data)
        )
    batches = trainer(remote, source=Source(requests=16)).epoch(0)
    next(batches)
    wait_for(lambda: len(requests_in_flight()) >= 16)
    began = time.monotonic()
    if how == "close":
        batches.close()
    elif how == "forget":
        del batches
        gc.collect()
    else:
        try:
            next(batches)
        except ZeroDivisionError as error:
            kept = error  # with its traceback
    wait_for(lambda: not requests_in_flight())
    assert time.monotonic() - began < 5
    held.set()
    if how == "error":
        assert str(kept)


def test_unused_epoch_sends_no_requests(server, remote):
    trainer(remote).epoch(0)
    assert not server.counts


def test_no_image_is_requested_twice_ahead(server, remote):
    list(trainer(remote).epoch(0))
    assert set(server.counts.values()) == {1}
    assert len(server.counts) == 60


def test_pictures_of_the_doctor(server, local, remote):
    server.delay = 0.1
    here = read_image_facts(local.records, range(NUM), source=Source(threads=2), quiet=True)
    there = read_image_facts(remote.records, range(NUM), source=Source(threads=2), quiet=True)
    assert server.most > 8
    for name in ("readable", "sizes", "bytes", "digests", "thumbs"):
        np.testing.assert_array_equal(getattr(here, name), getattr(there, name))


def test_embedding_from_python(server, local, remote):
    torch.manual_seed(0)
    embedder = Embedder.create(
        "test_resnet", pretrained=False, image_size=32, embedding_dim=8, pooling="avg"
    ).eval()
    here = [record.uri for record in local.records]
    there = [record.uri for record in remote.records]
    server.delay = 0.01
    expected = embedder.embed(here, batch_size=8)
    np.testing.assert_array_equal(embedder.embed(there, batch_size=8, threads=1), expected)
    assert server.most > 8
    mixed = [here[0], there[1], Path(here[2]), Path(here[3]).read_bytes(), *there[4:]]
    np.testing.assert_array_equal(embedder.embed(mixed, batch_size=8), expected)
    server.bodies["7.jpg"] = b"<html>"
    with pytest.raises(DataError, match=rf"^{there[7]}: an HTML page"):
        embedder.embed(there, batch_size=8)
    del server.bodies["7.jpg"]
    with pytest.raises(StorageError, match=rf"^{there[7]}: no such file"):
        embedder.embed(there, batch_size=8)
    assert embedder.embed([]).shape == (0, 8)


PROGRAM = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with SIG_IGN
sys.path[:0] = {path!r}
from lookalike.data.loading.train_loader import TrainLoader
from lookalike.data.augmentations import create_augmentations
from lookalike.data.augmentations.training_crop import Augment
from lookalike.data.catalog import Catalog, Classes, Record
from lookalike.data.loading.image_source import Source
import numpy as np
records = tuple(Record(f"{address}/{{row}}.jpg", "0", "x", 1) for row in range(60))
catalog = Catalog(records, np.zeros(60, np.int64), Classes(("0",)))
loader = TrainLoader(catalog, batch_size=2, augment=Augment(24), seed=0, source=Source(threads=3))
batches = loader.epoch(0)
next(batches)
{then}
"""


@pytest.mark.parametrize(
    ("then", "signalled"),
    [
        ("print('end', flush=True)", False),
        ("print('ready', flush=True)\nwhile True:\n    list(loader.epoch(0))", True),
    ],
    ids=["forgotten at exit", "Ctrl-C"],
)
def test_a_program_ends_with_its_requests_in_flight(server, remote, then, signalled):
    server.delay = 0.03
    program = PROGRAM.format(path=sys.path, address=server.address, then=then)
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        if signalled:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    if signalled:
        # 1 where tabulate is installed, which torchvision imports through torch.
        assert process.returncode in (-signal.SIGINT, 130, 1)
        assert errors.strip().endswith("KeyboardInterrupt")
    else:
        assert (process.returncode, errors) == (0, "")


def test_web_servers_without_ranges(server, monkeypatch):
    server.bodies["ab c&d+%.bin"] = bytes(range(100))
    uri = f"{server.address}/ab c&d+%25.bin?token=hush"
    assert storage.read_bytes(uri) == bytes(range(100))
    assert storage.read_bytes(uri, part=(10, 5)) == bytes(range(10, 15))
    monkeypatch.setattr(Handler, "parse_request", _without_range(Handler.parse_request))
    assert storage.read_bytes(uri, part=(10, 5)) == bytes(range(10, 15))
    server.plan = lambda *_: 403
    with pytest.raises(StorageError, match=r"the storage answers 403$") as told:
        storage.read_bytes(uri)
    assert "hush" not in str(told.value)
    server.plan = lambda *_: 503
    with pytest.raises(StorageError, match=r"the storage answers 503$"):
        storage.read_bytes(uri)
    assert server.counts["ab c&d+%.bin"] == 4 + 7


def _without_range(parse):
    def parse_request(self):
        fine = parse(self)
        if fine:
            del self.headers["Range"]
        return fine

    return parse_request


def test_many_images_of_a_remote_archive_at_once_on_a_host_with_a_name(server):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("cat/1.jpg", b"image")
    server.bodies["photos.zip"] = content.getvalue()
    # A name that is looked up for the first time, in threads that must be free for it.
    address = f"http://localhost:{server.server_port}/photos.zip/cat/1.jpg"

    async def all_of_them():
        async with asyncio.timeout(20):
            return await asyncio.gather(*(storage.fetch_bytes(address) for _ in range(128)))

    assert event_loop.waited(all_of_them()) == [b"image"] * 128
