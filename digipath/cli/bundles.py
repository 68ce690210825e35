"""List the built-in bundles, or describe one."""

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser):
    """Declare the options."""
    parser.add_argument(
        "bundle", nargs="?", metavar="BUNDLE", help="a built-in name or a folder, to read its model card"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print a line for each bundle, or one bundle's specification and card."""
    from digipath.models.bundle import Bundle, builtin_names

    if arguments.bundle is None:
        default = Bundle.builtin().name
        for name in builtin_names():
            spec = Bundle.builtin(name).spec
            mark = " (default)" if name == default else ""
            print(f"{name}{mark}: {spec.architecture}, {' / '.join(spec.classes)}, {spec.mpp:g} um per pixel")
        return 0
    bundle = Bundle.open(arguments.bundle)
    print(bundle.spec.to_json())
    card = bundle.folder / "README.md"
    print(card.read_text(encoding="utf-8") if card.is_file() else f"{bundle.folder} has no model card (README.md).")
    return 0
