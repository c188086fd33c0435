"""The layouts of public benchmarks' archives: which image belongs to what.

Each function takes the folder of the unpacked archive and gives the rows of the training and of the
test list. Nothing but names and annotation files is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lookalike.errors import DataError


@dataclass(frozen=True)
class Row:
    """One image of a benchmark.

    Attributes:
        path: relative to the folder of the archive.
        role: "query" or "gallery"; None where every test image is both.
        category: a coarser class.
        camera: images of one class and one camera are not matched.
    """

    path: str
    label: str
    role: str | None = None
    category: str | None = None
    camera: str | None = None


Lists = tuple[list[Row], list[Row]]


@dataclass(frozen=True)
class Counts:
    """Images and classes of a list, as published."""

    images: int
    classes: int

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Counts:
        labels = [row.label for row in rows]
        return cls(len(labels), len(set(labels)))

    def __str__(self) -> str:
        return f"{self.images:,} images of {self.classes:,} classes"


@dataclass(frozen=True)
class Benchmark:
    """A public benchmark.

    Attributes:
        archive: what to unpack, for messages.
        read: the rows of its archive; None where it is read as it is.
        train, test: as published.
    """

    archive: str
    read: Callable[[Path], Lists] | None
    train: Counts
    test: Counts | None


def cub200(root: Path) -> Lists:
    """CUB-200-2011: the first 100 species to learn, the others to test (Oh Song et al., 2016)."""
    paths = dict(_columns(root / "images.txt", 2))
    classes = dict(_columns(root / "image_class_labels.txt", 2))
    rows = [(int(classes[key]), Row(f"images/{path}", classes[key])) for key, path in paths.items()]
    return _halves(rows, 100)


def cars196(root: Path) -> Lists:
    """Stanford Cars: the first 98 models to learn, the other 98 to test (Oh Song et al., 2016).

    As one folder with `cars_annos.mat`, or as `cars_train` and `cars_test` with `devkit/`, whose
    test labels lie in `cars_test_annos_withlabels.mat`.
    """
    whole = root / "cars_annos.mat"
    if whole.is_file():
        found = _mat(whole, "relative_im_path")
    else:
        labelled = root / "cars_test_annos_withlabels.mat"
        if not labelled.is_file():
            labelled = root / "devkit" / labelled.name
        found = [
            (f"{folder}/{name}", number)
            for file, folder in (
                (root / "devkit" / "cars_train_annos.mat", "cars_train"), (labelled, "cars_test"),
            )
            for name, number in _mat(file, "fname")
        ]  # fmt: skip
    return _halves([(number, Row(path, str(number))) for path, number in found], 98)


def sop(root: Path) -> Lists:
    """Stanford Online Products: its own lists, with the twelve categories."""

    def rows(name: str) -> list[Row]:
        lines = _columns(root / name, 4, header=True)
        return [Row(path, label, category=path.split("_")[0]) for _, label, _, path in lines]

    return rows("Ebay_train.txt"), rows("Ebay_test.txt")


def inshop(root: Path) -> Lists:
    """DeepFashion In-Shop: its own partition into train, query and gallery."""
    place = root / "Eval"
    if not place.is_dir():
        place = root
    lines = _columns(place / "list_eval_partition.txt", 3, header=True, count=True)
    folder = "Img/" if (root / "Img" / "img").is_dir() else ""
    train, test = [], []
    for path, item, role in lines:
        parts = path.split("/")
        category = "/".join(parts[1:3]) if len(parts) > 3 else None
        if role == "train":
            train.append(Row(folder + path, item, category=category))
        elif role in ("query", "gallery"):
            test.append(Row(folder + path, item, role, category))
        else:
            raise DataError(
                f"{place}/list_eval_partition.txt: {path}: status {role!r} is none of train, "
                "query, gallery"
            )
    return train, test


def inaturalist(root: Path) -> Lists:
    """The iNaturalist 2018 split of Smooth-AP (Brown et al., 2020): other species to test."""
    folder = root / "Inat_dataset_splits"
    if not folder.is_dir():
        folder = root

    def rows(name: str) -> list[Row]:
        found = []
        for number, line in enumerate(_lines(folder / name), 1):
            parts = line.split("/")
            if len(parts) < 3:
                raise DataError(
                    f"{folder / name}:{number}: {line!r} is not .../GROUP/SPECIES/IMAGE.jpg"
                )
            found.append(Row(line, "/".join(parts[-3:-1]), category=parts[-3]))
        return found

    return rows("Inaturalist_train_set1.txt"), rows("Inaturalist_test_set1.txt")


_PERSON = re.compile(r"^(-1|\d{4})_c(\d)s\d_\d{6}_\d{2}\.jpg(?:\.jpg)?$")


def market1501(root: Path) -> Lists:
    """Market-1501: identity and camera are in the names, `0002_c1s1_000451_03.jpg`.

    Of the gallery, -1 are bad detections, which the protocol ignores, and 0000 are distractors.
    """

    def rows(folder: str, role: str | None) -> Iterator[Row]:
        for path in _images_in(root / folder):
            found = _PERSON.match(path.name)
            if found is None:
                raise DataError(f"{path}: not named IDENTITY_cCAMERAsSEQUENCE_FRAME_BOX.jpg")
            if found[1] != "-1":
                yield Row(f"{folder}/{path.name}", found[1], role, camera=found[2])

    test = [*rows("query", "query"), *rows("bounding_box_test", "gallery")]
    return list(rows("bounding_box_train", None)), test


BENCHMARKS: dict[str, Benchmark] = {
    "cub200": Benchmark(
        "CUB_200_2011.tgz", cub200, Counts(5_864, 100), Counts(5_924, 100)
    ),
    "cars196": Benchmark(
        "car_ims.tgz and cars_annos.mat", cars196, Counts(8_054, 98), Counts(8_131, 98)
    ),
    "sop": Benchmark(
        "Stanford_Online_Products.zip", sop, Counts(59_551, 11_318), Counts(60_502, 11_316)
    ),
    "inshop": Benchmark(
        "In-shop Clothes Retrieval Benchmark", inshop,
        Counts(25_882, 3_997), Counts(14_218 + 12_612, 3_985),
    ),
    "inaturalist": Benchmark(
        "train_val2018.tar.gz and Smooth-AP's Inat_dataset_splits", inaturalist,
        Counts(325_846, 5_690), Counts(136_093, 2_452),
    ),
    # 3,368 queries; a gallery of 13,115 images of them and 2,798 distractors.
    "market1501": Benchmark(
        "Market-1501-v15.09.15.zip", market1501, Counts(12_936, 751), Counts(3_368 + 15_913, 751)
    ),
    "ms1mv3": Benchmark("ms1m-retinaface-t1.zip", None, Counts(5_179_510, 93_431), None),
    "glint360k": Benchmark("glint360k", None, Counts(17_091_657, 360_232), None),
}  # fmt: skip


def _halves(rows: list[tuple[int, Row]], last: int) -> Lists:
    """Classes up to number `last`, and the others."""
    return (
        [row for number, row in rows if number <= last],
        [row for number, row in rows if number > last],
    )


def _mat(file: Path, path_field: str) -> list[tuple[str, int]]:
    """Path and class of each image of a MATLAB file of annotations."""
    import scipy.io

    _present(file)
    try:
        found = scipy.io.loadmat(str(file), squeeze_me=True, struct_as_record=True)
        table = found["annotations"].ravel()
        return [(str(row[path_field]), int(row["class"])) for row in table]
    except (KeyError, ValueError, TypeError, NotImplementedError) as error:
        raise DataError(
            f"{file}: no annotations with {path_field} and class ({type(error).__name__}: {error})"
        ) from None


def _columns(
    file: Path, columns: int, *, header: bool = False, count: bool = False
) -> list[list[str]]:
    """Cells between blanks; `count` and `header` are lines before them."""
    rows = []
    skipped = header + count
    for number, line in enumerate(_lines(file), 1):
        cells = line.split()
        if number <= skipped:
            continue
        if len(cells) != columns:
            raise DataError(f"{file}:{number}: {len(cells)} columns, expected {columns}: {line!r}")
        rows.append(cells)
    return rows


def _lines(file: Path) -> list[str]:
    _present(file)
    return [line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()]


def _present(file: Path) -> None:
    if not file.exists():
        raise DataError(f"{file}: not there; give the folder of the unpacked archive")


def _images_in(folder: Path) -> list[Path]:
    _present(folder)
    return sorted(path for path in folder.iterdir() if path.suffix.lower() == ".jpg")
