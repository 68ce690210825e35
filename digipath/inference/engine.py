"""A slide through a predictor into finished strips of its heatmap."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from digipath.data.reader import PatchReader, ReadSettings
from digipath.errors import SpecError, UnreadableError
from digipath.geometry.blend import blend, block_means, flat, hann
from digipath.geometry.frame import Box
from digipath.inference.plan import Plan
from digipath.inference.predictor import Predictor
from digipath.models.spec import ModelSpec
from digipath.slides.slide import Slide
from digipath.slides.stain import Stains, stains_for

__all__ = ["Pass", "Progress", "Strip", "Tally", "stream", "stream_pass"]

# What rounding may add to a probability; twice as much would be 256 of 255 grey levels.
_ROUNDING = 1e-3


class Strip(NamedTuple):
    """Finished rows of a heatmap.

    Attributes:
        y: Index of the first row.
        values: (rows, width, channels) float32; 0 where not covered.
        covered: (rows, width) bool: tissue, inside the region, read and predicted.
    """

    y: int
    values: np.ndarray
    covered: np.ndarray


class Progress(NamedTuple):
    """How far a slide is.

    Attributes:
        done: Patches predicted so far.
        total: Patches to predict.
        seconds: Since the first was asked for.
        before: Patches of `done` that an earlier run predicted.
    """

    done: int
    total: int
    seconds: float
    before: int = 0

    @property
    def rate(self) -> float:
        """Patches per second."""
        return (self.done - self.before) / self.seconds if self.seconds else 0.0

    @property
    def left(self) -> float:
        """Seconds left at this rate; infinite before the first patch."""
        return (self.total - self.done) / self.rate if self.rate else float("inf")


@dataclass
class Tally:
    """What a run did, counted while it streams.

    Attributes:
        patches: Patches predicted.
        pixels: Pixels read, in the frame that the network sees.
        waiting: Seconds in which the network waited for pixels.
        predicting: Seconds inside the predictor.
        unread: Boxes that could not be read, in the frame that the network sees.
        stains: The slide's, where its patches were normalised.
        notes: What a reader of the result should know.
    """

    patches: int = 0
    pixels: int = 0
    waiting: float = 0.0
    predicting: float = 0.0
    unread: list[Box] = field(default_factory=list)
    stains: Stains | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def state(self) -> dict[str, Any]:
        """What a later run has to know of this one to go on from it, as JSON can hold it."""
        unread = [[box.x, box.y, box.width, box.height] for box in dict.fromkeys(self.unread)]
        seconds = {"waiting": self.waiting, "predicting": self.predicting}
        return {"patches": self.patches, "pixels": self.pixels, "unread": unread, **seconds}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Take over the `state` of an earlier run."""
        self.patches, self.pixels = state["patches"], state["pixels"]
        self.waiting, self.predicting = state["waiting"], state["predicting"]
        self.unread.extend(Box(*box) for box in state["unread"])


@dataclass
class Pass:
    """One reading of a slide: what it is read for, and which patches.

    Attributes:
        predictor: The network, or the networks that see the same patches.
        plan: The patches, for this predictor; the plans of passes that belong together have one heatmap frame.
        weight: Its share in the mean, of a sum of 1 over the passes that belong together.
        names: What the networks are called.
        tally: What it did.
    """

    predictor: Predictor
    plan: Plan
    weight: float = 1.0
    names: tuple[str, ...] = ()
    tally: Tally = field(default_factory=Tally)
    _reader: PatchReader | None = None

    def begin(self, slide: Slide) -> None:
        """Read ahead the first patches, in the background."""
        self._reader = self._made(slide, 0)
        self._reader.begin(self.plan.batch)

    def reader(self, slide: Slide, start: int) -> PatchReader:
        """The reader of the patches from number `start` on; the one that has begun where it fits."""
        begun, self._reader = self._reader, None
        if begun is not None and start == 0:
            return begun
        if begun is not None:
            begun.close()
        return self._made(slide, start)

    def close(self) -> None:
        """Stop reading ahead."""
        if self._reader is not None:
            self._reader.close()

    def _made(self, slide: Slide, start: int) -> PatchReader:
        boxes, spec, tally = list(self.plan.boxes[start:]), self.predictor.spec, self.tally
        if boxes and tally.stains is None:
            tally.stains = stains_for(slide, spec.stain, tell=tally.notes.append)
        settings = ReadSettings(threads=self.plan.settings.threads, kernel=spec.resampling, stains=tally.stains)
        reader = PatchReader(slide, self.plan.grid, boxes, settings)
        reader.unread.extend(tally.unread)
        tally.unread = reader.unread
        return reader


def stream(
    slide: Slide,
    predictor: Predictor,
    plan: Plan,
    *,
    tally: Tally | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Iterator[Strip]:
    """Read, predict and blend a slide: `stream_pass` of a pass with this predictor, plan and tally."""
    one = Pass(predictor, plan, tally=Tally() if tally is None else tally)
    yield from stream_pass(slide, one, progress=progress)


def stream_pass(
    slide: Slide, one: Pass, *, progress: Callable[[Progress], None] | None = None, first_row: int = 0
) -> Iterator[Strip]:
    """Read, predict and blend a slide.

    What is streamed from a later row on is, bit by bit, what was streamed of these rows from the first on: it starts
    with the batch that holds the first patch that touches them.

    Args:
        slide: An open slide.
        one: Network and patches; its tally is filled on the way.
        progress: Called after every batch; what it raises ends the run.
        first_row: Of the heatmap, in its pixels; those above are not wanted.

    Yields:
        Strips that together hold every row of `plan.heatmap_frame` from `first_row` on, from top to bottom.

    Raises:
        UnreadableError: More of the tissue than `settings.max_unread` cannot be read.
        SpecError: The predictor returns something else than its specification says.
    """
    plan, start = one.plan, _start(one.plan, first_row)
    reader, one.tally.patches = one.reader(slide, start), start
    sides = [(side - 2 * plan.grid.margin) // plan.unit for side in plan.grid.patch]
    window = {"hann": hann, "mean": flat}[plan.settings.window](*sides)
    for y, rows in blend(plan.heatmap_frame, _predicted(reader, one, progress), window):
        if y + len(rows) > first_row:
            skipped = max(0, first_row - y)
            yield _finish(y + skipped, rows[skipped:], plan, reader.unread, len(one.predictor.channels))


def _start(plan: Plan, first_row: int) -> int:
    """Index of the first patch of the batch that holds the first patch that touches a row, or one below.

    The last batch may be smaller, and a network that sees it first would compute in other shapes; so a full one leads.
    """
    row, count = first_row * plan.unit, len(plan.boxes)
    first = next((i for i, box in enumerate(plan.boxes) if box.bottom - plan.grid.margin > row), count)
    if first == count:
        return count
    return min(first, max(0, count - plan.batch)) // plan.batch * plan.batch if first_row else 0


def _predicted(
    reader: PatchReader, one: Pass, progress: Callable[[Progress], None] | None
) -> Iterator[tuple[Box, np.ndarray]]:
    """The values of each patch, in the heatmap's frame."""
    plan, tally, spec = one.plan, one.tally, one.predictor.spec
    begin, known, skipped, before = time.perf_counter(), 0, tally.patches, (tally.pixels, tally.waiting)
    for boxes, pixels in reader.batches(plan.batch):
        if len(reader.unread) > known:
            known = len(reader.unread)
            _refuse_damage(list(dict.fromkeys(reader.unread[:known])), plan)
        start = time.perf_counter()
        values = _heatmap_values(_checked(one.predictor(pixels), plan, spec), plan, spec.output_stride)
        now = time.perf_counter()
        tally.predicting += now - start
        tally.patches += len(boxes)
        tally.pixels, tally.waiting = before[0] + reader.pixels, before[1] + reader.waited
        if progress is not None:
            progress(Progress(tally.patches, len(plan.boxes), now - begin, skipped))
        for box, value in zip(boxes, values, strict=True):
            yield box.shrink(plan.grid.margin).coarser(plan.unit), value


def _checked(values: np.ndarray, plan: Plan, spec: ModelSpec) -> np.ndarray:
    """The same values; refuses those that would be wrong in a heatmap without anyone seeing it."""
    width, height = (side // spec.output_stride for side in plan.grid.patch)
    size = (1, 1) if spec.kind == "classifier" else (height, width)
    if values.shape[1:3] != size:
        raise SpecError(
            f"a {spec.kind} with output_stride {spec.output_stride} returns {size[1]} x {size[0]} values for a patch "
            f"of {plan.grid.patch[0]} x {plan.grid.patch[1]} pixels, got {values.shape[2]} x {values.shape[1]}. "
            "Correct the specification's kind or output_stride."
        )
    low, high = values.min(), values.max()
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # also false for NaN
        raise SpecError(
            f"a network returns probabilities from 0 to 1, got {low:g} to {high:g}. End it in its {spec.activation}; "
            "where it is, weights or temperature are damaged."
        )
    return values


def _heatmap_values(values: np.ndarray, plan: Plan, output_stride: int) -> np.ndarray:
    """A batch's values averaged down to heatmap pixels, without the margins that they do not describe."""
    width, height = ((side - 2 * plan.grid.margin) // plan.unit for side in plan.grid.patch)
    count, channels = len(values), values.shape[-1]
    if values.shape[1:3] == (1, 1):
        return np.broadcast_to(values, (count, height, width, channels))
    margin, factor = plan.grid.margin // output_stride, plan.unit // output_stride
    if margin:
        values = values[:, margin:-margin, margin:-margin]
    return block_means(values, factor)


def _finish(y: int, rows: np.ndarray, plan: Plan, unread: list[Box], channels: int) -> Strip:
    """Decide what is covered, and make everything else 0."""
    frame = plan.heatmap_frame
    box = Box(0, y, frame.width, len(rows))
    values = rows if rows.ndim == 3 else np.repeat(rows[:, :, None], channels, axis=2)
    covered = np.zeros(values.shape[:2], bool)
    wanted = plan.wanted.intersect(box)
    inside = wanted.shift(0, -y).slices()
    covered[inside] = ~np.isnan(values[inside][:, :, 0])
    if plan.masked:
        covered[inside] &= plan.tissue.sample(wanted, frame)
    for damaged in unread:
        covered[damaged.coarser(plan.unit).intersect(box).shift(0, -y).slices()] = False
    values[~covered] = 0
    return Strip(y, values, covered)


def _refuse_damage(unread: list[Box], plan: Plan):
    """Fail once more of the tissue is lost than a result may lack."""
    lost = plan.tissue.coverage(unread, plan.frame) @ [box.area for box in unread] * plan.frame.pixel_mm2
    share = lost / max(plan.tissue.area_mm2, 1e-12)
    if share > plan.settings.max_unread:
        raise UnreadableError(
            f"at least {share:.0%} of the slide's tissue ({lost:.3g} mm2) cannot be read at any level, and a result "
            f"may lack at most {plan.settings.max_unread:.0%}. Restore the file from its source, or raise max_unread "
            "(--max-unread)."
        )
