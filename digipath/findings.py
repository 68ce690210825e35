"""What follows from a slide's heatmap: its lesions and class, its tumour burden, its sections with tumour.

`docs/analysis.md` says how each is defined. Nothing is concluded about what was not seen: lesions and burden are of the
covered pixels, a section of which nothing is covered is not judged, and a slide of which nothing is covered has no
class.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import shapely

from digipath.analysis.burden import Burden, tumour_burden
from digipath.analysis.features import lesion_features
from digipath.analysis.judged import JudgedSection, judge_sections
from digipath.analysis.microdosimetry import Contour, contour_rows, contours_of_mask
from digipath.analysis.sections import Sections, find_sections
from digipath.analysis.staging import slide_class_by_rule
from digipath.analysis.tils import Tils, labels_of, til_score
from digipath.errors import SpecError
from digipath.evidence import AnalysisSettings, Evidence
from digipath.geometry.polygons import Annotation, polygonize
from digipath.geometry.raster import Raster
from digipath.geometry.shapes import Shape, measure

__all__ = ["ANALYSIS_VERSION", "LISTED", "Findings", "analyse"]

ANALYSIS_VERSION = 1

LISTED = 1000
"""How many lesions, the largest first, are listed in JSON; all of them are among the polygons."""

_ROWS = 1024
_LESION = (200, 0, 0)
# Tissue is found at another resolution than the heatmap's, so that pixels at its border disagree.
_WHOLE = 0.98


@dataclass(frozen=True, eq=False)
class Findings:
    """What follows from a heatmap.

    Attributes:
        evidence: What was looked at.
        settings: How.
        seen_mm2: Area of what is covered.
        lesions: By area, the largest first; None where not asked for.
        features: The 32 of `digipath.analysis.features`; None where not asked for.
        burden: The viable and the whole tumour; None where not asked for.
        sections: Those of which something is covered; None where not asked for.
        seen_shares: Of the tissue of each of these sections, the share that is covered.
        contours: The lesions with their distances; None where not asked for.
        tils: Lymphocytes in tumour stroma; None where not asked for.
        notes: What a reader should know before believing it, a sentence each.
    """

    evidence: Evidence
    settings: AnalysisSettings
    seen_mm2: float
    lesions: tuple[Shape, ...] | None = None
    features: Mapping[str, float] | None = None
    burden: Burden | None = None
    sections: tuple[JudgedSection, ...] | None = None
    seen_shares: tuple[float, ...] = ()
    contours: tuple[Contour, ...] | None = None
    tils: Tils | None = None
    notes: tuple[str, ...] = ()

    @property
    def largest_axis_um(self) -> float:
        """Length of the longest lesion; 0 without any."""
        return max((shape.major_axis_um for shape in self.lesions or ()), default=0.0)

    @property
    def slide_class(self) -> str | None:
        """One of negative, itc, micro and macro by the longest lesion; None where nothing was seen or asked for."""
        if self.lesions is None or not self.seen_mm2:
            return None
        return slide_class_by_rule(self.largest_axis_um)

    def summary(self) -> str:
        """One line."""
        parts = []
        if self.lesions is not None:
            longest = f", the longest {self.largest_axis_um / 1000:.2f} mm" if self.lesions else ""
            count = f"{len(self.lesions)} lesion{'s' if len(self.lesions) != 1 else ''}"
            parts.append(f"slide class {self.slide_class or 'undefined'} ({count}{longest})")
        if self.burden is not None:
            note = f" ({self.burden.note})" if self.burden.note else ""
            parts.append(f"tumour burden {self.burden.percent:.1f} %{note}")
        if self.sections is not None:
            parts.append(f"{sum(one.tumour for one in self.sections)} of {len(self.sections)} sections with tumour")
        if self.contours is not None:
            parts.append(f"{len(self.contours)} contours")
        if self.tils is not None:
            parts.append(f"TIL score {self.tils.score:.1f} ({self.tils.density_per_mm2:.0f} cells per mm² of stroma)")
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Everything but pictures and polygons, as `docs/analysis.md` lists it."""
        evidence, settings = self.evidence, self.settings
        told = {
            "format_version": ANALYSIS_VERSION,
            "class": evidence.name,
            "threshold": evidence.threshold,
            "heatmap_mpp": evidence.heatmap.frame.mpp,
            "seen_mm2": self.seen_mm2,
            "summary": self.summary(),
            "notes": list(self.notes),
        }
        if self.lesions is not None:
            told["lesions"] = self._lesions_json()
            told["features"] = dict(self.features or {})
        if self.burden is not None:
            told["burden"] = _burden_json(self.burden) | {"cleaning": asdict(settings.cleaning)}
        if self.sections is not None:
            told["sections"] = self._sections_json()
        if self.contours is not None:
            told["contours"] = {"count": len(self.contours), "items": contour_rows(self.contours[:LISTED])}
        if self.tils is not None:
            told["tils"] = _tils_json(self.tils)
        return told

    def _lesions_json(self) -> dict[str, Any]:
        items = [asdict(shape) | {"size": slide_class_by_rule(shape.major_axis_um)} for shape in self.lesions[:LISTED]]
        return {
            "count": len(self.lesions),
            "area_mm2": sum(shape.area_um2 for shape in self.lesions) / 1e6,
            "largest_axis_um": self.largest_axis_um,
            "slide_class": self.slide_class,
            "min_lesion_mm2": self.settings.min_lesion_mm2,
            "items": [{name: value for name, value in item.items() if name != "box"} for item in items],
        }

    def _sections_json(self) -> dict[str, Any]:
        settings, pairs = self.settings, zip(self.sections, self.seen_shares, strict=True)
        thresholds, source = settings.thresholds(self.evidence.threshold)
        return {
            "thresholds": asdict(thresholds) | {"source": source},
            "join_um": settings.join_um,
            "min_section_mm2": settings.min_section_mm2,
            "items": [one.row() | {"seen_share": share} for one, share in pairs],
        }

    def annotations(self) -> list[Annotation]:
        """Polygons of the lesions, the hull of the tumour and the boxes of sections, with measurements, for QuPath."""
        found = []
        if self.lesions is not None:
            mask, least = self.evidence.mask, self.settings.min_lesion_mm2
            name = self.evidence.name
            polygons = polygonize(mask, name=name, color=_LESION, min_area_mm2=least, connectivity=8)
            found += [
                replace(one, measurements=_measurements(shape))
                for one, shape in zip(polygons, self.lesions, strict=True)
            ]
        if self.burden is not None and self.burden.hull is not None:
            found.append(self.burden.hull)
        if self.tils is not None and self.tils.bulk is not None:
            found.append(self.tils.bulk)
        for section, share in zip(self.sections or (), self.seen_shares, strict=True):
            box = section.annotation()
            found.append(replace(box, measurements={**box.measurements, "seen share": share}))
        return found


def analyse(evidence: Evidence, settings: AnalysisSettings | None = None) -> Findings:
    """Conclude what the settings ask for; without any, lesions, burden and sections.

    Example:
        >>> from digipath.geometry.frame import Frame
        >>> values = np.zeros((100, 100), np.float16)
        >>> values[10:20, 10:20] = 1
        >>> heatmap, everywhere = (Raster(one, Frame.level0(100, 100, 8.0)) for one in (values, values >= 0))
        >>> evidence = Evidence(heatmap=heatmap, covered=everywhere, tissue=everywhere, threshold=0.5)
        >>> analyse(evidence, AnalysisSettings(burden=False, sections=False)).slide_class
        'itc'
    """
    settings = settings or AnalysisSettings()
    found = Findings(evidence, settings, evidence.covered.area_mm2)
    if settings.lesions:
        shapes = measure(evidence.mask, evidence.heatmap, min_area_mm2=settings.min_lesion_mm2)
        features = lesion_features(evidence.heatmap, covered=evidence.covered)
        found = replace(found, lesions=tuple(shapes), features=features)
    if settings.burden:
        found = replace(found, burden=tumour_burden(evidence.mask, evidence.covered, settings.cleaning))
    if settings.contours:
        contours = contours_of_mask(evidence.mask, min_area_mm2=settings.min_lesion_mm2)
        found = replace(found, contours=tuple(contours))
    if settings.tils is not None:
        found = replace(found, tils=_scored(evidence, settings))
    notes = [*evidence.reservations, *_notes(found)]
    if settings.sections:
        sections, shares, told = _judged(evidence, settings)
        found, notes = replace(found, sections=sections, seen_shares=shares), notes + told
    return replace(found, notes=tuple(notes))


def _notes(found: Findings) -> list[str]:
    notes = []
    if not found.seen_mm2:
        notes.append("Nothing of the slide was seen, so that it has no class.")
    if found.lesions is not None and found.settings.min_lesion_mm2:
        notes.append(f"Lesions below {found.settings.min_lesion_mm2:g} mm2 are left out.")
    if found.burden is not None and found.burden.note:
        notes.append(f"The tumour burden is 0 % because {found.burden.note}.")
    if found.tils is not None and found.tils.note:
        notes.append(f"Of the TIL score: {found.tils.note}.")
    return notes


def _scored(evidence: Evidence, settings: AnalysisSettings) -> Tils:
    if evidence.classes is None:
        raise SpecError("lymphocytes are scored in a heatmap of several classes, got none. Give Evidence(classes=...).")
    wanted = settings.tils
    labels = labels_of(evidence.classes, tumour=wanted.tumour, stroma=wanted.stroma, covered=evidence.covered)
    return til_score(labels, wanted.points, bulk=wanted.bulk)


def _burden_json(burden: Burden) -> dict[str, Any]:
    numbers = ("viable_mm2", "whole_mm2", "percent", "raw_percent", "note")
    hull = [] if burden.hull is None else shapely.get_coordinates(burden.hull.geometry).tolist()
    return {name: getattr(burden, name) for name in numbers} | {"hull": hull}


def _tils_json(tils: Tils) -> dict[str, Any]:
    """All numbers, and the rings of the bulk."""
    rings = [] if tils.bulk is None else shapely.get_rings(tils.bulk.geometry)
    told = {name: getattr(tils, name) for name in tils.__dataclass_fields__ if name != "bulk"}
    return told | {"bulk": [shapely.get_coordinates(ring).tolist() for ring in rings]}


def _judged(
    evidence: Evidence, settings: AnalysisSettings
) -> tuple[tuple[JudgedSection, ...], tuple[float, ...], list[str]]:
    """The sections that were seen, the share of each that was, and what has to be known."""
    sections = find_sections(evidence.tissue, join_um=settings.join_um, min_area_mm2=settings.min_section_mm2)
    thresholds, _ = settings.thresholds(evidence.threshold)
    judged = judge_sections(sections, evidence.heatmap, thresholds)
    shares = _seen(sections, evidence.covered)
    kept = [(one, float(share)) for one, share in zip(judged, shares, strict=True) if share]
    notes = []
    if settings.section_thresholds is None and kept:
        notes.append(
            "The thresholds of sections were not fitted to this network: any lesion pixel makes one a tumour section."
        )
    if unseen := len(judged) - len(kept):
        notes.append(f"{unseen} section{'s were' if unseen > 1 else ' was'} not looked at and not judged.")
    if partly := [str(one.section.id) for one, share in kept if share < _WHOLE]:
        notes.append(f"Of section{'s' if len(partly) > 1 else ''} {', '.join(partly)} not everything was seen.")
    return tuple(one for one, _ in kept), tuple(share for _, share in kept), notes


def _seen(sections: Sections, covered: Raster) -> np.ndarray:
    """(n,) share of the tissue of each section that is covered."""
    frame, count = covered.frame, len(sections) + 1
    total, seen = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for box in frame.rows(_ROWS):
        labels = sections.labels.sample(box, frame)
        total += np.bincount(labels.ravel(), minlength=count)
        seen += np.bincount(labels[np.asarray(covered.values[box.slices()]) != 0], minlength=count)
    return seen[1:] / np.maximum(total[1:], 1)


def _measurements(shape: Shape) -> dict[str, float | str]:
    """What QuPath shows of a lesion."""
    return {
        "number": shape.id,
        "area mm2": shape.area_um2 / 1e6,
        "perimeter um": shape.perimeter_um,
        "major axis um": shape.major_axis_um,
        "minor axis um": shape.minor_axis_um,
        "equivalent diameter um": shape.equivalent_diameter_um,
        "eccentricity": shape.eccentricity,
        "extent": shape.extent,
        "solidity": shape.solidity,
        "orientation deg": shape.orientation_deg,
        "mean probability": shape.mean_probability,
        "max probability": shape.max_probability,
        "size": slide_class_by_rule(shape.major_axis_um),
    }
