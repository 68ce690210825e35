"""Plain images as arrays: PNG, JPEG, JPEG 2000, BMP, WebP, and TIFF without tiles."""

import math
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import tifffile
from PIL import (
    BmpImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from digipath.errors import SlideError
from digipath.slides.array import ArraySource

__all__ = [
    "MAX_PIXELS",
    "check_rgb_tiff",
    "is_plain_image",
    "is_tiff",
    "is_whole_tiff",
    "load_image",
    "load_tiff",
    "open_image",
]

# An image is held in memory: 500 million pixels are 1.5 GB, and 5 GB while they are decoded.
MAX_PIXELS = 500_000_000

# By the first bytes. The readers are used directly: Image.open has a limit of its own, global and lower.
_READERS: dict[bytes, type[ImageFile.ImageFile]] = {
    b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile,
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
    b"\xff\x4f\xff\x51": Jpeg2KImagePlugin.Jpeg2KImageFile,
    b"\x00\x00\x00\x0cjP  \r\n\x87\n": Jpeg2KImagePlugin.Jpeg2KImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
}
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_UNITS = {1: "none", 2: "inch", 3: "centimeter"}
# What tifffile and Pillow raise on damaged directories, found by changing their bytes.
_DAMAGE = (
    *(tifffile.TiffFileError, OSError, SyntaxError),
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, struct.error),
)


def _reader(head: bytes) -> Callable | None:
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return WebPImagePlugin.WebPImageFile
    return next((reader for magic, reader in _READERS.items() if head.startswith(magic)), None)


def is_plain_image(head: bytes) -> bool:
    """Whether a file that starts so is one of the plain images, TIFF excepted."""
    return _reader(head) is not None


def is_tiff(head: bytes) -> bool:
    """Whether a file starts like a TIFF."""
    return head.startswith(_TIFF)


def open_image(path: Path, head: bytes) -> ArraySource:
    """An image file as a source of one level; `head` is how the file starts."""
    if is_plain_image(head):
        array, properties = load_image(path)
    elif is_tiff(head):
        array, properties = load_tiff(path)
    else:
        raise SlideError(f"{path.name} is no PNG, JPEG, JPEG 2000, BMP, WebP or TIFF image.")
    return ArraySource(array, backend="image", properties=properties)


def load_image(path: Path) -> tuple[np.ndarray, dict[str, str]]:
    """An image's pixels in uint8, upright, grey, RGB or RGBA, and what it says of its resolution."""
    with path.open("rb") as file:
        reader = _reader(file.read(16))
        file.seek(0)
        try:
            with closing(reader(file, str(path))) as image:
                return _pixels(path, image), _image_properties(image)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise SlideError(f"image {path.name} is damaged: {_line(error)}") from error


def _pixels(path: Path, image: ImageFile.ImageFile) -> np.ndarray:
    check_size(path, *image.size)
    if image.mode in ("CMYK", "LAB", "F", "I", "I;16", "I;16B", "I;16L", "I;16N"):
        raise SlideError(
            f"image {path.name} has pixels of kind {image.mode}; a slide is 8-bit RGB or grey. Convert it to 8-bit RGB."
        )
    ImageOps.exif_transpose(image, in_place=True)
    transparent = "A" in image.mode or "transparency" in image.info
    mode = "RGBA" if transparent else "L" if image.mode in ("1", "L") else "RGB"
    return np.asarray(image if image.mode == mode else image.convert(mode))  # converting to the same makes a copy


def _image_properties(image: Image.Image) -> dict[str, str]:
    dpi = image.info.get("dpi")
    return {} if dpi is None else {"image.dpi-x": str(float(dpi[0])), "image.dpi-y": str(float(dpi[1]))}


def check_size(path: Path, width: int, height: int) -> None:
    """Refuse what would not fit, before anything is allocated."""
    if width * height > MAX_PIXELS:
        raise SlideError(
            f"image {path.name} has {width} x {height} px; an image without tiles is held in memory and may have "
            f"{MAX_PIXELS // 10**6} million. Convert it to a tiled TIFF, e.g. vips tiffsave IN OUT --tile --pyramid."
        )


def load_tiff(path: Path) -> tuple[np.ndarray, dict[str, str]]:
    """The pixels of an untiled TIFF, memory-mapped where it is not compressed, and what it says of its resolution."""
    try:
        with tifffile.TiffFile(path) as file:
            page = _rgb_page(path, file)
            properties = tiff_properties(page)
            mapped = (
                page.is_memmappable
                and page.planarconfig == 1
                and (page.photometric, page.samplesperpixel) in ((1, 1), (2, 3))
            )
            if mapped and page.tags.valueof(274, 1) == 1:
                shape = page.shape
                return np.memmap(path, np.uint8, "r", page.dataoffsets[0], shape), properties
    except _DAMAGE as error:
        raise SlideError(f"TIFF {path.name} is damaged: {_line(error)}") from error
    with path.open("rb") as opened:
        try:
            with closing(TiffImagePlugin.TiffImageFile(opened, str(path))) as image:
                return _pixels(path, image), properties
        except _DAMAGE as error:
            raise SlideError(f"TIFF {path.name} cannot be decoded: {_line(error)}") from error


def _rgb_page(path: Path, file: tifffile.TiffFile) -> tifffile.TiffPage:
    """The page that holds the slide; refused unless it is one 8-bit picture."""
    if not file.series:
        raise SlideError(f"TIFF {path.name} holds no picture: copy it again, completely.")
    series = file.series[0]
    page = series.keyframe
    planes = [(axis, n) for axis, n in zip(series.axes, series.shape, strict=True) if axis not in "YXS" and n > 1]
    if planes:
        listed = ", ".join(f"{n} along {axis}" for axis, n in planes)
        raise SlideError(
            f"TIFF {path.name} holds several pictures ({listed}), such as channels or focal planes; "
            "a slide is one RGB picture. Export the one to be read as RGB."
        )
    if page.dtype != np.uint8 or page.samplesperpixel not in (1, 3, 4) or page.photometric in (5, 8):
        raise SlideError(
            f"TIFF {path.name} has {page.samplesperpixel} sample(s) of {page.dtype} per pixel "
            f"({getattr(page.photometric, 'name', 'unknown')}); a slide is 8-bit RGB or grey. Convert it to 8-bit RGB."
        )
    return page


def check_rgb_tiff(path: Path) -> None:
    """Refuse a tiled TIFF that other readers would show the first channel of."""
    try:
        with tifffile.TiffFile(path) as file:
            if file.series:
                _rgb_page(path, file)
    except _DAMAGE:
        return  # Its reader understands it better.


def is_whole_tiff(path: Path) -> bool:
    """Whether every picture's tiles or strips lie in the file: fastslide ends the whole program where they do not."""
    try:
        with tifffile.TiffFile(path) as file:
            size = path.stat().st_size
            return len(file.pages) > 0 and all(_lies_within(page, size) for page in file.pages)
    except _DAMAGE:
        return False


def _lies_within(page: tifffile.TiffPage, size: int) -> bool:
    """Whether a picture says where all of its tiles or strips are, and they end before byte `size`."""
    value = page.tags.valueof
    offsets, counts = (value(tiles) or value(strips) for tiles, strips in ((324, 273), (325, 279)))
    return len(offsets) == math.prod(page.chunked) and all(
        first + count <= size for first, count in zip(offsets, counts, strict=True)
    )


def tiff_properties(page: tifffile.TiffPage) -> dict[str, str]:
    """The tags that tell a resolution, named as OpenSlide names them."""
    properties = {"tiff.ImageDescription": page.description} if page.description else {}
    unit = page.tags.valueof(296, 2)
    properties["tiff.ResolutionUnit"] = _UNITS.get(int(unit), "none")
    for axis, code in (("X", 282), ("Y", 283)):
        value = page.tags.valueof(code)
        if value and value[1]:
            properties[f"tiff.{axis}Resolution"] = repr(value[0] / value[1])
    return properties


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
