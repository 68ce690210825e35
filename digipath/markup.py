"""HTML pages that stand by themselves: no script, no font and no picture from anywhere, every text escaped.

Elements are those of `xml.etree.ElementTree`, which escapes all texts and attributes when it writes them. The look is
one constant style for screens, light or dark, and for paper; tables have headers that a screen reader can tell.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
from PIL import Image

__all__ = ["definitions", "document", "element", "jpeg_uri", "printable", "table"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b20; --soft: #55555f; --line: #d5d5dc; --paper: #fff; --card: #f5f5f8;
  --alert: #fff4d6; --edge: #b58100 }
@media (prefers-color-scheme: dark) { :root { --ink: #e9e9ee; --soft: #b0b0bb; --line: #3c3c46; --paper: #17171b;
  --card: #222228; --alert: #3a2f10; --edge: #d9a520 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif }
main, header, footer { max-width: 76rem; margin: 0 auto; padding: 0 1.5rem }
header { padding-top: 1.5rem } footer { padding-bottom: 2rem }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; overflow-wrap: anywhere } h2 { font-size: 1.2rem; margin: 2rem 0 .6rem }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem }
p { margin: .4rem 0 } .soft, figcaption, .terms { color: var(--soft); font-size: .875rem }
.use { font-weight: 600; border-left: .3rem solid var(--edge); background: var(--alert); padding: .5rem .8rem }
.notes { border-left: .3rem solid var(--edge); background: var(--alert); padding: .5rem .8rem .5rem 2rem; margin: 0 }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .7rem; margin: 1.2rem 0 0 }
.cards div { background: var(--card); border: 1px solid var(--line); border-radius: .4rem; padding: .6rem .8rem }
.cards dt { color: var(--soft); font-size: .8rem } .cards dd { margin: 0; font-size: 1.35rem; font-weight: 600 }
.cards dd small { display: block; font-size: .8rem; font-weight: 400; color: var(--soft) }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1.5rem }
figure { margin: 0 } figure svg { display: block; width: 100%; height: auto; max-height: 46rem }
figcaption { margin-top: .4rem } .ramp { display: block; width: 13rem; margin-top: .3rem }
.ramp img { display: block; width: 100%; height: 1rem; border-radius: .15rem }
.ramp span { display: flex; justify-content: space-between; font-variant-numeric: tabular-nums }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-size: .875rem }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem }
th, td { text-align: left; vertical-align: top; padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--line) }
thead th { border-bottom: 2px solid var(--line); vertical-align: bottom; white-space: normal }
tbody th { font-weight: 500 }
.number { text-align: right; font-variant-numeric: tabular-nums } td.number { white-space: nowrap }
.columns td { overflow-wrap: anywhere } .columns caption { padding-top: .8rem }
.columns { columns: 26rem; column-gap: 2.5rem }
.columns > * { break-inside: avoid }
.terms { margin: .5rem 0 } .terms dt { display: inline; font-weight: 600 } .terms dd { display: inline; margin: 0 }
.terms dd::after { content: ""; display: block }
@page { size: A4; margin: 13mm }
@media print { :root { font-size: 11px; color-scheme: light; --ink: #000; --soft: #44444c; --line: #c4c4cc;
    --paper: #fff; --card: #fff; --alert: #fff; --edge: #000 }
  main, header, footer { max-width: none; padding: 0 } header { padding-top: 0 }
  h2 { margin-top: 1.1rem } figure, tr, .cards div, .use { break-inside: avoid }
  h2, h3, caption, p.soft { break-after: avoid }
  .pictures { grid-template-columns: 1fr 1fr; gap: 1rem } figure svg { max-height: 74mm }
  .cards { grid-template-columns: repeat(6, 1fr); gap: .3rem } .cards dd { font-size: 1.15rem }
  th, td { padding: .1rem .5rem .1rem 0 } .columns { columns: 2 }
  .scroll { overflow: visible } .ramp img { print-color-adjust: exact } }
"""


def printable(text: str) -> str:
    """The text with a replacement for every sign that cannot be shown, such as half a surrogate of a file's name."""
    return "".join(sign if sign.isprintable() or sign == "\n" else "\ufffd" for sign in text)


def element(tag: str, attributes: Mapping[str, str] | None = None, *children: Element | str | None) -> Element:
    """An element with texts and elements in it, in their order; None is left out.

    Example:
        >>> ElementTree.tostring(element("p", {"class": "a"}, "1 < 2", element("b", {}, "!")), encoding="unicode")
        '<p class="a">1 &lt; 2<b>!</b></p>'
    """
    made = Element(tag, {name: printable(value) for name, value in (attributes or {}).items()})
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif child is not None and len(made):
            made[-1].tail = (made[-1].tail or "") + printable(child)
        elif child is not None:
            made.text = (made.text or "") + printable(child)
    return made


def table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[bool] | None = None
) -> Element:
    """A table whose first column names its rows.

    Args:
        caption: What it is of.
        columns: Names, with their units.
        rows: Texts of each row.
        numbers: Which columns are numbers, and so flush right; by default all but the first.
    """
    numbers = [index > 0 for index in range(len(columns))] if numbers is None else numbers
    look = [{"class": "number"} if one else {} for one in numbers]

    def cells(row: Sequence[str]) -> Iterable[Element]:
        for index, (text, own) in enumerate(zip(row, look, strict=True)):
            yield element("td", own, text) if index else element("th", {"scope": "row", **own}, text)

    head = [element("th", {"scope": "col", **own}, name) for name, own in zip(columns, look, strict=True)]
    body = [element("tr", {}, *cells(row)) for row in rows]
    parts = element("caption", {}, caption), element("thead", {}, element("tr", {}, *head)), element("tbody", {}, *body)
    place = {"class": "scroll", "role": "region", "tabindex": "0", "aria-label": caption}
    return element("div", place, element("table", {}, *parts))


def definitions(terms: Mapping[str, str], *, look: str = "terms") -> Element:
    """What words mean: a list of terms."""
    pairs = [part for term, text in terms.items() for part in (element("dt", {}, term), element("dd", {}, f" {text}"))]
    return element("dl", {"class": look}, *pairs)


def jpeg_uri(image: np.ndarray, *, quality: int = 88) -> str:
    """A picture as a data URI: (rows, columns, 3) uint8 RGB in, a JPEG without any metadata out.

    Below a quality of 80 colours are stored at half the resolution, too.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=2 * (quality < 80), optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def document(title: str, *body: Element) -> str:
    """A whole page in English, with its style."""
    head = element(
        "head",
        {},
        element("meta", {"charset": "utf-8"}),
        element("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        # Nothing is loaded from anywhere, and nothing runs, whatever a page may hold.
        element("meta", {"http-equiv": "Content-Security-Policy", "content": _POLICY}),
        element("title", {}, title),
        element("style", {}, _STYLE),
    )
    page = element("html", {"lang": "en"}, head, element("body", {}, *body))
    return "<!DOCTYPE html>\n" + ElementTree.tostring(page, encoding="unicode", method="html") + "\n"


_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
