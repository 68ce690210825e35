"""Judge predictions against the truth, as challenges and papers do: a table, a report, figures."""

import argparse
import sys
import warnings
from pathlib import Path

__all__ = ["add_arguments", "run"]

_NAMES = ("camelyon16", "camelyon17", "paip", "digestpath", "tiger", "sections", "pixels")

_EVERY = ("resamples", "seed")
_PLACES = ("exclude", "slides", "mpp", "truth_downsample", "truth_values")
_HEATMAPS = ("threshold", "class_name")
_MASKS = ("prediction_values", "compare_mpp")
# What each protocol looks at; an option that it does not know is refused.
_KNOWN = {
    "camelyon16": (*_EVERY, *_PLACES, *_HEATMAPS, "detections", "normal", "slide_scores"),
    "camelyon17": _EVERY,
    "paip": (*_EVERY, *_PLACES, *_HEATMAPS, *_MASKS),
    "digestpath": (*_EVERY, *_PLACES, *_HEATMAPS, *_MASKS, "normal", "slide_scores"),
    "tiger": (*_EVERY, *_PLACES, *_MASKS),
    "sections": (*_EVERY, "exclude", "area_um2"),
    "pixels": (*_EVERY, *_PLACES, *_HEATMAPS, *_MASKS, "normal"),
}


def add_arguments(parser: argparse.ArgumentParser):
    """Declare the options."""
    parser.add_argument("--truth", type=Path, required=True, metavar="PATH", help="folder (or CSV) of the truth")
    parser.add_argument(
        "--predictions", type=Path, required=True, metavar="PATH", help="folder (or CSV) of what is judged"
    )
    parser.add_argument("--protocol", choices=_NAMES, required=True, help="whose rules")
    parser.add_argument(
        "-o", "--out", type=Path, metavar="FOLDER", help="where report.json, table.txt and the figures go"
    )
    _add_file_arguments(parser.add_argument_group("the files"))
    _add_rule_arguments(parser.add_argument_group("the rules"))


def _add_file_arguments(group):
    group.add_argument("--slides", type=Path, metavar="FOLDER", help="the slides, which tell size and um per pixel")
    group.add_argument("--mpp", type=float, metavar="UM", help="micrometres per level-0 pixel, if files do not tell it")
    group.add_argument(
        "--truth-downsample", type=float, metavar="N", help="level-0 pixels along a pixel of the truth's masks"
    )
    for whose in ("truth", "prediction"):
        group.add_argument(
            f"--{whose}-values",
            type=_values,
            metavar="VALUE=CLASS,...",
            help=f"what the {whose}'s masks hold, such as 0=other,2=lesion,255=ignore (else 0 and 1, or 0 and 255)",
        )
    group.add_argument("--normal", nargs="+", metavar="NAME", help="slides without lesion, or patterns: 'normal_*'")
    group.add_argument("--exclude", nargs="+", metavar="NAME", help="slides that do not count, or patterns")
    group.add_argument("--slide-scores", type=Path, metavar="CSV", help="name,probability of slides, for the AUC")


def _add_rule_arguments(group):
    group.add_argument("--threshold", type=float, metavar="P", help="of heatmaps (default: each result's own)")
    group.add_argument("--class", dest="class_name", metavar="NAME", help="of heatmaps (default: their last)")
    group.add_argument(
        "--detections", choices=("maxima", "regions"), help="how heatmaps become detections (default maxima)"
    )
    group.add_argument("--compare-mpp", type=float, metavar="UM", help="at which masks are compared (default: truth's)")
    group.add_argument("--area-um2", type=float, metavar="A", help="a section has tumour from this area of it on")
    group.add_argument("--resamples", type=int, metavar="N", help="for the 95 %% intervals (default 2000)")
    group.add_argument("--seed", type=int, metavar="N", help="of the resamples (default 0)")


def _values(text: str) -> dict[int, str | None]:
    result: dict[int, str | None] = {}
    for part in text.split(","):
        value, _, name = part.partition("=")
        try:
            result[int(value)] = None if name.strip() == "ignore" else name.strip()
        except ValueError:
            raise argparse.ArgumentTypeError(f"VALUE=CLASS pairs parted by commas, got {text!r}") from None
        if not name.strip():
            raise argparse.ArgumentTypeError(f"a class, or ignore, for each value, got {part!r}")
    return result


def run(arguments: argparse.Namespace) -> int:
    """Print the table, and write the report where it is asked for."""
    settings = _settings(arguments)
    from digipath.protocols import PROTOCOLS

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        report = PROTOCOLS[arguments.protocol](arguments.truth, arguments.predictions, settings=settings)
    for text in dict.fromkeys(str(one.message) for one in told):
        print(f"digipath: note: {text}", file=sys.stderr)
    print(report.table())
    if arguments.out is not None:
        report.save(arguments.out)
        files = ", ".join(["report.json", "table.txt", *(f"{name}.png" for name in report.drawings)])
        print(f"digipath: {files} written to {arguments.out}", file=sys.stderr)
    return 0


def _settings(arguments: argparse.Namespace):
    from digipath.errors import SpecError
    from digipath.protocols.settings import EvaluationSettings

    every = {name for names in _KNOWN.values() for name in names}
    given = {name: getattr(arguments, name) for name in every if getattr(arguments, name) is not None}
    if unknown := sorted(set(given) - set(_KNOWN[arguments.protocol])):
        option = {"class_name": "class"}.get(unknown[0], unknown[0]).replace("_", "-")
        arguments.usage_error(f"--{option} says nothing to the protocol {arguments.protocol}")
    try:
        return EvaluationSettings(**given)
    except SpecError as error:
        arguments.usage_error(str(error))
