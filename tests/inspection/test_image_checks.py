"""Checks of images: broken ones, duplicates, leakage."""

import io
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lookalike
from lookalike.data.decoding.image_formats import format_of
from lookalike.inspection import duplicates


def paint(seed: int, size: int = 80) -> Image.Image:
    """A picture with large and small structure."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize(
                (size, size), Image.Resampling.BICUBIC
            ),
            np.float32,
        )
        for n in (4, 10)
    ]
    return Image.fromarray((0.6 * layers[0] + 0.4 * layers[1]).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, lookalike.Config, Path]:
    """The issues of lists with one of each fault."""
    folder = tmp_path_factory.mktemp("doctor")
    names: dict[str, list[str]] = {"train": [], "val": []}

    def add(name: str, label: str, data: bytes, part: str = "train") -> None:
        (folder / name).write_bytes(data)
        names[part].append(f"{name} {label}")

    for seed in range(12):
        add(f"{seed}.jpg", f"c{seed % 3}", encoded(paint(seed), quality=92))
    add("copy.jpg", "c0", (folder / "0.jpg").read_bytes())
    add("contrary.jpg", "c2", (folder / "1.jpg").read_bytes())
    add("leak.jpg", "v1", (folder / "2.jpg").read_bytes(), "val")
    add("small.jpg", "c0", encoded(paint(3).resize((44, 44)), quality=60))
    add("large.png", "c0", encoded(paint(4).resize((120, 120)), "PNG"))
    add("near-leak.jpg", "v1", encoded(paint(5).resize((64, 64)), quality=70), "val")
    add("other.jpg", "v0", encoded(paint(50)), "val")
    add("cut.jpg", "c1", encoded(paint(20))[:900])
    add("empty.jpg", "c1", b"")
    add("page.jpg", "c1", b"<html>404</html>")
    add("really-png.jpg", "c1", encoded(paint(21), "PNG"))
    add("tiny.jpg", "c1", encoded(paint(22, 20)))
    add("black.png", "c1", encoded(Image.new("RGB", (50, 50)), "PNG"))
    add("white.png", "c1", encoded(Image.new("RGB", (60, 60), "white"), "PNG"))
    add("strip.png", "c1", encoded(paint(23).resize((600, 40)), "PNG"))
    names["train"].append("missing.jpg c1")
    for part, lines in names.items():
        (folder / f"{part}.txt").write_text("".join(f"{line}\n" for line in lines))
    diagnosis = lookalike.doctor(
        train=str(folder / "train.txt"), val=str(folder / "val.txt"), threads=2
    )
    by_kind = {
        issue.kind: [
            {Path(diagnosis.lists.records[row].uri).name for row in group.rows}
            for group in issue.groups
        ]
        for issue in diagnosis.issues
    }
    return by_kind, diagnosis, folder


def test_each_planted_issue_is_found_and_no_other(found):
    by_kind, _, _ = found
    broken = [{"cut.jpg"}, {"empty.jpg"}, {"page.jpg"}, {"missing.jpg"}]
    assert by_kind == {
        "unreadable": broken,
        "two_labels_exact": [{"1.jpg", "contrary.jpg"}],
        "leakage_exact": [{"2.jpg", "leak.jpg"}],
        "leakage_near": [{"5.jpg", "near-leak.jpg"}],
        "two_labels_near": [{"4.jpg", "large.png"}],
        "duplicates_exact": [{"0.jpg", "copy.jpg"}],
        "duplicates_near": [{"3.jpg", "small.jpg"}],
        "tiny": [{"tiny.jpg"}],
        "blank": [{"black.png"}, {"white.png"}],
        "long": [{"strip.png"}],
        "wrong_extension": [{"really-png.jpg"}],
    }


def test_reasons_name_the_cause_and_the_line(found):
    _, diagnosis, folder = found
    [unreadable] = [f for f in diagnosis.to_dict()["findings"] if f["kind"] == "unreadable"]
    first = unreadable["groups"][1]
    assert first["note"] == "empty file"
    assert first["images"][0]["origin"].startswith(f"{folder}/train.txt:")
    assert diagnosis.facts["images"]["unreadable"] == 4
    assert diagnosis.facts["images"]["formats"]["JPEG"] > 10


@pytest.mark.parametrize("skewed", [False, True])
def test_all_near_pairs_are_found_by_bands(skewed, monkeypatch):
    monkeypatch.setattr(duplicates, "PAIRS_AT_ONCE", 97)  # so that rows are cut between chunks
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 1 << 64, 200, np.uint64, endpoint=False)
    if skewed:  # most share some of their bands
        hashes[:150] &= np.uint64(0xFFFF0003)
    for row in range(60):  # neighbours at 0 to 9 bits
        turned = rng.choice(64, row % 10, replace=False)
        mask = np.bitwise_or.reduce(np.uint64(1) << turned.astype(np.uint64), initial=np.uint64(0))
        hashes[199 - row] = hashes[row] ^ mask
    expected = {
        (i, j)
        for i, j in combinations(range(len(hashes)), 2)
        if (int(hashes[i]) ^ int(hashes[j])).bit_count() <= duplicates.RADIUS
    }
    got = [
        (min(i, j), max(i, j))
        for left, right in duplicates.near_pairs(hashes)
        for i, j in zip(left.tolist(), right.tolist(), strict=True)
    ]
    assert expected
    assert sorted(got) == sorted(expected)  # each once


def test_an_unfinished_search_is_an_issue(tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "MOST_PAIRS", 2)
    monkeypatch.setattr(duplicates, "PAIRS_AT_ONCE", 3)
    for i in range(8):  # a patch that wanders before the same ground
        picture = paint(0)
        picture.paste((255, 0, 255), (9 * i, 9 * i, 9 * i + 9, 9 * i + 9))
        picture.save(tmp_path / f"{i}.png")
    (tmp_path / "t.txt").write_text("".join(f"{i}.png {i % 2}\n" for i in range(8)))
    found = lookalike.doctor(train=str(tmp_path / "t.txt"), threads=1)
    assert "near_search_cut" in {issue.kind for issue in found.issues}


def test_joined_pairs_share_the_least_root():
    roots = np.arange(8)
    duplicates.join_roots(roots, np.array([1, 5, 2]), np.array([2, 6, 6]))
    assert roots.tolist() == [0, 1, 1, 3, 4, 1, 1, 7]
    duplicates.join_roots(roots, np.array([1]), np.array([0]))
    assert roots.tolist() == [0, 0, 0, 3, 4, 0, 0, 7]


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (encoded(paint(0), "WEBP"), "WebP"), (encoded(paint(0), "GIF"), "GIF"),
        (encoded(paint(0), "BMP"), "BMP"), (encoded(paint(0), "TIFF"), "TIFF"),
        (encoded(paint(0), "PPM"), "PNM"), (encoded(paint(0), "AVIF"), "AVIF"),
        (b" <!DOCTYPE html>", "HTML"), (b"", ""), (b"what", ""),
    ],
)  # fmt: skip
def test_formats_by_their_first_bytes(data, name):
    assert format_of(data) == name
