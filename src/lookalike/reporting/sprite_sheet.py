"""Sprite sheets: all small images of a page in one WebP, of which CSS shows cells.

A data URI for each image would repeat the header of its file, and the whole image wherever it is
shown again.
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

_BLOCK = 16  # WebP's: colours of cells that end between blocks would mix


@dataclass(frozen=True)
class SpriteSheet:
    """Images side by side.

    Attributes:
        name: a CSS class.
        uri: `data:image/webp;base64,...`; "" if no image could be read.
        columns: of cells.
        lines: of cells.
        cells: index of a record -> its cell; without those that could not be read.
    """

    name: str
    uri: str
    columns: int
    lines: int
    cells: dict[int, int]

    def position(self, row: int) -> str:
        """CSS's `background-position` of a record's image."""
        line, column = divmod(self.cells[row], self.columns)
        x = 100 * column / max(1, self.columns - 1)
        y = 100 * line / max(1, self.lines - 1)
        return f"{x:.5g}% {y:.5g}%"


def make_sprite_sheet(
    records: Sequence[Record],
    rows: Sequence[int],
    *,
    name: str,
    side: int,
    source: Source = PLAIN,
    quality: int = 78,
) -> SpriteSheet:
    """The sheet of the images of `rows`, each once, in cells of `side` pixels, a multiple of 16.

    Images keep their aspect ratio, on a transparent square. If all are smaller than `side`, so are
    the cells.
    """
    shown = [records[row] for row in rows]
    images = thumbnails(shown, side, lambda image: image.convert("RGBA"), source=source)
    found = {row: image for row, image in zip(rows, images, strict=True) if image is not None}
    if not found:
        return SpriteSheet(name, "", 1, 1, {})
    largest = max(max(image.size) for image in found.values())
    side = min(side, math.ceil(largest / _BLOCK) * _BLOCK)
    columns = math.ceil(math.sqrt(len(found)))
    lines = math.ceil(len(found) / columns)
    sheet = Image.new("RGBA", (columns * side, lines * side), (255, 255, 255, 0))
    for cell, image in enumerate(found.values()):
        scale = side / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        if size != image.size:
            image = image.resize(size, Image.Resampling.LANCZOS)
        line, column = divmod(cell, columns)
        corner = ((side - image.width) // 2, (side - image.height) // 2)
        sheet.paste(image, (column * side + corner[0], line * side + corner[1]))
    opaque = sheet.getchannel("A").getextrema()[0] == 255
    stream = io.BytesIO()
    (sheet.convert("RGB") if opaque else sheet).save(stream, "WEBP", quality=quality, method=4)
    uri = "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
    return SpriteSheet(name, uri, columns, lines, {row: i for i, row in enumerate(found)})
