"""Options that several subcommands share."""

import argparse
from dataclasses import replace

__all__ = ["add_network_arguments", "add_slide_arguments", "make_segmenter", "names", "quantity"]


def add_slide_arguments(parser: argparse.ArgumentParser):
    """How a slide is opened, and where on it to look."""
    parser.add_argument("--mpp", type=float, metavar="UM", help="micrometres per pixel of the slide, if it lacks them")
    parser.add_argument(
        "--tissue", metavar="FILE", help="tissue as a mask image, GeoJSON or ASAP XML; else it is found"
    )
    parser.add_argument(
        "--region",
        type=_region,
        metavar="X,Y,WIDTH,HEIGHT",
        help="only this box of the slide, in pixels of its full resolution",
    )


def add_network_arguments(parser: argparse.ArgumentParser):
    """Which networks, and how they are applied."""
    group = parser.add_argument_group("the networks")
    group.add_argument(
        "--bundle",
        action="append",
        metavar="BUNDLE",
        help="a bundle's folder or built-in name (see `digipath bundles`); given more than once, their mean",
    )
    group.add_argument(
        "--weight",
        action="append",
        type=float,
        metavar="W",
        help="of a bundle in the mean, as often as --bundle and in its order",
    )
    group.add_argument(
        "--first-stage",
        action="append",
        metavar="BUNDLE",
        help="look everywhere with this bundle, and with --bundle only where it finds something; several: their mean",
    )
    group.add_argument("--threshold", type=float, metavar="P", help="probability above which a pixel is a lesion")
    _add_effort_arguments(parser.add_argument_group("how they are applied"))


def _add_effort_arguments(group):
    group.add_argument(
        "--effort",
        choices=("fast", "balanced", "thorough"),
        help="how much time to spend; the options below say it one by one, and win",
    )
    group.add_argument("--overlap", type=float, metavar="SHARE", help="of neighbouring patches (default 0.5)")
    group.add_argument(
        "--augment",
        type=names,
        metavar="all|NAME,...",
        help="see every patch turned and flipped, and take the mean: identity, rotate90, ..., flip-rotate270",
    )
    group.add_argument("--uncertainty", action="store_true", help="also say where the networks are unsure")
    group.add_argument("--early-exit", type=int, metavar="N", help="cut deeply supervised networks after block N")
    group.add_argument("--heatmap-mpp", type=float, metavar="UM", help="micrometres per pixel of the heatmap")
    group.add_argument("--patch", type=int, metavar="PX", help="side of a patch; default: the bundle's")
    group.add_argument(
        "--max-unread", type=float, metavar="SHARE", help="of a slide's tissue that may be unreadable (default 0.05)"
    )
    group.add_argument("--batch", type=int, metavar="N", help="patches that the network sees at once")
    group.add_argument("--threads", type=int, metavar="N", help="threads that read the slide")
    group.add_argument("--runtime", choices=("auto", "keras", "openvino"), help="what runs the networks")
    group.add_argument("--precision", choices=("float32", "bfloat16", "int8"), help="in which they compute")


def make_segmenter(arguments: argparse.Namespace):
    """The Segmenter that the options ask for; options that make no sense are an error of usage."""
    from digipath.errors import SpecError
    from digipath.inference.cascade import Cascade
    from digipath.inference.settings import EFFORTS
    from digipath.segmenter import Segmenter

    fields = ("threshold", "heatmap_mpp", "overlap", "patch", "batch", "threads", "early_exit", "runtime", "precision")
    fields += ("max_unread",)
    given = {name: getattr(arguments, name) for name in fields if getattr(arguments, name) is not None}
    if arguments.augment is not None:
        given["augmentations"] = "all" if arguments.augment == ("all",) else arguments.augment
    if arguments.uncertainty:
        given["uncertainty"] = True
    bundles = arguments.bundle
    if arguments.first_stage:
        bundles = [Cascade(arguments.first_stage, one) for one in arguments.bundle or [None]]
    if arguments.weight is not None and len(arguments.weight) != len(arguments.bundle or [None]):
        arguments.usage_error(f"--weight is given as often as --bundle, got it {len(arguments.weight)} times")
    try:
        settings = replace(EFFORTS[arguments.effort or "balanced"], **given)
        return Segmenter(bundles, settings=settings, effort=arguments.effort, weights=arguments.weight)
    except SpecError as error:
        arguments.usage_error(str(error))


def quantity(number: float) -> str:
    """A number of bytes, or of anything that comes in thousands, for people."""
    for unit in ("", "k", "M"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} G"


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 90:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _region(text: str) -> tuple[int, ...]:
    try:
        box = tuple(int(part) for part in text.split(","))
    except ValueError:
        box = ()
    if len(box) != 4:
        raise argparse.ArgumentTypeError(f"expected four whole numbers X,Y,WIDTH,HEIGHT, got {text!r}")
    return box


def names(text: str) -> tuple[str, ...]:
    """What commas part."""
    return tuple(name.strip() for name in text.split(","))
