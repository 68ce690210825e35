"""Segment slides: heatmaps, polygons and an overview, one folder a slide.

One slide that fails does not stop the others; it is reported, and the exit code is 1.
"""

import argparse
import glob
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

from digipath.cli.settings import add_network_arguments, add_slide_arguments, duration, make_segmenter, quantity

__all__ = ["add_arguments", "run"]

_SUFFIXES = (
    *(".bif", ".dcm", ".jp2", ".jpeg", ".jpg", ".mrxs", ".ndpi", ".png", ".qptiff", ".scn", ".svs", ".svslide"),
    *(".tif", ".tiff", ".vms", ".vmu"),
)


def add_arguments(parser: argparse.ArgumentParser):
    """Declare the options."""
    parser.add_argument(
        "slides", nargs="+", metavar="SLIDE", help="slides, folders of slides, or patterns such as '*.svs'"
    )
    parser.add_argument("-o", "--out", type=Path, metavar="FOLDER", help="where the results go, a folder each")
    add_slide_arguments(parser)
    add_network_arguments(parser)
    parser.add_argument("--dry-run", action="store_true", help="only say how many patches, how much memory and time")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bars")


def run(arguments: argparse.Namespace) -> int:
    """Segment every slide; 1 if any failed."""
    from digipath.cli import report

    if arguments.out is None and not arguments.dry_run:
        arguments.usage_error("the following arguments are required: -o/--out")
    slides = _find(arguments)
    folders = _folders(slides, arguments)
    segmenter = make_segmenter(arguments)
    failed = 0
    for slide, folder in zip(slides, folders, strict=True):
        try:
            print(
                _plan(segmenter, slide, arguments)
                if arguments.dry_run
                else _predict(segmenter, slide, folder, arguments)
            )
        except Exception as error:
            failed += 1
            report(error, debug=arguments.debug, subject=f"{slide}: ")
    if len(slides) > 1:
        print(f"{len(slides)} slides: {len(slides) - failed} done, {failed} failed", file=sys.stderr)
    return int(failed > 0)


def _predict(segmenter, slide: Path, folder: Path, arguments: argparse.Namespace) -> str:
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # printed below, from the result
        result = segmenter.predict(
            slide,
            out=folder,
            mpp=arguments.mpp,
            tissue=arguments.tissue,
            region=arguments.region,
            progress=not arguments.quiet,
        )
    for note in result.info["notes"]:
        print(f"digipath: note: {slide}: {note}", file=sys.stderr)
    return f"{slide}: {result.summary()}, {duration(time.perf_counter() - begin)} -> {folder}"


def _plan(segmenter, slide: Path, arguments: argparse.Namespace) -> str:
    planned = segmenter.plan(slide, mpp=arguments.mpp, tissue=arguments.tissue, region=arguments.region)
    seconds = segmenter.estimate(planned)
    frame = planned.heatmap_frame
    return (
        f"{slide}: {len(planned.boxes)} patches of {planned.grid.patch[0]} x {planned.grid.patch[1]} px at "
        f"{planned.frame.mpp:g} um/px, heatmap {frame.width} x {frame.height} px at {frame.mpp:g} um/px, "
        f"{quantity(planned.memory(len(segmenter.predictor.channels)))}B, about {duration(seconds)}"
    )


def _find(arguments: argparse.Namespace) -> list[Path]:
    """The slides that the arguments name, each once, in order."""
    found: dict[Path, None] = {}
    for name in arguments.slides:
        path = Path(name)
        if path.is_dir():
            # macOS leaves files such as "._one.svs" beside the slides of a disk that it has seen.
            seen = (p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
            matches = sorted(p for p in seen if p.suffix.lower() in _SUFFIXES)
            if not matches:
                arguments.usage_error(f"the folder {name} holds no file with a slide's suffix ({' '.join(_SUFFIXES)})")
        else:
            matches = (
                [path] if path.exists() or not glob.has_magic(name) else [Path(p) for p in sorted(glob.glob(name))]  # noqa: PTH207 - absolute patterns too
            )
            if not matches:
                arguments.usage_error(f"no file matches {name}")
        found |= dict.fromkeys(matches)
    return _one_per_series(list(found))


def _one_per_series(paths: list[Path]) -> list[Path]:
    """Leave out the further files of a DICOM slide that is spread over several."""
    if sum(path.suffix.lower() == ".dcm" for path in paths) < 2:
        return paths
    seen: dict[str, Path] = {}
    kept = []
    for path in paths:
        first = seen.setdefault(_series(path), path)
        if first == path:
            kept.append(path)
        else:
            print(f"digipath: note: {path} is of the same slide as {first}", file=sys.stderr)
    return kept


def _series(path: Path) -> str:
    """What the files of one slide have in common; a path for what is no readable DICOM file."""
    from digipath.errors import SlideError
    from digipath.slides.slide import describe

    try:
        return describe(path)["properties"]["dicom.SeriesInstanceUID"] if path.suffix.lower() == ".dcm" else str(path)
    except (SlideError, KeyError):
        return str(path)


def _folders(slides: list[Path], arguments: argparse.Namespace) -> list[Path]:
    """A result folder for each slide; slides of the same name get longer ones, so that none replaces another."""
    out = arguments.out or Path()
    for name in (lambda p: p.stem, lambda p: p.name, lambda p: f"{p.resolve().parent.name}_{p.name}"):
        names = [name(path) for path in slides]
        if len(set(names)) == len(names):
            return [out / one for one in names]
    twice = next(one for one, count in Counter(names).items() if count > 1)
    arguments.usage_error(
        f"two slides would both be written to {out / twice}; run them one by one, each with its own -o"
    )
    raise AssertionError("unreachable: a usage error ends the process")
