"""`embed` and `evaluate` on two machines that share nothing but a bucket."""

import json
import re
import socket
import subprocess

import numpy as np
import pyarrow.parquet as pq
import pytest
from engine_process import command, environment

from lookalike import storage
from lookalike.commands import embed as command_embed
from lookalike.commands import embed_parts
from lookalike.commands.embed import embed
from lookalike.commands.embed_parts import EmbeddingTask
from lookalike.commands.evaluate import compare
from lookalike.commands.models import load
from lookalike.data.loading.image_source import Source
from lookalike.distributed.world import ALONE
from lookalike.errors import ConfigError, RunError
from lookalike.evaluation.testset import from_list
from lookalike.log import logger
from lookalike.vectors.shared_parts import SharedParts
from lookalike.vectors.vector_parts import Part, Request

OUTPUT = "s3://shop/vectors/all.parquet"
PARTS = "s3://shop/vectors/.all.parquet.parts"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(command_embed, "PART_SIZE", 64)


@pytest.fixture
def on_machine(monkeypatch):
    def be(rank):
        for name, value in {
            "RANK": rank,
            "WORLD_SIZE": 2,
            "LOCAL_RANK": 0,
            "LOCAL_WORLD_SIZE": 1,
        }.items():
            monkeypatch.setenv(name, str(value))

    before = logger.level
    yield be
    logger.setLevel(before)  # that of a machine which is not the main one hides warnings


@pytest.fixture
def places(shapes):
    """204 images: 4 parts."""
    return [shapes / "train.txt", shapes / "val.txt"] * 3


def table(place, tmp_path):
    file = tmp_path / "read.parquet"
    storage.fetch_file(place, file)
    found = pq.read_table(file)
    vectors = found["vector"].combine_chunks().flatten().to_numpy()
    return found["path"].to_pylist(), found["label"].to_pylist(), vectors


def test_a_lost_machine_costs_its_unfinished_parts(
    bucket, model, places, on_machine, tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO", "lookalike")
    expected = tmp_path / "one.parquet"
    assert embed(model, places, expected, device="cpu") == 204
    alone = pq.read_table(expected)

    write = SharedParts.write

    def lost(parts, number, part):
        write(parts, number, part)
        raise SystemExit(9)

    on_machine(1)
    with monkeypatch.context() as patch:
        patch.setattr(SharedParts, "write", lost)
        with pytest.raises(SystemExit):
            embed(model, places, OUTPUT, device="cpu")
    assert set(storage.sizes_below(PARTS)) == {"manifest.json", "000001.part"}

    on_machine(0)  # does the part of the lost one too
    assert embed(model, places, OUTPUT, device="cpu") == 204
    assert "resumed: 1 of 4 parts are done" in caplog.text
    paths, labels, vectors = table(OUTPUT, tmp_path)
    assert paths == alone["path"].to_pylist()
    assert labels == alone["label"].to_pylist()
    assert np.array_equal(vectors, alone["vector"].combine_chunks().flatten().to_numpy())
    assert set(storage.sizes_below(PARTS)) == {"manifest.json"}

    monkeypatch.delattr(SharedParts, "write")  # nothing is embedded again
    for rank in (1, 0):  # a machine that is back, and a job that is started again
        on_machine(rank)
        assert embed(model, places, OUTPUT, device="cpu") == 0
    assert f"{OUTPUT}: is complete; to make it again, remove {PARTS}" in caplog.text
    assert not list((tmp_path / "cache/lookalike/embedding").glob("*"))


def test_parts_of_another_list_are_not_mixed(bucket, model, places, on_machine, tmp_path):
    on_machine(1)
    storage.write_bytes(
        f"{PARTS}/manifest.json",
        json.dumps({"request": {"model": "x"}, "complete": False}).encode(),
    )
    with pytest.raises(RunError, match=re.escape(f"{PARTS}: holds parts of another model or list")):
        embed(model, places, OUTPUT, device="cpu")
    with pytest.raises(ConfigError, match=re.escape(f"remove {PARTS} before the command")):
        embed(model, places, OUTPUT, device="cpu", restart=True)


@pytest.mark.parametrize("remote", [True, False])
def test_places_of_parts(bucket, tmp_path, remote):
    """A folder that machines share does as well as object storage."""
    place = PARTS if remote else str(tmp_path / "parts")
    request = Request(model="m", images="i", count=3, dim=2, size=1)
    part = Part(np.array([1]), np.ones((1, 2), np.float32), {})
    one, two = (SharedParts(place, tmp_path / f"{rank}", request) for rank in (1, 2))
    assert one.begin()
    assert two.begin()
    one.write(1, part)
    assert two.missing() == [0, 2]
    two.fetch([1])
    assert np.array_equal(two.local.read(1).vectors, part.vectors)
    one.end()
    assert two.missing() == []
    assert not two.begin()
    two.remove_manifest()
    assert two.begin()


@pytest.mark.slow
def test_evaluation_goes_on_with_the_parts_of_a_killed_one(bucket, model, many_shapes):
    output = "s3://shop/results"
    expected = compare(model, many_shapes, device="cpu").to_dict()
    embedder, records = load(model, device="cpu"), from_list(str(many_shapes)).catalog.records
    task = EmbeddingTask(embedder, records, Source(threads=2), ALONE, 64)
    request = task.request
    with embed_parts.shared_parts(embed_parts.parts_place(output, request), request, 1) as parts:
        parts.begin()
        task.make_own(parts, [1])
    [made] = [name for name in storage.sizes_below(output) if name.endswith(".part")]
    bucket.counts.clear()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    program = (
        "import sys; from lookalike import cli; from lookalike.commands import evaluate; "
        "evaluate.PART_SIZE = 64; sys.exit(cli.main())"
    )
    words = ["evaluate", str(model), "--data", str(many_shapes), "--output", output]
    machines = [
        subprocess.Popen(
            [command()[0], "-c", program, *words, "--device", "cpu", "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment(
                RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1",
                MASTER_ADDR="127.0.0.1", MASTER_PORT=port,
            ),
        )
        for rank in range(2)
    ]  # fmt: skip
    told = [machine.communicate(timeout=120) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], told
    sent = [path for method, path in bucket.counts if method == "PUT" and path.endswith(".part")]
    assert len(sent) == 1
    assert made not in sent[0]
    found = json.loads(told[0][0])
    stored = json.loads(storage.read_bytes(f"{output}/evaluation.json"))
    assert found == stored == expected
    assert set(storage.sizes_below(output)) == {
        "evaluation.json", "per_class.csv", "per_query.csv"
    }  # fmt: skip
