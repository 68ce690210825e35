"""The slides and results that are open: few at a time, each for as long as somebody reads from it."""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from digipath.errors import ResultError, SlideError, SpecError
from digipath.geometry.frame import Box, Frame
from digipath.geometry.layer import Layer
from digipath.geometry.raster import Raster
from digipath.inference.sinks import deviation
from digipath.inference.unfinished import finished
from digipath.prepared import JOURNAL
from digipath.segmentation import Segmentation
from digipath.slides.slide import Slide
from digipath.uncertainty import Uncertainty
from digipath.viewer.records import VALUES
from digipath.viewer.reduced import Growth, Means, Peaks
from digipath.viewer.shelf import Item, open_shown, stamp

__all__ = ["Opened", "View"]

_TOTAL = "total"
_IN_MEMORY = 1 << 30  # bytes, beside what is being read
_CHUNK = 1 << 28  # bytes that are decompressed at once
_SIDE = 1 << 24  # pixels
_THUMBNAIL = 1 << 24  # pixels; a result's has at most 1,600 along each side
_UNDECIDED = 0.5  # the threshold of a result that is not finished, and so has none yet


@dataclass(frozen=True, kw_only=True)
class View:
    """A result, finished or on its way, as it is looked at; rasters are read where they are looked at.

    Attributes:
        frame: The heatmap's.
        classes: Names of the heatmap's channels.
        threshold: Probability above which a pixel belongs to a lesion; 0.5 while it is running.
        heatmap: Probabilities [row, column, class].
        covered: Mask of what the heatmap says something about.
        tissue: Mask of tissue, in a frame of its own; None while it is running.
        uncertainty: Variances [row, column, kind]; None without any.
        thumbnail: The slide, small; None while it is running.
        segmentation: The finished result; None while it is running.
        version: Changes when its files do.
        strips: (first row, rows, checksum) of what is finished while it is running; empty before and after.
        before: Coarser copies of an earlier moment, by layer, and how many of the rows were there then.
    """

    frame: Frame
    classes: tuple[str, ...]
    threshold: float
    heatmap: Raster
    covered: Raster
    tissue: Raster | None
    uncertainty: Raster | None
    thumbnail: Raster | None
    segmentation: Segmentation | None
    version: str
    strips: tuple[tuple[int, int, int], ...] = ()
    before: tuple[Mapping[str, Any], int] = field(default=({}, 0))
    _made: dict[str, Any] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of uncertainty that there are; of two, their sum is a third, "total"."""
        kinds = () if self.uncertainty is None else self.uncertainty.channels
        return (*kinds, _TOTAL) if len(kinds) > 1 else kinds

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of all layers whose tiles can be made: see `digipath.viewer.tiles`."""
        several = [f"{what}-{channel}" for what in ("probability", "mask") for channel in range(len(self.classes))]
        tissue = () if self.segmentation is None else ("tissue", "uncovered")
        return (*several, *self.kinds, *tissue)

    @property
    def uncovered(self) -> Raster | None:
        """Mask of tissue that was asked for and is not covered; None while it is running."""
        return None if self.segmentation is None else self.segmentation.uncovered

    def probability(self, name: str | None = None) -> Raster:
        """One class of the heatmap, by default the last, as a single layer."""
        if name is not None and name not in self.classes:
            raise SpecError(f"the classes of this result are {', '.join(self.classes)}, got {name!r}.")
        channel, values = self.classes.index(name) if name else len(self.classes) - 1, self.heatmap.values
        layer = Layer(self.frame.shape, values.dtype, lambda rows: values[rows, :, channel])
        return Raster(layer, self.frame)

    def deviation(self, kind: str) -> Raster:
        """Standard deviation of the last class's probability, float32, 0 to 0.5; see `kinds`."""
        return Uncertainty(self.uncertainty, self.covered, kind).deviation

    def means(self, layer: str) -> Means:
        """A heatmap or an uncertainty at any coarseness, of a layer "probability-<k>" or a kind of uncertainty."""
        return self._once(layer, lambda: Means(self.frame, self._valued(layer), self._growth(layer)))

    def peaks(self, layer: str) -> Peaks:
        """What a mask is made of at any coarseness, of a layer "mask-<k>", "tissue" or "uncovered".

        Of a class that is its probability, -1 where not covered; of the others 0 and 1.
        """
        return self._once(layer, lambda: self._peaks(layer))

    @property
    def held(self) -> int:
        """Bytes of memory that the coarser copies of its layers take."""
        return sum(made.held for made in list(self._made.values()))

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        with self._lock:
            if name not in self._made:
                self._check(name)
                self._made[name] = make()
            return self._made[name]

    def _check(self, layer: str) -> None:
        if layer not in self.layers:
            raise SpecError(f"the layers of this result are slide, {', '.join(self.layers)}; got {layer[:40]!r}.")

    def _valued(self, layer: str) -> Callable[[Box], tuple[np.ndarray, np.ndarray]]:
        what, _, channel = layer.partition("-")

        def values(box: Box) -> np.ndarray:
            if what == "probability":
                return self.heatmap.values[(*box.slices(), int(channel))]
            variances = np.asarray(self.uncertainty.values[box.slices()])
            kinds = self.uncertainty.channels
            chosen = range(len(kinds)) if what == _TOTAL else [kinds.index(what)]
            return deviation(sum(variances[..., kind] for kind in chosen))

        return lambda box: (values(box), self.covered.values[box.slices()])

    def _peaks(self, layer: str) -> Peaks:
        what, _, channel = layer.partition("-")
        if what in ("tissue", "uncovered"):
            mask = self.tissue if what == "tissue" else self.uncovered
            return Peaks(mask.frame, lambda box: np.asarray(mask.values[box.slices()], np.uint8))

        def values(box: Box) -> np.ndarray:
            found = np.asarray(self.heatmap.values[(*box.slices(), int(channel))])
            return np.where(self.covered.values[box.slices()], found, found.dtype.type(-1))

        return Peaks(self.frame, values, nothing=-1, growth=self._growth(layer))

    def _growth(self, layer: str) -> Growth | None:
        """How far a layer of what is running is, and what is known of it from before."""
        if not self.strips:
            return None
        copies, same = self.before
        return Growth(sum(self.strips[-1][:2]), same, copies.get(layer))

    def copies(self) -> dict[str, Any]:
        """The coarser copies that are made, by layer."""
        return {name: made for name, made in list(self._made.items()) if made.held}

    def close(self) -> None:
        """Let go of its file."""
        if self.segmentation is not None:
            self.segmentation.close()


class Opened:
    """Slides and results that stay open for a while, from many threads.

    Of slides and of results, at most `limit` are open each, or as many as are being read from at one moment, if these
    are more; and fewer, but for the last, where they take more than 1 GiB of memory, as plain images and coarser copies
    of heatmaps do. What was not used for the longest time is closed first, and nothing while it is read.

    Example:
        >>> with opened.slide(item) as slide:  # doctest: +SKIP
        ...     pixels = slide.read(box, slide.frame)
    """

    def __init__(self, limit: int = 8):
        if limit < 1:
            raise SpecError(f"limit is how many slides stay open, at least 1, got {limit}.")
        self._slides, self._views = _Recent(limit), _Recent(limit)
        self._grown: OrderedDict[str, View] = OrderedDict()  # what is running, as it was opened last
        self._limit, self._lock = limit, threading.Lock()

    @contextmanager
    def slide(self, item: Item) -> Iterator[Slide]:
        """The slide of an item, open.

        Raises:
            SlideError: There is none, or it cannot be opened.
        """
        if item.held is not None and item.held[1] is not None:
            yield item.held[1]
            return
        path, mpp = item.slide_path, item.mpp
        if path is None:
            raise SlideError(item.problem or f"{item.name} has no slide.")
        try:
            now = stamp(path)
        except OSError as error:
            raise SlideError(f"slide {path.name} cannot be read: {error.strerror}.") from error
        with self._slides.borrow((path, mpp, now), lambda: open_shown(path, mpp=mpp)) as slide:
            yield slide

    @contextmanager
    def view(self, item: Item) -> Iterator[View]:
        """The result of an item, open.

        Raises:
            ResultError: It is no result, is damaged, or has nothing finished yet.
        """
        if item.kind != "result" or item.status == "broken":
            raise ResultError(item.problem or f"{item.name} is a slide that was not segmented.")
        with self._views.borrow((item.id, item.version), lambda: self._view(item)) as view:
            yield view

    def _view(self, item: Item) -> View:
        if item.held is not None:
            return _finished_view(item.held[0], item.version, own=False)
        if item.status != "running":
            with self._lock:
                self._grown.pop(item.id, None)
            return _stored_view(item)
        with self._lock:
            last = self._grown.get(item.id)
        view = _running_view(item, last)
        with self._lock:
            self._grown[item.id] = view
            self._grown.move_to_end(item.id)
            while len(self._grown) > self._limit:
                self._grown.popitem(last=False)
        return view

    def __len__(self) -> int:
        """How many slides and results are open."""
        return len(self._slides) + len(self._views)

    def close(self) -> None:
        """Close what nobody reads from, and the rest when its readers are done."""
        self._grown.clear()
        self._slides.shrink(0)
        self._views.shrink(0)


def _stored_view(item: Item) -> View:
    try:
        result = Segmentation.load(item.path)
        view = _finished_view(result, item.version)
        wrong = _wrong(view)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        raise ResultError(f"{item.path} is damaged ({error!r}). Predict the slide again.") from error
    if wrong:
        view.close()
        raise ResultError(f"{item.path / VALUES} is not as digipath writes it: {wrong}. Predict the slide again.")
    return view


def _wrong(view: View) -> str:
    """What is wrong with a result's rasters, which may be somebody else's; empty if nothing is."""
    rasters = {"heatmap": view.heatmap, "covered": view.covered, "tissue": view.tissue, "thumbnail": view.thumbnail}
    rasters |= {"uncertainty": view.uncertainty} if view.uncertainty else {}
    for name, raster in rasters.items():
        stored = getattr(raster.values, "dataset", raster.values)
        chunk = math.prod(getattr(stored, "chunks", None) or ()) * stored.dtype.itemsize
        if stored.dtype.kind not in "bfu" or chunk > _CHUNK:
            return f"{name} has chunks of at most {_CHUNK >> 20} MiB, of numbers"
        if not all(0 < side <= _SIDE for side in (*raster.frame.shape, *raster.frame.slide_size)):
            return f"{name} has {raster.frame.shape} rows and columns of a slide of {raster.frame.slide_size} pixels"
    if view.thumbnail.frame.box.area > _THUMBNAIL:
        return "its thumbnail is too large"
    threshold = view.threshold
    return "" if 0 <= threshold <= 1 else f"its threshold is {threshold!r}"


def _finished_view(result: Segmentation, version: str, *, own: bool = True) -> View:
    cls = View if own else _Lent
    return cls(
        frame=result.heatmap.frame,
        classes=result.classes,
        threshold=result.threshold,
        heatmap=result.heatmap,
        covered=result.covered,
        tissue=result.tissue,
        uncertainty=result.uncertainty,
        thumbnail=result.thumbnail,
        segmentation=result,
        version=version,
    )


def _running_view(item: Item, last: View | None = None) -> View:
    found = finished(item.path / JOURNAL)
    if found is None:
        raise ResultError(f"of {item.name}, nothing is finished yet. Look again in a while.")
    goes_on = last is not None and last.frame == found.frame and found.strips[: len(last.strips)] == last.strips
    return View(
        frame=found.frame,
        classes=found.heatmap.channels,
        threshold=_UNDECIDED,
        heatmap=found.heatmap,
        covered=found.covered,
        tissue=None,
        uncertainty=found.uncertainty,
        thumbnail=None,
        segmentation=None,
        version=item.version,
        strips=found.strips,
        before=(last.copies(), sum(last.strips[-1][:2])) if goes_on else ({}, 0),
    )


class _Lent(View):
    """A view of a result that somebody else holds, and will close."""

    def close(self) -> None:
        """Leave it open."""


class _Closable(Protocol):
    def close(self) -> None: ...


@dataclass
class _Entry:
    """Something that is open, or about to be."""

    users: int = 0
    value: _Closable | None = None
    opening: threading.Lock = field(default_factory=threading.Lock)


class _Recent:
    """What was used last, open; counted, so that nothing is closed under a reader."""

    def __init__(self, limit: int):
        self._limit = limit
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    @contextmanager
    def borrow(self, key: Hashable, make: Callable[[], _Closable]) -> Iterator[Any]:
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            entry.users += 1
            self._entries.move_to_end(key)
        try:
            self.shrink(self._limit)
            with entry.opening:
                if entry.value is None:
                    entry.value = make()
            yield entry.value
        finally:
            with self._lock:
                entry.users -= 1
                if entry.value is None and not entry.users and self._entries.get(key) is entry:
                    del self._entries[key]
            self.shrink(self._limit)

    def shrink(self, limit: int) -> None:
        """Close what nobody uses, the longest unused first, until at most `limit` are open and little is in memory."""
        values = []
        with self._lock:
            held = {key: _held_bytes(entry.value) for key, entry in self._entries.items()}
            for key in [key for key, entry in self._entries.items() if not entry.users]:
                if len(self._entries) > limit or (sum(held.values()) > _IN_MEMORY and len(self._entries) > 1):
                    values.append(self._entries.pop(key).value)
                    del held[key]
        for value in values:
            if value is not None:
                value.close()


def _held_bytes(value: _Closable | None) -> int:
    """What the coarser copies of a result take in memory, or a slide that is held there as a whole."""
    if isinstance(value, View):
        return value.held
    if getattr(value, "backend", "") not in ("image", "array"):
        return 0
    return value.frame.box.area * 3 * value.dtype.itemsize
