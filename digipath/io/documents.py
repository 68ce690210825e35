"""Text documents of other programs: of bounded size when read, whole or absent when written."""

import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO
from xml.etree.ElementTree import Element, ParseError

from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from digipath.errors import AnnotationError
from digipath.io import strips

__all__ = ["MAX_BYTES", "head", "json_of", "read_document", "replacing", "xml_events"]

# After decompression. Five million vertices, the most that are accepted, need about this much as XML.
MAX_BYTES = 512 * 2**20
_MAX_BRACKETS = 20_000_000
_GZIP = b"\x1f\x8b"


def read_document(path: str | os.PathLike, *, limit: int = MAX_BYTES) -> bytes:
    """All bytes of a file, decompressed where it is gzip; refused where they are more than `limit`."""
    data = _read(Path(path), limit + 1)
    if len(data) > limit:
        raise AnnotationError(
            f"{path}: an annotation file has at most {limit // 2**20} MiB, decompressed; this one has more. "
            "Export fewer or simpler annotations."
        )
    return data


def head(path: str | os.PathLike, size: int = 4096) -> bytes:
    """The first bytes of a file, decompressed where it is gzip."""
    return _read(Path(path), size)


def _read(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == _GZIP
            file.seek(0)
            return gzip.GzipFile(fileobj=file).read(size) if zipped else file.read(size)
    except FileNotFoundError:
        raise AnnotationError(f"{path}: there is no such file.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise AnnotationError(f"{path}: the file cannot be read: {error}.") from error


def json_of(data: bytes, path: str | os.PathLike) -> Any:
    """What a JSON document says."""
    if data.count(b"[") + data.count(b"{") > _MAX_BRACKETS:
        raise AnnotationError(f"{path}: an annotation file has at most {_MAX_BRACKETS:,} lists and objects.")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise AnnotationError(
            f"{path}: the file is not valid JSON: {error}. It may be cut short; export it again."
        ) from error


def xml_events(data: bytes, path: str | os.PathLike) -> Iterator[tuple[str, Element]]:
    """("start" or "end", element) of an XML document, as it goes; document types and entities are refused."""
    try:
        yield from ElementTree.iterparse(io.BytesIO(data), events=("start", "end"), forbid_dtd=True)
    except (ParseError, ValueError, LookupError, DefusedXmlException) as error:
        reason = f"it has a {type(error).__name__}" if isinstance(error, DefusedXmlException) else error
        raise AnnotationError(
            f"{path}: the file is not XML as annotations are written: {reason}. It may be cut short; export it again."
        ) from error


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[TextIO]:
    """A text file to write to, that takes the place of `path` when all is written; gzip where that ends in .gz."""
    path = Path(path)
    if not path.parent.is_dir():
        raise AnnotationError(f"{path}: there is no folder {path.parent} to write to. Make it first.")
    with strips.replacing(path) as unfinished, unfinished.open("xb") as raw:
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as zipped:
                yield from _text(zipped)
        else:
            yield from _text(raw)


def _text(file: Any) -> Iterator[TextIO]:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="\n")
    yield text
    text.flush()
    text.detach()
