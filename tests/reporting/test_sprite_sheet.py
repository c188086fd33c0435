"""Sprite sheets."""

import base64
import io

import numpy as np
from PIL import Image

from lookalike.data.record import Record
from lookalike.reporting.sprite_sheet import make_sprite_sheet


def test_a_sprite_sheet_has_each_image_in_its_cell(tmp_path):
    colours = {}
    records = []
    for i in range(7):
        colour = tuple(int(c) for c in np.random.default_rng(i).integers(0, 256, 3))
        size = (40, 20) if i == 2 else (30, 30)
        Image.new("RGB", size, colour).save(tmp_path / f"{i}.png")
        records.append(Record(str(tmp_path / f"{i}.png"), "x", "list.txt", i))
        colours[i] = colour
    records.append(Record(str(tmp_path / "missing.png"), "x", "list.txt", 8))
    sheet = make_sprite_sheet(records, [0, 2, 3, 5, 6, 7], name="s", side=96)
    assert sheet.cells.keys() == {0, 2, 3, 5, 6}
    image = Image.open(io.BytesIO(base64.b64decode(sheet.uri.split(",")[1]))).convert("RGBA")
    side = 48  # the largest picture has 40 pixels
    assert image.size == (side * sheet.columns, side * sheet.lines)
    for row in sheet.cells:
        across, down = (float(part[:-1]) for part in sheet.position(row).split())
        # What CSS does: at 0 % the left sides meet, at 100 % the right ones.
        x = round(across / 100 * (image.width - side)) + side // 2
        y = round(down / 100 * (image.height - side)) + side // 2
        np.testing.assert_allclose(image.getpixel((x, y))[:3], colours[row], atol=12)
        corner = image.getpixel((x, y - side // 2 + 1))
        assert (corner[3] < 128) == (row == 2)  # what is flat has nothing above it
