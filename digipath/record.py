"""What `result.json` says: how a result came about, and what its reader should know before believing it."""

import warnings
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from digipath.geometry.frame import Box
from digipath.inference.engine import Pass
from digipath.inference.predictor import describe_runtime
from digipath.provenance import describe_slide, versions
from digipath.result_folder import FORMAT_VERSION
from digipath.segmentation import Segmentation
from digipath.slides.slide import contradiction

if TYPE_CHECKING:
    from digipath.prepared import Prepared

__all__ = ["complete", "describe_pass", "record"]

# A share of the tissue that seldom is all lesion, and often is a wrong bundle or stain.
_SUSPICIOUS = 0.95


def record(run: "Prepared") -> dict[str, Any]:
    """How a slide was segmented; `complete` adds what came out."""
    frame, settings, spec, chosen = run.slide.frame, run.program.settings, run.program.spec, run.passes[0].plan
    tallies = [one.tally for _, one in run.stages]
    waited, busy = sum(tally.waiting for tally in tallies), sum(tally.predicting for tally in tallies)
    stains = next((tally.stains for tally in tallies if tally.stains), None)
    return {
        "format_version": FORMAT_VERSION,
        "slide": describe_slide(run.slide),
        "bundle": run.networks.describe() | {"spec": asdict(spec)},
        "versions": versions(),
        "settings": asdict(settings),
        "effort": run.effort,
        "left_out": list(run.networks.left_out),
        "threshold": spec.threshold if settings.threshold is None else settings.threshold,
        "stains": asdict(stains) if stains else None,
        "tissue": run.tissue.explanation,
        "region": _sides(run.region) if run.region else None,
        "passes": [describe_pass(stage, one) | {"predicted": one.tally.patches} for stage, one in run.stages],
        "mpp": {"slide": frame.mpp, "network": chosen.frame.mpp, "heatmap": chosen.heatmap_frame.mpp},
        "seconds": {name: round(value, 3) for name, value in run.seconds.items()},
        "waited_share": round(waited / (waited + busy), 4) if waited + busy else 0.0,
        "resumed": run.resumed,
        "unread": list(_unread(run)),
        "repaired": [_sides(box) for box in run.repaired],
    }


def describe_pass(stage: str, one: Pass) -> dict[str, Any]:
    """One reading of a slide: of which stage, by what, in which patches."""
    return {
        "stage": stage,
        "networks": list(one.names),
        "runtime": describe_runtime(one.predictor),
        "planned": len(one.plan.boxes),
        "size": list(one.plan.grid.patch),
        "stride": list(one.plan.grid.stride),
        "margin": one.plan.grid.margin,
        "batch": one.plan.batch,
        "mpp": one.plan.frame.mpp,
    }


def complete(result: Segmentation, run: "Prepared") -> Segmentation:
    """Add areas, status and notes to a result's record; the notes are told as warnings too."""
    areas = {
        "tissue_mm2": run.passes[0].plan.tissue_mm2,
        "covered_mm2": result.covered.area_mm2,
        "uncovered_mm2": result.uncovered.area_mm2,
        "lesion_mm2": result.lesion_mm2(),  # of the last class, whatever it is called
        "classes_mm2": {name: result.lesion_mm2(name=name) for name in result.classes[1:]},
    }
    if result.uncertainty is not None:
        areas["uncertain_mm2"] = result.uncertain_mm2()
    status = "empty" if not areas["covered_mm2"] + areas["uncovered_mm2"] else "ok"
    notes = list(_notes(run, areas, result.classes[-1]))
    result.info["areas"] = areas
    result.info["status"] = "incomplete" if areas["uncovered_mm2"] else status
    result.info["notes"] = notes
    for note in notes:
        warnings.warn(f"{run.slide.name}: {note}", stacklevel=5)
    return result


def _notes(run: "Prepared", areas: dict[str, Any], lesion: str) -> Iterator[str]:
    """What a reader of the numbers should know before believing them."""
    frame, tissue = run.slide.frame, run.tissue
    yield from dict.fromkeys(note for _, one in run.stages for note in one.tally.notes)
    if tissue.given and not areas["tissue_mm2"]:
        yield f"The tissue was {tissue.explanation}, and nothing of it lies where was to be looked."
    elif not areas["tissue_mm2"]:
        yield f"No tissue was found ({tissue.explanation}); where there is some, say so with tissue=."
    if tissue.dark:
        yield "The slide's background is dark, as in fluorescence: is it the stain that the bundle is for?"
    if "guess" in run.slide.mpp_source:
        yield f"{frame.mpp:g} um per pixel was guessed from the objective; every area depends on it."
    elif contradicting := contradiction(frame.mpp, run.slide.properties):
        yield contradicting
    finest = min(one.plan.frame.mpp for _, one in run.stages)
    if finest < frame.mpp * (1 - 1e-6):
        yield f"The slide was enlarged from {frame.mpp:g} to {finest:g} um per pixel."
    if run.repaired:
        yield f"{len(run.repaired)} damaged regions were read from a coarser level."
    if unread := list(_unread(run)):
        yield f"{len(unread)} regions could not be read; they are not covered."
    if areas["covered_mm2"] and areas["lesion_mm2"] > _SUSPICIOUS * areas["covered_mm2"]:
        yield f"Over {_SUSPICIOUS:.0%} of the tissue is {lesion}: is it what the bundle is for?"


def _unread(run: "Prepared") -> Iterator[list[int]]:
    """Level-0 boxes that could not be read, each once; a run that goes on meets parts of some again."""
    found = (one.plan.frame.box_in(box, run.slide.frame) for _, one in run.stages for box in one.tally.unread)
    boxes = list(dict.fromkeys(found))
    edges = np.array([box.bounds for box in boxes]).reshape(-1, 4)
    for box, own in zip(boxes, edges, strict=True):
        around = (edges[:, :2] <= own[:2]).all(1) & (edges[:, 2:] >= own[2:]).all(1)
        if around.sum() == 1:  # none but itself
            yield _sides(box)


def _sides(box: Box) -> list[int]:
    return [box.x, box.y, box.width, box.height]
