"""Lists and settings for a public benchmark, from the unpacked official archive.

    python benchmarks/public/prepare.py cub200 ~/data/CUB_200_2011 lists/cub200
    lookalike train lists/cub200/config.yaml --output runs/cub200
    lookalike evaluate runs/cub200 --data lists/cub200/test.csv

Written are train.csv, test.csv (queries, gallery, cameras and categories among the columns) and
config.yaml, the recipe beside this file with the place of the training list. Training never sees
the test list: what it chooses, it chooses on training classes that it holds out. MS1MV3 and
Glint360K are read as they come (`train.rec`): only config.yaml is written.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from archive_layouts import BENCHMARKS, Counts, Row

from lookalike.errors import DataError, LookalikeError

COLUMNS = ("path", "label", "is_query", "is_gallery", "category", "camera")


def prepare(name: str, root: Path, output: Path, *, incomplete: bool = False) -> Path:
    """Write the lists and the settings; return the place of the settings.

    Raises:
        LookalikeError: the archive has another layout, or other images than were published and
            not `incomplete`.
    """
    benchmark = BENCHMARKS[name]
    root, output = root.expanduser().absolute(), output.expanduser().absolute()
    if not root.is_dir():
        raise DataError(f"{root}: no folder; unpack {benchmark.archive} there")
    settings = yaml.safe_load((HERE / f"{name}.yaml").read_text("utf-8"))
    if benchmark.read is None:
        file = root / "train.rec"
        if not file.is_file():
            raise DataError(f"{file}: not there; unpack {benchmark.archive} into {root}")
        settings["data"]["train"] = str(file)
        output.mkdir(parents=True, exist_ok=True)
    else:
        lists = dict(zip(("train", "test"), benchmark.read(root), strict=True))
        for kind, published in (("train", benchmark.train), ("test", benchmark.test)):
            _check(kind, lists[kind], published, root, incomplete=incomplete)
        output.mkdir(parents=True, exist_ok=True)
        for kind, rows in lists.items():
            _write(output / f"{kind}.csv", rows, root)
        settings["data"]["train"] = str(output / "train.csv")
    place = output / "config.yaml"
    place.write_text(yaml.safe_dump(settings, sort_keys=False), "utf-8")
    return place


def _check(
    kind: str, rows: list[Row], published: Counts | None, root: Path, *, incomplete: bool
) -> None:
    found = Counts.of(rows)
    if found != published and not incomplete:
        raise DataError(
            f"{root}: the {kind} list has {found}; published are {published}. Unpack the archive "
            "again, or give --incomplete to go on with another split"
        )
    missing = next((row.path for row in rows if not os.path.exists(root / row.path)), None)
    if missing is not None:
        raise DataError(f"{root / missing}: an image of the {kind} list is not there")


def _write(file: Path, rows: list[Row], root: Path) -> None:
    """A table; columns that no row uses are left out."""
    roles = any(row.role for row in rows)
    with file.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        used = [
            name
            for name in COLUMNS
            if name in ("path", "label")
            or (name.startswith("is_") and roles)
            or (name in ("category", "camera") and any(getattr(row, name) for row in rows))
        ]
        table.writerow(used)
        for row in rows:
            values = {
                "path": str(root / row.path),
                "label": row.label,
                "is_query": row.role == "query",
                "is_gallery": row.role == "gallery",
                "category": row.category or "",
                "camera": row.camera or "",
            }
            table.writerow([values[name] for name in used])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("benchmark", choices=sorted(BENCHMARKS))
    parser.add_argument("root", type=Path, help="folder of the unpacked archive")
    parser.add_argument("output", type=Path, help="folder for lists and settings")
    parser.add_argument(
        "--incomplete", action="store_true", help="accept other numbers of images than published"
    )
    arguments = parser.parse_args()
    try:
        place = prepare(
            arguments.benchmark, arguments.root, arguments.output, incomplete=arguments.incomplete
        )
    except LookalikeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
