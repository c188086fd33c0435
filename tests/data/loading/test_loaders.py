import dataclasses
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from picture_files import encode, picture, write_catalog

from lookalike import storage
from lookalike.data.augmentations import create_augmentations
from lookalike.data.augmentations.training_crop import Augment
from lookalike.data.catalog import Catalog, Classes, Record
from lookalike.data.decoding import partial_jpeg as part_module
from lookalike.data.decoding.decode import decode
from lookalike.data.decoding.image_formats import OTHERS
from lookalike.data.loading import image_source as source_module
from lookalike.data.loading.bad_images import BadImages, describe_bad, image_fault, warn_left_out
from lookalike.data.loading.image_source import Source
from lookalike.data.loading.preprocess import Preprocess
from lookalike.data.loading.sequential import EvalLoader
from lookalike.data.loading.train_loader import TrainLoader
from lookalike.data.rng import row_rng
from lookalike.data.samplers import Sampling, Sizes, create_sampler, epoch_shape
from lookalike.distributed.world import World
from lookalike.errors import ConfigError, DataError, StorageError

AUGMENT = Augment(24, then=create_augmentations([], color_jitter=0.3, grayscale=0.2))
PREPROCESS = Preprocess(24, 0.875, (0.5,) * 3, (0.25,) * 3)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return write_catalog(tmp_path_factory.mktemp("good"), 23)


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken")
    made = write_catalog(folder, 23, broken=(3, 11))
    (folder / "17.jpg").unlink()
    return made


@pytest.fixture(autouse=True)
def no_threads_are_left():
    yield
    gc.collect()
    assert not data_threads()


def data_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("lookalike-data")]


def trainer(catalog, *, threads=0, **change):
    settings = {"batch_size": 5, "augment": AUGMENT, "seed": 7} | change
    return TrainLoader(catalog, source=Source(threads=threads), **settings)


def evaluator(records, *, threads=0, **change):
    settings = {"preprocess": PREPROCESS, "batch_size": 5, "bad": BadImages()}
    return EvalLoader(records, source=Source(threads=threads), **(settings | change))


def same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x.images, y.images)
        assert torch.equal(x.classes, y.classes)
        assert torch.equal(x.rows, y.rows)


def join(parts):
    return [
        dataclasses.replace(
            shards[0],
            **{
                name: torch.cat([getattr(shard, name) for shard in shards])
                for name in ("images", "classes", "rows")
            },
        )
        for shards in zip(*parts, strict=True)
    ]


def epoch_order(num: int, seed: int, epoch: int) -> np.ndarray:
    ids = np.zeros(num, int)
    sampler = create_sampler(ids, batch_size=1, seed=seed, sampling=Sampling())
    return sampler.rows(epoch)[:, 0]


def test_epoch_order():
    order = epoch_order(1000, 3, 5)
    assert order.dtype == np.int64
    assert sorted(order) == list(range(1000))
    np.testing.assert_array_equal(order, epoch_order(1000, 3, 5))
    for other in ((3, 6), (4, 5), (5, 3)):
        assert (order == epoch_order(1000, *other)).mean() < 0.02
    # Each place is equally likely: 2000 draws for each of 5 x 5, scatter about 40.
    places = np.zeros((5, 5), int)
    for epoch in range(2000):
        places[np.arange(5), epoch_order(5, 0, epoch)] += 1
    assert np.abs(places - 400).max() < 100


def test_a_resumed_run_may_use_another_version_of_numpy():
    """Written down once: if this changes, runs of older versions do not resume exactly."""
    assert epoch_order(8, 1, 2).tolist() == [5, 1, 3, 4, 6, 2, 7, 0]
    assert row_rng(1, 2, 3).random() == 0.4310285638286371


def test_row_rng_streams_differ():
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0, 1), (0, 0, 256), (0, 256, 0)]
    assert len({row_rng(*key).random() for key in keys}) == len(keys)


def test_steps():
    for images, steps in ((23, (4, 5)), (20, (4, 5)), (3, (1, 3))):
        assert epoch_shape(Sizes.even(images, 2), 5, Sampling()) == steps


def test_a_batch(catalog):
    loader = trainer(catalog)
    batches = list(loader.epoch(0))
    assert loader.steps_per_epoch == len(batches) == 4
    order = epoch_order(23, 7, 0)
    for step, made in enumerate(batches):
        assert made.images.shape == (5, 3, 24, 24)
        assert made.images.dtype == torch.uint8
        assert made.images.is_contiguous(memory_format=torch.channels_last)
        assert made.rows.tolist() == order[5 * step : 5 * step + 5].tolist()
        assert made.classes.dtype == made.rows.dtype == torch.int64
        assert made.classes.tolist() == catalog.class_ids[made.rows.numpy()].tolist()
    row = int(batches[2].rows[1])
    pixels, rng = decode(Path(catalog.records[row].uri).read_bytes()), row_rng(7, 0, row)
    expected = torch.empty(3, 24, 24, dtype=torch.uint8)
    AUGMENT.write(pixels, AUGMENT.draw_box(*pixels.shape[:2], rng), rng, expected)
    assert torch.equal(batches[2].images[1], expected)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("which", ["catalog", "broken"])
def test_threads_change_nothing(request, which, threads):
    catalog = request.getfixturevalue(which)
    for epoch in range(2):
        alone, many = trainer(catalog).epoch(epoch), trainer(catalog, threads=threads).epoch(epoch)
        same(list(alone), list(many))


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("which", ["catalog", "broken"])
def test_workers_share_the_batches_of_one(request, which, size):
    catalog = request.getfixturevalue(which)
    parts = [
        list(trainer(catalog, world=World(rank, size), threads=rank).epoch(1))
        for rank in range(size)
    ]
    assert [len(part[0].rows) for part in parts] == {2: [3, 2], 3: [2, 2, 1]}[size]
    same(join(parts), list(trainer(catalog).epoch(1)))


def test_epochs_and_seeds_differ(catalog):
    first = next(trainer(catalog).epoch(0))
    for other in (next(trainer(catalog).epoch(1)), next(trainer(catalog, seed=8).epoch(0))):
        assert not torch.equal(first.rows, other.rows)
    # The same row is cropped differently in another epoch.
    one = write_one(catalog)
    a, b = (next(trainer(one, batch_size=1).epoch(epoch)) for epoch in (0, 1))
    assert torch.equal(a.rows, b.rows)
    assert not torch.equal(a.images, b.images)


def write_one(catalog, row=0):
    return Catalog((catalog.records[row],), catalog.class_ids[row : row + 1], catalog.classes)


@pytest.mark.parametrize("start", [0, 1, 3, 4])
@pytest.mark.parametrize("threads", [0, 2])
def test_an_epoch_is_taken_up_at_any_step(catalog, start, threads):
    whole = list(trainer(catalog).epoch(2))
    same(list(trainer(catalog, threads=threads).epoch(2, start)), whole[start:])


def test_a_set_smaller_than_a_batch_is_the_batch(catalog):
    loader = trainer(catalog, batch_size=100)
    assert (loader.batch_size, loader.steps_per_epoch) == (23, 1)
    (made,) = loader.epoch(0)
    assert sorted(made.rows.tolist()) == list(range(23))
    with pytest.raises(DataError, match="shared by 2 workers"):
        trainer(write_one(catalog), world=World(0, 2))


def test_bad_images_are_replaced(broken):
    bad = BadImages()
    loader = trainer(broken, bad=bad, batch_size=23)
    (made,) = loader.epoch(0)
    order = epoch_order(23, 7, 0)
    rows = made.rows.numpy()
    replaced = np.isin(order, (3, 11, 17))
    assert set(rows).isdisjoint((3, 11, 17))
    np.testing.assert_array_equal(rows[~replaced], order[~replaced])
    np.testing.assert_array_equal(made.classes.numpy(), broken.class_ids[rows])
    assert bad.reasons == {
        3: OTHERS["HTML"],
        11: OTHERS["HTML"],
        17: "no such file or directory",
    }
    # The true picture of the substitute, with chance of its own, not as it looks in its place.
    place = int(np.flatnonzero(replaced)[0])
    twin = int(np.flatnonzero(rows == rows[place])[-1])
    if twin == place:
        twin = int(np.flatnonzero(rows == rows[place])[0])
    assert not torch.equal(made.images[place], made.images[twin])
    # Another epoch draws other substitutes.
    (again,) = loader.epoch(1)
    assert len(bad) == 3
    assert set(again.rows.tolist()).isdisjoint((3, 11, 17))


def test_known_bad_images_are_not_read_again(broken, monkeypatch):
    reference = list(trainer(broken).epoch(0))
    read = []

    def spy(uri, **_):
        read.append(uri)
        return Path(uri).read_bytes()

    monkeypatch.setattr(source_module, "read_bytes", spy)
    bad = BadImages({3: "known", 11: "known", 17: "known"})
    same(list(trainer(broken, bad=bad).epoch(0)), reference)
    assert not {broken.records[row].uri for row in (3, 11, 17)} & set(read)
    assert bad.reasons[3] == "known"


def test_half_a_file_is_read_again(catalog, monkeypatch):
    seen = set()

    def flaky(uri, **_):
        content = Path(uri).read_bytes()
        if uri not in seen:
            seen.add(uri)
            return content[: len(content) // 2]
        return content

    reference = list(trainer(catalog).epoch(0))
    expected = list(evaluator(catalog.records))
    monkeypatch.setattr(source_module, "read_bytes", flaky)
    bad = BadImages()
    same(list(trainer(catalog, bad=bad).epoch(0)), reference)
    assert len(bad) == 0
    seen.clear()
    same(list(evaluator(catalog.records, bad=bad)), expected)
    assert len(bad) == 0


@pytest.mark.parametrize("threads", [0, 2])
def test_too_many_bad_images(tmp_path, threads):
    catalog = write_catalog(tmp_path, 6, broken=tuple(range(6)))
    bad = BadImages()
    with pytest.raises(
        DataError, match=r"^\d images cannot be read, among them train\.txt:\d"
    ) as e:
        next(trainer(catalog, threads=threads, bad=bad, batch_size=2).epoch(0))
    first = min(bad.reasons)
    if threads == 0:
        assert str(e.value).endswith(
            f"The first one: train.txt:{first + 1}: {catalog.records[first].uri}: "
            "an HTML page, often the error page of a web server; download or export the image again"
        )
    assert "\n" not in str(e.value)
    assert "data.image_root" not in str(e.value)
    for record in catalog.records:
        Path(record.uri).unlink()
    with pytest.raises(DataError, match=r"or at data\.image_root\. The first one: train\.txt:"):
        next(trainer(catalog, threads=threads, bad=BadImages(), batch_size=2).epoch(0))


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_an_exception_in_a_thread_surfaces(catalog, monkeypatch, threads):
    def explode(data, **options):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(part_module, "decode", explode)
    batches = trainer(catalog, threads=threads).epoch(0)
    with pytest.raises(ZeroDivisionError, match="ours"):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)
    assert not data_threads()


def test_closing_early_stops_the_threads(catalog):
    batches = trainer(catalog, threads=3).epoch(0)
    next(batches)
    assert len(data_threads()) == 3
    batches.close()
    assert not data_threads()
    for _ in trainer(catalog, threads=2).epoch(0):
        break
    gc.collect()
    assert not data_threads()
    trainer(catalog, threads=2).epoch(0)  # never begun
    assert not data_threads()


PROGRAM = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background has none
sys.path[:0] = {path!r}
from pathlib import Path
from picture_files import write_catalog
from lookalike.data.loading.train_loader import TrainLoader
from lookalike.data.augmentations import create_augmentations
from lookalike.data.augmentations.training_crop import Augment
from lookalike.data.loading.image_source import Source
catalog = write_catalog(Path({folder!r}), 12)
loader = TrainLoader(catalog, batch_size=2, augment=Augment(24), seed=0, source=Source(threads=3))
batches = loader.epoch(0)
next(batches)
{then}
"""


@pytest.mark.parametrize(
    ("then", "signalled", "ends_with"),
    [
        pytest.param("print('end', flush=True)", False, "", marks=pytest.mark.slow),
        ("raise SystemError('ours')", False, "SystemError: ours"),
        ("print('ready', flush=True)\nwhile True:\n    list(loader.epoch(0))", True, ""),
    ],
    ids=["forgotten at exit", "exception", "Ctrl-C"],
)
def test_a_program_ends_with_its_loader_running(tmp_path, then, signalled, ends_with):
    program = PROGRAM.format(path=sys.path, folder=str(tmp_path), then=textwrap.dedent(then))
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        if signalled:
            assert process.stdout.readline() == "ready\n"
            time.sleep(0.1)
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    if signalled:
        # 1 where tabulate is installed, which torchvision imports through torch.
        assert process.returncode in (-signal.SIGINT, 130, 1)
        assert errors.strip().endswith("KeyboardInterrupt")
    else:
        assert process.returncode == bool(ends_with)
        assert errors.strip().endswith(ends_with) if ends_with else errors == ""


def test_waiting_is_measured(catalog, monkeypatch):
    def slow(data, **options):
        time.sleep(0.02)
        return decode(data)

    monkeypatch.setattr(part_module, "decode", slow)
    loader = trainer(catalog)
    assert loader.wait_seconds == 0
    list(loader.epoch(0))
    waited = loader.wait_seconds
    assert waited >= 20 * 0.02
    batches = loader.epoch(0)
    next(batches)
    time.sleep(0.3)  # the consumer's own time does not count
    batches.close()
    assert loader.wait_seconds - waited < 0.3


def test_numbers_are_checked(catalog):
    with pytest.raises(ConfigError, match=r"threads=-1 must be an integer from"):
        trainer(catalog, threads=-1)
    with pytest.raises(ConfigError, match="batch_size=0"):
        evaluator(catalog.records, batch_size=0)
    with pytest.raises(DataError, match="no images"):
        trainer(Catalog((), np.zeros(0, np.int64), Classes(())))


def test_scaled_decoding_is_used_and_repeatable(tmp_path):
    catalog = write_catalog(tmp_path, 4)
    for row in range(4):
        (tmp_path / f"{row}.jpg").write_bytes(encode(picture(400, 500, row), "JPEG"))
    scaled = dataclasses.replace(AUGMENT, scaled_decode=True)
    fast = list(trainer(catalog, augment=scaled).epoch(0))
    same(fast, list(trainer(catalog, augment=scaled, threads=3).epoch(0)))
    (full,) = trainer(catalog).epoch(0)
    assert torch.equal(full.rows, fast[0].rows)
    assert not torch.equal(full.images, fast[0].images)
    assert (full.images.int() - fast[0].images.int()).abs().float().mean() < 6


@pytest.mark.parametrize("threads", [0, 3])
def test_evaluation_sees_every_image_once_in_order(catalog, threads):
    loader = evaluator(catalog.records, threads=threads, class_ids=catalog.class_ids)
    assert len(loader) == 5
    for _ in range(2):  # it may be iterated again
        with torch.inference_mode():
            batches = list(loader)
        assert [len(made.rows) for made in batches] == [5, 5, 5, 5, 3]
        rows = torch.cat([made.rows for made in batches])
        assert rows.tolist() == list(range(23))
        for made in batches:
            assert made.images.is_contiguous(memory_format=torch.channels_last)
            assert made.classes.tolist() == catalog.class_ids[made.rows.numpy()].tolist()
            for image, row in zip(made.images, made.rows.tolist(), strict=True):
                data = Path(catalog.records[row].uri).read_bytes()
                assert torch.equal(image, PREPROCESS.prepare(decode(data)))
    assert next(iter(evaluator(catalog.records))).classes.tolist() == [0] * 5


@pytest.mark.parametrize("which", ["catalog", "broken"])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_evaluation_batches_are_the_same_for_any_number_of_workers(request, which, size):
    records = request.getfixturevalue(which).records
    whole = list(evaluator(records))
    parts = [list(evaluator(records).shard(World(rank, size))) for rank in range(size)]
    assert sum(map(len, parts)) == len(whole)
    for rank, part in enumerate(parts):
        same(part, whole[rank::size])


def test_evaluation_leaves_bad_images_out(broken, tmp_path):
    bad = BadImages()
    batches = list(evaluator(broken.records, bad=bad, threads=2, class_ids=broken.class_ids))
    rows = torch.cat([made.rows for made in batches]).tolist()
    assert rows == [row for row in range(23) if row not in (3, 11, 17)]
    assert sorted(bad.reasons) == [3, 11, 17]
    for made in batches:
        assert made.images.is_contiguous(memory_format=torch.channels_last)
        assert made.classes.tolist() == broken.class_ids[made.rows.numpy()].tolist()
        for image, row in zip(made.images, made.rows.tolist(), strict=True):
            data = Path(broken.records[row].uri).read_bytes()
            assert torch.equal(image, PREPROCESS.prepare(decode(data)))
    # A batch of which nothing is left is left out.
    none = write_catalog(tmp_path, 7, broken=tuple(range(5)))
    (made,) = evaluator(none.records)
    assert made.rows.tolist() == [5, 6]
    assert list(evaluator([])) == []


def test_missing_extras_are_not_bad_images(catalog, monkeypatch):
    """An error that concerns every image is not blamed on one."""

    def refuse(uri, **_):
        raise ImportError("s3fs is not installed")

    monkeypatch.setattr(source_module, "read_bytes", refuse)
    bad = BadImages()
    with pytest.raises(ImportError):
        next(trainer(catalog, bad=bad, threads=1).epoch(0))
    assert len(bad) == 0


def test_bad_images_count_each_row_once():
    bad = BadImages({9: "old"})
    news = []

    def add(number):
        news.extend(bad.add(row, f"reason {number}") for row in range(200))

    threads = [threading.Thread(target=add, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(news) == 199
    assert len(bad) == 200
    assert list(bad.reasons) == list(range(200))
    assert bad.reasons[9] == "old"
    assert 9 in bad
    assert 200 not in bad


def test_the_first_images_that_are_left_out_are_named_and_the_rest_counted(caplog):
    records = [Record(f"{row}.jpg", "0", "train.txt", row + 1) for row in range(30)]
    warn_left_out(records, dict.fromkeys(reversed(range(30)), "truncated"))
    assert len(caplog.messages) == 21
    assert caplog.messages[0] == "left out: train.txt:1: 0.jpg: truncated"
    assert caplog.messages[20] == "left out: 10 more images that cannot be read"


def test_secrets_are_not_told(monkeypatch):
    record = Record("https://me:secret@host/a.jpg?key=hidden", "0", "train.txt", 4)
    assert describe_bad(record, "truncated") == "train.txt:4: https://host/a.jpg: truncated"

    def refuse(uri, **_):
        raise StorageError("https://host/a.jpg: timed out")

    monkeypatch.setattr(source_module, "read_bytes", refuse)
    bad = BadImages()
    assert list(evaluator([record], bad=bad)) == []
    assert bad.reasons == {0: "timed out"}


@pytest.mark.parametrize(
    ("path", "hint"),
    [("photos\\cat\\1.jpg", "; if \\ separates folders in it, as on Windows, write / in the list"),
     ("photos/1.jpg", ""), ("Größe/1.jpg", ""),
     ("图片/1.jpg".encode("gbk").decode(), "; the list is GBK text; save it as UTF-8")],
)  # fmt: skip
def test_a_missing_file_with_a_path_of_windows_gets_a_hint(tmp_path, path, hint):
    (tmp_path / "图片").mkdir()
    (tmp_path / "图片/1.jpg").touch()
    record = Record(f"{tmp_path}/{path}", "3", "train.txt", 1)
    with pytest.raises(StorageError) as missing:
        storage.read_bytes(record.uri)
    assert image_fault(missing.value, record) == f"no such file or directory{hint}"
    assert (
        image_fault(StorageError(f"{record.uri}: permission denied"), record) == "permission denied"
    )


def test_a_missing_file_in_quotes_or_at_home_gets_a_hint(tmp_path, monkeypatch):
    (tmp_path / "red shoe.jpg").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    for uri, hint in {
        "lists/~/red shoe.jpg": "; ~ is not expanded in a list; write the whole path",
        "lists/~/red hat.jpg": "",
        'lists/"red shoe.jpg"': "; quotes are a part of a path in a list of `path label`; remove "
        "them",
    }.items():
        with pytest.raises(StorageError) as missing:
            storage.read_bytes(uri)
        fault = image_fault(missing.value, Record(uri, "3", "train.txt", 1))
        assert fault == f"no such file or directory{hint}"
