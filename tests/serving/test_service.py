"""The service in this process: embeddings, search, changes of the index, limits, figures."""

import asyncio
import base64
import io
import math
import shutil
import threading

import numpy as np
import pytest
from conversation import data_uri, png, small_service, talk
from PIL import Image

import lookalike
from lookalike.commands.serve import serve
from lookalike.errors import (
    ConfigError,
    DataError,
    LookalikeError,
    MissingExtraError,
    NotFiniteError,
)
from lookalike.index.index import Index
from lookalike.serving import batcher as batcher_module
from lookalike.serving.access import Access
from lookalike.serving.batcher import Batcher
from lookalike.serving.problems import Problem
from lookalike.serving.service_limits import ServiceLimits


def post(model, path, index=None, limits=None, **request):
    async def conversation(client):
        return await client.post(path, **request)

    return talk(small_service(model, index, limits), conversation)


def vectors_of(answer):
    assert answer.status_code == 200, answer.text
    return np.array([one["embedding"] for one in answer.json()["data"]], np.float32)


def test_vectors_are_those_of_embed_in_every_form_of_a_request(model, files, tmp_path):
    (tmp_path / "list.txt").write_text("".join(f"{file} 0\n" for file in files))
    lookalike.embed(model, tmp_path / "list.txt", tmp_path / "out.npy", device="cpu")
    expected = np.load(tmp_path / "out.npy")
    contents = [file.read_bytes() for file in files]

    async def conversation(client):
        json = {"model": "small", "input": [data_uri(one) for one in contents], "user": "me"}
        objects = {"input": [{"image": base64.b64encode(one).decode()} for one in contents]}
        forms = [("image", (file.name, one)) for file, one in zip(files, contents, strict=True)]
        return [
            await client.post("/v1/embeddings", json=json),
            await client.post("/v1/embeddings", json=objects),
            await client.post("/v1/embeddings", files=forms),
            await client.post(
                "/v1/embeddings", content=contents[0], headers={"content-type": "image/jpeg"}
            ),
            await client.post("/v1/embeddings", json={**json, "encoding_format": "base64"}),
            await client.post("/v1/embeddings", json={**json, "dimensions": 4}),
            await client.post(
                "/v2/models/small/infer",
                json={
                    "id": "7",
                    "inputs": [
                        {
                            "name": "images",
                            "shape": [len(contents)],
                            "datatype": "BYTES",
                            "data": [base64.b64encode(one).decode() for one in contents],
                        }
                    ],
                },
            ),
        ]

    *plain, one, text, short, protocol = talk(small_service(model), conversation)
    for answer in plain:
        # Batches differ in size, and sums of a batch of another size in their last bits.
        np.testing.assert_allclose(vectors_of(answer), expected, atol=2e-6)
    np.testing.assert_allclose(vectors_of(one)[0], expected[0], atol=2e-6)
    assert plain[0].json()["model"] == "small"
    assert plain[0].json()["usage"]["images"] == len(files)
    assert [row["index"] for row in plain[0].json()["data"]] == list(range(len(files)))
    numbers = [np.frombuffer(base64.b64decode(r["embedding"]), "<f4") for r in text.json()["data"]]
    np.testing.assert_allclose(np.stack(numbers), expected, atol=2e-6)
    cut = expected[:, :4] / np.linalg.norm(expected[:, :4], axis=1, keepdims=True)
    np.testing.assert_allclose(vectors_of(short), cut, atol=1e-5)
    output = protocol.json()["outputs"][0]
    assert output["shape"] == [len(files), 16]
    np.testing.assert_allclose(np.reshape(output["data"], output["shape"]), expected, atol=2e-6)


def test_search_answers_as_the_command(model, gallery, files):
    found = lookalike.search(model, files[3], index=gallery, k=5, device="cpu")
    query = {"input": data_uri(files[3].read_bytes()), "k": 5}
    answer = post(model, "/v1/search", gallery, json=query).json()
    (expected,), (got,) = found.answers, answer["data"]
    assert [one["id"] for one in got["neighbours"]] == [one.id for one in expected.neighbours]
    for ours, theirs in zip(got["neighbours"], expected.neighbours, strict=True):
        assert ours["cosine"] == pytest.approx(theirs.cosine, abs=1e-6)
        assert ours["probability"] == pytest.approx(theirs.probability, abs=1e-4)
        assert (ours["label"], ours["same"]) == (theirs.label, theirs.same)
        assert ours["verdict"].split()[0] == theirs.decision.split()[0]
    assert answer["threshold"] == pytest.approx(found.threshold)
    assert answer["prior"] == pytest.approx(found.prior)


def test_search_by_label_threshold_and_prior(model, gallery, files):
    image = data_uri(files[0].read_bytes())

    async def conversation(client):
        async def ask(**more):
            answer = await client.post("/v1/search", json={"input": image, "k": 20, **more})
            assert answer.status_code == 200, answer.text
            return answer.json()

        every = await ask()
        some = await ask(label=["101", "103"])
        none = await ask(label="no such")
        near = await ask(threshold=every["data"][0]["neighbours"][4]["cosine"])
        likely = await ask(prior=0.9)
        raw = await client.post(
            "/v1/search?k=3&label=101&label=103",
            content=files[0].read_bytes(),
            headers={"content-type": "image/jpeg"},
        )
        return every, some, none, near, likely, raw.json()

    every, some, none, near, likely, raw = talk(small_service(model, gallery), conversation)
    full = every["data"][0]["neighbours"]
    assert len(full) == 20
    wanted = [one["id"] for one in full if one["label"] in ("101", "103")]
    assert [one["id"] for one in some["data"][0]["neighbours"]] == wanted
    assert [one["id"] for one in raw["data"][0]["neighbours"]] == wanted[:3]
    assert none["data"][0] == {"index": 0, "known": None, "neighbours": []}
    assert [one["id"] for one in near["data"][0]["neighbours"]] == [one["id"] for one in full[:5]]
    assert likely["prior"] == 0.9
    assert likely["data"][0]["neighbours"][9]["probability"] > full[9]["probability"]


def test_the_index_is_changed(model, gallery, files, tmp_path):
    folder = tmp_path / "index"
    shutil.copytree(gallery, folder)
    body = {"input": [data_uri(files[0].read_bytes())], "ids": ["a b/%2F ü.jpg"], "labels": ["new"]}

    async def conversation(client):
        added = await client.post("/v1/index", json=body)
        found = await client.post("/v1/search", json={"input": body["input"], "label": "new"})
        removed = await client.delete("/v1/index/a%20b%2F%252F%20%C3%BC.jpg")
        again = await client.delete("/v1/index/a%20b%2F%252F%20%C3%BC.jpg")
        wrong = await client.post("/v1/index", json={**body, "ids": ["a", "b"]})
        return added, found, removed, again, wrong

    added, found, removed, again, wrong = talk(small_service(model, folder), conversation)
    assert added.json() == {"added": 1, "images": 21}
    assert found.json()["data"][0]["neighbours"][0]["id"] == "a b/%2F ü.jpg"
    assert removed.json() == {"removed": 1, "images": 20}
    assert again.status_code == 404
    assert wrong.json()["detail"] == "1 images, but 2 ids"
    assert len(Index.open(folder)) == 20
    before = (folder / "manifest.json").read_bytes() if (folder / "manifest.json").exists() else b""

    async def refused(client):
        return await client.post("/v1/index", json=body), await client.delete("/v1/index/x")

    answers = talk(small_service(model, folder, read_only=True), refused)
    assert [answer.status_code for answer in answers] == [403, 403]
    assert before == (
        (folder / "manifest.json").read_bytes() if (folder / "manifest.json").exists() else b""
    )


def bomb():
    return png(Image.new("1", (10_000, 10_000)))


REFUSED = [
    ({"json": {"input": "https://evil.example/a.jpg"}}, 400, "addresses are not fetched"),
    ({"json": {"input": "file:///etc/passwd"}}, 400, "addresses are not fetched"),
    ({"json": {"input": "/etc/passwd"}}, 400, "not an image|neither"),
    ({"json": {"input": {"image": "s3://bucket/a.jpg"}}}, 400, "addresses are not fetched"),
    ({"json": {"input": "data:text/html,<b>"}}, 400, "a data URI of an image is"),
    ({"json": {"input": ["AAAA", "AAAA"]}}, 400, "image 0: not an image"),
    ({"json": {"input": []}}, 422, "no image"),
    ({"json": {"input": ["AAAA"] * 9}}, 413, "9 images in a request, of at most 8"),
    ({"json": {"input": "AAAA", "model": "other"}}, 404, "'other' is not served here"),
    ({"json": {"input": "AAAA", "dimensions": 17}}, 400, "the model's vectors have 16"),
    ({"json": {"input": "AAAA", "dimensions": 0}}, 422, "dimensions: "),
    (
        {"json": {"input": "AAAA", "dimensions": True}},
        422,
        "dimensions: Input should be a number, not true or false",
    ),
    ({"json": {"input": "AAAA", "typo": 1}}, 422, "typo: "),
    ({"json": {}}, 422, "input: "),
    ({"content": b"{", "headers": {"content-type": "application/json"}}, 422, "body: Invalid JSON"),
    (
        {"content": b"", "headers": {"content-type": "image/png"}, "params": "user=a&user=b"},
        422,
        "user: is given several times",
    ),
    ({"content": b"\xff" * 9, "headers": {"content-type": "application/json"}}, 422, "JSON"),
    ({"content": b"", "headers": {"content-type": "image/png"}}, 400, "empty file"),
    ({"content": b"<svg/>", "headers": {"content-type": "image/svg+xml"}}, 400, "image 0: "),
    ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "Content-Type"),
    (
        {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
        400,
        "boundary",
    ),
    ({"content": b"x" * 300_000, "headers": {"content-type": "image/png"}}, 413, "the body has"),
]


@pytest.mark.parametrize(("request_", "status", "words"), REFUSED)
def test_wrong_requests_are_refused_in_one_line(model, request_, status, words):
    async def conversation(client):
        return await client.post("/v1/embeddings", **request_)

    service = small_service(model, limits=ServiceLimits(max_images=8, threads=1))
    answer = talk(service, conversation, Access(max_body=200_000))
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    detail = answer.json()["detail"]
    assert "\n" not in detail
    assert any(word in detail for word in words.split("|")), detail


def test_an_image_bomb_is_refused_from_its_header(model):
    content = bomb()
    assert len(content) < 200_000
    answer = post(
        model,
        "/v1/embeddings",
        limits=ServiceLimits(max_pixels=10**6, threads=1),
        content=content,
        headers={"content-type": "image/png"},
    )
    assert answer.status_code == 400
    assert answer.json()["detail"] == "image 0: 100 megapixels exceed the limit of 1"


def test_errors_name_no_limit_or_setting_of_others(model):
    file = io.BytesIO()
    Image.effect_noise((80, 80), 90).convert("RGB").save(file, "JPEG")
    half = file.getvalue()[: file.tell() // 2]
    beyond_pil = png(Image.new("1", (14_000, 13_000)))
    limits = ServiceLimits(max_pixels=10**6, threads=1)
    for content, words in (
        (half, "image 0: truncated JPEG; download it again"),
        (beyond_pil, "image 0: 182 megapixels exceed the limit of 1"),
    ):
        headers = {"content-type": "image/png"}
        answer = post(model, "/v1/embeddings", limits=limits, content=content, headers=headers)
        assert answer.json()["detail"] == words
    with pytest.raises(DataError, match=r"truncated JPEG; download it again$"):
        lookalike.load(model, device="cpu").embed(half)


def test_one_bad_image_leaves_other_requests_alone(model, files):
    async def conversation(client):
        good = {"input": data_uri(files[0].read_bytes())}
        asked = [good, {"input": "AAAA"}] * 5
        return await asyncio.gather(*(client.post("/v1/embeddings", json=one) for one in asked))

    answers = talk(small_service(model), conversation)
    assert [answer.status_code for answer in answers] == [200, 400] * 5


def test_without_an_index_search_says_how_to_have_one(model, files):
    answer = post(model, "/v1/search", json={"input": data_uri(files[0].read_bytes())})
    assert answer.status_code == 404
    assert "--index DIR" in answer.json()["detail"]


def test_health_models_figures_and_openapi(model, gallery, files):
    service = small_service(model, gallery)

    async def conversation(client):
        image = {"input": data_uri(files[0].read_bytes())}
        await client.post("/v1/embeddings", json=image)
        await client.get("/wp-admin/?x=1")
        first = [
            await client.get(path)
            for path in (
                "/health/live", "/health/ready", "/v1/models", "/metrics", "/openapi.json",
                "/v2", "/v2/models/small", "/v2/models/small/ready", "/v2/models/x",
            )
        ]  # fmt: skip
        service.stopping.set()
        return [*first, await client.get("/health/live"), await client.get("/health/ready")]

    answers = talk(service, conversation)
    assert [one.status_code for one in answers] == [200] * 8 + [404, 200, 503]
    (described,) = answers[2].json()["data"]
    assert described["id"] == "small"
    assert described["dimensions"] == 16
    assert described["index"] == {"images": 20}
    text = answers[3].text
    line = 'lookalike_requests_total{method="POST",route="/v1/embeddings",status="200"} 1.0'
    assert line in text
    assert 'route="other",status="404"} 1.0' in text
    assert "wp-admin" not in text
    assert 'lookalike_batch_images_bucket{le="1.0"} 1.0' in text
    assert "lookalike_pending_images 0.0" in text
    assert "/v1/search" in answers[4].json()["paths"]


class Held:
    """A network of numbers whose batches wait for `gate`."""

    batch_size = 4

    def __init__(self, waits_for=1.0):
        self.gate, self.batches, self.waits_for = threading.Event(), [], waits_for
        self.slow = threading.Event()
        self.decoding, self.decoded, self.computing = [], [], []

    def prepare(self, content):
        self.decoding.append(content)
        found = self.decode(content)
        self.decoded.append(content)
        return found

    def decode(self, content):
        if content == b"11":
            self.slow.wait(30)
        if content == b"bad":
            raise lookalike.LookalikeError("bad bytes")
        return np.int64(content)

    def compute(self, prepared):
        self.computing.append(list(prepared))
        self.gate.wait(30)
        self.batches.append(list(prepared))
        if 13 in prepared:
            raise ZeroDivisionError("a mistake of ours")
        return [
            NotFiniteError("not finite") if one == 7 else np.array([one], np.float32)
            for one in prepared
        ]


@pytest.mark.parametrize(("waits_for", "batches"), [(1.0, [[3, 11]]), (0.5, [[3], [11]])])
def test_a_batch_waits_for_images_in_decoding_but_not_for_long(waits_for, batches, monkeypatch):
    async def run():
        network = Held(waits_for)
        network.gate.set()
        batcher = Batcher(network, threads=2, queue=8)
        await batcher.start()
        await batcher.vectors([b"0"])
        network.batches.clear()
        monkeypatch.setattr(batcher_module, "PATIENCE", 1e9)  # of the seconds of the last batch
        slow = asyncio.create_task(batcher.vectors([b"11"]))
        while b"11" not in network.decoding:
            await asyncio.sleep(0.001)
        quick = asyncio.create_task(batcher.vectors([b"3"]))
        if waits_for == 1.0:
            while b"3" not in network.decoded:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.05)
            assert not network.batches
        else:
            await quick
        network.slow.set()
        await asyncio.gather(slow, quick)
        assert sorted(map(sorted, network.batches)) == batches
        monkeypatch.setattr(batcher_module, "PATIENCE", 0.0)
        network.slow.clear()
        slow = asyncio.create_task(batcher.vectors([b"11"]))
        await batcher.vectors([b"5"])
        network.slow.set()
        await slow
        assert network.batches[-2:] == [[5], [11]]
        await batcher.stop()

    asyncio.run(run())


def test_requests_are_batched_while_others_are_computed_and_a_full_queue_refuses(monkeypatch):
    async def run():
        network = Held()
        batcher = Batcher(network, threads=2, queue=8)
        await batcher.start()
        first = asyncio.create_task(batcher.vectors([b"0"]))
        while not network.computing:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(batcher.vectors([b"%d" % n])) for n in range(1, 7)]
        while len(network.decoded) < 7:
            await asyncio.sleep(0.001)
        with pytest.raises(Problem) as refused:
            await batcher.vectors([b"1", b"2"])
        assert refused.value.status_code == 429
        assert int(refused.value.headers["Retry-After"]) >= 1
        given_up = asyncio.create_task(batcher.vectors([b"9"]))
        while len(network.decoded) < 8:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)  # until it waits for its batch
        given_up.cancel()
        network.gate.set()
        found = [float((await task)[0, 0]) for task in (first, *others)]
        assert found == [0, 1, 2, 3, 4, 5, 6]
        assert sorted(map(len, network.batches)) == [1, 2, 4]  # the one given up is not computed
        assert batcher.pending == 0
        # One without a vector fails alone; a mistake of ours fails its batch, and not the next.
        mixed = await asyncio.gather(
            *(batcher.vectors([one]) for one in (b"7", b"8", b"bad")), return_exceptions=True
        )
        assert isinstance(mixed[0], NotFiniteError)
        assert mixed[1][0, 0] == 8
        assert isinstance(mixed[2], LookalikeError)
        with pytest.raises(ZeroDivisionError):
            await batcher.vectors([b"13"])
        assert (await batcher.vectors([b"14"]))[0, 0] == 14
        assert batcher.pending == 0
        # None of them is held any more: one byte would keep the next image from being decoded.
        monkeypatch.setattr(batcher_module, "HELD", 1)
        assert (await asyncio.wait_for(batcher.vectors([b"15"]), 10))[0, 0] == 15
        await batcher.stop()

    asyncio.run(run())


def test_no_image_is_decoded_while_enough_decoded_ones_wait(monkeypatch):
    monkeypatch.setattr(batcher_module, "HELD", 1)

    async def run():
        network = Held()
        batcher = Batcher(network, threads=2, queue=8)
        await batcher.start()
        first = asyncio.create_task(batcher.vectors([b"0"]))
        while not network.computing:
            await asyncio.sleep(0.001)
        second = asyncio.create_task(batcher.vectors([b"1"]))
        await asyncio.sleep(0.05)
        assert network.decoding == [b"0"]
        network.gate.set()
        assert [float(found[0, 0]) for found in await asyncio.gather(first, second)] == [0, 1]
        await batcher.stop()

    asyncio.run(run())


def test_an_answer_that_takes_too_long_is_given_up(model, files):
    service = small_service(model, limits=ServiceLimits(seconds=0.05))
    service.batcher.network.compute = lambda prepared: threading.Event().wait(1.0) or []

    async def conversation(client):
        return await client.post("/v1/embeddings", json={"input": data_uri(files[0].read_bytes())})

    answer = talk(service, conversation)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


def test_limits_are_checked_before_serving():
    with pytest.raises(ConfigError, match="the queue holds 8"):
        ServiceLimits(max_images=9, queue=8)
    with pytest.raises(ConfigError, match="max_pixels=0"):
        ServiceLimits(max_pixels=0)
    for seconds in (0, -1.0, math.nan, math.inf, "30", True):
        with pytest.raises(ConfigError, match=r"^seconds=.* must be a number above 0$"):
            ServiceLimits(seconds=seconds)


def test_bytes_of_other_formats_are_decoded(model):
    stream = io.BytesIO()
    Image.new("RGB", (20, 30), "red").save(stream, "WEBP")
    answer = post(
        model,
        "/v1/embeddings",
        content=stream.getvalue(),
        headers={"content-type": "application/octet-stream"},
    )
    assert vectors_of(answer).shape == (1, 16)


def test_a_calibrated_model_is_named_so_without_an_index(model):
    async def conversation(client):
        return await client.get("/v1/models")

    [described] = talk(small_service(model, None, None), conversation).json()["data"]
    assert described["calibrated"] is True
    assert described["index"] is None


def test_mistakes_in_the_arguments_are_named_before_missing_packages(monkeypatch, model, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    empty, short, long = (tmp_path / name for name in ("empty", "short", "long"))
    for file, token in ((empty, ""), (short, "abc"), (long, "0123456789abcdef")):
        file.write_text(token)
    for place, given, words in (
        (tmp_path / "nope", {}, "nope: no such file or folder; give a run"),
        (tmp_path / "nope.onnx", {}, "nope.onnx: no such file"),
        (model, {"read_only": True}, "--read-only is of an index"),
        (model, {"token_file": tmp_path / "token"}, "token: no such file"),
        (model, {"token_file": empty}, "empty: a token is one word"),
        (model, {"token_file": short}, "the token has 3 characters; it needs at least 16"),
        (model, {"host": "0.0.0.0"}, "--host 0.0.0.0: other machines can reach it"),
        (model, {"host": "no/host", "token_file": long}, "--host no/host: no address of this"),
        (model, {"index": "qdrant://host:6333/x"}, "6333 is Qdrant's port"),
    ):
        with pytest.raises(LookalikeError, match=words):
            serve(place, **given)
    with pytest.raises(MissingExtraError, match=r"pip install 'lookalike\[serve\]'"):
        serve(model)


def test_an_index_that_was_not_there_is_made_with_a_warning(model, gallery, tmp_path, caplog):
    """The path may be misspelt: the index beside it of a similar name is named."""
    caplog.set_level("INFO", "lookalike")
    shutil.copytree(gallery, tmp_path / "shop.index")
    (tmp_path / "empty").mkdir()
    small_service(model, tmp_path / "shop.index")
    small_service(model, tmp_path / "empty")  # as the volume of a new container
    assert "no images yet" in caplog.text
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    small_service(model, tmp_path / "shop.indx")
    small_service(model, tmp_path / "deep/other")
    near, far = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert near.startswith(f"{tmp_path}/shop.indx: there was no index, and an empty one was made")
    assert f"(did you mean {tmp_path}/shop.index?)" in near
    assert "did you mean" not in far
    with pytest.raises(LookalikeError, match="no index here"):
        small_service(model, tmp_path / "shop.indices", read_only=True)
    assert not (tmp_path / "shop.indices").exists()
