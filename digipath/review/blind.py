"""What a viewer keeps back while a review is blind.

A blind viewer has one reviewer, named when it is started. Whether something is withheld follows from that name and from
the events in `review.json` alone: no cookie, no parameter and no name typed into the page can change it, so asking for
the address of a tile or of a file gives nothing that the page does not show. Two reviewers start two viewers.
"""

from pathlib import Path
from typing import Protocol

from digipath.errors import DigipathError
from digipath.review.review import Review

__all__ = ["AREAS", "FILES", "LAYERS", "OTHERS", "REGIONS", "withheld"]

LAYERS = "layers"
"""Every layer of tiles but the slide itself and its tissue: heatmap, mask, uncertainties, what is not covered."""

REGIONS = "regions"
"""Polygons of lesions and of uncertain areas, on the map and in lists."""

AREAS = "areas"
"""Numbers and words that follow from the heatmap: areas, slide class, burden, report; in lists and tables."""

FILES = "files"
"""Every file of the result's folder, thumbnails with a heatmap included."""

OTHERS = "others"
"""What other reviewers said."""

_MODEL = frozenset({LAYERS, REGIONS, AREAS, FILES})


class _Desk(Protocol):
    blind: bool
    reviewer: str


class _Item(Protocol):
    kind: str
    path: Path


def withheld(desk: _Desk, item: _Item, reviewer: str = "") -> frozenset[str]:
    """What must not leave the server, of one slide or result.

    Args:
        desk: The viewer's.
        item: What is looked at.
        reviewer: The name that the page goes by; in a blind viewer any other than the desk's gets nothing.

    Returns:
        Some of the names above, and "section:<id>" for each section whose class and areas are withheld; "section:*"
        where it is not known which sections there are. Empty where everything may be shown.
    """
    if not desk.blind or item.kind != "result":
        return frozenset()
    everything = _MODEL | {OTHERS, "section:*"}
    if not desk.reviewer or reviewer not in ("", desk.reviewer):
        return everything
    try:
        review = Review.open(item.path, desk.reviewer, blind=True)
    except DigipathError:  # not finished yet, or damaged: nothing is known of what was answered
        return everything
    if review.is_open:
        return frozenset({OTHERS})
    sections = {one.id for one in review.asked.of_kind("section") if not review.may_see(one.id)}
    return _MODEL | {OTHERS} | sections
