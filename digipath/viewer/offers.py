"""The networks and efforts that the viewer offers, each with a line on what it is for."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from digipath.errors import BundleError
from digipath.inference.journal import identity_in
from digipath.inference.settings import EFFORTS
from digipath.models.bundle import Bundle, builtin_names
from digipath.prepared import JOURNAL
from digipath.viewer.jobs import Order
from digipath.viewer.shelf import Item, Shelf

__all__ = ["EFFORT_LINES", "Offer", "begun_with", "offers"]

EFFORT_LINES = {
    "fast": "a quarter to half of the time; finds nearly the same",
    "balanced": "the usual one",
    "thorough": "eight views of every patch: more than seven times the work, for little more",
}
"""What each effort costs and finds; the figures are in docs/results.md."""

_SPEC, _CARD = "spec.json", "README.md"


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A bundle that may be chosen.

    Attributes:
        value: What `Order.bundle` takes.
        name: What it is called.
        purpose: The first sentence of its model card, or what it tells apart.
        problem: Why it cannot be chosen; else empty.
    """

    value: str
    name: str
    purpose: str = ""
    problem: str = ""


def offers(shelf: Shelf, items: Sequence[Item]) -> list[Offer]:
    """The built-in bundles, the default first, and those that lie beside the slides and results of a shelf."""
    default = Bundle.builtin().name
    names = sorted(builtin_names(), key=lambda name: (name != default, name))
    return [*(_offer(name, Bundle.builtin(name)) for name in names), *(_found(path) for path in _folders(shelf, items))]


def begun_with(item: Item) -> Order:
    """How a result that is not finished was begun, as far as it can be ordered again; else the defaults."""
    begun = identity_in(item.path / JOURNAL)
    members = begun.get("networks", {}).get("members", [])
    order = Order(bundle=members[0]["name"]) if len(members) == 1 else Order()
    settings = begun.get("settings", {})
    for effort, meant in EFFORTS.items():
        for unsure in (False, True):
            wished = replace(meant, augmentations="all", uncertainty=True) if unsure else meant
            if settings and settings.items() <= _plain(wished).items():
                return replace(order, effort=effort, uncertainty=unsure)
    return order


def _plain(settings: Any) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(settings)))


def _offer(value: str, bundle: Bundle) -> Offer:
    return Offer(value=value, name=bundle.name, purpose=_purpose(bundle))


def _found(folder: Path) -> Offer:
    try:
        return _offer(str(folder), Bundle.load(folder))
    except BundleError as error:
        return Offer(value=str(folder), name=folder.name, problem=str(error))


def _folders(shelf: Shelf, items: Sequence[Item]) -> Iterator[Path]:
    """Folders of bundles in those that hold a slide or a result, and above these, as far as may be looked."""
    places = dict.fromkeys(parent for item in items if item.held is None for parent in item.path.parents)
    for place in sorted(place for place in places if shelf.allows(place)):
        for path in sorted(place.glob(f"*/{_SPEC}")):
            if shelf.allows(path):
                yield path.parent


def _purpose(bundle: Bundle) -> str:
    """The first sentence below the title of a model card; without one, its classes."""
    try:
        lines = (bundle.folder / _CARD).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        lines = []
    text = []
    for line in lines:
        if line.startswith(("#", "*", "|", "-")) or not line.strip():
            if text:
                break
            continue
        text.append(line.strip())
    if not text:
        return f"Tells {', '.join(bundle.spec.classes)} apart."
    return " ".join(text).split(". ")[0].rstrip(".") + "."
