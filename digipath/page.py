"""White pages with words and pictures on them, all in proportion to the page's width.

Words are in ASCII: the font that Pillow carries along has no more.
"""

import math
import unicodedata
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from digipath.errors import SpecError

__all__ = ["INK", "WHITE", "Style", "column", "flow", "place", "row"]

INK, WHITE = (20, 20, 24), (255, 255, 255)

_WIDTHS = 400, 4096
_SPELLED = str.maketrans("μ×øØłŁ‐‑‒–—−", "uxoOlL------") | str.maketrans({"≥": ">=", "≤": "<=", "ß": "ss"})


class Style:
    """Sizes in pixels, all in proportion to the page, and the two fonts."""

    def __init__(self, width: int):
        if not (_WIDTHS[0] <= width <= _WIDTHS[1] and width == int(width)):
            limits = f"{_WIDTHS[0]} to {_WIDTHS[1]:,}"
            raise SpecError(f"width is {limits} pixels, got {width}. For more detail, open the heatmap over the slide.")
        self.em = max(11, round(width / 66))
        self.line = max(1.0, width / 800)
        self.margin = round(1.4 * self.em)
        self.room_below = width - 2 * self.margin
        self.room_beside = width - 3 * self.margin - 17 * self.em
        self.body, self.title = ImageFont.load_default(self.em), ImageFont.load_default(round(1.25 * self.em))

    def text(self, text: str, font: ImageFont.FreeTypeFont, width: int) -> np.ndarray:
        """Lines of text, broken to fit `width`; nothing is cut off."""
        lines = list(_lines(_ascii(text), font, width)) if text.strip() else []
        pitch = round(1.3 * font.size)
        columns = max((math.ceil(font.getlength(line)) for line in lines), default=0)
        image = Image.new("RGB", (columns + 1, pitch * len(lines)), WHITE)
        pen = ImageDraw.Draw(image)
        for number, line in enumerate(lines):
            pen.text((0, number * pitch), line, fill=INK, font=font)
        return np.asarray(image)


def _ascii(text: str) -> str:
    """The same without accents and exponents; what has no likeness in ASCII is a question mark."""
    plain = unicodedata.normalize("NFKD", text).translate(_SPELLED)
    return "".join(sign if sign.isascii() else "?" for sign in plain if not unicodedata.combining(sign))


def _lines(text: str, font: ImageFont.FreeTypeFont, width: int) -> Iterable[str]:
    """Break between words, and inside of a word, such as a file name, that is wider than the line."""
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            joined = f"{line} {word}" if line else word
            if font.getlength(joined) > width:
                yield from [line] if line else []
                *parts, joined = _broken(word, font, width)
                yield from parts
            line = joined
        yield line


def _broken(word: str, font: ImageFont.FreeTypeFont, width: int) -> Iterable[str]:
    while len(word) > 1 and font.getlength(word) > width:
        fits = max(1, sum(font.getlength(word[:end]) <= width for end in range(1, len(word))))
        at = max(word.rfind(sign, fits // 2, fits) for sign in "_-.") + 1 or fits
        yield word[:at]
        word = word[at:]
    yield word


def column(images: list[np.ndarray], gap: int) -> np.ndarray:
    """Images under one another on white, flush left; empty ones take no room."""
    images = [image for image in images if len(image)]
    height = sum(len(image) for image in images) + gap * (len(images) - 1)
    page, y = np.full((height, max(image.shape[1] for image in images), 3), 255, np.uint8), 0
    for image in images:
        place(page, image, 0, y)
        y += len(image) + gap
    return page


def row(images: list[np.ndarray], gap: int) -> np.ndarray:
    """Images beside one another on white, from the top."""
    return column([image.swapaxes(0, 1) for image in images], gap).swapaxes(0, 1)


def flow(images: list[np.ndarray], room: int, gap: int) -> np.ndarray:
    """Images beside one another where they fit, else in further rows."""
    rows: list[list[np.ndarray]] = [[]]
    for image in images:
        if rows[-1] and sum(other.shape[1] + gap for other in rows[-1]) + image.shape[1] > room:
            rows.append([])
        rows[-1].append(image)
    return column([row(line, gap) for line in rows], gap)


def place(page: np.ndarray, image: np.ndarray, x: int, y: int) -> None:
    """Lay an image on a page, its upper left corner at (x, y)."""
    page[y : y + image.shape[0], x : x + image.shape[1]] = image
