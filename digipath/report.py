"""A result on one page: pictures, findings with their definitions, and what was not seen; one HTML file by itself.

The page loads nothing and runs nothing. It names files, never folders, and never shows a slide's label or macro image.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from digipath.errors import ResultError
from digipath.findings import ANALYSIS_VERSION, Findings
from digipath.io.strips import replacing
from digipath.markup import definitions, document, element, table
from digipath.report_pictures import noteworthy, pictures
from digipath.segmentation import Segmentation

__all__ = ["write_report"]

_USE = "For research use only. This is no medical device, and no diagnosis may rest on it."
# An absolute path, a share's or a file's URL too: its last part is kept. A folder may have a few words.
_PATH = re.compile(
    r"""(?<![\w/\\:.])(?:file:/*|(?:[A-Za-z]:)?[\\/]{1,2})"""
    r"""(?:[^\\/\s"'<>|]+(?:(?<![;,:]) [^\\/\s"'<>|]+){0,3}[\\/]+)+([^\\/\s"'<>|]*)"""
)
_SECTION_ROWS = 200

_SIZES = {
    "negative": "no lesion",
    "itc": "isolated tumour cells: the longest lesion is at most 0.2 mm",
    "micro": "micrometastasis: the longest lesion is above 0.2 mm and at most 2 mm",
    "macro": "macrometastasis: the longest lesion is above 2 mm",
}
_LESION_TERMS = {
    "Lesion:": "pixels above the threshold that hang together, also by a corner; ranked by area, holes not counted.",
    "Longest axis, width:": "the axes of the ellipse with the same second moments.",
    "Perimeter:": "by Crofton's formula, outlines of holes included.",
    "Solidity:": "share of its convex hull that a lesion fills.",
    "Eccentricity:": "of that ellipse, 0 for a circle.",
    "Size:": "itc, micro or macro by the longest axis, up to 0.2 mm, up to 2 mm and above, as in CAMELYON17 (Bandi et "
    "al. 2019). The published rule also counts cells, of which a heatmap knows nothing.",
}
_BURDEN_TERMS = {
    "Viable tumour:": "the lesion mask closed, then opened with discs; of it what lies in the hull and on seen tissue.",
    "Whole tumour:": "all seen tissue in the convex hull of the viable tumour.",
    "Tumour burden:": "viable over whole tumour (Khened et al. 2021); 0 % where there is no whole tumour.",
    "Without cleaning:": "the lesion mask as it is over the whole tumour, as the code of that paper has it; it may "
    "exceed 100 %.",
}
_SECTION_TERMS = {
    "Section:": "tissue whose fragments are no further apart than a given distance (Le'Clerc Arrastia et al. 2021).",
    "Tumour section:": "its largest region above the prediction threshold has at least the area threshold.",
    "Seen:": "share of its tissue that the heatmap covers.",
}
_CONTOUR_TERMS = {
    "Contour:": "a lesion; outlines are its own, at the edges of its pixels.",
    "Nearest:": "the lesion with the shortest way from outline to outline (Weishaupt et al., for microdosimetry).",
    "Between centres:": "the shortest distance from its centre of gravity to that of another lesion.",
}
_TIL_TERMS = {
    "TIL score:": "100 times the lymphocytes in stroma of the tumour bulk, each counted as 64 µm², over the area of "
    "that stroma (TIGER's baseline); 0 without such stroma.",
    "Tumour bulk:": "the concave hull of the tumour, widened.",
}


def write_report(result: Segmentation | str | Path, path: str | Path, *, findings: Findings | None = None) -> Path:
    """Write the report of a result.

    Args:
        result: A result, or its folder.
        path: The HTML file.
        findings: What was concluded; None takes what the result's record holds, if it was analysed.

    Raises:
        ResultError: There is no complete result, or it was analysed by a newer digipath.

    Example:
        >>> write_report("results/slide", "report.html")  # doctest: +SKIP
    """
    if not isinstance(result, Segmentation):
        with Segmentation.load(result) as loaded:
            return write_report(loaded, path, findings=findings)
    analysis = result.info.get("analysis") if findings is None else findings.to_json()
    checked = _checked(analysis, result)
    try:
        page = _page(result, checked)
    except (KeyError, TypeError) as error:
        raise ResultError(f"the record of this result is damaged ({error!r}). Predict or analyse it again.") from error
    try:
        with replacing(path) as unfinished:
            unfinished.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ResultError(f"a report is written to a file, and {path} cannot be: {error.strerror or error}.") from error
    return Path(path)


def _checked(analysis: Any, result: Segmentation) -> dict[str, Any] | None:
    """The analysis, as far as this digipath understands it."""
    if analysis is None:
        return None
    version = analysis.get("format_version") if isinstance(analysis, dict) else None
    if not isinstance(version, int) or analysis.get("class") not in result.classes:
        raise ResultError('the "analysis" of this result is damaged. Analyse the result again.')
    if version > ANALYSIS_VERSION:
        raise ResultError(
            f"this result was analysed in format {version}, and this digipath reads up to {ANALYSIS_VERSION}. Install "
            "a newer digipath, or analyse the result again."
        )
    return json.loads(_names_only(json.dumps(analysis), result.info))


def _page(result: Segmentation, analysis: dict[str, Any] | None) -> str:
    info = json.loads(_names_only(json.dumps(result.info), result.info))
    name, told = info["slide"]["name"], analysis or {}
    notes = list(dict.fromkeys([*info.get("notes", []), *told.get("notes", [])]))
    header = element(
        "header",
        {},
        element("h1", {}, name),
        element("p", {"class": "soft"}, "Report of digipath: what was found on this slide, and how."),
        element("p", {"class": "use", "role": "note"}, _USE),
    )
    main = element(
        "main",
        {},
        _cards(result, info, told),
        *_part("Before believing it", _notes(notes, analyzed=analysis is not None)),
        *_part("Pictures", element("div", {"class": "pictures"}, *pictures(result, analysis))),
        *_lesions(told),
        *_burden(told),
        *_sections(told),
        *_contours(told),
        *_tils(told),
        *_part("What was seen", _seen(info)),
        *_part("How it was made", *_origin(info)),
    )
    return document(
        f"{name} – digipath report", header, main, element("footer", {}, element("p", {"class": "use"}, _USE))
    )


def _names_only(text: str, info: Mapping[str, Any]) -> str:
    """A JSON text without the folders of files."""
    path = info["slide"].get("path")
    if path:
        for folder in {str(Path(path).parent), str(Path(path).absolute().parent)} - {"/", "."}:
            for sign in ("/", "\\"):
                text = text.replace(json.dumps(folder + sign)[1:-1], "")
    return json.dumps(_each(json.loads(text)))


def _each(value: Any) -> Any:
    if isinstance(value, dict):
        return {_PATH.sub(r"\1", name): _each(one) for name, one in value.items() if name != "path"}
    if isinstance(value, list):
        return [_each(one) for one in value]
    return _PATH.sub(r"\1", value) if isinstance(value, str) else value


def _part(heading: str, *content: Element | None) -> list[Element]:
    content = tuple(one for one in content if one is not None)
    return [element("section", {}, element("h2", {}, heading), *content)] if content else []


def _notes(notes: Sequence[str], *, analyzed: bool) -> Element | None:
    if not analyzed:
        notes = [*notes, "This result was not analysed: there is a heatmap and no conclusion."]
    return element("ul", {"class": "notes"}, *(element("li", {}, note) for note in notes)) if notes else None


def _cards(result: Segmentation, info: Mapping[str, Any], told: Mapping[str, Any]) -> Element:
    """The few figures that matter most."""
    cards: list[tuple[str, str, str]] = []
    name, threshold = told.get("class", result.classes[-1]), told.get("threshold", result.threshold)
    if lesions := told.get("lesions"):
        kind = lesions["slide_class"]
        cards.append(("Slide class", kind or "undefined", _SIZES.get(kind, "nothing was seen")))
        cards.append(("Longest lesion", _mm(lesions["largest_axis_um"]), f"of {_count(lesions['count'], 'lesion')}"))
    area = result.lesion_mm2(threshold, name=name)
    covered = info["areas"]["covered_mm2"]
    share = f"{area / covered:.1%} of the tissue seen" if covered else "no tissue was seen"
    cards.append((f"Area of {name}", _mm2(area), f"{share}, at p > {threshold:g}"))
    if burden := told.get("burden"):
        text = burden["note"] or f"{_mm2(burden['viable_mm2'])} viable of {_mm2(burden['whole_mm2'])}"
        cards.append(("Tumour burden", f"{burden['percent']:.1f} %", text))
    if sections := told.get("sections"):
        items = sections["items"]
        positive = sum(item["class"] == "tumour section" for item in items)
        cards.append(("Sections with tumour", f"{positive} of {len(items)}", sections["thresholds"]["source"]))
    if tils := told.get("tils"):
        more = tils["note"] or f"{tils['density_per_mm2']:,.0f} cells per mm² of stroma"
        cards.append(("TIL score", f"{tils['score']:.1f}", more))
    lost = info["areas"]["uncovered_mm2"]
    cards.append(("Tissue seen", _mm2(covered), f"{_mm2(lost)} not seen" if lost else "all that was found"))
    made = [
        element("div", {}, element("dt", {}, term), element("dd", {}, value, element("small", {}, more)))
        for term, value, more in cards
    ]
    return element("dl", {"class": "cards"}, *made)


def _lesions(told: Mapping[str, Any]) -> Iterable[Element]:
    lesions = told.get("lesions")
    if lesions is None:
        return []
    shown = noteworthy(lesions)
    columns = (
        *("Number", "Size", "Area, mm²", "Longest axis, µm", "Width, µm", "Perimeter, µm", "Solidity"),
        *("Eccentricity", "Mean probability", "Largest probability"),
    )
    rows = [
        (
            *(str(one["id"]), one["size"], _area(one["area_um2"])),
            *(f"{one[name]:,.0f}" for name in ("major_axis_um", "minor_axis_um", "perimeter_um")),
            *(f"{one[name]:.2f}" for name in ("solidity", "eccentricity", "mean_probability", "max_probability")),
        )
        for one in shown
    ]
    caption = f"{_count(lesions['count'], 'lesion')} with {_mm2(lesions['area_mm2'])} in all"
    if lesions["count"] > len(shown):
        caption += f"; the {len(shown)} largest are listed, and all are in annotations.geojson"
    listed = table(caption, columns, rows, numbers=[n != 1 for n in range(10)]) if rows else None
    none = None if rows else element("p", {}, "No lesion was found.")
    return _part("Lesions", listed, none, definitions(_LESION_TERMS), *_features(told.get("features") or {}))


def _features(features: Mapping[str, float]) -> Iterable[Element]:
    if not features:
        return
    rows = [(name, f"{value:.6g}") for name, value in features.items()]
    yield element("h3", {}, "Features of the slide")
    yield element(
        "p",
        {"class": "soft"},
        "The 32 of Khened et al. 2021, Table 5, of regions with a probability of at least 0.9 (above 0.5 where a name "
        "says at_50). Units end the names; those without are pure numbers. All are 0 without a region.",
    )
    half = (len(rows) + 1) // 2
    parts = [
        table(f"Features {first + 1} to {first + len(part)}", ("Feature", "Value"), part)
        for first, part in ((0, rows[:half]), (half, rows[half:]))
    ]
    yield element("div", {"class": "columns"}, *parts)


def _burden(told: Mapping[str, Any]) -> Iterable[Element]:
    burden = told.get("burden")
    if burden is None:
        return []
    raw = burden["raw_percent"]
    rows = [
        ("Viable tumour", _mm2(burden["viable_mm2"])),
        ("Whole tumour", _mm2(burden["whole_mm2"])),
        ("Tumour burden", f"{burden['percent']:.1f} %" + (f" ({burden['note']})" if burden["note"] else "")),
        ("Without cleaning", "undefined" if raw is None else f"{raw:.1f} %"),
        ("Closed with discs of a radius of", f"{burden['cleaning']['close_um']:g} µm"),
        ("Opened with discs of a radius of", f"{burden['cleaning']['open_um']:g} µm"),
    ]
    return _part(
        "Tumour burden",
        table("How much of the whole tumour is viable", ("Quantity", "Value"), rows),
        definitions(_BURDEN_TERMS),
    )


def _sections(told: Mapping[str, Any]) -> Iterable[Element]:
    sections = told.get("sections")
    if sections is None:
        return []
    limits, items = sections["thresholds"], sections["items"][:_SECTION_ROWS]
    columns = ("Section", "Class", "Tissue, mm²", "Tumour, µm²", "Largest region, µm²", "Seen")
    rows = [
        (
            *(str(one["section"]), one["class"], f"{one['tissue_mm2']:.3f}"),
            *(f"{one[name]:,.0f}" for name in ("tumour_um2", "largest_um2")),
            f"{one['seen_share']:.0%}",
        )
        for one in items
    ]
    caption = (
        f"Prediction threshold {limits['prediction']:g}, area threshold {limits['area_um2']:,.0f} µm² "
        f"({limits['source']}); fragments up to {sections['join_um']:g} µm apart are one section, and below "
        f"{sections['min_section_mm2']:g} mm² they are debris"
    )
    if len(sections["items"]) > len(items):
        caption += f"; the first {len(items)} of {len(sections['items'])} are listed"
    listed = table(caption, columns, rows, numbers=[n != 1 for n in range(6)]) if rows else None
    none = None if rows else element("p", {}, "No section was found.")
    return _part("Sections", listed, none, definitions(_SECTION_TERMS))


def _contours(told: Mapping[str, Any]) -> Iterable[Element]:
    contours = told.get("contours")
    if contours is None:
        return []
    items = noteworthy(contours)
    measures = ("perimeter_um", "equivalent_diameter_um", "nearest_distance_um", "centroid_distance_um")
    columns = ("Number", "Area, mm²", "Perimeter, µm", "Diameter, µm", "Nearest, µm", "Between centres, µm")
    rows = [(str(one["id"]), _area(one["area_um2"]), *(_length(one[name]) for name in measures)) for one in items]
    caption = _count(contours["count"], "contour")
    if contours["count"] > len(items):
        caption += f"; the {len(items)} largest are listed, and all are in contours.csv"
    listed = table(caption, columns, rows, numbers=[True] * 6) if rows else element("p", {}, "There is no contour.")
    return _part("Contours", listed, definitions(_CONTOUR_TERMS))


def _length(value: float | None) -> str:
    return "none" if value is None else f"{value:,.0f}"


def _tils(told: Mapping[str, Any]) -> Iterable[Element]:
    tils = told.get("tils")
    if tils is None:
        return []
    areas = ("tumour", "stroma", "bulk", "bulk_tumour", "bulk_stroma", "bulk_unseen")
    rows = [
        ("TIL score", f"{tils['score']:.2f}" + (f" ({tils['note']})" if tils["note"] else "")),
        ("Lymphocytes per mm² of stroma in the bulk", f"{tils['density_per_mm2']:,.1f}"),
        ("Lymphocytes in stroma of the bulk", f"{tils['cells']:,}"),
        ("Lymphocytes elsewhere", f"{tils['cells_elsewhere']:,}"),
        *((f"Area of {name.replace('bulk_', 'the bulk, ')}", _mm2(tils[f"{name}_mm2"])) for name in areas),
    ]
    return _part("Lymphocytes", table("In tumour stroma", ("Quantity", "Value"), rows), definitions(_TIL_TERMS))


def _seen(info: Mapping[str, Any]) -> Element:
    areas, region = info["areas"], info.get("region")
    rows = [
        ("Tissue", _mm2(areas["tissue_mm2"]) if "tissue_mm2" in areas else "not recorded"),
        ("How it was found", _text(info.get("tissue", "not recorded"))),
        ("Looked at", "the whole slide" if region is None else f"a region of {region[2]} x {region[3]} level-0 pixels"),
        ("Seen: read and predicted", _mm2(areas["covered_mm2"])),
        ("Not seen, though tissue", _mm2(areas["uncovered_mm2"])),
        ("Regions that could not be read", str(len(info.get("unread", [])))),
        ("Damaged regions read from a coarser level", str(len(info.get("repaired", [])))),
        ("Status", _text(info.get("status", "not recorded"))),
    ]
    if "uncertain_mm2" in areas:
        rows.append(("Uncertain", _mm2(areas["uncertain_mm2"])))
    return table("What the numbers are of", ("Quantity", "Value"), rows, numbers=[False, False])


def _origin(info: Mapping[str, Any]) -> Iterable[Element]:
    slide, bundle = info["slide"], info.get("bundle", {})
    networks = [
        (one.get("name", "?"), one.get("hash") or "none", stage, _text(one.get("weight", "equal")))
        for stage, members in (("first stage", "first_stage"), ("result", "members"))
        for one in bundle.get(members, [])
    ]
    plain = [False] * 4
    yield table("Networks", ("Network", "Hash of its bundle", "For the", "Weight"), networks, numbers=plain)
    size = f"{slide['width']} x {slide['height']} pixels" if "width" in slide else "not recorded"
    mark = (slide.get("fingerprint") or {}).get("sha256_ends", "none")
    scale = f"{slide['mpp']:g} µm per pixel ({slide.get('mpp_source')})" if "mpp" in slide else "not recorded"
    of_slide = [("Name", slide["name"]), ("Size", size), ("Scale", scale), ("Fingerprint", mark)]
    of_slide += [("Read with", _text(slide.get("backend", "not recorded")))]
    groups = {
        "Slide": of_slide,
        "Resolutions, µm per pixel": _rows(info.get("mpp")),
        "Settings": _rows(
            info.get("settings", {}) | {"threshold": info.get("threshold"), "effort": info.get("effort")}
        ),
        "The networks' specification": _rows(bundle.get("spec")),
        "Versions": _rows(info.get("versions")),
        "Seconds": _rows(info.get("seconds")),
    }
    tables = [table(name, ("Name", "Value"), rows, numbers=[False, False]) for name, rows in groups.items() if rows]
    yield element("div", {"class": "columns"}, *tables)


def _rows(values: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    return [(name.replace("_", " "), _text(value)) for name, value in (values or {}).items()]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return "default" if value is None else json.dumps(value, ensure_ascii=False)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _area(um2: float) -> str:
    return f"{um2 / 1e6:.4f}" if um2 >= 50 else "<0.0001"


def _mm2(area: float) -> str:
    return f"{area:.2f} mm²" if area >= 0.1 or not area else f"{area:.4f} mm²"


def _mm(length_um: float) -> str:
    return f"{length_um / 1000:.2f} mm"
