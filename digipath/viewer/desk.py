"""What all pages of one viewer share."""

from dataclasses import dataclass

from digipath.viewer.jobs import Jobs
from digipath.viewer.opened import Opened
from digipath.viewer.shelf import Shelf

__all__ = ["Desk"]


@dataclass(frozen=True, kw_only=True)
class Desk:
    """One viewer's state, made at its start and handed to every page.

    Attributes:
        shelf: What may be seen.
        opened: The slides and results that are open.
        jobs: Segmentations that were begun here; None where that is not allowed.
        reviewer: Name under which decisions are kept, unless the page is told another.
        blind: Whether the model's answer is withheld until a reviewer has given one.
        prefix: Path under which everything is served; begins and ends with a slash.
    """

    shelf: Shelf
    opened: Opened
    jobs: Jobs | None = None
    reviewer: str = ""
    blind: bool = False
    prefix: str = "/"
