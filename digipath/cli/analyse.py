"""Conclude from results: lesions and the slide's class, tumour burden, sections with tumour; and a report of each.

The findings go into each result's `result.json` (under "analysis"), `annotations.geojson` and `overview.png`, in place
of earlier ones, and onto a page, `report.html`. Without any of --lesions, --burden, --sections, --contours and --tils,
the first three are concluded.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from digipath.cli.settings import names

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser):
    """Declare the options."""
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULT", help="result folders of `digipath predict`")
    parser.add_argument(
        "--class", dest="name", metavar="NAME", help="the class that is lesion, where there are several"
    )
    parser.add_argument("--threshold", type=float, metavar="P", help="probability above which a pixel is lesion")
    parser.add_argument("--no-report", action="store_true", help="write no report.html")
    _add_lesion_arguments(parser.add_argument_group("lesions"))
    _add_burden_arguments(parser.add_argument_group("tumour burden"))
    _add_section_arguments(parser.add_argument_group("sections"))
    _add_cell_arguments(parser.add_argument_group("contours and lymphocytes"))


def _add_lesion_arguments(group):
    group.add_argument("--lesions", action="store_true", help="measure lesions, and class the slide by the longest")
    group.add_argument("--min-lesion", type=float, default=0.0, metavar="MM2", help="leave out lesions of less area")


def _add_burden_arguments(group):
    group.add_argument("--burden", action="store_true", help="how much of the whole tumour is viable")
    group.add_argument("--close", type=float, metavar="UM", help="radius of discs that fill gaps (default 80)")
    group.add_argument("--open", type=float, metavar="UM", help="and that remove specks (default 60, of a biopsy 20)")
    group.add_argument("--biopsy", action="store_true", help="the slide is a needle biopsy, in burden and tumour bulk")


def _add_section_arguments(group):
    group.add_argument("--sections", action="store_true", help="tell tissue sections with tumour from others")
    group.add_argument(
        "--section-thresholds",
        metavar="P,UM2|PRESET",
        help="a section has tumour if a region above P has an area of at least UM2; or a published pair: bcc-unet, "
        "bcc-resnet34, bcc-resnet34-ds, bcc-resnet34-linear (default: any pixel above the result's threshold)",
    )
    group.add_argument("--join", type=float, default=250.0, metavar="UM", help="fragments this close are one section")
    group.add_argument("--min-section", type=float, default=0.05, metavar="MM2", help="less tissue is debris")


def _add_cell_arguments(group):
    group.add_argument("--contours", action="store_true", help="how far lesions are from each other, as contours.csv")
    group.add_argument("--tils", type=Path, metavar="POINTS", help="score these lymphocytes, of a CSV or GeoJSON file")
    group.add_argument("--tumour", type=names, metavar="NAME,...", help="with --tils: classes that are invasive tumour")
    group.add_argument("--stroma", type=names, metavar="NAME,...", help="with --tils: classes that are its stroma")


def run(arguments: argparse.Namespace) -> int:
    """Analyse every result, and print a line for each; 1 if any failed."""
    from digipath.cli import tell_error

    if arguments.tils is not None and not (arguments.tumour and arguments.stroma):
        arguments.usage_error("--tils goes with --tumour and --stroma, which name classes of the result")
    if arguments.tils is not None and len(arguments.results) > 1:
        arguments.usage_error("--tils has the points of one slide; analyse the results one by one")
    settings, failed = _settings(arguments), 0
    for folder in _results(arguments):
        try:
            _analyse(folder, settings, arguments)
        except Exception as error:
            tell_error(error, debug=arguments.debug, subject=f"{folder}: ")
            failed += 1
    return int(failed > 0)


def _results(arguments: argparse.Namespace) -> list[Path]:
    """The folders that are named, without what a run leaves beside its results: the pattern `results/*` finds both."""
    from digipath.runs.record import FAILURES, RECORD, SUMMARY

    beside = (RECORD, SUMMARY, FAILURES)
    found = [path for path in arguments.results if path.name not in beside or (path / "result.json").exists()]
    if not found:
        arguments.usage_error(f"{arguments.results[0]} is of a run, and no result; name the result folders beside it")
    return found


def _analyse(folder: Path, settings, arguments: argparse.Namespace) -> None:
    from digipath.report import write_report
    from digipath.segmentation import Segmentation

    with Segmentation.load(folder) as result:
        found = result.analyse(settings, folder=folder)
        page = folder / "report.html"
        where = folder if arguments.no_report else write_report(result, page, findings=found)
    print(f"{folder}: {found.summary()} -> {where}")
    for note in found.notes:
        print(f"  note: {note}")


def _tils(arguments: argparse.Namespace):
    """Lymphocytes of a file, in the level-0 pixels of the only result's slide."""
    from digipath.analysis.tils import BIOPSY, RESECTION
    from digipath.evidence import TilSettings
    from digipath.io.points import read_points
    from digipath.result_folder import read_info

    if arguments.tils is None:
        return None
    x, y = read_info(arguments.results[0] / "result.json")["slide"]["origin"]
    table = arguments.tils.suffix.lower() in (".csv", ".tsv", ".txt")  # and so in level-0 pixels, wherever those begin
    points = read_points(arguments.tils, origin=None if table else (x, y))
    bulk = BIOPSY if arguments.biopsy else RESECTION
    return TilSettings(points=points, tumour=arguments.tumour, stroma=arguments.stroma, bulk=bulk)


def _settings(arguments: argparse.Namespace):
    """What is concluded; options that make no sense are an error of usage."""
    from digipath.analysis.burden import BIOPSY, BurdenSettings
    from digipath.errors import SpecError
    from digipath.evidence import AnalysisSettings

    wanted = (arguments.lesions, arguments.burden, arguments.sections)
    chosen = any(wanted) or arguments.contours or arguments.tils is not None
    lesions, burden, sections = wanted if chosen else (True, True, True)
    radii = {"close_um": arguments.close, "open_um": arguments.open}
    given = {name: value for name, value in radii.items() if value is not None}
    try:
        return AnalysisSettings(
            lesions=lesions,
            burden=burden,
            sections=sections,
            name=arguments.name,
            threshold=arguments.threshold,
            min_lesion_mm2=arguments.min_lesion,
            contours=arguments.contours,
            tils=_tils(arguments),
            cleaning=replace(BIOPSY if arguments.biopsy else BurdenSettings(), **given),
            section_thresholds=_thresholds(arguments.section_thresholds),
            join_um=arguments.join,
            min_section_mm2=arguments.min_section,
        )
    except SpecError as error:
        arguments.usage_error(str(error))


def _thresholds(text: str | None):
    """A preset's name, or a pair of thresholds."""
    from digipath.analysis.thresholds import PRESETS, SectionThresholds
    from digipath.errors import SpecError

    if text is None or text in PRESETS:
        return text
    try:
        prediction, area = (float(part) for part in text.split(","))
    except ValueError:
        raise SpecError(f"--section-thresholds is P,UM2 or one of {', '.join(PRESETS)}, got {text!r}.") from None
    return SectionThresholds(prediction, area)
