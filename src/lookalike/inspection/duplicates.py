"""Pictures that are the same: exactly, or nearly so, among any number of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lookalike.inspection.fingerprint import GREY, THUMB
from lookalike.inspection.image_facts import Pictures

RADIUS = 6
"""Bits, of 64, in which the hashes of near duplicates may differ."""

_BANDS = 4  # RADIUS < 2 * _BANDS: some band of two such hashes differs in one bit at most
_BITS = 16  # of a band
_CHUNK = 1 << 21  # pairs of hashes looked at together
_PIECE = 1 << 14  # pairs of pictures

MOST_PAIRS = 50_000_000
"""Pairs of pictures that are compared at most. Frames of a film may have many more."""

FLAT = 3.0
"""Grey levels of contrast below which a picture has nothing to be known by."""

# What two thumbnails of the same picture may differ by, in grey levels. Measured on emoji of 72
# pixels and photographs of 170 that were scaled to between half and one and a half and written as
# JPEG of quality 50 to 95; other emoji begin where these end (docs/doctor.md).
_PLACE = 24.0  # luma, in the worst place
_REGION = 10.0  # luma, in the worst square of 2 x 2 places
_PATTERN = 0.01  # 1 - correlation of luma
# Colour, in the worst such square: a JPEG keeps it at half the resolution, so that a small picture
# loses much of it. By the shorter side of the smaller picture, in pixels.
_COLOUR = 6.0
_COLOUR_SMALL = 900.0
_MEAN = 10.0  # of the whole picture, each channel
_CONTRAST = 0.3  # share of the contrast
_ASPECT = 0.03  # by which the aspect ratios may differ, beside the rounding of a pixel


def exact_groups(pictures: Pictures) -> list[np.ndarray]:
    """Indices of pictures with the same content, each group ascending, two or more in each."""
    places = np.flatnonzero(pictures.readable)
    order = places[np.argsort(pictures.digests[places], kind="stable")]
    digests = pictures.digests[order]
    cuts = np.flatnonzero(digests[1:] != digests[:-1]) + 1
    groups = [group for group in np.split(order, cuts) if len(group) > 1]
    return sorted(groups, key=lambda group: int(group[0]))


def near_groups(pictures: Pictures, places: np.ndarray) -> tuple[list[np.ndarray], bool]:
    """Groups of pictures that are nearly the same as some other of their group.

    Candidates are all pairs whose hashes differ in `RADIUS` bits at most, found through bands:
    none is missed, and no other pair is looked at but those that share a band up to one bit. Each
    is confirmed on the thumbnails, in colour, unless other pairs have joined the two already.

    Args:
        pictures: the facts.
        places: (M,) indices of pictures with different content.

    Returns:
        Indices of pictures, each group ascending, two or more in each; and whether the search was
        whole: it ends after `MOST_PAIRS` candidates.
    """
    places = places[pictures.contrast[places] >= FLAT]
    roots = np.arange(len(places))
    contrast = pictures.contrast[places]
    means = pictures.thumbs[places].mean((1, 2), dtype=np.float32)  # (M, 3)
    coarse = _coarse(pictures, places)
    looked = 0
    for pairs in near_pairs(pictures.hashes[places]):
        for start in range(0, len(pairs[0]), _PIECE):
            left, right = (side[start : start + _PIECE] for side in pairs)
            apart = roots[left] != roots[right]
            left, right = left[apart], right[apart]
            looked += len(left)
            # Quickly, before thumbnails are looked at.
            near = (np.abs(means[left] - means[right]) <= _MEAN).all(1) & (
                np.abs(contrast[left] - contrast[right]) <= _CONTRAST * contrast[left] + 1
            )
            left, right = left[near], right[near]
            far = np.abs(coarse[left] - coarse[right]).max(1, initial=0)
            left, right = left[far <= _REGION + 1], right[far <= _REGION + 1]  # they are rounded
            same = confirmed(pictures, places[left], places[right])
            if same.any():
                _join(roots, left[same], right[same])
        if looked > MOST_PAIRS:
            break
    order = np.argsort(roots, kind="stable")
    cuts = np.flatnonzero(np.diff(roots[order])) + 1
    groups = [places[group] for group in np.split(order, cuts) if len(group) > 1]
    return groups, looked <= MOST_PAIRS


def _coarse(pictures: Pictures, places: np.ndarray) -> np.ndarray:
    """Luma of each square of 2 x 2 places, rounded: (M, T * T / 4) int16."""
    found = np.empty((len(places), (THUMB // 2) ** 2), np.int16)
    for start in range(0, len(places), 4096):
        luma = pictures.thumbs[places[start : start + 4096]].astype(np.float32) @ GREY
        found[start : start + 4096] = np.rint(_squares(luma[..., None])).reshape(len(luma), -1)
    return found


def near_pairs(hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs (i, j) of (N,) uint64 `hashes` that differ in `RADIUS` bits at most, each once.

    Of 64 bits in four bands, up to seven differing bits leave a band with one or none. So each
    hash is looked up by each band, and by each band with one bit turned: 4 x 17 look-ups among
    N / 65,536 hashes each, if they are spread well.
    """
    for band in range(_BANDS):
        keys = ((hashes >> np.uint64(band * _BITS)) & np.uint64(0xFFFF)).astype(np.int64)
        order = np.argsort(keys, kind="stable")
        ends = np.cumsum(np.bincount(keys, minlength=1 << _BITS))
        starts = np.concatenate(([0], ends[:-1]))
        ranks = np.arange(len(order))
        sorted_keys, sorted_hashes = keys[order], hashes[order]
        for turned in (0, *(1 << bit for bit in range(_BITS))):
            if turned:  # each pair of keys once
                mine = np.flatnonzero((sorted_keys & turned) == 0)
                first = starts[sorted_keys[mine] | turned]
                counts = ends[sorted_keys[mine] | turned] - first
            else:
                mine, first = ranks, ranks + 1
                counts = ends[sorted_keys] - first
            for i, j in _pairs(mine, first, counts):
                differing = sorted_hashes[i] ^ sorted_hashes[j]
                near = np.flatnonzero(np.bitwise_count(differing) <= RADIUS)
                for earlier in range(band):  # where an earlier band has told of them
                    part = (differing[near] >> np.uint64(earlier * _BITS)) & np.uint64(0xFFFF)
                    near = near[np.bitwise_count(part) > 1]
                if len(near):
                    yield order[i[near]], order[j[near]]


def _pairs(
    mine: np.ndarray, first: np.ndarray, counts: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each of `mine` with the ranks from its `first` on, `counts` of them; a chunk at a time."""
    kept = counts > 0
    mine, first, counts = mine[kept], first[kept], counts[kept]
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    for start in range(0, total, _CHUNK):
        stop = min(start + _CHUNK, total)
        low = int(np.searchsorted(ends, start, "right"))
        high = int(np.searchsorted(ends, stop, "left")) + 1
        begins = ends[low:high] - counts[low:high]
        part = np.minimum(ends[low:high], stop) - np.maximum(begins, start)
        which = np.repeat(np.arange(low, high), part)
        offset = np.arange(start, stop) - (ends[which] - counts[which])
        yield mine[which], first[which] + offset


def confirmed(pictures: Pictures, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Which of the pairs look the same: in shape, in pattern, and in each place."""
    answers = np.zeros(len(left), bool)
    for start in range(0, len(left), 4096):
        a, b = left[start : start + 4096], right[start : start + 4096]
        answers[start : start + 4096] = _alike(pictures, a, b)
    return answers


def _alike(pictures: Pictures, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    sizes_a, sizes_b = pictures.sizes[a].astype(np.float64), pictures.sizes[b].astype(np.float64)
    side = np.minimum(sizes_a, sizes_b).min(1)
    turn = np.abs(np.log(sizes_a[:, 0] * sizes_b[:, 1] / (sizes_a[:, 1] * sizes_b[:, 0])))
    one, two = (pictures.thumbs[rows].astype(np.float32) for rows in (a, b))  # (n, T, T, 3)
    luma_a, luma_b = one @ GREY, two @ GREY  # (n, T, T)
    luma = luma_a - luma_b
    colour = _squares((one - luma_a[..., None]) - (two - luma_b[..., None]))
    return np.asarray(
        (turn <= _ASPECT + 1 / side)
        & (np.abs(luma).max((1, 2)) <= _PLACE)
        & (np.abs(_squares(luma[..., None])).max((1, 2, 3)) <= _REGION)
        & (1 - _correlation(luma_a, luma_b) <= _PATTERN)
        & (np.sqrt((colour**2).mean(3)).max((1, 2)) <= _COLOUR + _COLOUR_SMALL / side)
    )


def _squares(values: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 places, (n, T, T, c) -> (n, T / 2, T / 2, c)."""
    n, side, _, channels = values.shape
    means = values.reshape(n, side // 2, 2, side // 2, 2, channels).mean((2, 4))
    return np.asarray(means)


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of pictures (n, T, T) each with each."""
    a, b = (x - x.mean((1, 2), keepdims=True) for x in (a, b))
    return np.asarray((a * b).sum((1, 2)) / np.sqrt((a * a).sum((1, 2)) * (b * b).sum((1, 2))))


def _join(roots: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """Give connected places the same root, the least of theirs, in place."""
    parents: dict[int, int] = {}

    def root(of: int) -> int:
        while (up := parents.get(of, of)) != of:
            parents[of] = parents.get(up, up)
            of = up
        return of

    for a, b in zip(roots[left].tolist(), roots[right].tolist(), strict=True):
        low, high = sorted((root(a), root(b)))
        if low != high:
            parents[high] = low
    if parents:
        changed = np.fromiter(parents, np.int64, len(parents))
        table = np.arange(len(roots))
        table[changed] = [root(int(one)) for one in changed]
        roots[:] = table[roots]
