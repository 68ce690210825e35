"""A result as a notebook shows it: a small picture beside a short table, as HTML that needs nothing else.

Notebooks are shown by many programs, some of which take style sheets and scripts away. So there are none: a table with
headers, a picture inside of the text, and only such looks as may go missing. Every text is escaped by `markup`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from digipath.markup import element, jpeg_uri
from digipath.overview import Picture, draw

__all__ = ["Card", "card"]

_WIDTH, _QUALITY = 600, 70  # pixels and JPEG quality of the picture: about 100 kB
_NOTES, _LONG = 8, 300  # notes at most, and signs of each text
_LEFT = "text-align: left; vertical-align: top; white-space: normal; padding: .2em .8em .2em 0; max-width: 26em"


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card tells.

    Attributes:
        picture: Of the slide with what was found; its title and caption are told in words beside it.
        summary: The finding in one line, such as "0.41 mm² lesion in 1.16 mm² tissue (36%) at p > 0.5".
        areas: Name and mm2 of each class but the background.
        info: What `result.json` holds.
    """

    picture: Picture
    summary: str
    areas: Mapping[str, float]
    info: Mapping[str, Any]


def card(shown: Card) -> str:
    """Make the HTML of a card: a `div` with a figure and a table, under 400 kB."""
    image = draw(replace(shown.picture, title="", caption=""), width=_WIDTH)
    name = _short(str(shown.info["slide"]["name"]))
    source = jpeg_uri(image, quality=_QUALITY)
    alt = f"The slide {name} with {shown.picture.label} in colours and outlines: {shown.summary}."
    look = {"src": source, "alt": alt, "width": str(_WIDTH), "style": "max-width: 100%; height: auto"}
    rows = [
        element("tr", {}, element("th", {"scope": "row", "style": _LEFT}, term), element("td", {"style": _LEFT}, text))
        for term, text in _rows(shown)
    ]
    words = element("caption", {"style": "text-align: left; font-weight: bold; caption-side: top"}, name)
    table = element("table", {"style": "font-size: .9em"}, words, element("tbody", {}, *rows))
    told = element("div", {"style": "flex: 1 1 20em"}, table, *_notes(shown.info.get("notes", [])))
    pictured = element("div", {"style": f"flex: 0 1 {_WIDTH}px"}, element("img", look))
    place = {"style": "display: flex; flex-wrap: wrap; gap: 1em; align-items: flex-start"}
    return ElementTree.tostring(element("div", place, pictured, told), encoding="unicode", method="html")


def _rows(shown: Card) -> Iterator[tuple[str, str]]:
    """Term and text of each line of the table; what an older result does not say is left out."""
    info, slide = shown.info, shown.info["slide"]
    scale = f"{slide['mpp']:g} µm per pixel, from: {slide.get('mpp_source', 'not recorded')}" if "mpp" in slide else ""
    size = f"{slide['width']:,} x {slide['height']:,} pixels" if "width" in slide else ""
    yield "Status", _STATUS.get(info["status"], info["status"])
    yield "Found", shown.summary
    for name, area in shown.areas.items() if len(shown.areas) > 1 else ():
        yield f"Area of {_short(name)}", f"{area:.2f} mm²"
    yield "Threshold", f"{shown.picture.threshold:g}"
    yield "Slide", "; ".join(one for one in (size, _short(scale)) if one)
    yield "Heatmap", f"{shown.picture.heatmap.frame.mpp:g} µm per pixel"
    yield "Networks", _networks(info.get("bundle", {}))
    yield "Not covered", _missing(info)


_STATUS = {
    "ok": "ok: all tissue that was asked for is covered",
    "incomplete": "incomplete: some tissue is not covered",
    "empty": "empty: no tissue was found",
}


def _networks(bundle: Mapping[str, Any]) -> str:
    stages = (("first stage: ", bundle.get("first_stage", [])), ("", bundle.get("members", [])))
    told = [word + ", ".join(_network(one) for one in members) for word, members in stages if members]
    return "; ".join(told) or "not recorded"


def _network(member: Mapping[str, Any]) -> str:
    mark = f" ({member['hash']})" if member.get("hash") else ""
    return _short(str(member.get("name", "?"))) + mark


def _missing(info: Mapping[str, Any]) -> str:
    """What the result says nothing about."""
    parts = []
    if lost := info["areas"]["uncovered_mm2"]:
        parts.append(f"{lost:.2f} mm² of tissue")
    if unread := len(info.get("unread", [])):
        parts.append(f"{unread} regions that could not be read")
    if (region := info.get("region")) is not None:
        parts.append(
            f"everything outside of the region {region[2]:,} x {region[3]:,} pixels at {region[0]}, {region[1]}"
        )
    return "; ".join(parts) or "nothing of the tissue found"


def _notes(notes: Sequence[str]) -> Iterable[Element]:
    """What a reader should know before believing the numbers."""
    if not notes:
        return []
    items = [element("li", {}, _short(str(one))) for one in notes[:_NOTES]]
    more = [element("li", {}, f"and {len(notes) - _NOTES} more in `info['notes']`")] if len(notes) > _NOTES else []
    return [element("p", {}, element("strong", {}, "Before believing it")), element("ul", {}, *items, *more)]


def _short(text: str) -> str:
    return text if len(text) <= _LONG else text[: _LONG - 1] + "…"
