"""Make a small synthetic slide, segment it with the built-in network, and compare with the truth."""

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
    raise NotImplementedError
