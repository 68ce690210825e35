"""The panel in which a reviewer answers what the model said."""

import dash
from dash import html

from digipath.viewer.desk import Desk
from digipath.viewer.shelf import Item

__all__ = ["layout", "register"]


def layout(desk: Desk, item: Item) -> html.Details:
    """The panel of one result."""
    return html.Details([html.Summary("Review")], open=True, id="review")


def register(app: dash.Dash, desk: Desk) -> None:
    """Its callbacks, once for the whole application."""
