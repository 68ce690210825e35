"""A user's mask image is tissue wherever it is not 0, whatever kind of image it is."""

import numpy as np
import pytest
from PIL import Image

from digipath.slides.array import ArraySlide
from digipath.tissue_source import resolve_tissue

HALF = np.repeat(np.uint8([[1], [0]]), 20, axis=0).repeat(60, axis=1)


def palette(*colours):
    image = Image.fromarray(HALF, "P")
    image.putpalette([part for colour in colours for part in colour])
    return image


@pytest.mark.parametrize(
    ("image", "suffix"),
    [
        (Image.fromarray(HALF), "png"),
        (Image.fromarray(HALF.astype(bool)), "png"),
        (Image.fromarray(HALF.astype(np.uint16)), "png"),
        (Image.fromarray(HALF * np.float32(0.5)), "tif"),
        (palette((0, 0, 0), (0, 0, 3)), "png"),
        (palette((255, 255, 255), (255, 0, 0)), "png"),
        (Image.fromarray(HALF[..., None] * np.uint8([0, 0, 3])), "png"),
        (Image.fromarray(np.dstack([HALF, HALF, HALF, np.full_like(HALF, 255)])), "png"),
    ],
)
def test_a_mask_image_is_tissue_where_it_is_not_0(image, suffix, tmp_path):
    image.save(tmp_path / f"mask.{suffix}")
    slide = ArraySlide(np.full((400, 600, 3), 200, np.uint8), mpp=1.0)
    found = resolve_tissue(tmp_path / f"mask.{suffix}", slide).mask.array()
    np.testing.assert_array_equal(found, HALF != 0)
