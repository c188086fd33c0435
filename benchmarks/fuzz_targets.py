"""Targets of `fuzz.py`: a sound input for each, and its use by the program."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import random
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

import lookalike
from lookalike import storage
from lookalike.config.config import Config, keys
from lookalike.data.augmentations import create_augmentations
from lookalike.data.catalog import build_catalog
from lookalike.data.classes import read_class_names
from lookalike.data.readers import read_records
from lookalike.errors import LookalikeError
from lookalike.model.embedder import Embedder
from lookalike.training.build import create_sampling
from lookalike.training.build_heads import metric_loss

TOKENS = [
    *(b" ", b"\t", b"\n", b"\r\n", b"\r", b",", b";", b'"', b"'", b"{", b"}", b"[", b"]", b":"),
    *(b"\0", b"\xff", b"\xc3\xa9", b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"\x85", b"#", b"://"),
    *(b"http://[", b"oss://", b"file://", b"nan", b"-1", b"007", b"1e999", b"9" * 400, b"null"),
    *(b"true", b'"results"', b'"data"', b'"labels"', b"label-1-verify", b"path", b"split"),
    *(b"../", b"~", b"%2F", b"?", b"*", b".inf", b"1:30", b"&a", b"*a", b"!!python/name:os"),
]  # fmt: skip

ODD_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 7, 2**31, 2**63, -(2**70), 10**300, 0.5, -0.0, 1e-320, 1e308,
    float("nan"), float("inf"), float("-inf"), "", " ", "nan", "a", "../../x", "/etc", "~", "\0",
    "\ud800", "é" * 300, [], {}, [[]], [1, 2, 3], [None], {"a": 1}, [[[[[[[[1]]]]]]]], "9" * 400,
    [256, 128], [-1, 0], ["a", 1], {"": ""}, "1e9", "0x10", "1:30", "2026-11-28",
]  # fmt: skip


@dataclass(frozen=True)
class Target:
    """One kind of input.

    Attributes:
        name: unique.
        weight: its share of the inputs.
        damaged: makes an input.
        use: does with an input what the program does; raises AssertionError if what comes of an
            accepted one is nonsense.
    """

    name: str
    weight: float
    damaged: Callable[[random.Random], bytes]
    use: Callable[[bytes], None]


def damaged_bytes(sound: bytes, rng: random.Random) -> bytes:
    """One to twelve changes of bytes, tokens or whole pieces."""
    if rng.random() < 0.05:
        return b"".join(rng.choices(TOKENS, k=rng.randrange(40)))
    data = bytearray(sound)
    for _ in range(rng.choice((1, 1, 2, 3, 12))):
        begin = rng.randrange(len(data) + 1)
        end = min(len(data), begin + rng.choice((0, 1, 2, 8, 64)))
        kind = rng.randrange(6)
        if kind == 0 and begin < len(data):
            data[begin] = rng.randrange(256)
        elif kind == 1:
            data[begin:begin] = rng.choice(TOKENS)
        elif kind == 2:
            del data[begin:end]
        elif kind == 3:
            data[begin:begin] = data[begin:end]
        elif kind == 4:
            place = rng.randrange(len(data) + 1)
            data[place:place] = data[begin:end]
        else:
            data[begin:end] = rng.choice(TOKENS)
    return bytes(data[: rng.randrange(len(data) + 1)] if rng.random() < 0.1 else data)


def damaged_json(sound: bytes, rng: random.Random) -> bytes:
    """A JSON document in which one to three values or keys were replaced, added or removed."""
    if rng.random() < 0.1:
        return damaged_bytes(sound, rng)
    tree = json.loads(sound)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            break
        parent, key = rng.choice(places)
        kind = rng.randrange(5)
        if kind == 0 and isinstance(parent, dict):
            del parent[key]
        elif kind == 1 and isinstance(parent, dict):
            parent[rng.choice(("", "a", "../x", str(key) + "_"))] = copy.deepcopy(
                rng.choice(ODD_VALUES)
            )
        else:
            parent[key] = copy.deepcopy(rng.choice(ODD_VALUES))
    return json.dumps(tree).encode("utf-8", "surrogatepass")


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in list(items):
        yield tree, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


@contextmanager
def targets(folder: Path) -> Iterator[list[Target]]:
    """All targets; what they need lies below `folder`."""
    with _bucket() as bucket:
        yield [
            *_lists(folder),
            _class_names(folder),
            *_settings(folder),
            *_models(folder),
            *_indexes(folder),
            *([_keys()] if bucket else []),
        ]


# Lists, manifests, tables, shards -----------------------------------------------------------


def _lists(folder: Path) -> Iterator[Target]:
    for name, (suffix, sound) in _sound_lists().items():
        path = folder / f"list-{name.replace(' ', '-')}{suffix}"
        known = name if name in ("image_list", "itag") else "auto"

        def use(data: bytes, path: Path = path, known: str = known) -> None:
            path.write_bytes(data)
            catalog = build_catalog(read_records(str(path), known))
            for record in catalog.records:
                assert record.uri, "an image without an address"
                assert record.label.strip(), "an empty label"
                assert record.label.lower() not in ("nan", "inf", "-inf") or path.suffix == ".txt"
            assert catalog.class_ids.min() >= 0
            assert catalog.class_ids.max() < len(catalog.classes.names)

        yield Target(name, 1.0, lambda rng, sound=sound: damaged_bytes(sound, rng), use)


def _sound_lists() -> dict[str, tuple[str, bytes]]:
    """A small sound file for each reader: its suffix and content."""
    listed = "".join(f"photos/{i} x.jpg class-{i % 3}\n" for i in range(8))
    items = [
        {"data": {"source": f"{i}.jpg"}, "label-1": {"results": [{"data": f"c{i % 2}"}]},
         "label-1-verify": {"results": [{"data": {"labels": {"q": "c1"}}}]}}
        for i in range(5)
    ]  # fmt: skip
    table = "path,label,split,is_query,is_gallery,sequence,x_1,y_1,x_2,y_2\n" + "".join(
        f'"{i}.jpg",{i % 2},train,True,False,s{i},1,2,30,40\n' for i in range(5)
    )
    relative = "image\tidentity\tx_1\ty_1\tx_2\ty_2\n" + "".join(
        f"{i}.jpg\tid {i % 2}\t0.1\t0.2\t0.{3 + i}\t0.9\n" for i in range(5)
    )
    rows = "\n".join(json.dumps({"image": f"{i}.png", "label": i % 2}) for i in range(5))
    sop = "image_id class_id super_class_id path\n" + "".join(
        f"{i + 1} {i // 2 + 1} 1 bicycle_final/{i}_0.JPG\n" for i in range(6)
    )
    numbers = pa.table({"path": [f"{i}.jpg" for i in range(6)], "label": [0.0, 1, 2, 0, 1, 2]})
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    embedded = pa.table(
        {
            "image": pa.array([{"bytes": bytes([i]) * 9, "path": "x"} for i in range(6)], image),
            "label": [i % 2 for i in range(6)],
        }
    )
    parquet, floats, arrow = io.BytesIO(), io.BytesIO(), io.BytesIO()
    pq.write_table(embedded, parquet)
    pq.write_table(numbers, floats)
    with pa.ipc.new_stream(arrow, embedded.schema) as writer:
        writer.write_table(embedded)
    tar, packed = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for i in range(3):
            for end, content in ((".jpg", b"\xff\xd8pixels"), (".json", b'{"label": 3}')):
                entry = tarfile.TarInfo(f"{i:04d}{end}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(4):
            archive.writestr(f"class-{i % 2}/{i}.png", _png(i))
    return {
        "image_list": (".txt", listed.encode()),
        "itag": (".jsonl", "\n".join(map(json.dumps, items)).encode()),
        "csv": (".csv", table.encode()),
        "tsv with relative boxes": (".tsv", relative.encode()),
        "rows of JSON": (".jsonl", rows.encode()),
        "sop": (".txt", sop.encode()),
        "lst": (".lst", b"".join(b"%d\t%d\t%d.jpg\n" % (i, i % 2, i) for i in range(6))),
        "parquet with numbers": (".parquet", floats.getvalue()),
        "parquet with images": (".parquet", parquet.getvalue()),
        "arrow": (".arrow", arrow.getvalue()),
        "webdataset": (".tar", tar.getvalue()),
        "zip": (".zip", packed.getvalue()),
    }


def _class_names(folder: Path) -> Target:
    path = folder / "class.names"

    def use(data: bytes) -> None:
        path.write_bytes(data)
        names = read_class_names(str(path))
        assert len(set(names)) == len(names), "a class stands twice"

    return Target("class names", 0.5, lambda rng: damaged_bytes(b"cat\ndog\nowl\n", rng), use)


# Settings -----------------------------------------------------------------------------------


def _settings(folder: Path) -> Iterator[Target]:
    file = folder / "request.yaml"
    sound = Config().to_yaml().encode()
    every = sorted(keys())

    def use_file(data: bytes) -> None:
        file.write_bytes(data)
        _check_settings(Config.load(file))

    def some(rng: random.Random) -> bytes:
        chosen = rng.sample(every, rng.choice((1, 1, 1, 2, 4)))
        return "\n".join(f"{key}={_yaml_value(rng)}" for key in chosen).encode(errors="replace")

    def use_overrides(data: bytes) -> None:
        _check_settings(Config.load(None, data.decode().split("\n")))

    yield Target("settings as YAML", 1.0, lambda rng: damaged_bytes(sound, rng), use_file)
    yield Target("settings as key=value", 2.0, some, use_overrides)


def _yaml_value(rng: random.Random) -> str:
    value = copy.deepcopy(rng.choice(ODD_VALUES))
    if isinstance(value, float):
        return {"nan": ".nan", "inf": ".inf", "-inf": "-.inf"}.get(str(value), str(value))
    return json.dumps(value) if rng.random() < 0.7 else str(value).replace("\n", " ")


def _check_settings(config: Config) -> None:
    """All numbers are finite, and the parts that need no data can be made."""
    for section in config.model_dump().values():
        for name, value in section.items():
            for number in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(number, (int, float)):
                    assert np.isfinite(float(number)), f"{name} is {number}"
    again = Config.build(config.model_dump())
    assert again == config, "another request after writing and reading"
    metric_loss(config)
    create_augmentations(config.data.augment)
    create_sampling(config)


# Model folders ------------------------------------------------------------------------------


def _models(folder: Path) -> Iterator[Target]:
    import torch

    torch.manual_seed(0)
    sound = folder / "model"
    Embedder.create(
        "test_resnet", pretrained=False, image_size=32, embedding_dim=8, crop_pct=1.0
    ).save(sound)
    picture = Image.fromarray(np.arange(40 * 40 * 3, dtype=np.uint8).reshape(40, 40, 3))
    for name, weight in (("config.json", 0.5), ("model.safetensors", 0.1)):
        content = (sound / name).read_bytes()
        place = folder / f"damaged-{name}"
        shutil.copytree(sound, place)
        if name == "model.safetensors":  # behind the digest, as an older version wrote it
            described = json.loads((sound / "config.json").read_bytes())
            described.pop("sha256", None)
            (place / "config.json").write_text(json.dumps(described))

        def use(data: bytes, place: Path = place, name: str = name) -> None:
            (place / name).write_bytes(data)
            vectors = lookalike.load(place).embed([picture])
            assert np.isfinite(vectors).all()
            assert abs(np.linalg.norm(vectors[0]) - 1) < 1e-3, "no unit vector"

        damage = damaged_json if name.endswith("json") else damaged_bytes
        yield Target(
            f"model {name}", weight, lambda rng, c=content, damage=damage: damage(c, rng), use
        )


# Index folders ------------------------------------------------------------------------------


def _indexes(folder: Path) -> Iterator[Target]:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    home = folder / "indexes"
    home.mkdir()
    sound = folder / "sound-index"
    ids = [f"id {row}" for row in range(20)]
    index = lookalike.Index.create(sound, dim=8)
    index.add(vectors=vectors, ids=ids, labels=[str(row % 4) for row in range(20)])
    index.remove(ids[:2])
    files = sorted(path for path in sound.rglob("*") if path.is_file() and path.stat().st_size)
    outside: list[Path] = []
    for number, path in enumerate(files):
        content, name = path.read_bytes(), str(path.relative_to(sound))
        place = home / f"damaged-{number}"
        outside.append(place)
        shutil.copytree(sound, place)

        def use(data: bytes, place: Path = place, name: str = name) -> None:
            (place / name).write_bytes(_signed(data) if name == "manifest.json" else data)
            opened = lookalike.Index.open(place)
            found = opened.search(vectors[5:6], k=3)
            for each in found.ids[0]:
                assert each in ids, f"an unknown id {each!r}"
            assert np.isfinite(found.cosines).all()
            assert sorted(home.iterdir()) == sorted(outside), "something was written outside"

        damage = damaged_json if path.suffix == ".json" else damaged_bytes
        yield Target(
            f"index {path.name}", 0.2, lambda rng, c=content, damage=damage: damage(c, rng), use
        )


def _signed(manifest: bytes) -> bytes:
    """A damaged manifest with its own digest, so that what lies behind that is reached."""
    try:
        tree = json.loads(manifest)
        values = {key: value for key, value in tree.items() if key not in ("format", "digest")}
        tree["digest"] = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
        return json.dumps(tree).encode()
    except (ValueError, AttributeError, RecursionError):  # no JSON object: as it is
        return manifest


def _png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((6, 6, 3), seed * 40, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


# Keys in object storage ---------------------------------------------------------------------


@contextmanager
def _bucket() -> Iterator[bool]:
    """A bucket `fuzz` on loopback, for s3:// and oss://; False where moto is not installed."""
    sys.path.append(str(Path(__file__).parents[1] / "tests/storage"))
    try:
        from object_server import object_server
    except ImportError as error:
        if error.name == "object_server":  # moved: nothing to install
            raise
        print(f"keys in object storage: left out ({error}); pip install 'lookalike[test]'")
        yield False
        return
    with object_server() as (address, _faults):
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1", "OSS_ENDPOINT": address,
            "OSS_ACCESS_KEY_ID": "id", "OSS_ACCESS_KEY_SECRET": "secret",
        }  # fmt: skip
        for path in ("fuzz", "fuzz/marker"):  # with an object in it, a bucket cannot be removed
            urlopen(Request(f"{address}/{path}", method="PUT")).close()
        yield True


def _remove_key(uri: str) -> None:
    """Remove it, also where one of the two clients refuses its name."""
    for scheme in ("s3", "oss"):
        with suppress(LookalikeError):
            storage.remove_file(f"{scheme}{uri[uri.index(':') :]}")


def _keys() -> Target:
    pieces = [
        "a", "b.jpg", "/", "//", ".", "..", "../", "./", " ", "%", "%20", "%2F", "+", "#", "?",
        "&x=1", "=", "é", "日本", "\t", "'", '"', "*", "[", "]", "{", "}", "~", "\\", "@", ":",
        "://", ";", ",", "$", "!", "(", ")", "|", "<", ">", "^", "`", "\x7f", "😀",
    ]  # fmt: skip

    def made(rng: random.Random) -> bytes:
        scheme = rng.choice(("s3", "oss"))
        key = "".join(rng.choices(pieces, k=rng.randrange(1, 9)))
        return f"{scheme}://fuzz/{key}".encode()

    def use(data: bytes) -> None:
        uri, content = data.decode(), data[::-1]
        try:
            storage.write_bytes(uri, content)
            assert storage.read_bytes(uri) == content, f"{uri!r}: other bytes than were written"
            assert storage.exists(uri), f"{uri!r}: was written and is not there"
        finally:  # what stays after a refusal is a folder of later keys, which then exist
            _remove_key(uri)
            assert storage.exists("s3://fuzz/marker"), f"{uri!r}: another key was removed"
        assert not storage.exists(uri), f"{uri!r}: was removed and is there"

    return Target("keys in object storage", 0.2, made, use)
