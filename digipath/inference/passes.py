"""Several networks that see different patches of one slide, into one heatmap."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from digipath.inference.engine import Pass, Progress, Strip, stream_pass
from digipath.slides.slide import Slide

__all__ = ["stream_passes"]


def stream_passes(
    slide: Slide,
    passes: Sequence[Pass],
    *,
    progress: Callable[[Progress], None] | None = None,
    first_row: int = 0,
    complete: Callable[[Iterator[Strip], Pass], Iterator[Strip]] | None = None,
) -> Iterator[Strip]:
    """Read a slide once for each pass, all at the same time, and average what they say of each pixel.

    The channel "epistemic" becomes the variance over all networks of all passes (Khened et al. 2021, Eq. 5): the mean
    of the variances within the passes and the variance of their means. Only what every pass covers is covered.

    Args:
        slide: An open slide.
        passes: With plans for this slide, and equal channels.
        progress: Called after every batch with the patches of all passes; what it raises ends the run.
        first_row: Of the heatmap; those above are not wanted.
        complete: What is done to the strips of each pass before their mean: a cascade's coarse map fills their gaps.

    Yields:
        Strips that together hold every row of the heatmap from `first_row` on, from top to bottom.
    """
    counter = _Counter(passes, progress)
    streams = [
        stream_pass(slide, one, progress=progress and counter.of(number), first_row=first_row)
        for number, one in enumerate(passes)
    ]
    if complete is not None:
        streams = [complete(strips, one) for strips, one in zip(streams, passes, strict=True)]
    if len(passes) == 1:
        yield from streams[0]
        return
    weights = [one.weight for one in passes]
    channels, lesion = passes[0].predictor.channels, len(passes[0].predictor.spec.classes) - 1
    epistemic = channels.index("epistemic") if "epistemic" in channels else None
    for parts in _aligned(streams):
        yield _mean(parts, weights, lesion, epistemic)


class _Counter:
    """Progress of several passes as that of one."""

    def __init__(self, passes: Sequence[Pass], report: Callable[[Progress], None] | None):
        self.report, self.begin = report, time.perf_counter()
        self.total = sum(len(one.plan.boxes) for one in passes)
        self.done, self.before = [0] * len(passes), [0] * len(passes)

    def of(self, number: int) -> Callable[[Progress], None]:
        def count(state: Progress):
            self.done[number], self.before[number] = state.done, state.before
            seconds = time.perf_counter() - self.begin
            self.report(Progress(sum(self.done), self.total, seconds, sum(self.before)))

        return count


def _aligned(streams: Sequence[Iterator[Strip]]) -> Iterator[list[Strip]]:
    """Strips of several streams, cut so that those that come together hold the same rows."""
    waiting: list[deque[Strip]] = [deque() for _ in streams]
    while True:
        for queue, source in zip(waiting, streams, strict=True):
            if not queue and (strip := next(source, None)) is not None:
                queue.append(strip)
        if not all(waiting):
            return
        height = min(len(queue[0].values) for queue in waiting)
        parts = []
        for queue in waiting:
            y, values, covered = queue.popleft()
            parts.append(Strip(y, values[:height], covered[:height]))
            if height < len(values):
                queue.append(Strip(y + height, values[height:], covered[height:]))
        yield parts


def _mean(parts: Sequence[Strip], weights: Sequence[float], lesion: int, epistemic: int | None) -> Strip:
    values = sum(np.float32(weight) * part.values for part, weight in zip(parts, weights, strict=True))
    if epistemic is not None:
        for part, weight in zip(parts, weights, strict=True):
            values[:, :, epistemic] += np.float32(weight) * (part.values[:, :, lesion] - values[:, :, lesion]) ** 2
    covered = np.logical_and.reduce([part.covered for part in parts])
    values[~covered] = 0
    return Strip(parts[0].y, values, covered)
