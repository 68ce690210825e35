"""The cases that something is learnt from or judged by: slides, what is known of them, and who is in which split."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property

import numpy as np

from digipath.data import cohort_files
from digipath.data.case import Case
from digipath.data.classes import ClassRules
from digipath.data.cohort_check import faults_of
from digipath.data.folds import Folds, assign_folds, assign_splits
from digipath.data.labels import label_source
from digipath.errors import CohortError, SpecError

__all__ = ["Case", "Cohort", "Folds"]

_THREADS = 4


@dataclass(frozen=True)
class Cohort:
    """Cases and the names of their classes; never changed, so that a choice of cases is a new cohort.

    Attributes:
        cases: In an order that stays.
        classes: Names in order of their label; the first is what nothing covers, the last is the lesion.
        groups: Annotation class (or a slide's label) to class name, None for pixels to ignore; see `ClassRules`.
        mask_values: Value of a mask's pixels to class name, None for pixels to ignore; see `ClassRules`.

    Example:
        >>> cohort = Cohort([Case(slide="a.svs", label="other"), Case(slide="b.svs", annotations="b.xml")])
        >>> len(cohort), cohort.classes, cohort.patients
        (2, ('other', 'lesion'), ('a', 'b'))
    """

    cases: Sequence[Case]
    _: KW_ONLY
    classes: tuple[str, ...] = ("other", "lesion")
    groups: Mapping[str, str | None] | None = None
    mask_values: Mapping[int, str | None] | None = None

    def __post_init__(self):
        object.__setattr__(self, "cases", tuple(self.cases))
        if bad := [case for case in self.cases if not isinstance(case, Case)]:
            raise CohortError(f"a cohort is made of Case objects, got {type(bad[0]).__name__}.")
        rules = ClassRules(self.classes, self.groups, self.mask_values)
        for name in ("classes", "groups", "mask_values"):
            object.__setattr__(self, name, getattr(rules, name))

    @cached_property
    def rules(self) -> ClassRules:
        """Which class an annotation, a mask's value or a whole slide means."""
        return ClassRules(self.classes, self.groups, self.mask_values)

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    def __getitem__(self, index: int) -> Case:
        return self.cases[index]

    @property
    def patients(self) -> tuple[str, ...]:
        """Each patient once, in the order of the cases."""
        return tuple(dict.fromkeys(case.patient for case in self.cases))

    @classmethod
    def read(
        cls,
        path: str | os.PathLike,
        *,
        classes: tuple[str, ...] = ("other", "lesion"),
        groups: Mapping[str, str | None] | None = None,
        mask_values: Mapping[int, str | None] | None = None,
    ) -> "Cohort":
        """The cohort that a CSV file lists, a case in each line.

        Columns: slide; and as far as known name, annotations, mask, label, patient, split, mpp. Paths are relative to
        the file. Commas, semicolons and tabs are understood, and UTF-8 with or without a mark.

        Raises:
            CohortError: Something is wrong in the file; all of it is told at once, with line numbers.
        """
        return cls(cohort_files.read_csv(path), classes=classes, groups=groups, mask_values=mask_values)

    def write(self, path: str | os.PathLike) -> None:
        """Write the cases as a CSV file that `read` gives back; files below its folder are named relative to it."""
        cohort_files.write_csv(path, self.cases)

    @classmethod
    def from_folder(
        cls,
        root: str | os.PathLike,
        *,
        mpp: float | None,
        lesion: Collection[str] | None = None,
        patient: str | None = None,
    ) -> "Cohort":
        """A cohort of images and masks in folders.

        Understood are `images/` and `masks/` of equal stems with an `index.csv` (name, case, class, split), as
        EBHI-SEG comes; a folder for each class with `image/` and `label/` in it, as EBHI-SEG's authors lay it out; and
        plain `images/` and `masks/`.

        Args:
            root: The folder.
            mpp: Micrometres per pixel of all images, or None where each tells its own.
            lesion: The classes whose masks are lesion; those of the others are not, so nothing of their images is.
                None: every class is of its own, after "other" for what no mask covers. Only where there are classes.
            patient: Regular expression whose first group, found in an image's name, is its patient; where `index.csv`
                tells the patient, that counts. By default the number in EBHI-SEG's names, else an image is its own.
        """
        found = cohort_files.read_folder(root, mpp=mpp, patient=patient)
        cases, classes, groups = cohort_files.grouped(found, lesion=lesion)
        return cls(cases, classes=classes, groups=groups)

    def check(self, *, inference: bool = False) -> list[str]:
        """Everything that is wrong, a line each; none where all is well. Reads no pixels of slides.

        Args:
            inference: Whether the cases will only be segmented, so that they need nothing that says what they are.
        """
        return faults_of(self, inference=inference)

    def require(self, *, inference: bool = False) -> None:
        """Raise a CohortError that lists everything that is wrong, if anything is."""
        if faults := self.check(inference=inference):
            raise CohortError(cohort_files.listed("the cohort cannot be used", faults), faults=faults)

    def select(
        self, *, split: str | None = None, patients: Collection[str] | None = None, names: Collection[str] | None = None
    ) -> "Cohort":
        """The cases of a split, of some patients, of some names; perhaps none."""
        for given in (patients, names):
            if isinstance(given, str):
                raise SpecError(f"patients and names are collections of names, got the text {given!r}.")
        return self._with(
            case
            for case in self.cases
            if (split is None or case.split == split)
            and (patients is None or case.patient in patients)
            and (names is None or case.name in names)
        )

    def _with(self, cases: Iterable[Case]) -> "Cohort":
        return replace(self, cases=tuple(cases))

    def split(self, val: float = 0.2, test: float | None = None, *, seed: int = 0) -> "Cohort":
        """The same cases, each in "train", "val" or "test"; a patient's cases are always together.

        Patients with and without tumour are dealt out separately, so that each split has its share of both. Splits
        that the cases had are replaced, but for "test": who is held back stays so, unless `test` draws it anew.

        Args:
            val: Share of the cases that are dealt out.
            test: Share of the cases; None leaves those in "test" that are, and adds none.
            seed: Another number, another split.
        """
        held_back = [False if test is not None else case.split == "test" for case in self.cases]
        dealt = [case for case, held in zip(self.cases, held_back, strict=True) if not held]
        with_tumour = np.array(self._with(dealt)._each(_has_tumour), bool)
        chosen = assign_splits([case.patient for case in dealt], with_tumour, shares=(val, test or 0.0), seed=seed)
        names = iter(chosen)
        return self._with(
            case if held else replace(case, split=next(names)) for case, held in zip(self.cases, held_back, strict=True)
        )

    def folds(self, k: int, *, balance: str = "tumour_area", seed: int = 0) -> Folds:
        """Folds of equal size and, as nearly as can be, of equal summed tumour area; patients are never divided.

        The folds of Appendix 3 of the microdosimetry paper.

        Args:
            k: How many.
            balance: "tumour_area", or "cases" for their number alone, which looks into no annotation.
            seed: Another number, other folds.
        """
        if balance not in ("tumour_area", "cases"):
            raise SpecError(f"balance is 'tumour_area' or 'cases', got {balance!r}.")
        areas = self.tumour_areas if balance == "tumour_area" else np.zeros(len(self))
        fold = assign_folds([case.patient for case in self.cases], areas, k=k, seed=seed)
        known = tuple(areas.tolist()) if balance == "tumour_area" else None
        return Folds(self, tuple(fold.tolist()), known)

    @cached_property
    def tumour_areas(self) -> np.ndarray:
        """(cases,) area of the last class in mm2, each place once; outlines are measured and masks counted."""
        return np.array(self._each(_tumour_area), float)

    def _each(self, function) -> list:
        with ThreadPoolExecutor(_THREADS) as threads:
            return list(threads.map(lambda case: function(case, self), self.cases))


def _tumour_area(case: Case, cohort: Cohort) -> float:
    source = label_source(case, cohort)
    try:
        return source.tumour_area_mm2()
    finally:
        source.close()


def _has_tumour(case: Case, cohort: Cohort) -> bool:
    """Told by the label where it names a class, without reading anything else; else by the area."""
    rules = cohort.rules
    if not case.is_labelled:
        return False
    if case.label is not None and (case.label in rules.classes or case.label in (rules.groups or {})):
        return rules.of_label(case.label, case=case.name) == rules.lesion
    return _tumour_area(case, cohort) > 0
