"""What all pages of one viewer share."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from digipath.review.blind import LAYERS, withheld
from digipath.viewer.jobs import Jobs
from digipath.viewer.opened import Opened
from digipath.viewer.shelf import Item, Shelf

__all__ = ["Desk", "Memory"]


class Memory:
    """The last few things that were worked out, under what they follow from.

    Example:
        >>> memory = Memory(limit=2)
        >>> memory.get(("double", 4), lambda: 8), memory.get(("double", 4), lambda: 9)
        (8, 8)
    """

    def __init__(self, limit: int = 32):
        self._limit = limit
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What was made under this key, or is made now; two threads do not make it twice, nor wait for other keys."""
        with self._lock:
            kept = self._kept.setdefault(key, _Kept())
            self._kept.move_to_end(key)
            while len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        with kept.lock:
            if not kept.values:
                kept.values = (make(),)
        return kept.values[0]


@dataclass(eq=False)
class _Kept:
    """What was made under a key, once it is."""

    values: tuple[Any, ...] = ()
    lock: threading.Lock = field(default_factory=threading.Lock)


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
        memory: What pages worked out of slides and results.
    """

    shelf: Shelf
    opened: Opened
    jobs: Jobs | None = None
    reviewer: str = ""
    blind: bool = False
    prefix: str = "/"
    memory: Memory = field(default_factory=Memory, repr=False, compare=False)

    def hidden(self, item: Item, reviewer: str | None = None) -> bool:
        """Whether what the model said of an item is withheld from a reviewer, by default the desk's own.

        In a blind study it is, until they have answered all sections or asked to see it; see `digipath.review`.
        """
        return LAYERS in withheld(self, item, reviewer or "")
