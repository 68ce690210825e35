"""Any annotation file, whatever program wrote it."""

import os
import re

from digipath.errors import AnnotationError
from digipath.geometry.polygons import Annotation
from digipath.io.asap import read_asap
from digipath.io.documents import head
from digipath.io.geojson import read_geojson
from digipath.io.imagescope import read_imagescope

__all__ = ["read_annotations"]


def read_annotations(path: str | os.PathLike, *, origin: tuple[float, float] | None = None) -> list[Annotation]:
    """The annotations of an ASAP XML, ImageScope XML or GeoJSON file, or of `{"positive": …, "negative": …}` truth.

    What it is, and whether it is gzip, is told by its content; its name does not matter.

    Args:
        path: The file.
        origin: What a GeoJSON file's positions count from, where it does not say so itself: see `read_geojson`.

    Raises:
        AnnotationError: The file is none of these, damaged or too large.
    """
    begin = _text(head(path)).lstrip("\ufeff \t\r\n")
    if begin.startswith(("{", "[")):
        return read_geojson(path, origin=origin)
    root = re.search(r"<([A-Za-z_][\w.-]*)", re.sub(r"<!--.*?(-->|$)", "", begin, flags=re.DOTALL))
    match root.group(1) if begin.startswith("<") and root else None:
        case "ASAP_Annotations":
            return read_asap(path)
        case "Annotations":
            return read_imagescope(path)
    raise AnnotationError(
        f"{path}: an annotation file is ASAP XML, ImageScope XML or GeoJSON; this one begins with {begin[:40]!r}. "
        "Export it as one of these."
    )


def _text(data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data[: len(data) // 2 * 2].decode("utf-16", "replace")
    return data.decode("utf-8", "replace")
