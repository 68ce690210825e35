"""Tumour regions from whole-slide images.

The names below are loaded when they are first used, so that `import digipath` is quick and needs no TensorFlow.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from digipath.data.cohort import Cohort
    from digipath.errors import DigipathError
    from digipath.geometry.frame import Box, Frame
    from digipath.geometry.polygons import Annotation
    from digipath.geometry.raster import Raster
    from digipath.inference.cascade import Cascade
    from digipath.inference.settings import InferenceSettings
    from digipath.models.bundle import Bundle
    from digipath.models.catalog import architectures, build
    from digipath.models.spec import ModelSpec
    from digipath.segmentation import Segmentation
    from digipath.segmenter import Segmenter
    from digipath.slides.array import ArraySlide
    from digipath.slides.slide import open_slide
    from digipath.training.trainer import train

__version__ = "0.1.0"

__all__ = [
    "Annotation",
    "ArraySlide",
    "Box",
    "Bundle",
    "Cascade",
    "Cohort",
    "DigipathError",
    "Frame",
    "InferenceSettings",
    "ModelSpec",
    "Raster",
    "Segmentation",
    "Segmenter",
    "architectures",
    "build",
    "open_slide",
    "train",
]

_HOMES = {
    "Annotation": "digipath.geometry.polygons",
    "ArraySlide": "digipath.slides.array",
    "Box": "digipath.geometry.frame",
    "Bundle": "digipath.models.bundle",
    "Cascade": "digipath.inference.cascade",
    "Cohort": "digipath.data.cohort",
    "DigipathError": "digipath.errors",
    "Frame": "digipath.geometry.frame",
    "InferenceSettings": "digipath.inference.settings",
    "ModelSpec": "digipath.models.spec",
    "Raster": "digipath.geometry.raster",
    "Segmentation": "digipath.segmentation",
    "Segmenter": "digipath.segmenter",
    "architectures": "digipath.models.catalog",
    "build": "digipath.models.catalog",
    "open_slide": "digipath.slides.slide",
    "train": "digipath.training.trainer",
}

# TensorFlow greets with a page of notes; whoever wants them sets this variable to 0.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'digipath' has no attribute {name!r}")
    if name in ("architectures", "build", "train"):
        importlib.import_module("digipath.models.backend").import_keras()
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
