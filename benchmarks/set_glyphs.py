"""Letters of many scripts across fonts: the class is the character, an image is one font's."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from requirements import require
from set_choice import Drawing
from set_images import on_white
from set_packages import Package, Packages, debian

require("fontTools")
from fontTools.ttLib import TTFont

_GPL = "GPL with font exception (its copyright file)"
_OFL = "OFL-1.1"

PACKAGES: tuple[Package, ...] = (
    debian("culmus", "0.133-1", _GPL),
    debian("culmus-fancy", "0.0.20140315-1", _GPL),
    debian("fonts-arabeyes", "2.1-7", "GPL-2"),
    debian("fonts-aoyagi-soseki", "20070207-17", "public domain"),
    debian("fonts-baekmuk", "2.2-13", "Baekmuk (its copyright file)"),
    debian("fonts-beng-extra", "3.2.1-1", _GPL),
    debian("fonts-bpg-georgian", "2012-5", "GPL-2, Bitstream Vera"),
    debian("fonts-comfortaa", "3.001-3", _OFL),
    debian("fonts-dejavu-core", "2.37-6", "Bitstream Vera"),
    debian("fonts-deva-extra", "3.0-6", "GPL-2.0+"),
    debian("fonts-farsiweb", "0.4.dfsg-13", "its copyright file"),
    debian("fonts-freefont-ttf", "20120503-10", "GPL-3+ with font exception"),
    debian("fonts-gargi", "2.0-6", "GPL-2+"),
    debian("fonts-gfs-artemisia", "1.1-6", _OFL),
    debian("fonts-gfs-didot", "1.1-7", _OFL),
    debian("fonts-gfs-gazis", "1.1-6", _OFL),
    debian("fonts-gfs-olga", "1.1-6", _OFL),
    debian("fonts-gfs-porson", "1.1-7", _OFL),
    debian("fonts-gfs-solomos", "1.1-6", _OFL),
    debian("fonts-gfs-theokritos", "1.1-6", _OFL),
    debian("fonts-gubbi", "1.3-7", _GPL),
    debian("fonts-gujr-extra", "1.0.1-1", "GPL-2.0+"),
    debian("fonts-guru-extra", "2.0-5", _GPL),
    debian("fonts-hosny-amiri", "0.113-1", _OFL),
    debian("fonts-ipafont-gothic", "00303-23", "IPA-1"),
    debian("fonts-ipafont-mincho", "00303-23", "IPA-1"),
    debian("fonts-jura", "5.103-3", _OFL),
    debian("fonts-kacst", "2.01+mry-15", "GPL-2"),
    debian("fonts-khmeros", "5.0-9", "LGPL-2.1+"),
    debian("fonts-kouzan-mouhitsu", "20170411-3", "public domain"),
    debian("fonts-linuxlibertine", "5.3.0-6", "OFL-1.1, GPL-2+ with font exception"),
    debian("fonts-lohit-beng-bengali", "2.91.5-3", _OFL),
    debian("fonts-lohit-deva", "2.95.4-5", _OFL),
    debian("fonts-lohit-gujr", "2.92.4-4", _OFL),
    debian("fonts-lohit-guru", "2.91.2-3", _OFL),
    debian("fonts-lohit-knda", "2.5.4-3", _OFL),
    debian("fonts-lohit-mlym", "2.92.2-2", _OFL),
    debian("fonts-lohit-taml", "2.91.3-2", _OFL),
    debian("fonts-lohit-telu", "2.5.5-2", _OFL),
    debian("fonts-motoya-l-maruberi", "1.01-5", "Apache-2.0"),
    debian("fonts-mplus", "063+git20221017+ds-1", _OFL),
    debian("fonts-nakula", "1.0-4", "GPL-2.0+"),
    debian("fonts-nanum", "20200506-1", _OFL),
    debian("fonts-nanum-extra", "20200506-1", _OFL),
    debian("fonts-navilu", "1.2-4", _OFL),
    debian("fonts-noto-core", "20201225-1", _OFL),
    debian("fonts-play", "1.002+20150307.1-0.1", _OFL),
    debian("fonts-sahadeva", "1.0-5", "GPL-2.0+"),
    debian("fonts-sarai", "1.0-3", "GPL-2.0"),
    debian("fonts-sawarabi-gothic", "20161015-4", "CC-BY-3.0"),
    debian("fonts-sawarabi-mincho", "20220815-1", _OFL),
    debian("fonts-sil-abyssinica", "2.100-3", _OFL),
    debian("fonts-sil-scheherazade", "2.100-2.1", _OFL),
    debian("fonts-samyak-deva", "1.2.2-6", _GPL),
    debian("fonts-samyak-gujr", "1.2.2-6", _GPL),
    debian("fonts-samyak-taml", "1.2.2-6", _GPL),
    debian("fonts-smc-anjalioldlipi", "7.1.2-2", _OFL),
    debian("fonts-smc-chilanka", "1.540-2", _OFL),
    debian("fonts-smc-dyuthi", "3.0.2-2", _OFL),
    debian("fonts-smc-gayathri", "1.200-1", _OFL),
    debian("fonts-smc-karumbi", "1.1.2-2", _OFL),
    debian("fonts-smc-keraleeyam", "3.0.2-2", _OFL),
    debian("fonts-smc-manjari", "2.000-4", _OFL),
    debian("fonts-smc-meera", "7.0.3-1", _OFL),
    debian("fonts-smc-rachana", "7.0.2-1", _OFL),
    debian("fonts-smc-uroob", "2.0.2-1", _OFL),
    debian("fonts-taml-tscu", "1.0-3", "GPL-2.0"),
    debian("fonts-telu-extra", "2.0-5", "GPL-2.0+"),
    debian("fonts-teluguvijayam", "2.1-1", _OFL),
    debian("fonts-tlwg-garuda-ttf", "1:0.7.3-1", _GPL),
    debian("fonts-tlwg-kinnari-ttf", "1:0.7.3-1", _GPL),
    debian("fonts-tlwg-loma-ttf", "1:0.7.3-1", _GPL),
    debian("fonts-tlwg-norasi-ttf", "1:0.7.3-1", _GPL),
    debian("fonts-tlwg-purisa-ttf", "1:0.7.3-1", _GPL),
    debian("fonts-tlwg-sawasdee-ttf", "1:0.7.3-1", _GPL),
    debian("fonts-tlwg-typist-ttf", "1:0.7.3-1", _GPL),
    debian("fonts-tlwg-umpush-ttf", "1:0.7.3-1", _GPL),
    debian("fonts-tlwg-waree-ttf", "1:0.7.3-1", _GPL),
    debian("fonts-unfonts-core", "1:1.0.2-080608-18", "GPL-2"),
    debian("fonts-unfonts-extra", "1:1.0.2-080608+dfsg-11", "GPL-2"),
    debian("fonts-vlgothic", "20220612-1", "BSD-3-Clause, M+"),
)

# Letters that are not another's at another size, as C and c are or A and Alpha.
_LATIN = "ABDEFGHJKLMNPQRTYabdefghjkmnqrty2345679"
_GREEK = "ΓΔΘΛΞΠΣΦΨΩαβγδεζηθλμξπρςστφψω"
_CYRILLIC = "БГДЖЗИЛЦЧШЩЪЫЬЭЮЯЄЂЉЊЋбф"

SCRIPTS: dict[str, str | tuple[int, int]] = {
    "latin": _LATIN,
    "greek": _GREEK,
    "cyrillic": _CYRILLIC,
    "armenian": (0x0561, 0x0586),
    "hebrew": (0x05D0, 0x05EA),
    "arabic": (0x0621, 0x064A),
    "devanagari": (0x0904, 0x0939),
    "bengali": (0x0985, 0x09B9),
    "gurmukhi": (0x0A05, 0x0A39),
    "gujarati": (0x0A85, 0x0AB9),
    "tamil": (0x0B85, 0x0BB9),
    "telugu": (0x0C05, 0x0C39),
    "kannada": (0x0C85, 0x0CB9),
    "malayalam": (0x0D05, 0x0D39),
    "thai": (0x0E01, 0x0E2E),
    "georgian": (0x10D0, 0x10F0),
    "ethiopic": (0x1200, 0x1357),
    "khmer": (0x1780, 0x17A2),
    "hiragana": (0x3042, 0x3093),
    "katakana": (0x30A2, 0x30F3),
    "hangul": (0xAC00, 0xD7A3),
}
"""Letters, or the first and the last code point, by script."""

MOST_LETTERS = 120
"""Letters of a script; more are drawn at random."""

MOST = 12
"""Images of a letter."""

_TRIED = 2 * MOST  # fonts drawn a letter; some are the same drawing

# One style of a family is enough: the others teach the same shapes.
_STYLES = re.compile(
    r"bold|italic|oblique|black|light|medium|thin|heavy|slanted|conden|semi|caps|ui-|extra|mono"
)
_SHORT = re.compile(r"[a-z0-9](EB|L|B|EcoR)\.ttf|_ac\w+\.ttf|_R[BI]|_I\.|_DR|It\.otf")
_SIZE = 160  # pixels of the em in the rendering that a letter is cut from


class Font:
    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return re.sub(r"[^A-Za-z0-9]+", "-", self.path.stem)

    @cached_property
    def letters(self) -> frozenset[str]:
        with TTFont(self.path, lazy=True, fontNumber=0) as font:
            return frozenset(map(chr, font.getBestCmap() or {}))

    @cached_property
    def _drawn(self) -> ImageFont.FreeTypeFont:
        return ImageFont.truetype(str(self.path), _SIZE, layout_engine=ImageFont.Layout.BASIC)

    def draw(self, letter: str) -> Image.Image | None:
        """The letter in black on white; None where the font has nothing to show."""
        box = self._drawn.getbbox(letter)
        size = (int(box[2] - box[0]), int(box[3] - box[1]))
        if min(size) < 2:
            return None
        page = Image.new("L", (size[0] + 8, size[1] + 8), 255)
        ImageDraw.Draw(page).text((4 - box[0], 4 - box[1]), letter, fill=0, font=self._drawn)
        inked = page.point(lambda grey: 255 - grey).getbbox()
        return on_white(page.crop(inked)) if inked else None


def letters_of(script: str) -> list[str]:
    """Letters of a script, in the order of their code points."""
    named = SCRIPTS[script]
    if isinstance(named, str):
        return sorted(named)
    found = [chr(point) for point in range(named[0], named[1] + 1)]
    found = [letter for letter in found if unicodedata.category(letter) in ("Lo", "Ll")]
    # Small kana are the large ones at another size.
    found = [letter for letter in found if "LETTER SMALL" not in unicodedata.name(letter)]
    if len(found) > MOST_LETTERS:
        found = sorted(random.Random(script).sample(found, MOST_LETTERS))
    return found


def drawings(packages: Packages) -> Iterator[Drawing]:
    """Each letter in the fonts that have it, in an order of its script's own."""
    paths: dict[str, Path] = {}
    for package in PACKAGES:
        for path in sorted(packages.path(package).rglob("*.[ot]tf")):
            styled = _STYLES.search(path.name.lower()) or _SHORT.search(path.name)
            if not styled and not path.is_symlink():
                paths.setdefault(path.name, path)
    fonts = [Font(path) for path in paths.values()]
    for script in SCRIPTS:
        order = random.Random(script).sample(fonts, len(fonts))
        for letter in letters_of(script):
            label = f"{script}-{ord(letter):04x}"
            having = [font for font in order if letter in font.letters][:_TRIED]
            for font in having:
                yield Drawing(label, font.name, partial(font.draw, letter))
