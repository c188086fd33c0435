"""List, images, checkpoints, resuming, evaluation: all of it in object storage."""

import shutil

import pytest

import lookalike
from lookalike import storage
from lookalike.errors import CredentialsError
from lookalike.storage import retry


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setitem(retry._FIRST_PAUSE, True, 0.001)


def upload(shapes, base):
    """The list and its images in the bucket; how many images."""
    lines = (shapes / "train.txt").read_text("utf-8").splitlines()
    storage.write_bytes(f"{base}/train.txt", "\n".join(lines).encode())
    for line in lines:
        name = line.rsplit(" ", 1)[0]
        storage.write_file(shapes / name, f"{base}/{name}")
    return len(lines)


def go(train, output, steps, **more):
    return lookalike.train(
        train=train, output=output, backbone="test_resnet", pretrained=False, image_size=32,
        embedding_dim=16, batch_size=8, log_every=1, max_steps=steps, device="cpu",
        data__threads=2, warmup_steps=0, **more,
    )  # fmt: skip


def losses(run):
    return [r["loss"] for r in run.read(run.metrics) if "loss" in r]


@pytest.mark.parametrize("scheme", ["s3", "oss"])
def test_same_curve_through_faults_and_an_expired_token(bucket, shapes, scheme, tmp_path):
    base, output = f"{scheme}://shop/data", f"{scheme}://shop/runs/x"
    upload(shapes, base)
    expected = losses(go(str(shapes / "train.txt"), str(tmp_path / "local"), 8))
    images, all_seen = [], []
    moments = {3: 503, 7: "reset", 11: "cut", 13: 500}

    def moment(method, path, count):
        all_seen.append(path)
        return moments.get(len(all_seen) % 17)

    def moment_or_expired(method, path, count):
        if method == "GET" and path.startswith("/shop/data/images"):
            images.append(path)
            if len(images) > 50:
                return "expired"
        return moment(method, path, count)

    bucket.plan = moment_or_expired
    with pytest.raises(CredentialsError, match="renew them"):
        go(f"{base}/train.txt", output, 8, checkpoint_every_steps=1, max_bad_images=1000)
    safe = int(storage.read_bytes(f"{output}/checkpoints/latest").split(b"-")[1])
    assert 0 < safe < 8
    bucket.plan = moment
    shutil.rmtree(tmp_path / "cache")  # another machine
    run = go(f"{base}/train.txt", output, 8, resume=True)
    assert losses(run) == expected
    assert not (run.path / "bad_images.jsonl").exists()
    text = storage.read_bytes(f"{output}/config.yaml") + storage.read_bytes(
        f"{output}/metrics.jsonl"
    )
    assert b"hush" not in text
    shutil.rmtree(tmp_path / "cache")
    assert lookalike.load(output, device="cpu").embedding_dim == 16
    scores = lookalike.evaluate(output, data=f"{base}/train.txt", device="cpu")
    assert scores.num_queries == 48
