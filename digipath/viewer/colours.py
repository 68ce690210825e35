"""The colours of layers, each with its legend.

Maps are perceptually uniform and told apart by the colour-blind, and clear where there is little to tell: viridis for
probabilities and inferno for standard deviations (Smith and van der Walt 2015, as OpenCV has them). Colours of masks
are those of Okabe and Ito (2008).
"""

import cv2
import numpy as np

from digipath.errors import SpecError
from digipath.inference.sinks import FULL_DEVIATION
from digipath.overview import rise

__all__ = ["coloured", "legend", "mask_colour", "opacity", "stripes"]

_MAPS = {
    name: cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], number)[:, 0, ::-1].copy()
    for name, number in (("viridis", cv2.COLORMAP_VIRIDIS), ("inferno", cv2.COLORMAP_INFERNO))
}
# From the last class, which is the lesion, to the first: bluish green stands out of pink and violet most.
_CLASSES = ((0, 158, 115), (0, 114, 178), (230, 159, 0), (204, 121, 167), (86, 180, 233), (240, 228, 66))
_OTHERS = {"tissue": (96, 96, 104), "uncovered": (213, 94, 0)}
_KINDS = ("aleatoric", "epistemic", "total")
_STOPS = 21
_STRIPE = 8  # pixels from one stripe to the next; a tile holds a whole number of them


def opacity(layer: str, values: np.ndarray) -> np.ndarray:
    """How strongly values of a layer that has a colour map are seen, 0 to 1: where there is little, the tissue is."""
    return rise(np.asarray(values, np.float32) / _full(layer))


def legend(layer: str) -> tuple[list[tuple[float, str]], str, str]:
    """What the colours of a layer stand for.

    Returns:
        (stops, label, unit): stops are (value, CSS colour), from the lowest value to the highest for a colour map, and
        one of value 1 for a mask; the unit is empty where there is none.
    """
    what, _, _channel = layer.partition("-")
    if what == "mask":
        return [(1.0, _css(mask_colour(layer)))], "above the threshold", ""
    if what in _OTHERS:
        return [(1.0, _css(_OTHERS[what]))], "tissue" if what == "tissue" else "tissue not covered", ""
    label = what if what == "probability" else f"{what} standard deviation"
    table, values = _table(layer), np.linspace(0, _full(layer), _STOPS)
    seen = opacity(layer, values)
    stops = [
        (float(value), f"{_css(table[round(255 * k / (_STOPS - 1))])}{round(255 * part):02x}")
        for k, (value, part) in enumerate(zip(values, seen, strict=True))
    ]
    return stops, label, ""


def coloured(layer: str, values: np.ndarray) -> np.ndarray:
    """(rows, columns, 3) uint8 RGB of the values of a layer that has a colour map."""
    shades = np.multiply(values, 255 / _full(layer), dtype=np.float32)
    return _table(layer)[np.clip(np.rint(shades), 0, 255).astype(np.uint8)]


def mask_colour(layer: str, classes: int = 2) -> tuple[int, int, int]:
    """RGB of a mask: of "mask-<k>" of so many classes, "tissue" or "uncovered"."""
    what, _, channel = layer.partition("-")
    if what in _OTHERS:
        return _OTHERS[what]
    if what != "mask" or not channel.isdecimal():
        raise SpecError(f'a mask is "mask-<class>", "tissue" or "uncovered", got {layer[:40]!r}.')
    return _CLASSES[(classes - 1 - int(channel)) % len(_CLASSES)]


def stripes(side: int) -> np.ndarray:
    """(side, side) bool, diagonal and unbroken from tile to tile: what is not known is hatched, not only coloured."""
    x = np.arange(side)
    return (x[None] + x[:, None]) % _STRIPE < _STRIPE // 2


def _full(layer: str) -> float:
    return 1.0 if layer.startswith("probability") else FULL_DEVIATION


def _table(layer: str) -> np.ndarray:
    if layer.startswith("probability-"):
        return _MAPS["viridis"]
    if layer in _KINDS:
        return _MAPS["inferno"]
    raise SpecError(f'a layer with a colour map is "probability-<class>" or one of {_KINDS}, got {layer[:40]!r}.')


def _css(colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*map(int, colour))
