"""Where a DICOM slide lies on its glass: the header of its finest level, and the places of its pixels in millimetres.

Only headers are read, up to a size, and never pixels; pydicom comes with the extra `dicom`.
"""

import importlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from digipath.errors import DigipathError, SlideError, SpecError
from digipath.geometry.frame import Box

__all__ = ["DicomSlide", "headed", "library", "open_dicom_slide", "read_header", "spacing_of"]

_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
_DEFLATED = b"1.2.840.10008.1.2.1.99"
# A header of 100,000 tiles that each tell their place has about 20 MB.
_MAX_HEADER = 64 << 20
_MAX_FILES = 2000
_SAME = 1e-4
_NEEDED = (
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "FrameOfReferenceUID",
    "TotalPixelMatrixRows",
    "TotalPixelMatrixColumns",
    "TotalPixelMatrixOriginSequence",
    "ImageOrientationSlide",
    "SharedFunctionalGroupsSequence",
)


def library(name: str) -> ModuleType:
    """A module of pydicom or highdicom, imported when it is first needed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        raise SpecError(
            f'DICOM files need {error.name}, which is not installed. Run: pip install "digipath[dicom]"'
        ) from error


@dataclass(frozen=True)
class DicomSlide:
    """The finest level of a whole-slide image in DICOM.

    A point (x, y) is in level-0 pixels, the pixel at x covering [x, x + 1) as everywhere in digipath; DICOM counts from
    the centre of the first pixel.

    Attributes:
        header: The pydicom data set without its pixels.
        parts: Headers of further instances that hold the same level: concatenations, or other focal planes.
        width: Columns of the level.
        height: Rows.
        spacing: Millimetres between rows, and between columns.
        origin: Where the centre of the first pixel lies in the slide's frame of reference, in millimetres (x, y, z).
        directions: (2, 3); where columns and where rows increase to, as unit vectors.
    """

    header: Any
    parts: tuple[Any, ...]
    width: int
    height: int
    spacing: tuple[float, float]
    origin: tuple[float, float, float]
    directions: np.ndarray

    @property
    def mpp(self) -> float:
        """Micrometres per pixel; the geometric mean of both axes."""
        return 1000 * float(np.sqrt(self.spacing[0] * self.spacing[1]))

    @property
    def box(self) -> Box:
        """The whole level."""
        return Box(0, 0, self.width, self.height)

    def position(self, x: float, y: float) -> tuple[float, float, float]:
        """Where a point of the level lies, in millimetres."""
        steps = np.array([(x - 0.5) * self.spacing[1], (y - 0.5) * self.spacing[0]])
        return tuple(float(value) for value in np.array(self.origin) + steps @ self.directions)

    def point(self, position: tuple[float, float, float]) -> tuple[float, float]:
        """The point (x, y) of the level that lies nearest to a place: the inverse of `position`."""
        along, down = self.directions @ (np.array(position) - np.array(self.origin))
        return float(along / self.spacing[1] + 0.5), float(down / self.spacing[0] + 0.5)


def open_dicom_slide(path: str | Path) -> DicomSlide:
    """Find the finest level of a slide.

    Args:
        path: Any file of its series, whose others lie in the same folder; or a folder that holds one slide alone.

    Raises:
        SlideError: There is no whole-slide image in DICOM, or it does not say where it lies.
    """
    with headed(f"{path}: the slide's header cannot be read", SlideError):
        return _open(Path(path))


def _open(path: Path) -> DicomSlide:
    if not path.exists():
        raise SlideError(f"{path}: there is no such file or folder.")
    if path.is_dir():
        headers = list(_levels(path))
    else:
        series = read_header(path).get("SeriesInstanceUID")
        headers = [one for one in _levels(path.parent) if one[1].SeriesInstanceUID == series]
    if not headers:
        raise SlideError(f"{path} is not a whole-slide image in DICOM. Give one of the slide's .dcm files.")
    if len({one.SeriesInstanceUID for _, one in headers}) > 1:
        raise SlideError(f"{path} holds several slides. Give a file of the one that is meant.")
    finest = max(one.TotalPixelMatrixColumns for _, one in headers)
    chosen = (file for file, one in headers if one.TotalPixelMatrixColumns == finest)
    first, *parts = sorted((read_header(file) for file in chosen), key=_order)
    return _slide(path, first, tuple(parts))


def spacing_of(header: Any) -> tuple[float, float]:
    """Millimetres between rows, and between columns, that an image of tiles states for all of them."""
    row, column = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    return float(row), float(column)


@contextmanager
def headed(what: str, kind: type[DigipathError]) -> Iterator[None]:
    """Tell in one line why a file cannot be read, or be made of another."""
    try:
        yield
    except DigipathError:
        raise
    except Exception as error:  # pydicom's parsers raise two dozen kinds, some of them its own
        text = " ".join(str(error).split())[:200].rstrip(".")
        raise kind(f"{what} ({type(error).__name__}: {text}).") from error


class _Head(io.FileIO):
    """A file of which no more than a header's worth is read, and nothing where it is deflated as a whole."""

    left = _MAX_HEADER

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, or a ValueError."""
        content = super().read(self.left + 1 if size is None or size < 0 else min(size, self.left + 1))
        self.left -= len(content)
        if self.left < 0:
            raise ValueError(f"its header is larger than {_MAX_HEADER >> 20} MiB")
        if content.rstrip(b"\0") == _DEFLATED:  # pydicom would unpack it all, however large
            raise ValueError("it is deflated as a whole; convert it to explicit VR little endian")
        return content


def read_header(path: Path, tags: list[str] | None = None) -> Any:
    """All of a file but its pixels, or some of it; of bounded size.

    Raises:
        ValueError: It is no DICOM file; this or another of pydicom's errors where it is damaged.
    """
    pydicom = library("pydicom")
    with _Head(path) as file:
        if file.read(132)[128:] != b"DICM":
            raise ValueError("it is no DICOM file")
        file.seek(0)
        return pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags)


def _levels(folder: Path) -> Iterator[tuple[Path, Any]]:
    """The levels of slides in a folder, and of their headers what tells them apart; other files are passed over."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    if len(files) > _MAX_FILES:
        raise SlideError(f"{folder} has more than {_MAX_FILES} files. Put the slide's own into a folder of their own.")
    library("pydicom")  # its absence is told, unlike what is wrong with a file
    tags = ["SOPClassUID", "SeriesInstanceUID", "ImageType", "TotalPixelMatrixColumns"]
    for file in files:
        try:
            header = read_header(file, tags)
            volume = header.ImageType[2] == "VOLUME" and int(header.TotalPixelMatrixColumns) > 0
            if header.SOPClassUID == _WHOLE_SLIDE and header.SeriesInstanceUID and volume:
                yield file, header
        except Exception:  # pictures, notes, damaged neighbours: that nothing is left is told by the caller
            continue


def _order(header: Any) -> tuple[int, int]:
    return int(header.get("InConcatenationNumber") or 0), int(header.get("InstanceNumber") or 0)


def _slide(path: Path, header: Any, parts: tuple[Any, ...]) -> DicomSlide:
    missing = [name for name in _NEEDED if not header.get(name)]
    if missing:
        raise SlideError(f"{path}: a segmentation refers to its slide's {', '.join(missing)}, which are missing.")
    spacing = spacing_of(header)
    place = header.TotalPixelMatrixOriginSequence[0]
    names = (f"{axis}OffsetInSlideCoordinateSystem" for axis in "XYZ")
    origin = tuple(float(place.get(name) or 0.0) for name in names)
    directions = np.array([float(value) for value in header.ImageOrientationSlide]).reshape(2, 3)
    if not (np.isfinite([*spacing, *origin]).all() and min(spacing) > 0):
        raise SlideError(f"{path}: pixel spacing and origin are finite and above 0, got {spacing} and {origin}.")
    if not np.allclose(directions @ directions.T, np.eye(2), atol=_SAME):
        raise SlideError(f"{path}: a slide's orientation is two perpendicular unit vectors, got {directions.tolist()}.")
    columns, rows = int(header.TotalPixelMatrixColumns), int(header.TotalPixelMatrixRows)
    return DicomSlide(header, parts, columns, rows, spacing, origin, directions)
