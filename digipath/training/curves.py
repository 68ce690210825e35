"""A training history as a picture: loss, metrics and learning rate over the epochs."""

import io
from typing import Any

__all__ = ["draw_curves"]


def draw_curves(rows: list[dict[str, Any]], *, title: str) -> bytes:
    """Draw what a run logged.

    Args:
        rows: one dict an epoch: "epoch", "learning_rate", and values whose validation twins begin with "val_".
        title: above the picture.

    Returns:
        A PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [name for name in rows[-1] if f"val_{name}" in rows[-1] and name != "loss"]
    panels = [["loss"], _last_output(names), ["learning_rate"]]
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, panel in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for number, name in enumerate(panel):
            for prefix, style in (("", "--"), ("val_", "-")):
                points = [(row["epoch"] + 1, row[prefix + name]) for row in rows if prefix + name in row]
                if points:
                    part = " validation" if prefix else " training" if f"val_{name}" in rows[-1] else ""
                    label = f"{name}{part}".replace("_", " ")
                    axis.plot(*zip(*points, strict=True), style, color=f"C{number}", label=label)
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8) if axis.lines else None
    figure.axes[-1].set_yscale("log")
    figure.suptitle(title)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    return picture.getvalue()


def _last_output(names: list[str]) -> list[str]:
    """Without the losses of single outputs: with deep supervision they are five curves of the same thing."""
    return [name for name in names if not name.endswith("loss")]
