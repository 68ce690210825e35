"""One slide of a run, from its lock to its outcome."""

from collections.abc import Callable

from digipath.inference.engine import Progress
from digipath.runs.task import Outcome, RunSettings, Task
from digipath.segmenter import Segmenter

__all__ = ["run_one"]


def run_one(
    segmenter: Segmenter,
    task: Task,
    settings: RunSettings,
    *,
    progress: Callable[[Progress], None] | None = None,
    prepared=None,
) -> Outcome:
    """Segment one slide unless it is done, and say how it ended; used by the local loop and by workers of a cluster.

    Args:
        segmenter: What to segment it with.
        task: The slide.
        settings: Of the run; with `overwrite` those that `RunRecord.settings` gives, which know when the run began.
        progress: Called with a `Progress` after every batch; what it raises is the slide's failure.
        prepared: What `segmenter.prepare` gave for this task, if that was done ahead; it is closed here.

    Raises:
        KeyboardInterrupt, SystemExit: Nothing else is raised; the lock is released, and the journal is kept.
    """
    raise NotImplementedError
