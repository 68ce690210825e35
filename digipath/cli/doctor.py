"""Check this machine: versions, processor, OpenSlide on a made slide, and which accelerators are there and used."""

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser):
    """Declare the options; there are none."""


def run(_: argparse.Namespace) -> int:
    """Print every check; 1 if one failed."""
    from digipath.doctor import examine

    failed = 0
    for check in examine():
        failed += check.ok is False
        print(
            f"{'ok  ' if check.ok else 'FAIL' if check.ok is False else '-   '} {check.name + ':':<13} {check.finding}"
        )
    return int(failed > 0)
