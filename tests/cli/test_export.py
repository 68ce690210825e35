import cv2
import numpy as np
import pytest

from digipath import Segmenter
from digipath.cli import main
from digipath.inference.predictor import FunctionPredictor
from digipath.models.spec import ModelSpec
from digipath.segmentation import Segmentation

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")

from digipath.io.dicom import read_segmentation  # noqa: E402

MPP, SIDE = 4.0, 512


def darkness(patches):
    values = (patches[..., 2] < 128).astype(np.float32) * np.float32(0.8)
    return np.stack([1 - values, values], -1)


def picture() -> np.ndarray:
    image = np.full((SIDE, SIDE, 3), 244, np.uint8)
    cv2.ellipse(image, (250, 250), (180, 120), 0, 0, 360, (225, 150, 190), -1)
    cv2.rectangle(image, (200, 220), (279, 299), (120, 60, 110), -1)
    return image


def make_slide(path, image: np.ndarray):
    """A whole-slide image in DICOM of one tile."""
    slide = pydicom.Dataset()
    slide.file_meta = pydicom.dataset.FileMetaDataset()
    slide.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    slide.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.6"
    slide.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    slide.StudyInstanceUID, slide.SeriesInstanceUID, slide.SOPInstanceUID = "1.2.3", "1.2.3.1", "1.2.3.1.1"
    slide.FrameOfReferenceUID, slide.Modality, slide.PatientName = "1.2.3.5", "SM", "A^B"
    slide.TotalPixelMatrixRows, slide.TotalPixelMatrixColumns = slide.Rows, slide.Columns = image.shape[:2]
    slide.NumberOfFrames, slide.DimensionOrganizationType = 1, "TILED_FULL"
    place, measures, shared = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    place.XOffsetInSlideCoordinateSystem = place.YOffsetInSlideCoordinateSystem = 20
    slide.TotalPixelMatrixOriginSequence = [place]
    slide.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    measures.PixelSpacing, measures.SliceThickness = [MPP / 1000] * 2, 0.001
    shared.PixelMeasuresSequence = [measures]
    slide.SharedFunctionalGroupsSequence = [shared]
    slide.SamplesPerPixel, slide.PhotometricInterpretation, slide.PlanarConfiguration = 3, "RGB", 0
    slide.BitsAllocated = slide.BitsStored = 8
    slide.HighBit, slide.PixelRepresentation, slide.PixelData = 7, 0, image.tobytes()
    slide.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(a result of a slide in DICOM, that slide, a result of the same picture without a file)."""
    folder = tmp_path_factory.mktemp("made")
    slide = make_slide(folder / "slide.dcm", picture())
    spec = ModelSpec(architecture="darkness", classes=("other", "lesion"), mpp=8.0, patch=64)
    segmenter = Segmenter(FunctionPredictor(darkness, spec))
    segmenter.predict(slide, progress=False, out=folder / "result")
    segmenter.predict(picture(), mpp=MPP, progress=False, out=folder / "array")
    return folder / "result", slide, folder / "array"


def test_a_result_of_a_dicom_slide_becomes_a_segmentation_of_it(made, tmp_path, capsys):
    folder, slide, _ = made
    assert main(["export", str(folder), "--dicom-seg", str(tmp_path / "seg.dcm")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "seg.dcm")
    with Segmentation.load(folder) as result:
        expected = result.mask()
        found = read_segmentation(tmp_path / "seg.dcm", source=slide)["lesion"]
        assert expected.values.any()
        np.testing.assert_array_equal(found.values, expected.values)
        assert found.area_mm2 == pytest.approx(expected.area_mm2)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert str(seg.PatientName) == "A^B"
    parameters = seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters
    assert "threshold=0.5" in parameters and "mpp=8" in parameters


def test_threshold_and_probability_are_the_results_own(made, tmp_path):
    folder, slide, _ = made
    path = str(tmp_path / "seg.dcm")
    assert main(["export", str(folder), "--dicom-seg", path, "--threshold", "0.9"]) == 0
    assert not read_segmentation(path, source=slide)["lesion"].values.any()
    assert main(["export", str(folder), "--dicom-seg", path, "--probability"]) == 0
    with Segmentation.load(folder) as result:
        expected = result.probability().array().astype(np.float32)
    np.testing.assert_allclose(read_segmentation(path, source=slide)["lesion"].values, expected, atol=0.5 / 255 + 1e-6)


def test_another_form_of_the_slide_is_named(made, tmp_path, capsys):
    _, slide, folder = made
    path = str(tmp_path / "seg.dcm")
    assert main(["export", str(folder), "--dicom-seg", path]) == 1
    assert "--source" in capsys.readouterr().err
    assert main(["export", str(folder), "--dicom-seg", path, "--source", str(slide)]) == 0
    assert read_segmentation(path, source=slide)["lesion"].values.any()


def test_a_slide_that_is_no_dicom_is_told(made, tmp_path, capsys):
    folder, _, _ = made
    (tmp_path / "slide.svs").write_bytes(bytes(500))
    arguments = ["export", str(folder), "--dicom-seg", str(tmp_path / "seg.dcm")]
    assert main([*arguments, "--source", str(tmp_path / "slide.svs")]) == 1
    assert "DICOM" in capsys.readouterr().err
    assert main([*arguments, "--source", str(tmp_path / "absent.dcm")]) == 1
    assert "--source" in capsys.readouterr().err
    assert not (tmp_path / "seg.dcm").exists()
