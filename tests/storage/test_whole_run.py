"""List, images, checkpoints, resuming, evaluation: all of it in object storage."""

import shutil
import traceback
from pathlib import Path

import pytest

import lookalike
from lookalike import storage
from lookalike.errors import CredentialsError, StorageError
from lookalike.storage import client_registry, oss, retry
from lookalike.training.uploader import Uploader

STEPS = 10


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setitem(retry.FIRST_PAUSE, True, 0.001)


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
        data__threads=2, warmup_steps=0, recipe="component", **more,
    )  # fmt: skip


def losses(run):
    return [r["loss"] for r in run.read(run.metrics) if "loss" in r]


@pytest.fixture(scope="module")
def expected(shapes, tmp_path_factory):
    """The losses of the same run with everything on this machine's disk."""
    return losses(go(str(shapes / "train.txt"), str(tmp_path_factory.mktemp("local")), STEPS))


@pytest.mark.slow  # quick: a token that expires during a run, below
@pytest.mark.parametrize("scheme", ["s3", "oss"])
def test_same_curve_through_faults_and_an_expired_token(bucket, shapes, expected, scheme, tmp_path):
    base, output = f"{scheme}://shop/data", f"{scheme}://shop/runs/x"
    upload(shapes, base)
    given, all_seen = set(), []
    moments = {3: 503, 5: "slow", 7: "reset", 11: "cut", 13: 500}

    def moment(method, path, count):
        all_seen.append(path)
        return moments.get(len(all_seen) % 17)

    def moment_or_expired(method, path, count):
        if path in given:  # from the second epoch on
            return "expired"
        fault = moment(method, path, count)
        if path.startswith("/shop/data/images") and fault in (None, "slow"):
            given.add(path)
        return fault

    bucket.plan = moment_or_expired
    with pytest.raises(CredentialsError, match="renew them"):
        go(f"{base}/train.txt", output, STEPS, checkpoint_every_steps=1, max_bad_images=1000)
    safe = int(storage.read_bytes(f"{output}/checkpoints/latest").split(b"-")[1])
    assert safe == 6  # the first epoch
    bucket.plan = moment
    shutil.rmtree(tmp_path / "cache")  # another machine
    run = go(f"{base}/train.txt", output, STEPS, resume=True)
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
    done = lookalike.export(output, output=tmp_path / "model.onnx", data=f"{base}/train.txt")
    assert done.certificate.drift < 1e-4


OLD = {"id": "old-id", "secret": "hush-old-secret", "token": "hush-old-token"}
NEW = {"id": "new-id", "secret": "hush-new-secret", "token": "hush-new-token"}


def give(scheme, how, values, folder, monkeypatch):
    """These credentials to whoever looks for some: in the environment, or in the vendor's file."""
    names = {
        "s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
        "oss": ("OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET", "OSS_SESSION_TOKEN"),
    }[scheme]
    if how == "environment":
        for name, value in zip(names, values.values(), strict=True):
            monkeypatch.setenv(name, value)
        return
    for name in (*names, *oss.ID_VARIABLES, *oss.SECRET_VARIABLES, *oss.TOKEN_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    file = folder / "credentials"
    if scheme == "s3":
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
        words = "[default]\naws_access_key_id={id}\naws_secret_access_key={secret}\n"
        file.write_text((words + "aws_session_token={token}\n").format(**values))
    else:
        monkeypatch.setenv("OSS_CONFIG_FILE", str(file))
        words = "[Credentials]\naccessKeyID={id}\naccessKeySecret={secret}\nstsToken={token}\n"
        file.write_text(words.format(**values))


def assert_hushed(base, folders, *texts):
    """No secret in any object of the bucket, any file of this machine, or any text."""
    for name in storage.sizes_below(base):
        assert b"hush" not in storage.read_bytes(f"{base}/{name}"), name
    for folder in folders:
        for path in Path(folder).rglob("*"):
            assert "hush" not in str(path)
            assert not path.is_file() or b"hush" not in path.read_bytes(), path
    for text in texts:
        assert "hush" not in text


@pytest.mark.parametrize(("scheme", "how"), [("s3", "file"), ("oss", "environment")])
def test_token_expires_during_a_run(
    bucket, shapes, expected, scheme, how, tmp_path, monkeypatch, capfd
):
    base, output = f"{scheme}://shop/data", f"{scheme}://shop/runs/x"
    (tmp_path / "secret").mkdir()
    monkeypatch.setitem(Uploader.__init__.__kwdefaults__, "pause", 0.05)
    give(scheme, how, OLD, tmp_path / "secret", monkeypatch)
    upload(shapes, base)
    images = []

    def expire(method, path, count):
        if path.startswith("/shop/data/images"):
            images.append(path)
            if len(images) > 30:
                bucket.refused = {OLD["id"]}

    def renew_too(method, path, count):
        if len(images) == 30:
            give(scheme, how, NEW, tmp_path / "secret", monkeypatch)
        expire(method, path, count)

    # A new one is there by then: the run goes on.
    bucket.plan = renew_too
    made = go(f"{base}/train.txt", output, STEPS, data__cache=str(tmp_path / "images"))
    assert losses(made) == expected
    assert not (made.path / "bad_images.jsonl").exists()
    assert len(images) > 48
    local = [tmp_path / "cache", tmp_path / "images"]
    assert_hushed(f"{scheme}://shop", local, *capfd.readouterr())

    # There is none: the last step is saved here, and the run goes on when there is one.
    def expire_after_a_step(method, path, count):
        if path.startswith("/shop/data/images") and (tmp_path / "work/metrics.jsonl").exists():
            bucket.refused = {OLD["id"]}

    bucket.refused = set()
    give(scheme, how, OLD, tmp_path / "secret", monkeypatch)
    client_registry.forget_credentials(base, client_registry.credentials_number(base))
    bucket.plan = expire_after_a_step
    output = f"{scheme}://shop/runs/y"
    with pytest.raises(StorageError, match="refuses the credentials") as told:
        go(f"{base}/train.txt", output, STEPS, run__workdir=str(tmp_path / "work"))
    log = (tmp_path / "work/log.txt").read_text()
    step = int((tmp_path / "work/checkpoints/latest").read_text().split("-")[1])
    assert 0 < step < STEPS
    assert f"training stops; step {step} is saved" in log
    assert "renew them in the environment or the vendor's file" in str(told.value)
    assert len({r["step"] for r in made.read(tmp_path / "work/metrics.jsonl")}) == step
    give(scheme, how, NEW, tmp_path / "secret", monkeypatch)
    run = go(f"{base}/train.txt", output, STEPS, resume=True, run__workdir=str(tmp_path / "work"))
    assert losses(run) == expected
    assert not (run.path / "bad_images.jsonl").exists()
    words = "".join(traceback.format_exception(told.value))
    local.append(tmp_path / "work")
    assert_hushed(f"{scheme}://shop", local, *capfd.readouterr(), words)
