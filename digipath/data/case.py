"""One case of a cohort: a slide and what is known of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from digipath.errors import CohortError
from digipath.geometry.polygons import Annotation
from digipath.geometry.raster import Raster
from digipath.slides.slide import Slide, open_slide

__all__ = ["SPLITS", "Case"]

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A slide and what is known of it.

    Attributes:
        slide: A file, or an open slide such as an ArraySlide.
        name: What it is called; by default the slide's own name.
        annotations: A file of outlines, or the annotations themselves, in level-0 pixels.
        mask: An image file of labels as large as the slide or its reduction, or a raster of the slide.
        label: Class of the whole slide. Without annotations and mask it is the class of every pixel; a mask of two
            values marks where that class is.
        patient: Whose slide it is; by default a patient of its own.
        split: "train", "val", "test", or None.
        mpp: Micrometres per level-0 pixel, in place of what the file says.

    Example:
        >>> Case(slide="slides/node_4.tif", annotations="outlines/node_4.xml", patient="004").name
        'node_4'
    """

    slide: Path | Slide
    name: str = ""
    annotations: Path | tuple[Annotation, ...] | None = None
    mask: Path | Raster | None = None
    label: str | None = None
    patient: str = ""
    split: str | None = None
    mpp: float | None = None

    def __post_init__(self):
        if isinstance(self.slide, str):
            object.__setattr__(self, "slide", Path(self.slide))
        own = self.slide.stem if isinstance(self.slide, Path) else getattr(self.slide, "name", None)
        if own is None:
            raise CohortError(f"a case's slide is a file or an open slide, got {type(self.slide).__name__}.")
        object.__setattr__(self, "name", str(self.name) or own)
        object.__setattr__(self, "patient", str(self.patient) or self.name)
        if isinstance(self.mask, str):
            object.__setattr__(self, "mask", Path(self.mask))
        self._check_annotations()

    def _check_annotations(self) -> None:
        given = self.annotations
        if isinstance(given, str):
            given = Path(given)
        elif given is not None and not isinstance(given, Path):
            given = tuple(given)
            if not all(isinstance(each, Annotation) for each in given):
                raise CohortError(f"case {self.name!r}: annotations are a file or digipath.Annotation objects.")
        object.__setattr__(self, "annotations", given)
        if self.annotations is not None and self.mask is not None:
            raise CohortError(
                f"case {self.name!r} has annotations and a mask; only one of them can say what its pixels are. "
                "Leave one out."
            )

    @property
    def is_labelled(self) -> bool:
        """Whether anything says what its pixels are."""
        return not (self.annotations is None and self.mask is None and self.label is None)

    @contextmanager
    def opened(self) -> Iterator[Slide]:
        """The open slide; one that was opened from a file for this is closed again."""
        slide = open_slide(self.slide, mpp=self.mpp)
        try:
            yield slide
        finally:
            if slide is not self.slide:
                slide.close()
