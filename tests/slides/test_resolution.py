import numpy as np
import pytest

from digipath.errors import ResolutionError, SpecError
from digipath.slides._resolution import contradiction, given_resolution, resolve


@pytest.mark.parametrize(
    ("properties", "mpp", "source"),
    [
        ({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.251"}, 0.2505, "openslide"),
        ({"openslide.mpp-x": "0,25"}, 0.25, "openslide"),
        ({"fastslide.mpp-x": "0.5", "fastslide.mpp-y": "0.5"}, 0.5, "fastslide"),
        ({"tiff.XResolution": "40000", "tiff.YResolution": "40000", "tiff.ResolutionUnit": "centimeter"}, 0.25, "tiff"),
        ({"tiff.XResolution": "101600", "tiff.ResolutionUnit": "inch"}, 0.25, "tiff"),
        (
            {
                "tiff.XResolution": "2",
                "tiff.ResolutionUnit": "none",
                "tiff.ImageDescription": "ImageJ=1.53\nunit=micron\n",
            },
            0.5,
            "tiff",
        ),
        ({"tiff.ImageDescription": "Aperio|AppMag = 20|MPP = 0.4990|Left = 1"}, 0.499, "image-description"),
        (
            {"tiff.ImageDescription": '<Pixels PhysicalSizeX="0.00025" PhysicalSizeXUnit="mm" PhysicalSizeY="0.25"/>'},
            0.25,
            "image-description",
        ),
        ({"image.dpi-x": "50800", "image.dpi-y": "50800"}, 0.5, "image-resolution"),
        # What an image editor writes is no resolution; the next source is.
        (
            {"tiff.XResolution": "72", "tiff.ResolutionUnit": "inch", "tiff.ImageDescription": "MPP = 0.25"},
            0.25,
            "image-description",
        ),
    ],
)
def test_a_resolution_is_found_where_a_file_states_it(properties, mpp, source):
    found = resolve("s.svs", properties)
    assert found.mpp == pytest.approx(mpp, rel=1e-3)
    assert found.source.startswith(source)


@pytest.mark.parametrize(
    "properties", [{"openslide.objective-power": "40"}, {"tiff.ImageDescription": "Aperio|AppMag = 40"}]
)
def test_objective_power_is_a_guess_with_a_warning(properties):
    with pytest.warns(UserWarning, match="guessed") as caught:
        found = resolve("s.svs", properties)
    assert (found.mpp, found.source) == (0.25, "objective-power (guess)")
    assert "--mpp" in str(caught[0].message)


@pytest.mark.parametrize(
    ("properties", "why"),
    [
        ({}, "states none"),
        ({"openslide.mpp-x": "nan"}, "states none"),
        ({"openslide.mpp-x": "0", "openslide.mpp-y": "0"}, "states none"),
        ({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.26"}, "differ by more than 1 %"),
        ({"openslide.mpp-x": "352.8", "openslide.objective-power": "20"}, "outside 0.05 to 20"),
        ({"openslide.mpp-x": "0.01"}, "outside 0.05 to 20"),
        ({"image.dpi-x": "72", "image.dpi-y": "72"}, "352.8"),
        ({"image.dpi-x": "300", "image.dpi-y": "300"}, "84.67"),
        ({"tiff.XResolution": "2", "tiff.ResolutionUnit": "none"}, "states none"),
        ({"tiff.XResolution": "2", "tiff.ResolutionUnit": "furlong"}, "states none"),
        ({"openslide.objective-power": "0"}, "states none"),
    ],
)
def test_a_resolution_that_cannot_be_believed_is_asked_for(properties, why):
    with pytest.raises(ResolutionError, match=why) as error:
        resolve("s.svs", properties)
    assert "mpp=" in str(error.value) and "--mpp" in str(error.value) and "s.svs" in str(error.value)


@pytest.mark.parametrize("mpp", [0, -0.25, float("nan"), float("inf"), "0.25", True])
def test_a_given_resolution_is_a_number(mpp):
    with pytest.raises(SpecError, match="mpp"):
        given_resolution(mpp)


def test_a_given_resolution_may_be_a_number_of_numpy():
    assert given_resolution(np.float32(0.25)).mpp == 0.25


@pytest.mark.parametrize(
    ("mpp", "power", "told"),
    [
        (0.5, "20", False),
        (0.25, "40", False),
        (0.23, "40", False),
        (0.46, "20", False),
        (0.25, "20", True),
        (0.5, "40", True),
    ],
)
def test_an_objective_that_contradicts_the_resolution_is_told(mpp, power, told):
    found = contradiction(mpp, {"openslide.objective-power": power})
    assert (found is not None) == told
    assert not told or (power in found and f"{mpp:g}" in found)
    assert contradiction(mpp, {}) is None
