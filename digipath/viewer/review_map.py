"""What reviewers drew, on the map."""

from dash.development.base_component import Component

from digipath.viewer.desk import Desk
from digipath.viewer.shelf import Item

__all__ = ["layers"]


def layers(desk: Desk, item: Item) -> list[Component]:
    """What is put into the map of one result."""
    return []
