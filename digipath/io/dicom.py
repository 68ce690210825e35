"""Masks and probabilities as DICOM segmentations (SEG) of a whole-slide image in DICOM, for archives and their viewers.

One file holds one segment a class: masks as BINARY, probabilities in steps of 1/255 as FRACTIONAL, in tiles that lie
one after the other (TILED_FULL) at the heatmap's own pixel spacing. Memory is one row of tiles, whatever the size.

**Patient data.** A segmentation belongs to its slide's patient, so that the standard wants it to carry the slide's
patient, study and specimen modules: names, numbers, birth date and sex, the referring physician, the accession number,
the slide's container (which may be its barcode), and the equipment and institution that made it. All of that is copied
from the slide's header as it is there, and nothing is added: what is empty stays empty. A file made from a
de-identified slide is as de-identified as the slide. Label images are not read.

Written by highdicom (Bridge et al. 2022, "Highdicom: a Python library for standardized encoding of image annotations
and machine learning model outputs in pathology and radiology", J Digit Imaging 35), which the extra `dicom` installs.
"""

import hashlib
import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from digipath import __version__
from digipath.errors import ResultError, SlideError, SpecError
from digipath.geometry.frame import Box, Frame
from digipath.geometry.raster import Raster
from digipath.io.dicom_slide import DicomSlide, headed, library, open_dicom_slide, read_header, spacing_of
from digipath.io.strips import replacing

__all__ = ["Code", "SegmentationNotes", "read_segmentation", "write_segmentation"]

RESEARCH = "For research use only. Not a medical device."
MAX_VALUES = 1 << 31
"""Pixels of all segments together that are read into memory."""

_TILE = 512
_STEPS = 255
_MAX_FRAMES = 1 << 20
_MAX_SIDE = 1 << 13  # of a tile that is read
_MAX_BYTES = (1 << 32) - 2  # of an element's value
_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
# Without image codecs: little endian, implicit and explicit, and run lengths.
_SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5")
_SAME = 1e-3
# Attributes that each image has, if only empty; old converters leave them out.
_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)


@dataclass(frozen=True)
class Code:
    """A coded word of a terminology: its value, the terminology's short name ("SCT" is SNOMED CT), its meaning."""

    value: str
    scheme: str
    meaning: str


_ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
_CONCEPT = Code("309825002", "SCT", "Spatial and Relational Concept")
# Types of CID 7151 and of CID 7159 in DICOM PS3.16, by the names that classes of bundles have.
_NEOPLASM = Code("108369006", "SCT", "Neoplasm")
_CODES = {
    "lesion": Code("52988006", "SCT", "Lesion"),
    "tumour": _NEOPLASM,
    "tumor": _NEOPLASM,
    "neoplasm": _NEOPLASM,
    "metastasis": Code("14799000", "SCT", "Neoplasm, Secondary"),
    "carcinoma": Code("1187425009", "SCT", "Carcinoma"),
    "adenocarcinoma": Code("1187332001", "SCT", "Adenocarcinoma"),
    "necrosis": Code("6574001", "SCT", "Necrosis"),
    "inflammation": Code("409774005", "SCT", "Inflammation"),
}


@dataclass(frozen=True, kw_only=True)
class SegmentationNotes:
    """What a segmentation says about how it came about.

    Attributes:
        algorithm: Name of what made it, at most 64 characters, such as bundle and hash.
        version: Of that.
        parameters: Its settings, name by name.
        codes: What a class is, by its name, where it is not one of those known here: lesion, tumour, tumor, neoplasm,
            metastasis, carcinoma, adenocarcinoma, necrosis, inflammation. A class without a code gets one of
            digipath's own, of the private scheme 99DIGIPATH.
    """

    algorithm: str
    version: str = __version__
    parameters: Mapping[str, str] = field(default_factory=dict)
    codes: Mapping[str, Code] = field(default_factory=dict)

    def __post_init__(self):
        _check_text("algorithm", self.algorithm)
        _check_text("version", self.version)


def write_segmentation(
    path: str | Path,
    rasters: Mapping[str, Raster],
    *,
    source: DicomSlide | str | Path,
    notes: SegmentationNotes,
    bounds: Box | None = None,
) -> None:
    """Write one segment for each raster; they may be lazy, and are read a row of tiles at a time.

    Args:
        path: Where the file goes.
        rasters: By class name: all masks (boolean), or all probabilities (floating, 0 to 1), in one frame.
        source: The slide in DICOM, of which the frame is; see `open_dicom_slide`.
        notes: How the segmentation came about.
        bounds: The part of the source, in its pixels, that is the slide of the frame; None: all of it.

    Raises:
        SpecError: The rasters are not of that slide, or too large for one file: an element of DICOM ends at 4 GiB,
            which are 34 thousand million pixels of masks or 4 of probabilities.
        SlideError: The source is no whole-slide image in DICOM.

    Example:
        >>> notes = SegmentationNotes(algorithm="colon-lesion-light 3ad074cfeeaa")
        >>> mask = result.mask()  # doctest: +SKIP
        >>> write_segmentation("lesion.dcm", {"lesion": mask}, source="slide.dcm", notes=notes)  # doctest: +SKIP
    """
    path = Path(path)
    slide = source if isinstance(source, DicomSlide) else open_dicom_slide(source)
    frame, fractional = _check(rasters)
    bounds = _placed(slide, bounds)
    if frame.slide_size != (bounds.width, bounds.height):
        raise SpecError(
            f"a segmentation lies on its slide of {bounds.width} x {bounds.height} pixels, and these are of one of "
            f"{frame.slide_size[0]} x {frame.slide_size[1]}. Give the DICOM file of the slide that was segmented."
        )
    count = len(rasters) * -(-frame.width // _TILE) * -(-frame.height // _TILE)
    if (size := count * _TILE**2 // (1 if fractional else 8)) > _MAX_BYTES:
        raise SpecError(
            f"a DICOM file holds {_MAX_BYTES >> 20} MiB of pixels, and these are {size >> 20} MiB. Write masks instead "
            "of probabilities, fewer classes in each file, or a heatmap of more um per pixel."
        )
    with headed("the slide's header does not do for a segmentation", SlideError):
        document = _document(slide, list(rasters), _Grid(frame, bounds, fractional), notes)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished, tempfile.TemporaryFile(dir=path.parent) as pixels:
        for raster in rasters.values():
            for tiles in _tiles(raster):
                pixels.write(_packed(tiles, fractional))
        pixels.seek(0)
        _fill(document, pixels, count, frame)
        document.save_as(unfinished)


def read_segmentation(
    path: str | Path, *, source: DicomSlide | str | Path, bounds: Box | None = None
) -> dict[str, Raster]:
    """The segments of a file by their labels, in memory, in a frame of the slide.

    Masks come back as they were written, probabilities (float32) within half a step of 1/510; the frame's downsample
    with the 15 digits that DICOM keeps of a length. Files of other programs are read where their pixels lie on the
    slide's, side by side with them and from its corner on; one that starts half of its own pixels off, as many do that
    copy the slide's origin, is taken to start in the corner.

    Args:
        path: A segmentation, uncompressed or of run lengths.
        source: The slide in DICOM that it is of.
        bounds: The part of the source, in its pixels, that is the slide of the frame; None: all of it.

    Raises:
        ResultError: It is no such file, it is damaged or too large, or it lies elsewhere.
        SlideError: The source is no whole-slide image in DICOM.
    """
    path = Path(path)
    slide = source if isinstance(source, DicomSlide) else open_dicom_slide(source)
    bounds = _placed(slide, bounds)
    with headed(f"{path}: the DICOM file cannot be read", ResultError):
        header = read_header(path)
        _check_bounds(path, header)
        frame = _frame_of(path, header, slide, bounds)
        segments = {int(one.SegmentNumber): str(one.SegmentLabel) for one in header.SegmentSequence}
        labels = {number: label for number, label in segments.items() if number}  # 0 is a label map's background
        if len(set(labels.values())) < len(labels):
            raise ResultError(
                f"{path}: segments go by their labels here, and some come twice: {list(labels.values())}."
            )
        document = library("highdicom.seg").segread(path, lazy_frame_retrieval=True)
        return {label: Raster(_values(document, number, frame), frame) for number, label in labels.items()}


@dataclass(frozen=True)
class _Grid:
    """Which pixels are written, and as what."""

    frame: Frame
    bounds: Box
    fractional: bool


def _check(rasters: Mapping[str, Raster]) -> tuple[Frame, bool]:
    if not rasters:
        raise SpecError("a segmentation has at least one class, got none.")
    for name, raster in rasters.items():
        _check_text("a class", name)
        if raster.channels or raster.values.dtype.kind not in "bf":
            raise SpecError(
                f"each raster is one mask (bool) or one probability (float), got {raster.values.dtype} with channels "
                f"{raster.channels or 'none'} for {name!r}. Take one class: result.mask(name=...)."
            )
    frames = {raster.frame for raster in rasters.values()}
    kinds = {raster.values.dtype.kind for raster in rasters.values()}
    if len(frames) > 1 or len(kinds) > 1:
        raise SpecError("the rasters of a segmentation have one frame, and are all masks or all probabilities.")
    return frames.pop(), kinds == {"f"}


def _check_text(what: str, text: str) -> None:
    if not 1 <= len(text) <= 64 or "\\" in text or not text.isprintable():
        raise SpecError(f"{what} is 1 to 64 printable characters without a backslash in DICOM, got {text!r}.")


def _placed(slide: DicomSlide, bounds: Box | None) -> Box:
    bounds = slide.box if bounds is None else bounds
    if not bounds.area or bounds.intersect(slide.box) != bounds:
        raise SpecError(f"bounds lie within the slide of {slide.width} x {slide.height} pixels, got {bounds.bounds}.")
    return bounds


def _document(slide: DicomSlide, names: list[str], grid: _Grid, notes: SegmentationNotes) -> Any:
    """A segmentation of one empty tile, made and checked by highdicom; the others follow by `_fill`."""
    highdicom, seg = library("highdicom"), library("highdicom.seg")
    header = _completed(slide.header)
    scale, corner = grid.frame.downsample, (grid.bounds.x, grid.bounds.y)
    spacing = [side * scale for side in slide.spacing]
    place = slide.position(*(start + scale / 2 for start in corner))
    measures = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    thickness = measures.get("SliceThickness")
    return seg.Segmentation(
        source_images=[header],
        further_source_images=list(slide.parts) or None,
        pixel_array=np.zeros((1, _TILE, _TILE, len(names)), np.float32 if grid.fractional else np.uint8),
        segmentation_type="FRACTIONAL" if grid.fractional else "BINARY",
        max_fractional_value=_STEPS,
        segment_descriptions=_segments(names, notes),
        series_instance_uid=highdicom.UID(),
        series_number=1,
        series_description="Segmentation, research use only",
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="digipath",
        manufacturer_model_name="digipath",
        software_versions=__version__,
        device_serial_number=notes.algorithm,
        content_label="SEGMENTATION",
        content_description=RESEARCH,
        content_qualification="RESEARCH",
        coding_schemes=[_own_scheme()],
        pixel_measures=highdicom.PixelMeasuresSequence(spacing, None if thickness is None else float(thickness)),
        plane_positions=[highdicom.PlanePositionSequence("SLIDE", place, (1, 1))],
        omit_empty_frames=False,
        dimension_organization_type="TILED_FULL",
        tile_pixel_array=True,
        tile_size=(_TILE, _TILE),
    )


def _completed(header: Any) -> Any:
    """The slide's header, with what it lacks as empty, and as large as the one tile that highdicom is given."""
    pydicom = library("pydicom")
    completed = pydicom.Dataset()
    for element in header:
        completed[element.tag] = element
    for name in _EMPTY:
        if name not in completed:
            setattr(completed, name, "")
    for name in ("TotalPixelMatrixRows", "TotalPixelMatrixColumns"):  # elements are shared: replaced, not changed
        completed[name] = pydicom.DataElement(name, "UL", _TILE)
    return completed


def _segments(names: list[str], notes: SegmentationNotes) -> list[Any]:
    highdicom, seg, concept = library("highdicom"), library("highdicom.seg"), library("highdicom.sr").CodedConcept
    family = library("pydicom.sr.codedict").codes.DCM.ArtificialIntelligence
    made_by = highdicom.AlgorithmIdentificationSequence(
        notes.algorithm, family, notes.version, source="digipath", parameters=dict(notes.parameters) or None
    )
    segments = []
    for number, name in enumerate(names, 1):
        kind = notes.codes.get(name) or _CODES.get(name.lower())
        category = _ABNORMAL if kind else _CONCEPT
        words = (concept(one.value, one.scheme, one.meaning) for one in (category, kind or _own_code(name)))
        segments.append(seg.SegmentDescription(number, name, *words, "AUTOMATIC", made_by))
    return segments


def _own_code(name: str) -> Code:
    short = name if len(name) <= 16 and name.isascii() else hashlib.sha256(name.encode()).hexdigest()[:16]
    return Code(short, "99DIGIPATH", name)


def _own_scheme() -> Any:
    return library("highdicom.coding_schemes").CodingSchemeIdentificationItem(
        "99DIGIPATH", name="Classes by the names that their bundle gives them", responsible_organization="digipath"
    )


def _tiles(raster: Raster) -> Iterator[np.ndarray]:
    """Rows of tiles from top to bottom, each (n, tile, tile); what overhangs the frame is 0."""
    across = -(-raster.frame.width // _TILE)
    for box in raster.frame.rows(_TILE):
        band = np.zeros((_TILE, across * _TILE), raster.values.dtype)
        band[: box.height, : box.width] = raster.values[box.y : box.bottom]
        yield band.reshape(_TILE, across, _TILE).swapaxes(0, 1)


def _packed(tiles: np.ndarray, fractional: bool) -> bytes:
    if not fractional:
        return np.packbits(tiles.reshape(len(tiles), -1), axis=1, bitorder="little").tobytes()
    if not (tiles.min() >= 0 and tiles.max() <= 1):  # NaN neither
        raise SpecError(f"probabilities are 0 to 1, got {tiles.min()} to {tiles.max()}.")
    return np.rint(tiles.astype(np.float32) * _STEPS).astype(np.uint8).tobytes()


def _fill(document: Any, pixels: BinaryIO, count: int, frame: Frame) -> None:
    """Put all tiles in the place of the one; those of a segment follow each other row by row, then the next's."""
    pydicom = library("pydicom")
    document.NumberOfFrames, document.SpecificCharacterSet = count, "ISO_IR 192"  # UTF-8, for classes of any script
    document.TotalPixelMatrixColumns, document.TotalPixelMatrixRows = frame.width, frame.height
    document.SegmentsOverlap = "NO" if len(document.SegmentSequence) == 1 else "UNDEFINED"
    document["PixelData"] = pydicom.DataElement("PixelData", document["PixelData"].VR, pixels)


def _check_bounds(path: Path, header: Any) -> None:
    """Refuse what is no segmentation of tiles, or would take too much memory, before anything is decoded."""
    if header.SOPClassUID not in _SEGMENTATIONS or "TotalPixelMatrixRows" not in header:
        raise ResultError(f"{path} is a DICOM file, but not a segmentation of a whole slide.")
    if header.file_meta.TransferSyntaxUID not in _SYNTAXES:
        raise ResultError(
            f"{path}: segmentations are read uncompressed or of run lengths, and this one is stored as "
            f"{header.file_meta.TransferSyntaxUID.name}. Convert it, for example with gdcmconv --raw."
        )
    count = len(header.SegmentSequence)
    values = int(header.TotalPixelMatrixRows) * int(header.TotalPixelMatrixColumns) * count
    sizes = (values, MAX_VALUES), (int(header.NumberOfFrames), _MAX_FRAMES), (int(header.Rows), _MAX_SIDE)
    for size, limit in (*sizes, (int(header.Columns), _MAX_SIDE)):
        if not 0 < size <= limit:
            raise ResultError(
                f"{path}: a segmentation has at most {MAX_VALUES:,} pixels in all of its segments and {_MAX_FRAMES:,} "
                f"tiles of at most {_MAX_SIDE} pixels; this one has {size:,} where {limit:,} are the limit."
            )


def _frame_of(path: Path, header: Any, slide: DicomSlide, bounds: Box) -> Frame:
    """The frame that a segmentation's pixels are; refused where they are not on the slide's."""
    if header.FrameOfReferenceUID != slide.header.FrameOfReferenceUID:
        raise ResultError(f"{path} is of another slide: their frames of reference differ.")
    directions = np.array([float(value) for value in header.ImageOrientationSlide]).reshape(2, 3)
    scales = [own / base for own, base in zip(spacing_of(header), slide.spacing, strict=True)]
    if not np.allclose(directions, slide.directions, atol=_SAME) or not min(scales) > 0:
        raise ResultError(f"{path} is turned against its slide, or has no size. Only upright ones can be read.")
    columns, rows, scale = int(header.TotalPixelMatrixColumns), int(header.TotalPixelMatrixRows), max(scales)
    origin = header.TotalPixelMatrixOriginSequence[0]
    place = (float(origin.get(f"{axis}OffsetInSlideCoordinateSystem") or 0) for axis in "XYZ")
    starts = [at - scale / 2 - start for at, start in zip(slide.point(tuple(place)), (bounds.x, bounds.y), strict=True)]
    sizes = (columns, bounds.width), (rows, bounds.height)
    fits = all(abs(count * scale - side) <= scale * (1 + _SAME) for count, side in sizes)
    if not fits or max(scales) - min(scales) > _SAME * scale or max(map(abs, starts)) > scale * (0.5 + _SAME):
        raise ResultError(
            f"{path}: its {columns} x {rows} pixels of {scales[1]:.4g} x {scales[0]:.4g} of the slide's begin "
            f"({starts[0]:.1f}, {starts[1]:.1f}) pixels off, and have to cover the {bounds.width} x {bounds.height} "
            "pixels of the slide from its corner on. Give the bounds with which it was written."
        )
    return Frame(columns, rows, scale, slide.mpp * scale, (bounds.width, bounds.height))


def _values(document: Any, number: int, frame: Frame) -> np.ndarray:
    """One segment, bool or float32, read a row of tiles at a time."""
    fractional = document.SegmentationType == "FRACTIONAL"
    values = np.zeros(frame.shape, np.float32 if fractional else bool)
    for box in frame.rows(max(_TILE, math.ceil((1 << 22) / frame.width))):
        rows = document.get_total_pixel_matrix(
            row_start=box.y + 1,
            row_end=box.bottom + 1,
            segment_numbers=[number],
            rescale_fractional=fractional,
            dtype=values.dtype,
        )
        values[box.y : box.bottom] = rows[..., 0]
    return values
