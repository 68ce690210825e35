"""Describe a slide: size, resolution and its source, levels, tissue, and how long segmenting it would take."""

import argparse
from typing import Any

from digipath.cli.settings import add_network_arguments, add_slide_arguments, duration, make_segmenter

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser):
    """Declare the options."""
    parser.add_argument("slide", metavar="SLIDE")
    parser.add_argument("--properties", action="store_true", help="also what the file says of itself")
    add_slide_arguments(parser)
    add_network_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print what is known; a slide without resolution is described as far as it can be, and the code is 1."""
    from digipath.errors import ResolutionError
    from digipath.slides.slide import contradiction, describe, open_slide

    known = describe(arguments.slide)
    _print_file(known)
    if arguments.properties:
        for name, value in sorted(known["properties"].items()):
            print(f"  {name}: {' '.join(value.split())}")
    try:
        slide = open_slide(arguments.slide, mpp=arguments.mpp)
    except ResolutionError as error:
        _line("resolution", f"unknown. {error}")
        return 1
    with slide:
        frame = slide.frame
        millimetres = f"{frame.width * frame.mpp / 1000:.2f} x {frame.height * frame.mpp / 1000:.2f} mm"
        _line("resolution", f"{frame.mpp:g} um per pixel ({slide.mpp_source}), so {millimetres}")
        if contradicting := contradiction(frame.mpp, slide.properties):
            _line("note", contradicting)
        segmenter = make_segmenter(arguments)
        plans = segmenter.plan(slide, tissue=arguments.tissue, region=arguments.region)
        _line("tissue", f"{plans[-1].tissue_mm2:.2f} mm2")
        patches = " and ".join(str(len(planned.boxes)) for planned in plans)
        _line("to segment", f"{patches} patches, about {duration(segmenter.estimate(plans))}")
    return 0


def _print_file(known: dict[str, Any]):
    _line("slide", known["path"])
    _line("format", f"{known['vendor'] or 'plain image'}, read with {known['backend']}")
    _line("size", f"{known['width']} x {known['height']} px")
    levels = [f"{level['width']} x {level['height']} (1/{level['downsample']:g})" for level in known["levels"]]
    _line("levels", ", ".join(levels))
    if known["objective_power"]:
        _line("objective", f"{known['objective_power']}x")
    if known["bounds"]:
        _line("scanned area", "{} to {}, {} to {} px".format(*(known["bounds"][index] for index in (0, 2, 1, 3))))


def _line(name: str, value: str):
    print(f"{name + ':':<13} {value}")
