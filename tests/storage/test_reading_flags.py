"""Requests of evaluate, embed, search, improve and export to object storage, and their cache."""

import shutil

import numpy as np
import pytest
from engine_process import call
from test_whole_run import go, upload

import lookalike
from lookalike import storage
from lookalike.cli import app
from lookalike.commands.read_options import ReadOptions
from lookalike.data.loading.image_source import Source
from lookalike.errors import ConfigError

IMAGES = 48


@pytest.fixture
def data(bucket, shapes):
    """The URI of a list in the bucket."""
    assert upload(shapes, "s3://shop/data") == IMAGES
    return "s3://shop/data/train.txt"


def asked(bucket):
    """Number of images that were asked for since the last time."""
    found = [n for (method, path), n in bucket.counts.items() if "/images/" in path]
    bucket.counts.clear()
    return sum(found)


def evaluated(model, data, folder, **more):
    return lookalike.evaluate(model, data, device="cpu", **more).to_dict()


def compared(model, data, folder, **more):
    return lookalike.compare([model, model], data, device="cpu", **more).to_dict()


def embedded(model, data, folder, **more):
    lookalike.embed(model, data, folder / "x.npy", restart=True, device="cpu", **more)
    return np.load(folder / "x.npy").tolist()


def searched(model, data, folder, **more):
    shutil.rmtree(folder / "index", ignore_errors=True)
    found = lookalike.search(
        model, data, gallery=data, index=folder / "index", html=folder / "x.html", device="cpu",
        **more,
    )  # fmt: skip
    return found.answers, (folder / "x.html").read_text("utf-8")


def improved(model, data, folder, **more):
    found = lookalike.improve(model, data, variants=["flip"], device="cpu", **more)
    return [one.to_dict() for one in found]


def exported(model, data, folder, **more):
    shutil.rmtree(folder / "out", ignore_errors=True)
    made = lookalike.export(model, "safetensors", output=folder / "out", data=data, **more)
    return made.certificate.to_dict()


@pytest.mark.parametrize("measure", [evaluated, compared, embedded, searched, improved, exported])
def test_each_image_is_requested_once(bucket, data, model, tmp_path, measure):
    asked(bucket)
    expected = measure(model, data, tmp_path)
    without = asked(bucket)
    assert without >= IMAGES
    cache = tmp_path / "images"
    for expected_count in (IMAGES, 0):
        assert measure(model, data, tmp_path, cache=cache, cache_size="1GB", requests=3) == expected
        assert asked(bucket) == expected_count
    shutil.rmtree(tmp_path / "images")
    assert measure(model, data, tmp_path) == expected
    assert asked(bucket) == without
    assert not cache.exists()


def test_defaults_are_those_of_the_run(bucket, data, model, tmp_path):
    cache = tmp_path / "images"
    run = go(data, str(tmp_path / "run"), 1, data__cache=str(cache), data__requests=5)
    assert asked(bucket) > 0
    evaluated(run.path, data, tmp_path)  # the epoch's other images
    asked(bucket)
    evaluated(run.path, data, tmp_path)
    assert asked(bucket) == 0
    source = ReadOptions().source([model, run.path])
    assert source.requests == 5
    assert source.cache.limit == 50 * 10**9
    source = ReadOptions(cache=tmp_path / "other", cache_size="7MB", requests=9).source([run.path])
    assert (source.requests, source.cache.limit) == (9, 7 * 10**6)
    assert source.cache.folder.parent == tmp_path / "other"
    shutil.rmtree(cache)  # as on another machine
    evaluated(run.path, data, tmp_path)
    assert asked(bucket) == IMAGES
    assert not cache.exists()
    (run.path / "resolved.yaml").write_text("data: {threads: many}\n")  # of another version
    source = ReadOptions().source([run.path])
    assert source.requests == Source().requests


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"requests": 0}, "data.requests"),
        ({"cache_size": "1GB"}, r"cache_size=1GB \(--cache-size\), but there is no cache"),
        ({"cache": "{}/x", "cache_size": "much"}, "is no size"),
        ({"cache": "{}/file/x"}, "cannot be the cache of images"),
    ],
)
def test_invalid_values_are_refused(model, shapes, tmp_path, flags, words):
    (tmp_path / "file").touch()
    given = {k: v.format(tmp_path) if isinstance(v, str) else v for k, v in flags.items()}
    with pytest.raises(ConfigError, match=words) as told:
        lookalike.evaluate(model, str(shapes / "train.txt"), device="cpu", **given)
    assert "\n" not in str(told.value)


@pytest.mark.slow
def test_the_commands_take_the_flags(bucket, data, model, tmp_path):
    cache = tmp_path / "images"
    flags = ["--cache", str(cache), "--cache-size", "1GB", "--requests", "7"]
    output = tmp_path / "x.npy"
    done = call("embed", str(model), data, "-o", str(output), "--workers", "2", "--device", "cpu",
                *flags, cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    asked(bucket)
    done = call("evaluate", str(model), "--data", data, "--device", "cpu", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert asked(bucket) == 0
    assert len(np.load(output)) == IMAGES
    assert storage.exists(str(cache / "lookalike-images-1"))
    taking = {
        command.callback.__name__
        for command in app.registered_commands
        if {"cache", "cache_size", "requests"} <= set(command.callback.__annotations__)
    }
    assert taking == {"evaluate", "embed", "search", "improve", "export"}


@pytest.mark.slow
def test_one_of_two_workers_reads_a_list(bucket, data, model, tmp_path):
    def lists(command, *words, workers):
        bucket.counts.clear()
        done = call(command, *map(str, words), "--workers", str(workers), "--device", "cpu",
                    cwd=tmp_path)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return {key: n for key, n in bucket.counts.items() if key[1].endswith(".txt")}

    for words in (
        ("embed", model, data, "-o", tmp_path / "x.npy"),
        ("evaluate", model, "--data", data),
        ("evaluate", model, "--query", data, "--gallery", data),
    ):
        alone, together = (lists(*words, workers=workers) for workers in (1, 2))
        assert alone
        assert together == alone, words
