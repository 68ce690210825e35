"""Which class an annotation, a mask's value or a whole slide means."""

import difflib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from digipath.errors import CohortError, SpecError

__all__ = ["IGNORED", "ClassRules"]

# Label of pixels that no loss and no metric looks at.
IGNORED = 255


@dataclass(frozen=True)
class ClassRules:
    """Which class an annotation, a mask's value or a whole slide means; nothing is guessed that is not stated here.

    Attributes:
        classes: Names in order of their label; the first is what nothing covers, the last is the lesion.
        groups: Annotation class (or a slide's label) to class name, None for pixels to ignore. A name among `classes`
            means that class also where groups do not list it. Without groups every other annotation of a cohort of two
            classes is of the last one; more classes ask for groups.
        mask_values: Value of a mask's pixels to class name, None for pixels to ignore. Without it masks of 0 and 1 or
            of 0 and 255 are understood: not 0 is the class that the case's label names, and in a cohort of two
            classes, where there is no label, the last one.
    """

    classes: tuple[str, ...] = ("other", "lesion")
    groups: Mapping[str, str | None] | None = None
    mask_values: Mapping[int, str | None] | None = None

    def __post_init__(self):
        if isinstance(self.classes, str) or not all(isinstance(name, str) and name for name in self.classes):
            raise SpecError(f"classes is a tuple of names, got {self.classes!r}. Write ('other', 'lesion').")
        object.__setattr__(self, "classes", tuple(self.classes))
        if not 2 <= len(self.classes) <= IGNORED or len(set(self.classes)) < len(self.classes):
            raise SpecError(f"classes are 2 to {IGNORED} different names, the lesion last, got {self.classes}.")
        for name in ("groups", "mask_values"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, dict(given))
                self._check_targets(name, dict(given))
        for value in self.mask_values or ():
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < 1 << 16:
                raise SpecError(f"mask_values maps whole numbers from 0 to 65535 to classes, got {value!r}.")

    def _check_targets(self, name: str, given: dict) -> None:
        for key, target in given.items():
            if target is not None and target not in self.classes:
                raise SpecError(
                    f"{name} maps to one of {', '.join(self.classes)}, or None to ignore, got {key!r}: {target!r}."
                    f"{nearest(target, self.classes)}"
                )

    @property
    def lesion(self) -> int:
        """Label of the last class."""
        return len(self.classes) - 1

    def _index(self, name: str | None) -> int:
        return IGNORED if name is None else self.classes.index(name)

    def of_annotations(self, names: Iterable[str], *, case: str) -> dict[str, int]:
        """The label of each annotation class.

        Raises:
            CohortError: Some are unknown; all of them are listed.
        """
        names = sorted(set(names))
        labels = {name: self._index(name) for name in names if name in self.classes}
        if self.groups is not None:
            labels |= {name: self._index(self.groups[name]) for name in names if name in self.groups}
        unknown = [name for name in names if name not in labels]
        if unknown and self.groups is None and len(self.classes) == 2:
            if len(unknown) > 1:
                warnings.warn(
                    f"case {case!r}: annotations of {len(unknown)} classes ({', '.join(unknown)}) all count as "
                    f"{self.classes[-1]!r}. Say what each means with groups={{name: class or None}}.",
                    stacklevel=2,
                )
            return labels | dict.fromkeys(unknown, self.lesion)
        if unknown:
            raise CohortError(
                f"case {case!r}: every annotation is of one of the classes {', '.join(self.classes)}"
                f"{' or listed in groups' if self.groups is not None else ''}; got {', '.join(map(repr, unknown))}. "
                "Say what they mean with groups={name: class, or None to ignore}."
            )
        return labels

    def of_label(self, label: str, *, case: str) -> int:
        """The label of every pixel of a slide that is of one class."""
        if self.groups is not None and label in self.groups:
            return self._index(self.groups[label])
        if label in self.classes:
            return self._index(label)
        known = [*self.classes, *(self.groups or ())]
        raise CohortError(
            f"case {case!r}: its label says what its pixels are, and so is one of {', '.join(known)}; got {label!r}."
            f"{nearest(label, known)} Or say what it means with groups={{{label!r}: class}}."
        )

    def check_mask(self, label: str | None, *, case: str) -> None:
        """Refuse a case whose mask cannot be understood, before any pixel is read."""
        if self.mask_values is None:
            self._foreground(label, case)

    def of_mask(self, values: np.ndarray, label: str | None, *, case: str, lossy: bool = False) -> np.ndarray:
        """The labels of a mask's pixels.

        Args:
            values: Booleans or whole numbers.
            label: The case's label.
            case: Its name, for messages.
            lossy: Whether the values come from a JPEG, and so are only near to what was meant.
        """
        values = values.view(np.uint8) if values.dtype == bool else values
        if values.dtype.kind not in "ui":
            raise CohortError(f"case {case!r}: a mask holds booleans or whole numbers, got {values.dtype}.")
        if lossy:
            values = _snapped(values, sorted(self.mask_values or (0, 255)), case)
        present = _present(values)
        meaning = self._meaning(present, label, case)
        if values.dtype == np.uint8:
            table = np.full(256, IGNORED, np.uint8)
            table[present] = meaning
            return table[values]
        return np.array(meaning, np.uint8)[np.searchsorted(present, values)]

    def _meaning(self, present: np.ndarray, label: str | None, case: str) -> list[int]:
        """The label of each value that is present."""
        listed = f"{', '.join(str(value) for value in present[:10])}{' ...' if len(present) > 10 else ''}"
        if self.mask_values is not None:
            if missing := set(present.tolist()) - set(self.mask_values):
                raise CohortError(
                    f"case {case!r}: mask_values lists {', '.join(map(str, sorted(self.mask_values)))}, and the mask "
                    f"holds {listed}. Add {min(missing)}: class, or None to ignore."
                )
            return [self._index(self.mask_values[value]) for value in present.tolist()]
        if not (set(present.tolist()) <= {0, 1} or set(present.tolist()) <= {0, 255}):
            raise CohortError(
                f"case {case!r}: a mask of 0 and 1, or of 0 and 255, explains itself; this one holds {listed}. "
                "Say what they mean with mask_values={value: class, or None to ignore}."
            )
        foreground = self._foreground(label, case)
        if foreground == 0 and present.any():
            raise CohortError(
                f"case {case!r}: its label {label!r} says that all of it is {self.classes[0]!r}, but its mask marks "
                "something. Leave one of them out, or say what the mask means with mask_values."
            )
        return [foreground if value else 0 for value in present]

    def _foreground(self, label: str | None, case: str) -> int:
        if label is not None:
            try:
                return self.of_label(label, case=case)
            except CohortError as error:
                raise CohortError(f"{error} Or explain its mask with mask_values={{value: class}}.") from None
        if len(self.classes) > 2:
            raise CohortError(
                f"case {case!r}: with the classes {', '.join(self.classes)}, the mask's values are explained by "
                "mask_values={value: class, or None to ignore}, or by the label of the case."
            )
        return self.lesion


def nearest(name: str, known: Iterable[str]) -> str:
    """' Did you mean ...?', or nothing."""
    close = difflib.get_close_matches(str(name), [str(each) for each in known], 1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _present(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint8:
        return np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    return np.unique(values)


def _snapped(values: np.ndarray, listed: list[int], case: str) -> np.ndarray:
    """Each value as the listed one that is nearest."""
    listed = np.array(listed)
    if listed.tolist() == [0, 255] and 0 < int(values.max(initial=0)) < 128:
        raise CohortError(
            f"case {case!r}: a JPEG mask holds 0 and 255, and this one nothing above {values.max()}. "
            "Save it as PNG, where values stay as they are."
        )
    middles = (listed[1:] + listed[:-1] + 1) // 2
    listed = listed.astype(np.uint8) if listed[-1] < 256 else listed
    return listed[np.searchsorted(middles, values, side="right")]
