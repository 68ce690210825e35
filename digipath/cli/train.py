"""Train a network on annotated slides, by the recipe of a paper: a bundle that `digipath predict --bundle` takes.

COHORT is a CSV file with the columns slide, annotations or mask, label, patient, split and mpp (those that are needed),
or a folder of images with masks. A run that was stopped goes on when the same command is given again.
"""

import argparse
import sys
from pathlib import Path

from digipath.cli.settings import names

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser):
    """Declare the options."""
    parser.add_argument(
        "cohort", nargs="?", type=Path, metavar="COHORT", help="a CSV file, or a folder of images with masks"
    )
    parser.add_argument("-o", "--out", type=Path, metavar="BUNDLE", help="folder of the finished bundle")
    parser.add_argument(
        "--recipe",
        action="append",
        metavar="NAME",
        help="what to train; with --folds more than once, one network a fold",
    )
    parser.add_argument("--list", action="store_true", help="only list the recipes")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="replace a field of the recipe, e.g. batch=8"
    )
    parser.add_argument("--folds", type=int, metavar="K", help="K bundles, each judged on the fold it did not see")
    _add_cohort_arguments(parser)
    _add_machine_arguments(parser)


def _add_cohort_arguments(parser: argparse.ArgumentParser):
    group = parser.add_argument_group("the cohort")
    group.add_argument("--classes", type=names, metavar="A,B", help="classes, lesion last; by default other,lesion")
    group.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="NAME=CLASS",
        help="annotations of that name are of this class; CLASS ignored: left out",
    )
    group.add_argument(
        "--mask-value",
        action="append",
        default=[],
        metavar="N=CLASS",
        help="pixels of that value in masks are of this class",
    )
    group.add_argument("--lesion", action="append", metavar="NAME", help="folder: images of this class show lesions")
    group.add_argument("--mpp", type=float, metavar="UM", help="folder: micrometres per pixel of the images")
    group.add_argument(
        "--val",
        type=float,
        metavar="SHARE",
        help="draw this share of the patients for validation, but for those of the split test",
    )


def _add_machine_arguments(parser: argparse.ArgumentParser):
    group = parser.add_argument_group("the machine")
    group.add_argument("--threads", type=int, metavar="N", help="threads that read and change patches")
    group.add_argument("--strategy", choices=["mirrored"], help="share each batch among all devices")
    group.add_argument("--mixed", choices=["bfloat16", "float16"], help="compute in half precision")
    group.add_argument("--tensorboard", action="store_true", help="also write files for TensorBoard")
    group.add_argument("--fresh", action="store_true", help="begin anew instead of going on with a stopped run")
    group.add_argument("-q", "--quiet", action="store_true", help="no progress bars")


def run(arguments: argparse.Namespace) -> int:
    """Train one bundle, or one for each fold."""
    if arguments.list:
        return _list()
    for name in ("cohort", "out", "recipe"):
        if not getattr(arguments, name):
            arguments.usage_error(
                f"the following arguments are required: {'COHORT' if name == 'cohort' else '--' + name}"
            )
    recipes = _recipes(arguments)
    if len(recipes) > 1 and arguments.folds is None:
        arguments.usage_error("several recipes need --folds: each network is trained on another part of the cohort")
    cohort = _cohort(arguments)  # the recipes are known to be right by now, and nothing has been read
    if arguments.folds is not None:
        return _train_folds(cohort, recipes, arguments)
    from digipath.training.trainer import train

    bundle = train(cohort, recipes[0], out=arguments.out, settings=_settings(arguments))
    print(
        f"{bundle.name}: {bundle.spec.architecture}, {bundle.spec.mpp:g} um/px, hash {bundle.hash} -> {arguments.out}"
    )
    print(f"digipath predict SLIDE --bundle {arguments.out} -o results", file=sys.stderr)
    return 0


def _list() -> int:
    from digipath.training.recipes import RECIPES

    for one in RECIPES.values():
        print(
            f"{one.name:<30} {one.architecture:<24} {one.patch} px at {one.mpp:g} um/px, {one.loss} loss, "
            f"{one.epochs} epochs"
        )
    return 0


def _train_folds(cohort, recipes, arguments: argparse.Namespace) -> int:
    from digipath.training.crossval import train_folds

    report = train_folds(cohort, recipes, folds=arguments.folds, out=arguments.out, settings=_settings(arguments))
    print(report.table())
    bundles = " ".join(f"--bundle {folder}" for folder in report.bundles)
    print(f"digipath predict SLIDE {bundles} -o results", file=sys.stderr)
    return 0


def _recipes(arguments: argparse.Namespace) -> list:
    from digipath.errors import SpecError
    from digipath.training.recipes import recipe, replaced

    try:
        changes = dict(_pair(text) for text in arguments.set)
        return [replaced(recipe(name), changes) for name in arguments.recipe]
    except SpecError as error:
        arguments.usage_error(str(error))


def _settings(arguments: argparse.Namespace):
    from digipath.training.trainer import TrainSettings

    return TrainSettings(
        threads=arguments.threads,
        strategy=arguments.strategy,
        mixed=arguments.mixed,
        tensorboard=arguments.tensorboard,
        progress=not arguments.quiet,
        fresh=arguments.fresh,
    )


def _cohort(arguments: argparse.Namespace):
    from digipath.data.cohort import Cohort

    groups, values = (_classes(arguments, name) for name in ("group", "mask_value"))
    is_folder = arguments.cohort.is_dir()
    for name in ("classes", "group", "mask_value") if is_folder else ("lesion", "mpp"):
        if getattr(arguments, name):
            kind, instead = ("a CSV file", "--lesion") if is_folder else ("a folder", "the columns label and mpp")
            arguments.usage_error(f"--{name.replace('_', '-')} is for {kind} as the cohort; use {instead}")
    if is_folder:
        cohort = Cohort.from_folder(arguments.cohort, mpp=arguments.mpp, lesion=arguments.lesion)
    else:
        classes = arguments.classes or ("other", "lesion")
        cohort = Cohort.read(arguments.cohort, classes=classes, groups=groups, mask_values=values)
    return cohort if arguments.val is None else cohort.split(val=arguments.val)


def _classes(arguments: argparse.Namespace, option: str) -> dict | None:
    """What --group or --mask-value map to classes; "ignored" is no class."""
    from digipath.errors import SpecError

    kind = int if option == "mask_value" else str
    try:
        pairs = [_pair(text) for text in getattr(arguments, option)]
        return {kind(name): None if to == "ignored" else to for name, to in pairs} or None
    except (SpecError, ValueError):
        arguments.usage_error(f"--{option.replace('_', '-')} takes what is in the file and a class, such as 2=lesion")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        from digipath.errors import SpecError

        raise SpecError(f"expected NAME=VALUE, got {text!r}.")
    return name.strip(), value.strip()
