"""All that is wrong with a cohort, at once: what a night of training would otherwise find one by one."""

import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely

from digipath.data.case import SPLITS, Case
from digipath.data.classes import ClassRules, nearest
from digipath.data.labels import mask_grid, read_case_annotations
from digipath.data.mask_files import open_mask
from digipath.errors import DigipathError, ResolutionError
from digipath.geometry.polygons import Annotation
from digipath.slides.slide import Slide

if TYPE_CHECKING:
    from digipath.data.cohort import Cohort

__all__ = ["faults_of"]

_THREADS = 4


def faults_of(cohort: "Cohort", *, inference: bool) -> list[str]:
    """A line for each fault; see `Cohort.check`."""
    if not len(cohort):
        return ["the cohort has no case."]
    seen: dict[str, str] = {}
    with ThreadPoolExecutor(_THREADS) as threads:
        each = threads.map(lambda case: _case_faults(case, cohort.rules, inference, seen), cohort)
        found = [f"case {case.name!r}: {fault}" for case, faults in zip(cohort, each, strict=True) for fault in faults]
    _tell_names(cohort.rules, seen)
    if not inference:
        _tell_shared_slides(cohort)
    return [*_shared_faults(cohort), *found]


def _tell_names(rules: ClassRules, seen: dict[str, str]) -> None:
    """Warn where areas of different names, of whichever cases, all count as the lesion as nobody said otherwise."""
    unknown = sorted(set(seen) - set(rules.classes))
    if rules.groups is None and len(rules.classes) == 2 and len(unknown) > 1:
        told = ", ".join(f"{name} (as in case {seen[name]})" for name in unknown)
        warnings.warn(
            f"annotations of {len(unknown)} names all count as {rules.classes[-1]!r}: {told}. Say what each means with "
            "groups={name: class or None} (--group NAME=CLASS).",
            stacklevel=5,
        )


def _tell_shared_slides(cohort: "Cohort") -> None:
    """Warn where what is learnt from could be what is judged, under two names."""
    owners = defaultdict(set)
    for case in cohort:
        if isinstance(case.slide, Path):
            owners[case.slide.resolve()].add(case.patient)
    for path, patients in owners.items():
        if len(patients) > 1:
            warnings.warn(
                f"{path.name} is the slide of {len(patients)} patients ({_some(sorted(patients))}), so that splits "
                "and folds may judge a network on what it has learnt. Give these cases one patient.",
                stacklevel=5,
            )


def _shared_faults(cohort: "Cohort") -> list[str]:
    """What shows only when cases are seen together."""
    counts = Counter(case.name for case in cohort)
    faults = [
        f"{count} cases are called {name!r}; name each differently." for name, count in counts.items() if count > 1
    ]
    splits = defaultdict(lambda: defaultdict(list))
    for case in cohort:
        if case.split is not None:
            splits[case.patient][case.split].append(case.name)
    for patient, parts in splits.items():
        if len(parts) > 1:
            told = "; ".join(f"{split}: {_some(names)}" for split, names in sorted(parts.items()))
            faults.append(f"patient {patient!r} is in {len(parts)} splits ({told}); a patient belongs to one.")
    return faults


def _some(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _case_faults(case: Case, rules: ClassRules, inference: bool, seen: dict[str, str]) -> list[str]:
    faults = []
    if case.split is not None and case.split not in SPLITS:
        faults.append(f"split is one of {', '.join(SPLITS)}, got {case.split!r}.{nearest(case.split, SPLITS)}")
    if not (case.is_labelled or inference):
        faults.append(
            f"it has no annotations, no mask and no label. For a slide that is all {rules.classes[0]!r}, write that as "
            "its label."
        )
    try:
        with case.opened() as slide:
            faults.extend(_truth_faults(case, rules, slide, seen))
    except ResolutionError as error:
        faults.append(f"{error} In a cohort: mpp of the case (the column mpp).")
    except DigipathError as error:
        faults.append(str(error))
        faults.extend(_missing(path) for path in (case.annotations, case.mask) if _is_missing(path))
    return [_without(case.name, fault) for fault in faults]


def _is_missing(path: object) -> bool:
    return isinstance(path, Path) and not path.is_file()


def _missing(path: Path) -> str:
    return f"there is no file {path}."


def _without(name: str, fault: str) -> str:
    """Faults that name their case already do so once only."""
    return fault.removeprefix(f"case {name!r}: ")


def _truth_faults(case: Case, rules: ClassRules, slide: Slide, seen: dict[str, str]) -> Iterable[str]:
    """What is wrong with annotations, mask or label, one line at most for each of them."""
    try:
        if case.annotations is not None:
            annotations = read_case_annotations(case, slide)
            seen.update({one.name: case.name for one in annotations if one.has_area})
            return list(_annotation_faults(annotations, rules, slide, case.name))
        if case.mask is not None:
            rules.check_mask(case.label, case=case.name)
            mask = open_mask(case.mask) if isinstance(case.mask, Path) else case.mask
            mask_grid(mask, slide.frame, case=case.name)
        elif case.label is not None:
            rules.of_label(case.label, case=case.name)
    except DigipathError as error:
        return [str(error)]
    return []


def _annotation_faults(annotations: Iterable[Annotation], rules: ClassRules, slide: Slide, name: str) -> Iterable[str]:
    areas = [annotation for annotation in annotations if annotation.has_area]
    try:
        rules.of_annotations((annotation.name for annotation in areas), case=name)
    except DigipathError as error:
        yield str(error)
    if not areas:
        if annotations:
            yield f"none of its {len(annotations)} annotations has an area; points and lines cover no pixels."
        return
    bounds = shapely.bounds([annotation.geometry for annotation in areas])
    centres = (bounds[:, :2] + bounds[:, 2:]) / 2
    width, height = slide.frame.slide_size
    outside = np.flatnonzero(((centres < 0) | (centres > [width, height])).any(1))
    if len(outside):
        x, y = centres[outside[0]]
        yield (
            f"{len(outside)} of {len(areas)} annotations lie outside of the slide of {width} x {height} px, the first "
            f"around ({x:.0f}, {y:.0f}). Positions are level-0 pixels; is this the annotation of another slide?"
        )
