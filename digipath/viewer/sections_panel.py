"""The sections of a slide with what the model said of each."""

from dash import html

from digipath.viewer import flights, measures
from digipath.viewer.desk import Desk
from digipath.viewer.overlays import Outline, outlines
from digipath.viewer.scene import Scene

__all__ = ["layout"]


def layout(desk: Desk, scene: Scene) -> html.Details | None:
    """The panel; None where the result has no sections."""
    sections = outlines(desk, scene).sections
    if not sections:
        return None
    names = ("Section", "Class", "Tissue", "Tumour") if scene.answered else ("Section",)
    head = [html.Th(name, scope="col", className="number" if name in ("Tissue", "Tumour") else "") for name in names]
    body = [html.Tr(_cells(one, answered=scene.answered)) for one in sections]
    caption = html.Caption("Sections of the slide; the first column flies there", className="unseen")
    table = html.Table([caption, html.Thead(html.Tr(head)), html.Tbody(body)])
    return html.Details(
        [
            html.Summary(["Sections", html.Span(f"{len(sections)}", className="count")]),
            html.Div(table, className="scroll"),
        ],
        open=True,
        id="sections-panel",
    )


def _cells(one: Outline, *, answered: bool) -> list:
    first = html.Th(flights.button(one, str(one.number), title=f"Fly to section {one.number}"), scope="row")
    if not answered:
        return [first]
    tissue, tumour = one.measurements.get("tissue_mm2"), one.measurements.get("tumour_um2")
    areas = ("–" if tissue is None else measures.area(tissue), "–" if tumour is None else measures.area(tumour / 1e6))
    return [first, html.Td(one.name.removesuffix(" section")), *(html.Td(one, className="number") for one in areas)]
