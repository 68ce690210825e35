"""What the page of one slide is about, looked up once for all of its parts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from digipath.errors import ResultError
from digipath.viewer.desk import Desk
from digipath.viewer.shelf import Item

__all__ = ["Scene", "facts", "look", "results_of"]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A slide or a result, as its page needs it.

    Attributes:
        item: What is shown.
        width: Of the slide, in level-0 pixels.
        height: Of the slide, in level-0 pixels.
        mpp: Micrometres per level-0 pixel.
        classes: Of the heatmap; none where there is no result, or where it is withheld.
        kinds: Of uncertainty; none where there is none.
        threshold: The result's own.
        version: Changes whenever the layers do.
        hidden: Whether the model's answer is withheld.
        areas: The result's, in mm2.
    """

    item: Item
    width: int
    height: int
    mpp: float
    classes: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    threshold: float = 0.5
    version: str = ""
    hidden: bool = False
    areas: Mapping[str, Any] = field(default_factory=dict)

    @property
    def bounds(self) -> list[list[float]]:
        """Of the whole slide on the map: its lower left and upper right corner as (latitude, longitude) = (-y, x)."""
        return [[-self.height, 0], [0, self.width]]

    @property
    def centre(self) -> list[float]:
        """The middle of the slide on the map."""
        return [-self.height / 2, self.width / 2]

    @property
    def finished(self) -> bool:
        """Whether there is a result, and not only the beginning of one."""
        return self.item.kind == "result" and self.item.status != "running"

    @property
    def answered(self) -> bool:
        """Whether there is an answer of the model that may be shown."""
        return bool(self.classes)


def look(desk: Desk, item: Item) -> Scene:
    """What there is to be shown of an item that is not broken.

    Raises:
        DigipathError: Its files cannot be opened after all.
    """
    if item.kind == "slide":
        return _unanswered(desk, item)
    if item.status == "running" and not _begun(desk, item):
        return _unanswered(desk, item)
    hidden = desk.hidden(item)
    with desk.opened.view(item) as view:
        width, height = view.frame.slide_size
        return Scene(
            item=item,
            width=width,
            height=height,
            mpp=view.frame.mpp / view.frame.downsample,
            classes=() if hidden else tuple(view.classes),
            kinds=() if hidden else tuple(view.kinds),
            threshold=view.threshold,
            version=view.version,
            hidden=hidden,
            areas=item.areas,
        )


def _begun(desk: Desk, item: Item) -> bool:
    """Whether a running result has finished anything."""
    try:
        with desk.opened.view(item):
            return True
    except ResultError:
        return False


def _unanswered(desk: Desk, item: Item) -> Scene:
    """A slide of which nothing is known yet."""
    with desk.opened.slide(item) as slide:
        frame = slide.frame
    return Scene(item=item, width=frame.width, height=frame.height, mpp=frame.mpp, version=item.version)


def results_of(desk: Desk, item: Item) -> list[Item]:
    """The other results of a slide, or of a result's slide, the latest first."""
    slide = item.path if item.kind == "slide" else item.slide_path
    every = [one for one in desk.shelf.items() if one.kind == "result" and one.slide_path is not None]
    found = [one for one in every if one.slide_path == slide and one.id != item.id]
    return sorted(found, key=lambda one: -one.changed)


def facts(scene: Scene) -> Iterator[str]:
    """What one line above the map says of it."""
    if scene.item.kind == "result" and scene.item.slide_path is not None:
        yield f"of {scene.item.slide_path.name}"
    yield f"{scene.width:,} × {scene.height:,} px"
    yield f"{scene.width * scene.mpp / 1000:.2f} × {scene.height * scene.mpp / 1000:.2f} mm"
    yield f"{scene.mpp:.4g} µm per pixel"
    if "covered_mm2" in scene.areas:
        yield f"{scene.areas['covered_mm2']:.2f} mm² of tissue looked at"
    if lost := scene.areas.get("uncovered_mm2"):
        yield f"{lost:.2f} mm² of tissue not covered"
