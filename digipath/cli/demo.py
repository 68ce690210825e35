"""Make a small synthetic slide, segment and analyse it with the built-in network, and compare with the truth."""

import argparse
import time
from pathlib import Path

from digipath.cli.settings import duration

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser):
    """Declare the options."""
    parser.add_argument("-o", "--out", type=Path, default=Path("digipath-demo"), metavar="FOLDER", help="where it goes")
    parser.add_argument("--seed", type=int, default=0, help="another seed makes another slide")


def run(arguments: argparse.Namespace) -> int:
    """Print the Dice coefficient against the planted lesions, and where the results are."""
    from digipath.io.geojson import write_geojson
    from digipath.io.pyramid import RGB, PyramidSettings, write_pyramid
    from digipath.report import write_report
    from digipath.segmenter import Segmenter
    from digipath.slides.synthetic import SyntheticSettings, SyntheticSlide

    begin = time.perf_counter()
    made = SyntheticSlide(SyntheticSettings(seed=arguments.seed))
    arguments.out.mkdir(parents=True, exist_ok=True)
    slide, truth = arguments.out / "slide.tif", arguments.out / "truth.geojson"
    write_pyramid(slide, made.frame, made.strips(), channels=RGB, settings=PyramidSettings(compression="jpeg"))
    write_geojson(truth, made.annotations())
    size = f"{made.frame.width} x {made.frame.height} px"
    print(f"made a slide of {size} in {duration(time.perf_counter() - begin)}: {slide}")

    begin = time.perf_counter()
    result = Segmenter().predict(slide, out=arguments.out / "result")
    found, planted = result.mask().array(), made.mask(result.heatmap.frame).array()
    dice = 2 * (found & planted).sum() / max(1, found.sum() + planted.sum())
    print(f"segmented it in {duration(time.perf_counter() - begin)}: {result.summary()}")
    print(f"Dice against the planted lesions: {dice:.2f}")
    findings = result.analyse(folder=arguments.out / "result")
    page = write_report(result, arguments.out / "result" / "report.html", findings=findings)
    print(f"concluded: {findings.summary()}")
    print(f"look at it: digipath view {arguments.out}  (or open {page}, or {slide} and annotations.geojson in QuPath)")
    return 0
