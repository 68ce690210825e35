"""Put a result onto one page, an HTML file that stands by itself: pictures, findings, and how it came about.

What was concluded by `digipath analyse` is in it; without that there are slide, heatmap and record.
"""

import argparse
from pathlib import Path

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser):
    """Declare the options."""
    parser.add_argument("result", type=Path, metavar="RESULT", help="a result folder")
    parser.add_argument("-o", "--out", type=Path, metavar="HTML", help="the page (default: RESULT/report.html)")


def run(arguments: argparse.Namespace) -> int:
    """Write the page, and say where it is."""
    from digipath.report import write_report

    print(write_report(arguments.result, arguments.out or arguments.result / "report.html"))
    return 0
