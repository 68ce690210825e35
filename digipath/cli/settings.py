"""Options that several subcommands share."""

import argparse

__all__ = ["add_network_arguments", "add_slide_arguments", "make_segmenter", "quantity"]


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
    """Which network, and how it is applied."""
    parser.add_argument(
        "--bundle",
        action="append",
        metavar="BUNDLE",
        help="a bundle's folder or built-in name (see `digipath bundles`); given more than once, their mean",
    )
    parser.add_argument("--threshold", type=float, metavar="P", help="probability above which a pixel is a lesion")
    parser.add_argument("--heatmap-mpp", type=float, metavar="UM", help="micrometres per pixel of the heatmap")
    parser.add_argument("--overlap", type=float, metavar="SHARE", help="of neighbouring patches (default 0.5)")
    parser.add_argument("--patch", type=int, metavar="PX", help="side of a patch; default: the bundle's")
    parser.add_argument("--batch", type=int, metavar="N", help="patches that the network sees at once")
    parser.add_argument("--threads", type=int, metavar="N", help="threads that read the slide")


def make_segmenter(arguments: argparse.Namespace):
    """The Segmenter that the options ask for; options that make no sense are an error of usage."""
    from digipath.errors import SpecError
    from digipath.inference.settings import InferenceSettings
    from digipath.segmenter import Segmenter

    names = ("threshold", "heatmap_mpp", "overlap", "patch", "batch", "threads")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    try:
        settings = InferenceSettings(**given)
    except SpecError as error:
        arguments.usage_error(str(error))
    return Segmenter(arguments.bundle, settings=settings)


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
