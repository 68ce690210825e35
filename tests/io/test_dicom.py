"""Segmentations in DICOM, of slides that the tests make; what is written is read back by pydicom and highdicom too."""

from contextlib import suppress
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

from digipath.errors import DigipathError, ResultError, SlideError, SpecError
from digipath.geometry.frame import Box, Frame
from digipath.geometry.layer import Layer
from digipath.geometry.raster import Raster

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

from digipath.io.dicom import MAX_VALUES, Code, SegmentationNotes, read_segmentation, write_segmentation  # noqa: E402
from digipath.io.dicom_slide import open_dicom_slide  # noqa: E402

WIDTH, HEIGHT, TILE = 1300, 700, 256
SPACING = (0.0005, 0.000502)  # mm between rows, and between columns
ORIGIN = (12.5, 31.25)
TURNED = (0, -1, 0, -1, 0, 0)  # columns run along -y, rows along -x, as scanners put it
UPRIGHT = (1, 0, 0, 0, 1, 0)
NOTES = SegmentationNotes(algorithm="colon-lesion-light 3ad074cfeeaa", parameters={"threshold": "0.5"})


def make_slide(path: Path, *, scale: int = 1, series: str = "1.2.826.0.1.3680043.8.498.1", orientation=TURNED) -> Path:
    """A level of a whole-slide image in DICOM, `scale` times as coarse as the finest; its pixels are all the same."""
    width, height = WIDTH // scale, HEIGHT // scale
    slide = pydicom.Dataset()
    slide.file_meta = pydicom.dataset.FileMetaDataset()
    slide.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    slide.SpecificCharacterSet = "ISO_IR 100"
    slide.SOPClassUID = slide.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.6"
    slide.SOPInstanceUID = slide.file_meta.MediaStorageSOPInstanceUID = f"{series}.{scale}"
    slide.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE" if scale == 1 else "RESAMPLED"]
    slide.StudyInstanceUID, slide.SeriesInstanceUID, slide.FrameOfReferenceUID = "1.2.3.4", series, "1.2.3.5"
    slide.StudyDate, slide.StudyTime, slide.StudyID, slide.AccessionNumber = "20240102", "030405", "", "A-1"
    slide.PatientName, slide.PatientID, slide.PatientBirthDate, slide.PatientSex = "Müller^Eva", "P7", "", "F"
    slide.Modality, slide.Manufacturer, slide.InstanceNumber = "SM", "Maker", scale
    slide.ContainerIdentifier, slide.BurnedInAnnotation = "S24-1", "NO"
    slide.Rows = slide.Columns = TILE
    slide.TotalPixelMatrixColumns, slide.TotalPixelMatrixRows = width, height
    slide.TotalPixelMatrixFocalPlanes, slide.NumberOfOpticalPaths = 1, 1
    slide.NumberOfFrames = -(-width // TILE) * -(-height // TILE)
    slide.DimensionOrganizationType = "TILED_FULL"
    place = pydicom.Dataset()
    place.XOffsetInSlideCoordinateSystem, place.YOffsetInSlideCoordinateSystem = ORIGIN
    slide.TotalPixelMatrixOriginSequence = [place]
    slide.ImageOrientationSlide = list(orientation)
    measures, shared = pydicom.Dataset(), pydicom.Dataset()
    measures.PixelSpacing, measures.SliceThickness = [side * scale for side in SPACING], 0.001
    shared.PixelMeasuresSequence = [measures]
    slide.SharedFunctionalGroupsSequence = [shared]
    slide.SamplesPerPixel, slide.PhotometricInterpretation, slide.PlanarConfiguration = 3, "RGB", 0
    slide.BitsAllocated = slide.BitsStored = 8
    slide.HighBit, slide.PixelRepresentation = 7, 0
    slide.PixelData = bytes(np.full(slide.NumberOfFrames * TILE * TILE * 3, 200, np.uint8))
    slide.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slide")
    make_slide(folder / "coarse.dcm", scale=4)
    (folder / "notes.txt").write_text("not a DICOM file")
    return make_slide(folder / "fine.dcm")


def frame_at(downsample: float, box: Box | None = None) -> Frame:
    box = box or Box(0, 0, WIDTH, HEIGHT)
    mpp = 1000 * float(np.sqrt(SPACING[0] * SPACING[1]))
    return Frame.level0(box.width, box.height, mpp).at(mpp * downsample)


def masks_at(frame: Frame, *, count: int = 1) -> dict[str, Raster]:
    rng = np.random.default_rng(3)
    names = ("lesion", "tumour", "gland of Müller")[:count]
    return {name: Raster(rng.random(frame.shape) > 0.6, frame) for name in names}


@pytest.mark.parametrize("downsample", [1.0, 2.2, 4.4])
@pytest.mark.parametrize("count", [1, 3])
def test_masks_come_back_exactly(slide, tmp_path, downsample, count):
    masks = masks_at(frame_at(downsample), count=count)
    write_segmentation(tmp_path / "seg.dcm", masks, source=slide, notes=NOTES)
    found = read_segmentation(tmp_path / "seg.dcm", source=slide)
    assert list(found) == list(masks)
    for name, mask in masks.items():
        assert found[name].values.dtype == bool
        np.testing.assert_array_equal(found[name].values, mask.values)
        assert found[name].frame.slide_size == (WIDTH, HEIGHT)
        assert found[name].frame.downsample == pytest.approx(downsample, rel=1e-9)
        assert found[name].frame.mpp == pytest.approx(mask.frame.mpp, rel=1e-9)


def test_probabilities_come_back_within_half_a_step(slide, tmp_path):
    frame = frame_at(2.0)
    values = np.random.default_rng(1).random(frame.shape).astype(np.float16)
    values[:10], values[10:20] = 0, 1
    write_segmentation(tmp_path / "seg.dcm", {"lesion": Raster(values, frame)}, source=slide, notes=NOTES)
    found = read_segmentation(tmp_path / "seg.dcm", source=slide)["lesion"].values
    assert found.dtype == np.float32
    assert np.abs(found - values.astype(np.float32)).max() <= 0.5 / 255 + 1e-6
    assert not found[:10].any() and (found[10:20] == 1).all()


@pytest.mark.parametrize("orientation", [TURNED, UPRIGHT])
@pytest.mark.parametrize(("downsample", "bounds"), [(4.0, None), (2.2, None), (3.0, Box(100, 50, 900, 600))])
def test_a_rectangle_lands_where_it_lies_on_the_glass(tmp_path, orientation, downsample, bounds):
    source = make_slide(tmp_path / "slide.dcm", orientation=orientation)
    frame = frame_at(downsample, bounds)
    box = Box(30, 40, 50, 20)
    mask = np.zeros(frame.shape, bool)
    mask[box.slices()] = True
    write_segmentation(tmp_path / "seg.dcm", {"lesion": Raster(mask, frame)}, source=source, notes=NOTES, bounds=bounds)
    # All by highdicom: which pixels are set, and where their corners lie.
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    rows, columns = np.nonzero(seg.get_total_pixel_matrix(combine_segments=True))
    corners = np.array([[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]])
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    origin = seg.TotalPixelMatrixOriginSequence[0]
    to_glass = highdicom.spatial.ImageToReferenceTransformer(
        image_position=[float(origin[f"{a}OffsetInSlideCoordinateSystem"].value) for a in "XYZ"],
        image_orientation=[float(value) for value in seg.ImageOrientationSlide],
        pixel_spacing=[float(value) for value in measures.PixelSpacing],
    )
    # By hand: the slide's first pixel has its centre at ORIGIN.
    start = (bounds.x, bounds.y) if bounds else (0, 0)
    level0 = [(x * downsample + start[0], y * downsample + start[1]) for x, y in (box.bounds[:2], box.bounds[2:])]
    directions = np.array(orientation, float).reshape(2, 3)
    steps = (np.array(level0) - 0.5) * [SPACING[1], SPACING[0]]
    np.testing.assert_allclose(to_glass(corners), [*ORIGIN, 0] + steps @ directions, atol=1e-9)
    found = read_segmentation(tmp_path / "seg.dcm", source=source, bounds=bounds)["lesion"]
    np.testing.assert_array_equal(found.values, mask)


def test_pydicom_alone_finds_the_pixels_in_the_tiles(slide, tmp_path):
    masks = masks_at(frame_at(2.0), count=2)
    write_segmentation(tmp_path / "seg.dcm", masks, source=slide, notes=NOTES)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    frames, side = seg.pixel_array, seg.Rows
    across, down = -(-seg.TotalPixelMatrixColumns // side), -(-seg.TotalPixelMatrixRows // side)
    assert len(frames) == seg.NumberOfFrames == 2 * across * down
    whole = frames.reshape(2, down, across, side, side).swapaxes(2, 3).reshape(2, down * side, across * side)
    for index, mask in enumerate(masks.values()):
        np.testing.assert_array_equal(whole[index, : mask.frame.height, : mask.frame.width], mask.values)
    assert whole.sum() == sum(mask.values.sum() for mask in masks.values())


def test_the_file_names_slide_patient_algorithm_and_its_limits(slide, tmp_path):
    write_segmentation(tmp_path / "seg.dcm", masks_at(frame_at(4.0), count=3), source=slide, notes=NOTES)
    seg, image = pydicom.dcmread(tmp_path / "seg.dcm"), pydicom.dcmread(slide, stop_before_pixels=True)
    for name in ("PatientName", "PatientID", "PatientSex", "PatientBirthDate", "AccessionNumber", "StudyDate"):
        assert seg[name].value == image[name].value
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "ContainerIdentifier"):
        assert seg[name].value == image[name].value
    assert str(seg.PatientName) == "Müller^Eva"
    assert seg.SeriesInstanceUID != image.SeriesInstanceUID
    series = seg.ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == image.SeriesInstanceUID
    assert series.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == image.SOPInstanceUID
    lesion, tumour, gland = seg.SegmentSequence
    assert (lesion.SegmentLabel, lesion.SegmentAlgorithmType) == ("lesion", "AUTOMATIC")
    assert lesion.SegmentAlgorithmName == NOTES.algorithm
    assert lesion.SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters == "threshold=0.5"
    codes = [one.SegmentedPropertyTypeCodeSequence[0] for one in (lesion, tumour, gland)]
    assert [(code.CodeValue, code.CodingSchemeDesignator) for code in codes] == [
        ("52988006", "SCT"),
        ("108369006", "SCT"),
        ("gland of Müller".isascii() or codes[2].CodeValue, "99DIGIPATH"),
    ]
    assert codes[2].CodeMeaning == gland.SegmentLabel == "gland of Müller"
    assert seg.ContentQualification == "RESEARCH"
    assert "research" in seg.ContentDescription and "medical device" in seg.ContentDescription


def test_nothing_is_said_of_a_patient_that_the_slide_does_not_say(slide, tmp_path):
    image = pydicom.dcmread(slide)
    for name in ("PatientName", "PatientID", "PatientSex", "PatientBirthDate", "AccessionNumber", "StudyID"):
        del image[name]
    image.save_as(tmp_path / "slide.dcm")
    write_segmentation(tmp_path / "seg.dcm", masks_at(frame_at(4.0)), source=tmp_path / "slide.dcm", notes=NOTES)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert not any(seg[name].value for name in ("PatientName", "PatientID", "PatientSex", "AccessionNumber", "StudyID"))


def test_a_code_of_ones_own_replaces_digipaths(slide, tmp_path):
    notes = SegmentationNotes(algorithm="a", codes={"lesion": Code("108369006", "SCT", "Neoplasm")})
    write_segmentation(tmp_path / "seg.dcm", masks_at(frame_at(4.0)), source=slide, notes=notes)
    segment = pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence[0]
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "108369006"
    assert segment.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"


def test_rasters_are_read_a_row_of_tiles_at_a_time(slide, tmp_path):
    frame, asked = frame_at(0.5), []

    def rows(chosen: slice) -> np.ndarray:
        asked.append(chosen.stop - chosen.start)
        return np.ones((chosen.stop - chosen.start, frame.width), bool)

    lazy = Raster(Layer(frame.shape, np.dtype(bool), rows), frame)
    write_segmentation(tmp_path / "seg.dcm", {"lesion": lazy}, source=slide, notes=NOTES)
    assert sum(asked) == frame.height and max(asked) <= 512
    assert read_segmentation(tmp_path / "seg.dcm", source=slide)["lesion"].values.all()


def test_an_empty_mask_is_a_file_too(slide, tmp_path):
    frame = frame_at(4.0)
    empty = {"lesion": Raster(np.zeros(frame.shape, bool), frame)}
    write_segmentation(tmp_path / "seg.dcm", empty, source=slide, notes=NOTES)
    assert not read_segmentation(tmp_path / "seg.dcm", source=slide)["lesion"].values.any()


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_sparse_files_of_highdicom_are_read(slide, tmp_path, kind):
    image = pydicom.dcmread(tmp_path.parent / slide, stop_before_pixels=True)
    mask = np.zeros((1, HEIGHT, WIDTH), np.uint8)
    mask[0, 300:420, 1000:1290] = 1
    code = highdicom.sr.CodedConcept("108369006", "SCT", "Neoplasm")
    family = pydicom.sr.codedict.codes.DCM.ArtificialIntelligence
    made_by = highdicom.AlgorithmIdentificationSequence("other", family, "1")
    seg = highdicom.seg.Segmentation(
        source_images=[image],
        pixel_array=mask,
        segmentation_type=kind,
        segment_descriptions=[highdicom.seg.SegmentDescription(1, "Tumour", code, code, "AUTOMATIC", made_by)],
        series_instance_uid=highdicom.UID(),
        series_number=1,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="other",
        manufacturer_model_name="other",
        software_versions="1",
        device_serial_number="1",
        tile_pixel_array=True,
        tile_size=(128, 128),
    )
    seg.save_as(tmp_path / "seg.dcm")
    found = read_segmentation(tmp_path / "seg.dcm", source=slide)["Tumour"]
    np.testing.assert_array_equal(found.values, mask[0] > 0)
    assert found.frame.downsample == 1


def test_the_finest_level_is_found_from_any_file_of_the_slide_and_from_its_folder(slide):
    for path in (slide, slide.with_name("coarse.dcm"), slide.parent):
        found = open_dicom_slide(path)
        assert (found.width, found.height, found.spacing) == (WIDTH, HEIGHT, SPACING)
    x, y = found.point(found.position(123.25, 45.5))
    assert (x, y) == pytest.approx((123.25, 45.5))


def test_what_is_no_slide_in_dicom_is_refused(tmp_path):
    (tmp_path / "slide.svs").write_bytes(b"II*\0" + bytes(500))
    for path in (tmp_path / "slide.svs", tmp_path / "absent.dcm", tmp_path):
        with pytest.raises(SlideError):
            open_dicom_slide(path)
    make_slide(tmp_path / "one.dcm")
    make_slide(tmp_path / "two.dcm", series="1.2.9")
    with pytest.raises(SlideError, match="several slides"):
        open_dicom_slide(tmp_path)


def test_a_mask_of_another_slide_or_of_no_kind_is_refused(slide, tmp_path):
    frame = Frame.level0(600, 400, 1.0)
    cases = (
        ({"lesion": Raster(np.zeros(frame.shape, bool), frame)}, "of one of 600 x 400"),
        ({"lesion": Raster(np.zeros(frame.shape, np.uint8), frame)}, "bool"),
        ({}, "at least one"),
        ({"a\\b": Raster(np.zeros(frame.shape, bool), frame)}, "backslash"),
        (masks_at(frame_at(2.0)) | {"other": Raster(np.zeros(frame.shape, bool), frame)}, "one frame"),
    )
    for rasters, message in cases:
        with pytest.raises(SpecError, match=message):
            write_segmentation(tmp_path / "seg.dcm", rasters, source=slide, notes=NOTES)
    assert not list(tmp_path.iterdir())


def test_a_slide_that_was_opened_stays_as_it_is(slide, tmp_path):
    source = open_dicom_slide(slide)
    before = source.header.to_json()
    for name in ("one.dcm", "two.dcm"):
        write_segmentation(tmp_path / name, masks_at(frame_at(4.0)), source=source, notes=NOTES)
    assert source.header.to_json() == before


def test_every_file_of_a_level_that_lies_in_several_is_referred_to(tmp_path):
    other = pydicom.dcmread(make_slide(tmp_path / "one.dcm"))
    other.InstanceNumber, other.SOPInstanceUID = 2, "1.2.3.77"
    other.save_as(tmp_path / "another.dcm")
    write_segmentation(tmp_path / "seg" / "seg.dcm", masks_at(frame_at(4.0)), source=tmp_path, notes=NOTES)
    images = pydicom.dcmread(tmp_path / "seg" / "seg.dcm").ReferencedSeriesSequence[0].ReferencedInstanceSequence
    uids = [image.ReferencedSOPInstanceUID for image in images]
    assert len(uids) == 2 and uids[1] == "1.2.3.77"


def test_what_fits_into_no_file_is_refused_before_it_is_made(slide, tmp_path):
    frame = frame_at(0.01)
    huge = Raster(Layer(frame.shape, np.dtype(np.float16), lambda _: pytest.fail("it was read")), frame)
    with pytest.raises(SpecError, match="MiB"):
        write_segmentation(tmp_path / "seg.dcm", {"lesion": huge}, source=slide, notes=NOTES)


def test_wrong_probabilities_leave_no_file(slide, tmp_path):
    frame = frame_at(4.0)
    for bad in (np.nan, 1.5, -0.1):
        values = np.full(frame.shape, bad, np.float32)
        with pytest.raises(SpecError, match="0 to 1"):
            write_segmentation(tmp_path / "seg.dcm", {"lesion": Raster(values, frame)}, source=slide, notes=NOTES)
    assert not list(tmp_path.iterdir())


def test_files_that_lie_elsewhere_are_refused(slide, tmp_path):
    write_segmentation(tmp_path / "seg.dcm", masks_at(frame_at(4.0)), source=slide, notes=NOTES)
    with pytest.raises(ResultError, match="bounds"):
        read_segmentation(tmp_path / "seg.dcm", source=slide, bounds=Box(200, 100, 800, 500))
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    for name, value, message in (
        ("FrameOfReferenceUID", "1.2.3.99", "another slide"),
        ("ImageOrientationSlide", list(UPRIGHT), "turned"),
        ("TotalPixelMatrixColumns", 10, "cover"),
    ):
        changed = deepcopy(seg)
        setattr(changed, name, value)
        changed.save_as(tmp_path / "changed.dcm", enforce_file_format=True)
        with pytest.raises(ResultError, match=message):
            read_segmentation(tmp_path / "changed.dcm", source=slide)


def test_too_large_files_are_refused_before_they_are_decoded(slide, tmp_path):
    write_segmentation(tmp_path / "seg.dcm", masks_at(frame_at(4.0)), source=slide, notes=NOTES)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    for name, value in (("TotalPixelMatrixRows", MAX_VALUES), ("NumberOfFrames", 2**30), ("Rows", 60_000)):
        changed = deepcopy(seg)
        setattr(changed, name, value)
        changed.save_as(tmp_path / "changed.dcm", enforce_file_format=True)
        with pytest.raises(ResultError, match="at most"):
            read_segmentation(tmp_path / "changed.dcm", source=slide)


def test_deflated_and_endless_headers_are_refused(slide, tmp_path, monkeypatch):
    seg = pydicom.dcmread(slide)
    seg.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    seg.save_as(tmp_path / "deflated.dcm")
    with pytest.raises(ResultError, match="deflated"):
        read_segmentation(tmp_path / "deflated.dcm", source=slide)
    write_segmentation(tmp_path / "seg.dcm", masks_at(frame_at(4.0)), source=slide, notes=NOTES)
    known = open_dicom_slide(slide)
    monkeypatch.setattr("digipath.io.dicom_slide._Head.left", 500)
    with pytest.raises(ResultError, match="header is larger"):
        read_segmentation(tmp_path / "seg.dcm", source=known)


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of values that were damaged
@pytest.mark.parametrize("seed", range(8))
def test_damaged_files_are_told_in_our_words(slide, tmp_path, seed):
    write_segmentation(tmp_path / "seg.dcm", masks_at(frame_at(4.0)), source=slide, notes=NOTES)
    content, rng = bytearray((tmp_path / "seg.dcm").read_bytes()), np.random.default_rng(seed)
    for place in rng.integers(132, 3500, 20):
        content[place] = rng.integers(256)
    (tmp_path / "damaged.dcm").write_bytes(content[: rng.integers(200, len(content))])
    source = open_dicom_slide(slide)
    with suppress(DigipathError):
        read_segmentation(tmp_path / "damaged.dcm", source=source)


def test_other_files_are_refused(slide, tmp_path):
    (tmp_path / "other.dcm").write_bytes(b"nothing")
    for path, message in ((tmp_path / "other.dcm", "no DICOM"), (slide, "not a segmentation"), (tmp_path / "x", "No")):
        with pytest.raises(ResultError, match=message):
            read_segmentation(path, source=slide)


def test_a_real_slides_header_is_enough(data, tmp_path):
    source = open_dicom_slide(data / "slides" / "boxes_0.dcm")
    assert (source.width, source.height) == (16, 16) and source.mpp == pytest.approx(0.499)
    frame = Frame.level0(16, 16, source.mpp)
    masks = {"lesion": Raster(np.eye(16, dtype=bool), frame)}
    write_segmentation(tmp_path / "seg.dcm", masks, source=source, notes=NOTES)
    np.testing.assert_array_equal(read_segmentation(tmp_path / "seg.dcm", source=source)["lesion"].values, np.eye(16))


def test_without_the_extra_it_says_what_to_install(slide, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("digipath.io.dicom_slide.importlib.import_module", missing)
    with pytest.raises(SpecError, match=r"digipath\[dicom\]"):
        open_dicom_slide(slide)
