"""How a result came about: slide, bundle and versions, as JSON can hold them."""

import platform
import sys
from importlib import metadata
from typing import Any

from digipath.slides.slide import Slide

__all__ = ["describe_slide", "versions"]

_PACKAGES = (
    "digipath",
    "keras",
    "tensorflow",
    "jax",
    "torch",
    "openvino",
    "numpy",
    "openslide-bin",
    "openslide-python",
    "fastslide",
)


def describe_slide(slide: Slide) -> dict[str, Any]:
    """What identifies a slide, and how it was read."""
    return {
        "name": slide.name,
        "path": str(slide.path) if slide.path else None,
        "fingerprint": slide.fingerprint() if slide.path else None,
        "backend": slide.backend,
        "width": slide.frame.width,
        "height": slide.frame.height,
        "mpp": slide.frame.mpp,
        "mpp_source": slide.mpp_source,
        "origin": [slide.bounds.x, slide.bounds.y] if slide.bounds else [0, 0],
    }


def versions() -> dict[str, str]:
    """Versions of what takes part in a result; packages that are not installed are left out."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    keras = sys.modules.get("keras")
    if keras is not None:
        found["keras backend"] = keras.backend.backend()
    return found
