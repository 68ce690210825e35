"""What can go wrong through no fault of digipath's own.

DigipathError
├── SlideError            a slide cannot be opened or read
│   ├── ResolutionError   its micrometres per pixel are missing, absurd or out of reach
│   ├── UnreadableRegionError   a region can be read at no resolution
│   └── UnreadableError   too much of its tissue cannot be read
├── AnnotationError       an annotation file or geometry is not what it should be
├── CohortError           the cases of a cohort are not what they should be
├── SpecError             a setting, specification or argument makes no sense
├── BundleError           a bundle is missing, damaged, unsafe or from a newer digipath
├── ResultError           a result folder is missing, damaged or from a newer digipath
├── TrainingError         a training run cannot begin, go on or end well
└── Cancelled             the user asked to stop
"""

__all__ = [
    "AnnotationError",
    "BundleError",
    "Cancelled",
    "CohortError",
    "DigipathError",
    "ResolutionError",
    "ResultError",
    "SlideError",
    "SpecError",
    "TrainingError",
    "UnreadableError",
    "UnreadableRegionError",
]


class DigipathError(Exception):
    """Base of every error that a user can cause and mend; its text is one readable message."""


class SlideError(DigipathError):
    """A slide cannot be opened or read."""


class ResolutionError(SlideError):
    """A slide's micrometres per pixel are missing, implausible, or too coarse for what was asked."""


class UnreadableError(SlideError):
    """More of a slide's tissue is unreadable than a result may silently lack."""


class UnreadableRegionError(SlideError):
    """A region of a slide can be read at no resolution.

    Attributes:
        boxes: The unreadable rectangles, in level-0 pixels.
    """

    def __init__(self, message: str, *, boxes=()):
        super().__init__(message)
        self.boxes = tuple(boxes)


class AnnotationError(DigipathError):
    """An annotation file or geometry is not what it should be."""


class CohortError(DigipathError):
    """The cases of a cohort are not what they should be.

    Attributes:
        faults: One readable line for each fault.
    """

    def __init__(self, message: str, *, faults=()):
        super().__init__(message)
        self.faults = tuple(faults) or (message,)


class SpecError(DigipathError, ValueError):
    """A setting, specification or argument makes no sense."""


class BundleError(DigipathError):
    """A bundle is missing, damaged, unsafe to load, or from a newer digipath."""


class ResultError(DigipathError):
    """A result folder is missing, damaged, or from a newer digipath."""


class TrainingError(DigipathError):
    """A training run cannot begin, go on or end well."""


class Cancelled(DigipathError):
    """The user asked to stop; nothing unfinished stands under a final name."""
