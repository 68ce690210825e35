"""Small folders of truth and predictions."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from digipath.geometry.frame import Frame
from digipath.geometry.raster import Raster
from digipath.io.store import write_rasters
from digipath.protocols import EvaluationSettings


def write_mask(path, mask, factor=1):
    """A PNG of 0 and `factor`, or of labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(mask).astype(np.uint8) * np.uint8(factor)).save(path)


def write_table(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_result(folder, heat, frame, *, covered=None, tissue=None, classes=("other", "lesion"), region=None):
    """A result folder with this probability of the last class; (rows, columns, classes) for more than two."""
    heat = np.asarray(heat, np.float16)
    heat = np.stack([1 - heat, heat], -1) if heat.ndim == 2 else heat
    everything = np.ones(frame.shape, bool)
    covered = everything if covered is None else covered
    heat[~covered] = 0
    small = Frame.level0(*frame.slide_size, 1.0).at(max(frame.slide_size) / 10)
    rasters = {
        "heatmap": Raster(heat, frame, classes),
        "covered": Raster(covered, frame),
        "tissue": Raster(everything if tissue is None else tissue, frame),
        "thumbnail": Raster(np.zeros((*small.shape, 3), np.uint8), small, ("red", "green", "blue")),
    }
    folder.mkdir(parents=True)
    write_rasters(folder / "result.h5", rasters)
    info = {
        "format_version": 1,
        "slide": {"name": folder.name, "origin": [0, 0]},
        "threshold": 0.5,
        "status": "ok",
        "region": region,
        "areas": {"covered_mm2": 1.0, "uncovered_mm2": 0.0},
    }
    (folder / "result.json").write_text(json.dumps(info))


@pytest.fixture
def truth(tmp_path):
    (tmp_path / "truth").mkdir()
    return tmp_path / "truth"


@pytest.fixture
def predictions(tmp_path):
    (tmp_path / "predictions").mkdir()
    return tmp_path / "predictions"


@pytest.fixture
def put():
    """Writes masks, tables and results."""
    return SimpleNamespace(mask=write_mask, table=write_table, result=write_result)


@pytest.fixture
def quick():
    """Settings with few resamples."""
    return lambda **given: EvaluationSettings(**({"resamples": 20} | given))
