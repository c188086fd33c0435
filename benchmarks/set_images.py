"""Drawings of packages as square images on white."""

from __future__ import annotations

import io

from PIL import Image

from requirements import require

require("resvg_py")
import resvg_py

SIDE = 128
"""Side of an image in pixels."""

_MARGIN = 0.04  # of the side, around the drawing


def from_svg(text: str) -> Image.Image | None:
    """The drawn part of an SVG document, RGBA; None where it is malformed or empty."""
    try:
        data = resvg_py.svg_to_bytes(svg_string=text, width=2 * SIDE, skip_system_fonts=True)
    except ValueError:
        return None
    return drawn_part(Image.open(io.BytesIO(data)))


def drawn_part(image: Image.Image) -> Image.Image | None:
    """The part of the image that is not transparent, RGBA; None where there is none."""
    image = image.convert("RGBA")
    box = image.getchannel("A").point(lambda alpha: 255 if alpha > 8 else 0).getbbox()
    return image.crop(box) if box else None


def aspect(image: Image.Image) -> float:
    return max(image.size) / min(image.size)


def svg_on_white(text: str) -> Image.Image | None:
    """The drawing of an SVG document on white; None where it is malformed or empty."""
    image = from_svg(text)
    return on_white(image) if image else None


def on_white(image: Image.Image) -> Image.Image:
    """The image amid a white square of `SIDE` pixels, RGB."""
    image = image.convert("RGBA")
    scale = SIDE * (1 - 2 * _MARGIN) / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # On white before it is scaled: what is transparent has colours that nobody sees.
    flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    square = Image.new("RGB", (SIDE, SIDE), "white")
    place = ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2)
    square.paste(flat.resize(size, Image.Resampling.LANCZOS), place)
    return square
