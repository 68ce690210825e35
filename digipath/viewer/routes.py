"""What the viewer answers beside its pages: tiles, thumbnails, and a few of a result's files."""

import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

import dash
import flask

from digipath.errors import DigipathError, ResultError, SpecError
from digipath.viewer.guard import refused
from digipath.viewer.opened import Opened
from digipath.viewer.shelf import Item, Shelf
from digipath.viewer.tiles import Tiling, layer_tile, media_type, shrunk, slide_tile, thumbnail

if TYPE_CHECKING:
    from digipath.viewer.desk import Desk

__all__ = ["FILES", "add_routes"]

FILES = {
    "annotations.geojson": "application/geo+json",
    "annotations.xml": "application/xml",
    "contours.csv": "text/csv",
    "overview.png": "image/png",
    "report.html": "text/html",
    "result.json": "application/json",
    "review.geojson": "application/geo+json",
    "review.json": "application/json",
    "review.xml": "application/xml",
    "uncertainty.png": "image/png",
}
"""The files of a result that may be fetched, and what they are."""

_OPEN = ("slide", "tissue")  # layers that tell nothing of the model's answer
_SHOWN = {"image/png", "text/html"}  # in the browser; the others are saved
_FOREVER = "private, max-age=31536000, immutable"
_THUMBNAILS = 2000  # kept, of some 10 KB each
# A page from somebody else's result may not run anything, nor fetch anything.
_FILE_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox allow-popups"


def add_routes(app: dash.Dash, desk: "Desk") -> None:
    """Answer for tiles, thumbnails and files, under the desk's prefix.

    Names in a URL are looked up among what the shelf has found, and never become part of a path.
    """
    pictures = _Pictures(desk.opened)

    def tile(id: str, layer: str, z: int, x: int, y: int) -> flask.Response:
        item = desk.shelf.get(id)
        if layer not in _OPEN:
            _unless_hidden(desk, item)
        if layer == "slide":
            with desk.opened.slide(item) as slide:
                content = slide_tile(slide, Tiling(slide.frame.width, slide.frame.height), z, x, y)
            return _picture(content, media_type(content), item)
        with desk.opened.view(item) as view:
            content = layer_tile(view, layer, z, x, y, threshold=_threshold())
        answer = _picture(content, media_type(content), item)
        if desk.blind:  # the next reviewer may use the same browser
            answer.headers["Cache-Control"] = "no-store"
        return answer

    def thumbnails(id: str) -> flask.Response:
        item = desk.shelf.get(id)
        return _picture(pictures.of(item), "image/jpeg", item)

    def files(id: str, name: str) -> flask.Response:
        return _file(desk, desk.shelf.get(id), name)

    for rule, answer in (
        ("tiles/<id>/<layer>/<int:z>/<int:x>/<int:y>", tile),
        ("thumbnails/<id>", thumbnails),
        ("files/<id>/<name>", files),
    ):
        app.server.add_url_rule(f"{desk.prefix}{rule}", f"digipath-{answer.__name__}", _telling(answer))


def _file(desk: "Desk", item: Item, name: str) -> flask.Response:
    """A file of a result, if it is one of those that may be fetched."""
    if name not in FILES or item.kind != "result" or item.held is not None:
        raise SpecError(f"there is no file {name[:60]!r} to be fetched. There may be: {', '.join(FILES)}.")
    _unless_hidden(desk, item)
    if desk.blind and name.startswith("review."):
        raise Withheld("reviewers of a blind study do not see each other. Export your own answers in the panel.")
    file = _opened_file(item.path / name, desk.shelf)
    if file is None:
        raise SpecError(f"{item.name} has no {name}.")
    answer = flask.send_file(
        file,
        mimetype=FILES[name],
        as_attachment=FILES[name] not in _SHOWN,
        download_name=_printable(f"{item.name}-{name}"),
        max_age=0,
    )
    answer.content_length = os.fstat(file.fileno()).st_size
    answer.headers["Content-Security-Policy"] = _FILE_POLICY
    return answer


class Withheld(DigipathError):
    """In a blind study somebody asked for what is not to be seen yet."""


class _Pictures:
    """Small pictures of slides, those that were made last."""

    def __init__(self, opened: Opened):
        self._opened = opened
        self._lock = threading.Lock()
        self._made: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    def of(self, item: Item) -> bytes:
        key = item.id, item.version
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
        content = self._make(item)
        with self._lock:
            self._made[key] = content
            while len(self._made) > _THUMBNAILS:
                self._made.popitem(last=False)
        return content

    def _make(self, item: Item) -> bytes:
        if item.has_slide:
            with self._opened.slide(item) as slide:
                return thumbnail(slide)
        with self._opened.view(item) as view:
            if view.thumbnail is None:
                raise ResultError(f"{item.name} has no picture yet.")
            return shrunk(view.thumbnail.array())


def _telling(answer: Callable[..., flask.Response]) -> Callable[..., flask.Response]:
    """Say in one line what could not be answered."""

    def told(**names) -> flask.Response:
        try:
            return answer(**names)
        except Withheld as error:
            return refused(403, str(error))
        except SpecError as error:
            return refused(404, str(error))
        except (DigipathError, OSError) as error:
            return refused(422, str(error))

    return told


def _unless_hidden(desk: "Desk", item: Item) -> None:
    """Withhold in a blind study what the model said."""
    if desk.hidden(item):
        raise Withheld(f"what the model said of {item.name} is withheld until it was reviewed.")


def _opened_file(path: Path, shelf: Shelf) -> IO[bytes] | None:
    """A file, open, if what was opened lies where it may be seen: a link may change between a look and the next."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError:
        return None
    file = os.fdopen(handle, "rb")
    if stat.S_ISREG(os.fstat(handle).st_mode) and shelf.allows(_place_of(handle, path)):
        return file
    file.close()
    return None


def _place_of(handle: int, path: Path) -> Path:
    """Where an open file lies, as the system says; where it does not, its name is asked once more."""
    try:
        return Path(f"/proc/self/fd/{handle}").readlink()
    except OSError:
        return path


def _printable(name: str) -> str:
    """A name as a header can hold it: a folder's may have lines."""
    return "".join(letter if letter.isprintable() else "_" for letter in name)


def _threshold() -> float | None:
    text = flask.request.args.get("t")
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        raise SpecError(f"a threshold is a number from 0 to 1, got {text[:40]!r}.") from None


def _picture(content: bytes, kind: str, item: Item) -> flask.Response:
    answer = flask.Response(content, mimetype=kind)
    answer.headers["Cache-Control"] = _FOREVER if flask.request.args.get("v") == item.version else "no-store"
    return answer
