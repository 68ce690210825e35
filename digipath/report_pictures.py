"""The pictures of a report: the slide under its findings, each an SVG that a screen reader can name.

Photographs are JPEGs inside of the page; lines, numbers and scale bars are drawn over them, sharp at any size. The
slide is shown as the result keeps it, a reduced picture of its pixels: never its label or macro image.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

import numpy as np

from digipath.geometry.frame import Frame
from digipath.geometry.layer import Layer
from digipath.geometry.raster import Raster
from digipath.markup import element, jpeg_uri
from digipath.overview import Picture, paint, round_length
from digipath.uncertainty import SPECK_MM2

if TYPE_CHECKING:
    from digipath.segmentation import Segmentation

__all__ = ["noteworthy", "pictures"]

_NUMBERED, _ALWAYS = 30, 3  # lesions at most; and those that are, however small
_WIDE, _TALL = 840, 840  # picture pixels at most: some 250 to the inch on paper
_ENLARGE = 4  # of them per level-0 pixel at most
_INK, _WHITE = "#14141c", "#ffffff"
_SECTIONS = {"tumour section": "#b00020", "normal section": "#00693c"}
_BOLD = 1.4  # lines are as thick as on a page that much wider, as pictures are shown smaller than they are
_FAINT = 0.05  # values as low as this are contoured, but not coloured


@dataclass(frozen=True)
class _Canvas:
    """A picture's frame and sizes.

    Attributes:
        frame: Of its pixels.
    """

    frame: Frame

    @property
    def unit(self) -> float:
        """A thousandth of the picture's width, in its pixels."""
        return max(self.frame.width, 0.6 * self.frame.height) / 1000

    def at(self, point: Sequence[float]) -> tuple[float, float]:
        """Where a position in level-0 pixels lies."""
        return point[0] / self.frame.downsample, point[1] / self.frame.downsample


def pictures(result: "Segmentation", analysis: Mapping[str, Any] | None) -> list[Element]:
    """The figures of a report: the slide with its sections, the heatmap, the lesions, the uncertainty.

    Args:
        result: What was predicted.
        analysis: What was concluded from it, as `Findings.to_json` tells it; None shows slide and heatmap alone.
    """
    told = analysis or {}
    canvas = _Canvas(_frame(result.heatmap.frame))
    name, threshold = told.get("class", result.classes[-1]), told.get("threshold", result.threshold)
    heat = result.picture(threshold, name=name)
    figures = [_slide(canvas, heat, told), _heatmap(canvas, heat, name)]
    if {"lesions", "burden", "tils"} & told.keys():
        figures.append(_lesions(canvas, heat, told))
    if result.uncertainty is not None:
        figures.append(_uncertainty(canvas, result))
    return figures


def noteworthy(lesions: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The lesions or contours that are numbered and listed: 30 at most, the largest first; specks only among three.

    Specks are below the area at which uncertain regions begin, too.
    """
    items = lesions.get("items", [])[:_NUMBERED]
    return [one for rank, one in enumerate(items) if rank < _ALWAYS or one["area_um2"] >= SPECK_MM2 * 1e6]


def _frame(frame: Frame) -> Frame:
    width, height = frame.slide_size
    downsample = max(width / _WIDE, height / _TALL, 1 / _ENLARGE)
    return frame.at(frame.mpp * downsample / frame.downsample)


def _slide(canvas: _Canvas, heat: Picture, told: Mapping[str, Any]) -> Element:
    """The slide alone, with a box round each section."""
    items = told.get("sections", {}).get("items", [])
    marks = [part for item in items for part in _section(canvas, item)]
    words = ["The slide; a thin line goes round tissue."]
    if items:
        words.append(" Boxes are its tissue sections, with number and class.")
    if heat.unread is not None:
        words.append(" Hatched tissue was not read.")
    title = f"The slide with {len(items)} numbered tissue sections" if items else "The slide"
    return _figure(canvas, _outlined(heat, None), title, marks, *words)


def _section(canvas: _Canvas, item: Mapping[str, Any]) -> Iterable[Element]:
    unit, (x, y) = canvas.unit, canvas.at((item["x"], item["y"]))
    width, height = canvas.at((item["width"], item["height"]))
    box = {"x": _n(x), "y": _n(y), "width": _n(width), "height": _n(height), "fill": "none"}
    color = _SECTIONS.get(item["class"], _INK)
    dash = {} if item["class"] == "tumour section" else {"stroke-dasharray": f"{_n(14 * unit)} {_n(8 * unit)}"}
    yield element("rect", {**box, "stroke": _WHITE, "stroke-width": _n(8 * unit)})
    yield element("rect", {**box, "stroke": color, "stroke-width": _n(4 * unit), **dash})
    label = f"{item['section']} {str(item['class']).removesuffix(' section')}"
    yield _label(canvas, (x + 12 * unit, y + 42 * unit), label, color)


def _heatmap(canvas: _Canvas, heat: Picture, name: str) -> Element:
    title = f"The heatmap: probability of {name} in colours over the slide, contours at {heat.threshold:g}"
    words = f"Probability of {name}. Inside of the dark lines it is above {heat.threshold:g}."
    return _figure(canvas, heat, title, [], words, _ramp(heat))


def _lesions(canvas: _Canvas, heat: Picture, told: Mapping[str, Any]) -> Element:
    """Outlines, the longest axis of each lesion with its number, and the hull of the whole tumour."""
    lesions, words = told.get("lesions", {}), [f"Outlines of {told['class']}."]
    hull, bulk = told.get("burden", {}).get("hull", []), told.get("tils", {}).get("bulk", [])
    marks = [part for ring in bulk for part in _dashes(canvas, ring, "#7a1fa2", (5, 6))]
    if bulk:
        words.append(" The violet dots go round the tumour bulk.")
    if hull:
        marks += _dashes(canvas, hull, "#2030b0", (16, 9))
        words.append(" The blue dashes are the convex hull, in which all tissue is the whole tumour.")
    items = noteworthy(lesions)
    marks += [part for item in reversed(items) for part in _axis(canvas, item)]
    if items:
        words.append(" A line is the longest axis of a lesion (of the ellipse with the same second moments).")
    if lesions.get("count", 0) > len(items):
        words.append(f" Of {lesions['count']} lesions the {len(items)} largest are numbered.")
    values, covered, threshold = heat.heatmap.values, heat.covered.values, heat.threshold

    def rows(chosen: slice) -> np.ndarray:
        return (np.asarray(values[chosen]) > threshold) & (np.asarray(covered[chosen]) != 0)

    title = f"The lesions: {lesions.get('count', 0)} found, {len(items)} numbered with their longest axis"
    return _figure(canvas, _outlined(heat, rows), title, marks, *words)


def _dashes(canvas: _Canvas, ring: Sequence[Sequence[float]], color: str, dash: tuple[int, int]) -> Iterable[Element]:
    points = " ".join(f"{_n(x)},{_n(y)}" for x, y in map(canvas.at, ring))
    outline = {"points": points, "fill": "none"}
    yield element("polygon", {**outline, "stroke": _WHITE, "stroke-width": _n(7 * canvas.unit)})
    lines = " ".join(_n(length * canvas.unit) for length in dash)
    own = {"stroke": color, "stroke-width": _n(3.5 * canvas.unit), "stroke-dasharray": lines}
    yield element("polygon", outline | own)


def _axis(canvas: _Canvas, item: Mapping[str, Any]) -> Iterable[Element]:
    (x1, y1), (x2, y2) = map(canvas.at, item["axis"])
    ends = {"x1": _n(x1), "y1": _n(y1), "x2": _n(x2), "y2": _n(y2), "stroke-linecap": "round"}
    for color, width in ((_WHITE, 7), (_INK, 3)):
        yield element("line", {**ends, "stroke": color, "stroke-width": _n(width * canvas.unit)})
    yield _label(canvas, (x2 + 7 * canvas.unit, y2 + 10 * canvas.unit), str(item["id"]), _INK)


def _uncertainty(canvas: _Canvas, result: "Segmentation") -> Element:
    doubt = result.uncertainty_picture()
    title = f"Where the networks are unsure: {doubt.label} in colours over the slide"
    words = (
        f"Standard deviation of the probability, {' and '.join(result.uncertainty.channels)} (over augmentations and "
        f"networks, where there are several); inside of the dark lines above {doubt.threshold:g}. Numbers rank the "
        "most uncertain regions by area times mean."
    )
    return _figure(canvas, doubt, title, [], words, _ramp(doubt))


def _outlined(heat: Picture, rows: Any) -> Picture:
    """The same picture without colours; with outlines of a mask that is made by a function of rows, if there is one."""
    frame = heat.heatmap.frame

    def faint(chosen: slice) -> np.ndarray:
        if rows is None:
            return np.zeros((chosen.stop - chosen.start, frame.width), np.float32)
        return rows(chosen) * np.float32(_FAINT)

    layer = Layer(frame.shape, np.dtype(np.float32), faint)
    return replace(heat, heatmap=Raster(layer, frame), threshold=_FAINT / 2)


def _figure(
    canvas: _Canvas, picture: Picture, title: str, marks: Sequence[Element], *caption: Element | str
) -> Element:
    frame, strip = canvas.frame, 52 * canvas.unit
    width, height = str(frame.width), str(frame.height)
    photograph = {
        "width": width,
        "height": height,
        "href": jpeg_uri(paint(picture, frame, width=min(max(400, round(_BOLD * frame.width)), 4096))),
    }
    look = {
        "viewBox": f"0 0 {width} {_n(frame.height + strip)}",
        "preserveAspectRatio": "xMinYMin meet",
        "role": "img",
        "aria-label": f"{title}.",
        "xmlns": "http://www.w3.org/2000/svg",
    }
    # The axis of a lesion that the slide's border cuts would go on beyond it: an inner SVG ends at its own border.
    inside = element("svg", {"width": width, "height": height}, element("image", photograph), *marks)
    drawn = element("svg", look, inside, *_scale_bar(canvas))
    return element("figure", {}, drawn, element("figcaption", {}, *caption))


def _scale_bar(canvas: _Canvas) -> Iterable[Element]:
    """In the page's own colour, below the picture."""
    frame, unit = canvas.frame, canvas.unit
    length = round_length(0.22 * frame.width * frame.mpp)
    y, width = frame.height + 22 * unit, length / frame.mpp
    bar = {"x": "0", "y": _n(y), "width": _n(width), "height": _n(9 * unit), "fill": "currentColor"}
    yield element("rect", bar)
    told = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    place = {"x": _n(width + 12 * unit), "y": _n(y + 16 * unit), "font-size": _n(32 * unit), "fill": "currentColor"}
    yield element("text", place, told)


def _label(canvas: _Canvas, place: tuple[float, float], text: str, color: str) -> Element:
    """Words over a picture, which stay inside of it."""
    unit, frame = canvas.unit, canvas.frame
    x = min(max(place[0], 4 * unit), frame.width - 20 * unit * len(text))
    y = min(max(place[1], 32 * unit), frame.height - 6 * unit)
    look = {
        "font-size": _n(36 * unit),
        "font-weight": "700",
        "fill": color,
        "stroke": _WHITE,
        "stroke-width": _n(7 * unit),
        "stroke-linejoin": "round",
        "paint-order": "stroke",
    }
    return element("text", {"x": _n(x), "y": _n(y), **look}, text)


def _ramp(picture: Picture) -> Element:
    """The colours from 0 to the full value over average tissue, as the picture has them, the threshold marked."""
    bar = Frame.level0(260, 20, 1.0)
    slide = picture.thumbnail
    tissue = picture.tissue.sample(slide.frame.box, slide.frame) != 0
    ground = slide.array()[tissue].mean(0) if tissue.any() else np.full(3, 255)
    shown = replace(
        picture,
        thumbnail=Raster(np.broadcast_to(ground.astype(np.uint8), (*bar.shape, 3)), bar, slide.channels),
        heatmap=Raster(np.tile(np.linspace(0, picture.full, bar.width, dtype=np.float32), (bar.height, 1)), bar),
        covered=Raster(np.ones(bar.shape, bool), bar),
        tissue=Raster(np.zeros(bar.shape, bool), bar),
        unread=None,
        outlined=None,
        marks=(),
    )
    source = jpeg_uri(paint(shown, bar, width=800))
    words = f"Colours from 0 to {picture.full:g}, with a line at {picture.threshold:g}"
    ends = element("span", {}, *(element("span", {}, text) for text in ("0", f"{picture.full:g}")))
    return element("span", {"class": "ramp"}, element("img", {"src": source, "alt": words}), ends)


def _n(value: float) -> str:
    return f"{value:.1f}"
