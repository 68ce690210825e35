"""Stage patients by the metastases of their five slides, as a CSV file that CAMELYON17 accepts."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from digipath.evidence import AnalysisSettings

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser):
    """Declare the options."""
    parser.add_argument(
        "results",
        nargs="+",
        type=Path,
        metavar="RESULTS",
        help="CSV files with a line for each slide, patient_XXX_node_N and one of negative, itc, micro and macro; or "
        "result folders named patient_XXX_node_N, whose longest lesion decides: itc up to 0.2 mm, micro up to 2 mm",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path("submission.csv"),
        metavar="CSV",
        help="what is written (default: %(default)s)",
    )
    parser.add_argument(
        "--threshold", type=float, metavar="P", help="probability above which it is a lesion, in result folders"
    )
    parser.add_argument(
        "--class", dest="name", metavar="NAME", help="the class that is lesion, where result folders have several"
    )
    parser.add_argument(
        "--min-lesion", type=float, default=0.0, metavar="MM2", help="leave out lesions of less area, in result folders"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the file, and print each patient's stage."""
    from digipath.analysis.staging import stage_patients, submission_rows
    from digipath.evaluation.agreement import STAGES
    from digipath.io.stages import write_stages

    classes, passed_over = _classes(arguments)
    patients = stage_patients(classes)
    for one in patients:
        print(f"{one.patient}  {one.stage:<8} {', '.join(one.classes)}")
    write_stages(arguments.out, submission_rows(patients))
    stages = [one.stage for one in patients]
    counts = ", ".join(f"{stages.count(stage)} {stage}" for stage in STAGES if stage in stages)
    print(f"{len(patients)} patients ({counts}): {arguments.out}")
    if passed_over:
        print(f"{passed_over} lines with stages of patients (.zip) were passed over: stages are concluded from slides.")
    return 0


def _classes(arguments: argparse.Namespace) -> tuple[dict[str, str], int]:
    """The class of each slide in all results, and how many lines of patients there were among them."""
    from digipath.errors import ResultError
    from digipath.evidence import AnalysisSettings
    from digipath.io.stages import read_stages

    given = {"threshold": arguments.threshold, "name": arguments.name, "min_lesion_mm2": arguments.min_lesion}
    settings = AnalysisSettings(burden=False, sections=False, **given)
    classes, passed_over, out = {}, 0, arguments.out
    for path in arguments.results:
        if path.is_dir():
            rows = {path.resolve().name: _class_of(path, settings)}
        elif out.exists() and path.exists() and path.samefile(out):
            raise ResultError(f"{out} is read, and would be replaced. Choose another file with -o.")
        else:
            rows = read_stages(path)
        for name, text in rows.items():
            if name.lower().endswith(".zip"):
                passed_over += 1
            elif name in classes:
                raise ResultError(f"{path}: {name} came before; give each slide once.")
            else:
                classes[name] = text
    return classes, passed_over


def _class_of(folder: Path, settings: "AnalysisSettings") -> str:
    """The class of a result by its longest lesion, as `digipath analyse` tells it."""
    from digipath.errors import ResultError
    from digipath.segmentation import Segmentation

    with Segmentation.load(folder) as result:
        found, status = result.analyse(settings), result.status
    if found.slide_class is None:
        raise ResultError(
            f"{folder}: nothing of the slide was seen, so that it has no class. Predict it again, or give its class in "
            "a CSV file."
        )
    if status != "ok":
        print(f"digipath: {folder}: the result is {status}; its class is of what was seen.", file=sys.stderr)
    return found.slide_class
