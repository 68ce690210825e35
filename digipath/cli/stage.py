"""Stage patients by the classes of their five slides, as a CSV file that CAMELYON17 accepts."""

import argparse
from pathlib import Path

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser):
    """Declare the options."""
    parser.add_argument(
        "results",
        nargs="+",
        type=Path,
        metavar="RESULTS",
        help="CSV files with a line for each slide: patient_XXX_node_N and negative, itc, micro or macro",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path("submission.csv"),
        metavar="CSV",
        help="what is written (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the file, and print each patient's stage."""
    from digipath.analysis.staging import stage_patients, submission_rows
    from digipath.evaluation.agreement import STAGES
    from digipath.io.stages import write_stages

    classes, passed_over = _classes(arguments.results, arguments.out)
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


def _classes(paths: list[Path], out: Path) -> tuple[dict[str, str], int]:
    """The class of each slide in all files, and how many lines of patients there were among them."""
    from digipath.errors import ResultError
    from digipath.io.stages import read_stages

    classes, passed_over = {}, 0
    for path in paths:
        if out.exists() and path.exists() and path.samefile(out):
            raise ResultError(f"{out} is read, and would be replaced. Choose another file with -o.")
        for name, text in read_stages(path).items():
            if name.lower().endswith(".zip"):
                passed_over += 1
            elif name in classes:
                raise ResultError(f"{path}: {name} is in another file too; give each slide once.")
            else:
                classes[name] = text
    return classes, passed_over
