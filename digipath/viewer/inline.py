"""The viewer inside of a notebook: a result as a map to zoom into, below the cell that asked for it.

It is served to this machine alone, by a thread of the notebook's own process, under a path that cannot be guessed: a
machine may have other users, who could reach the port, and nobody but the notebook knows the path. It ends with the
process, or with `InlineView.close`. A notebook that is shown on another machine than it runs on reaches it only through
a forwarded port.
"""

import importlib.util
import secrets
import threading
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from digipath.errors import SpecError
from digipath.markup import element

if TYPE_CHECKING:
    from digipath.segmentation import Segmentation
    from digipath.slides.slide import Slide
    from digipath.viewer.opened import Opened
    from digipath.viewer.server import Running

__all__ = ["InlineView", "view"]

_NEEDED = ("dash", "dash_leaflet", "waitress")
_HEIGHTS = 200, 4000
_lock = threading.Lock()


@dataclass(frozen=True)
class _Served:
    """A server, where it shows the result, and what was opened for it."""

    running: "Running"
    url: str
    opened: "Opened"
    slide: "Slide | None"

    def stop(self) -> None:
        self.running.stop()
        self.opened.close()
        if self.slide is not None:
            self.slide.close()


_served: dict[Hashable, _Served] = {}


@dataclass(frozen=True, eq=False)
class InlineView:
    """A viewer that runs, as a notebook shows it.

    Attributes:
        url: Where the result is shown, for a browser of this machine.
        height: Of the frame, in pixels.
        name: Of the slide.
    """

    url: str
    height: int
    name: str
    _key: Hashable

    def close(self) -> None:
        """End it, in every cell that shows the same result; closing it again does nothing."""
        with _lock:
            served = _served.pop(self._key, None)
        if served is not None:
            served.stop()

    def _repr_html_(self) -> str:
        look = "width: 100%; border: 1px solid #8888"
        title = f"digipath: the slide {self.name} with what was found"
        frame = element("iframe", {"src": self.url, "height": str(self.height), "style": look, "title": title}, "")
        link = element("a", {"href": self.url, "target": "_blank", "rel": "noopener"}, "Open in a tab of its own")
        return ElementTree.tostring(element("div", {}, frame, link), encoding="unicode", method="html")


def view(result: "Segmentation", *, height: int = 600, slide: "Slide | str | Path | None" = None) -> InlineView:
    """Serve a result to this notebook.

    A result that lies in a folder can be reviewed there; one in memory is only shown. The same result is served once,
    however often it is asked for.

    Args:
        result: What to show; it has to stay open.
        height: Of the frame in the notebook, in pixels.
        slide: Its slide, open or a file, where it is not found at the path that the result remembers; without any the
            result's small picture is the background.

    Raises:
        SpecError: The viewer's packages are not installed, or `slide` is of another size.
    """
    _check(height)
    key = result.folder or id(result), str(slide) if isinstance(slide, str | Path | None) else id(slide)
    with _lock:
        if key not in _served:
            _served[key] = _serve(result, slide)
        return InlineView(_served[key].url, height, result.info["slide"]["name"], key)


def _check(height: int) -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise SpecError(f'view() needs {", ".join(missing)}, not installed here: pip install "digipath[viewer]".')
    if not _HEIGHTS[0] <= height <= _HEIGHTS[1]:
        raise SpecError(f"height is {_HEIGHTS[0]} to {_HEIGHTS[1]:,} pixels of the page, got {height}.")


def _serve(result: "Segmentation", slide: "Slide | str | Path | None") -> _Served:
    from digipath.viewer.desk import Desk
    from digipath.viewer.opened import Opened
    from digipath.viewer.server import start
    from digipath.viewer.shelf import Shelf

    stored = result.folder is not None and (result.folder / "result.json").exists()
    if stored and isinstance(slide, str | Path | None):
        shelf, own = Shelf([result.folder, *_files(result, slide)]), None
        item = next(one for one in shelf.items() if one.path == result.folder.resolve())
    else:
        shelf, found = Shelf([]), _slide_of(result, slide)
        item, own = shelf.hold(result, found), None if found is slide else found
    opened = Opened()
    running = start(Desk(shelf=shelf, opened=opened), prefix=f"/{secrets.token_urlsafe(24)}/")
    return _Served(running, f"{running.url}view/{item.id}", opened, own)


def _files(result: "Segmentation", slide: "str | Path | None") -> list[Path]:
    """The slide's file, if it is there."""
    if slide is not None:
        return [Path(slide)]
    path = result.info["slide"].get("path")
    return [Path(path)] if path and Path(path).exists() else []


def _slide_of(result: "Segmentation", slide: "Slide | str | Path | None") -> "Slide | None":
    """The slide of a result in memory: what was given, or what lies where it was and still is the same."""
    from digipath.slides._fingerprint import fingerprint_file
    from digipath.viewer.shelf import open_shown

    known = result.info["slide"]
    if slide is None:
        path = known.get("path")
        same = path and Path(path).is_file() and fingerprint_file(Path(path)) == known.get("fingerprint")
        return open_shown(Path(path), mpp=known["mpp"]) if same else None
    slide = open_shown(Path(slide), mpp=known["mpp"]) if isinstance(slide, str | Path) else slide
    size, own = result.heatmap.frame.slide_size, slide.frame.slide_size
    if size != own:
        raise SpecError(f"the slide of this result has {size} pixels, got one of {own}. Give the one it was made of.")
    return slide
