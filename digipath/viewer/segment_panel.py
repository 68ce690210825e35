"""The panel from which a slide is segmented: which network, how thoroughly, how far it is, and stop."""

import dash
from dash import html

from digipath.viewer.desk import Desk
from digipath.viewer.shelf import Item

__all__ = ["layout", "register"]


def layout(desk: Desk, item: Item) -> html.Details:
    """The panel of one slide."""
    return html.Details([html.Summary("Segment")], open=True, id="segment")


def register(app: dash.Dash, desk: Desk) -> None:
    """Its callbacks, once for the whole application."""
