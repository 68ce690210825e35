"""What tests of reviews share: a result's folder, as small as the review needs it."""

import json
from pathlib import Path

import pytest
import shapely

from digipath.geometry.polygons import Annotation
from digipath.io.geojson import write_geojson

SIDE = 100


def put_result(folder: Path, *, sections: int = 3, regions: int = 3, shift: int = 0) -> Path:
    """A result of a slide of 1,000 x 800 px, whose sections and regions are squares in a row."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"section": n, "class": "tumour section" if n % 2 else "normal section", "x": 150 * n + shift, "y": 20}
        | {"width": SIDE, "height": SIDE, "tissue_mm2": 0.01, "tumour_um2": 5.0, "largest_um2": 5.0}
        for n in range(1, sections + 1)
    ]
    info = {
        "format_version": 1,
        "slide": {"name": "slide", "path": "/slides/slide.tif", "fingerprint": {"bytes": 7, "sha256_ends": "ab"}}
        | {"width": 1000, "height": 800, "mpp": 0.5, "origin": [30, 40]},
        "areas": {"classes_mm2": {"lesion": 0.1}},
        "analysis": {"class": "lesion", "sections": {"items": rows}},
    }
    (folder / "result.json").write_text(json.dumps(info))
    squares = [
        Annotation("lesion", shapely.box(150 * n + shift, 400, 150 * n + shift + SIDE, 400 + SIDE), (200, 0, 0))
        for n in range(1, regions + 1)
    ]
    others = [Annotation("whole tumour", shapely.box(0, 0, 900, 700)), Annotation("Uncertain", shapely.box(0, 0, 9, 9))]
    write_geojson(folder / "annotations.geojson", [*squares, *others], origin=(30, 40))
    (folder / "result.h5").write_bytes(b"heatmap")
    return folder


@pytest.fixture
def result(tmp_path) -> Path:
    """A result's folder with three sections (tumour, normal, tumour) and three lesions."""
    return put_result(tmp_path / "result")


@pytest.fixture
def remake():
    """`put_result`: a folder's result, made anew."""
    return put_result
