"""Describe a slide: size, resolution and its source, levels, tissue, and how long segmenting it would take."""

import argparse

from digipath.cli.settings import add_network_arguments, add_slide_arguments, duration, make_segmenter

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser):
    """Declare the options."""
    parser.add_argument("slide", metavar="SLIDE")
    add_slide_arguments(parser)
    add_network_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print what is known; a slide without resolution is described as far as it can be."""
    from digipath.errors import ResolutionError
    from digipath.slides.slide import describe, open_slide

    known = describe(arguments.slide)
    for name, value in known.items():
        _line(name, value)
    try:
        slide = open_slide(arguments.slide, mpp=arguments.mpp)
    except ResolutionError as error:
        _line("resolution", str(error))
        return 1
    with slide:
        _line("um per pixel", f"{slide.frame.mpp:g} ({slide.mpp_source})")
        _line("read with", slide.backend)
        segmenter = make_segmenter(arguments)
        planned = segmenter.plan(slide, tissue=arguments.tissue, region=arguments.region)
        _line("tissue", f"{planned.tissue.area_mm2:.2f} mm2")
        _line("to segment", f"{len(planned.boxes)} patches, about {duration(segmenter.estimate(planned))}")
    return 0


def _line(name: str, value: object):
    print(f"{name + ':':<15} {value}")
