"""Pictures of a page, small, each once: on a sheet of which the page shows cells.

A page would take a header for each picture, and once more for each place that it is shown at. A
sheet is one WebP whose cells CSS shows anywhere, at any size.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from lookalike.data.loading.image_source import PLAIN, Source
from lookalike.data.loading.thumbnails import thumbnails
from lookalike.data.record import Record

_BLOCK = 16  # WebP's: cells that end between blocks would shine into one another


@dataclass(frozen=True)
class Sheet:
    """Pictures side by side.

    Attributes:
        name: a CSS class.
        uri: of the picture, `data:image/webp;base64,...`; empty if no picture could be read.
        columns: of cells.
        lines: of cells.
        cells: record -> its place; those that could not be read are missing.
    """

    name: str
    uri: str
    columns: int
    lines: int
    cells: dict[int, int]

    def position(self, row: int) -> str:
        """CSS's `background-position` of a record's picture."""
        line, column = divmod(self.cells[row], self.columns)
        across = 100 * column / max(1, self.columns - 1)
        down = 100 * line / max(1, self.lines - 1)
        return f"{across:.5g}% {down:.5g}%"


def make_sheet(
    records: Sequence[Record],
    rows: Sequence[int],
    *,
    name: str,
    side: int,
    threads: int,
    source: Source = PLAIN,
    quality: int = 78,
) -> Sheet:
    """A sheet of the pictures of these `rows`.

    A picture keeps its shape, on a transparent square. If all are smaller than `side`, so are the
    cells.

    Args:
        records: the images.
        rows: which to show, each once.
        name: of the sheet.
        side: of a cell in pixels, a multiple of 16.
        threads: threads that read and decode.
        source: of the pictures' bytes.
        quality: of the WebP, up to 100.
    """
    shown = [records[row] for row in rows]
    images = thumbnails(
        shown, side, lambda image: image.convert("RGBA"), threads=threads, source=source
    )
    found = {row: image for row, image in zip(rows, images, strict=True) if image is not None}
    if not found:
        return Sheet(name, "", 1, 1, {})
    largest = max(max(image.size) for image in found.values())
    side = min(side, math.ceil(largest / _BLOCK) * _BLOCK)
    columns = math.ceil(math.sqrt(len(found)))
    lines = math.ceil(len(found) / columns)
    sheet = Image.new("RGBA", (columns * side, lines * side), (255, 255, 255, 0))
    cells = {}
    for place, (row, image) in enumerate(found.items()):
        scale = side / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        if size != image.size:
            image = image.resize(size, Image.Resampling.LANCZOS)
        line, column = divmod(place, columns)
        corner = ((side - image.width) // 2, (side - image.height) // 2)
        sheet.paste(image, (column * side + corner[0], line * side + corner[1]))
        cells[row] = place
    stream = io.BytesIO()
    opaque = sheet.getchannel("A").getextrema()[0] == 255
    (sheet.convert("RGB") if opaque else sheet).save(stream, "WEBP", quality=quality, method=4)
    uri = "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
    return Sheet(name, uri, columns, lines, cells)
