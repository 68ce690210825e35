"""Small slides on disk, in layouts that scanners write."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile


def _write(path: Path, levels: Sequence[np.ndarray], mpp: float | None = 0.5, description: str = "") -> Path:
    resolution = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as file:
        for index, level in enumerate(levels):
            file.write(
                level,
                tile=(64, 64),
                photometric="rgb",
                compression="zlib",
                subfiletype=int(index > 0),
                description=description,
                metadata=None,
                **resolution,
            )
    return path


@pytest.fixture
def write_slide() -> Callable[..., Path]:
    """Write a tiled TIFF: a path, its levels, finest first, and micrometres per pixel, or None to state none."""
    return _write


@pytest.fixture(scope="session")
def tissue_image() -> np.ndarray:
    """(250, 300, 3) uint8, smooth and colourful, the same every time."""
    noise = np.random.default_rng(3).integers(0, 256, (250, 300, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return np.clip((smooth - 127) * 5 + 140, 0, 255).astype(np.uint8)


@pytest.fixture
def damage_tile() -> Callable[..., None]:
    """Overwrite one stored tile of a TIFF's level with bytes that no decoder accepts."""

    def overwrite(path: Path, *, level: int, tile: int) -> None:
        with tifffile.TiffFile(path) as file:
            page = file.pages[level]
            offset, size = page.dataoffsets[tile], page.databytecounts[tile]
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(b"\xaa" * size)

    return overwrite
