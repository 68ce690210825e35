"""The `digipath` command: one module a subcommand, imported for its options; what is heavy is imported when it runs."""

import argparse
import logging
import sys
import traceback
from collections.abc import Sequence

from digipath import __version__
from digipath.cli import analyse, bundles, demo, doctor, evaluate, export, info, predict, report, stage, train, view
from digipath.errors import DigipathError

__all__ = ["main", "tell_error"]

_COMMANDS = (predict, analyse, report, export, evaluate, stage, train, demo, view, info, bundles, doctor)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        argv: Arguments, by default those of the process.

    Returns:
        0, or 1 if something failed; wrong usage ends the process with 2.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a console without "²" shall not fail a slide
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong with a file is told in a line of ours
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except KeyboardInterrupt:
        print("digipath: stopped; what is finished is kept, and the same command goes on from there.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except Exception as error:
        tell_error(error, debug=arguments.debug)
        return 1


def tell_error(error: Exception, *, debug: bool, subject: str = ""):
    """One line about what went wrong, and the traceback where it is asked for."""
    if debug:
        traceback.print_exception(error)
    kind = "" if isinstance(error, DigipathError) else f"unexpected {type(error).__name__}: "
    hint = "" if isinstance(error, DigipathError) or debug else " (run again with --debug for the traceback)"
    text = " ".join(str(error).split())
    print(f"digipath: error: {subject}{kind}{text}{hint}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="digipath",
        description="Tumour regions from whole-slide images. For research; not a medical device.",
    )
    parser.add_argument("--version", action="version", version=f"digipath {__version__}")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in _COMMANDS:
        name = module.__name__.rpartition(".")[2]
        summary = (module.__doc__ or "").partition("\n")[0]
        command = commands.add_parser(name, help=summary, description=summary, parents=[shared])
        module.add_arguments(command)
        command.set_defaults(run=module.run, usage_error=command.error)
    return parser
