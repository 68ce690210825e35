"""Look at slides and results in the browser, review them, and segment slides from there.

Serves this machine alone, unless --host says otherwise; then, and with --token, only whoever has the address that is
printed can look. Nothing can be reached but what lies in the folders and files that are given. Ctrl-C ends it.
"""

import argparse
import importlib.util
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from digipath.errors import SpecError

if TYPE_CHECKING:
    from digipath.viewer.desk import Desk
    from digipath.viewer.server import Running

__all__ = ["add_arguments", "run"]

_NEEDED = ("dash", "dash_leaflet", "waitress")
_PORT = 8050


def add_arguments(parser: argparse.ArgumentParser):
    """Declare the options."""
    parser.add_argument(
        "sources",
        nargs="*",
        type=Path,
        default=[Path()],
        metavar="SOURCE",
        help="slides, result folders, and folders with either (default: the current folder)",
    )
    parser.add_argument(
        "-o", "--out", type=Path, metavar="FOLDER", help="where new results go (default: results, in the first folder)"
    )
    parser.add_argument("--mpp", type=float, help="micrometres per pixel of slides whose file does not say it")
    parser.add_argument("--no-segment", action="store_true", help="look and review only")
    _add_review_arguments(parser.add_argument_group("review"))
    _add_server_arguments(parser.add_argument_group("the server"))


def _add_review_arguments(group):
    group.add_argument("--reviewer", default="", metavar="NAME", help="under which decisions are kept")
    group.add_argument("--blind", action="store_true", help="withhold the model's answer until the reviewer's is given")


def _add_server_arguments(group):
    group.add_argument(
        "--port", type=int, default=_PORT, help=f"where it is served (default {_PORT}; 0 takes a free one)"
    )
    group.add_argument("--host", default="127.0.0.1", help="address to serve other machines at, such as 0.0.0.0")
    group.add_argument(
        "--token", action="store_true", help="let only in who has the printed address, for machines that are shared"
    )
    group.add_argument("--no-browser", action="store_true", help="do not open the browser")


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise SpecError(
            f'the viewer needs {", ".join(missing)}, which are not installed: pip install "digipath[viewer]".'
        )
    if arguments.blind and not arguments.reviewer:
        arguments.usage_error("--blind goes with --reviewer: what is shown depends on what that person has answered")
    from digipath.viewer import guard, server

    desk = _desk(arguments)
    beyond = not guard.is_loopback(arguments.host)
    token = guard.new_token() if beyond or arguments.token else None
    running = None
    try:
        with _ending():
            running = server.serve(
                desk,
                host=arguments.host,
                port=arguments.port,
                token=token,
                open_browser=not arguments.no_browser,
            )
            _say(desk, running.url, token=token, beyond=beyond)
            running.wait()
    except KeyboardInterrupt:
        busy = desk.jobs is not None and any(job.is_open for job in desk.jobs.all())
        said = " The slide in work is stopped with this batch; Ctrl-C again does not wait for it." if busy else ""
        print(f"The viewer has ended.{said}", flush=True)
    finally:
        _close(desk, running)
    return 0


def _close(desk: "Desk", running: "Running | None") -> None:
    """End the server and what is in work; at once, if the user does not want to wait."""
    try:
        if running is not None:
            running.stop()
        if desk.jobs is not None:
            desk.jobs.close()
        desk.opened.close()
    except KeyboardInterrupt:
        print("Stopped at once; what is finished is kept.", flush=True)
        os._exit(130)  # threads of a network that is at work cannot be ended in any better way


def _desk(arguments: argparse.Namespace) -> "Desk":
    from digipath.viewer.desk import Desk
    from digipath.viewer.jobs import Jobs
    from digipath.viewer.opened import Opened
    from digipath.viewer.shelf import Shelf

    out, opened = None if arguments.no_segment else arguments.out or _default_out(arguments.sources), Opened()
    return Desk(
        shelf=Shelf(arguments.sources, out=out, mpp=arguments.mpp),
        opened=opened,
        jobs=None if out is None else Jobs(out),
        reviewer=arguments.reviewer,
        blind=arguments.blind,
    )


def _default_out(sources: list[Path]) -> Path:
    """In the first folder, or beside the first slide; results given as such get a neighbour."""
    first = sources[0].resolve()
    folder = first if first.is_dir() and not (first / "result.json").exists() else first.parent
    return folder / "results"


def _say(desk: "Desk", url: str, *, token: str | None, beyond: bool) -> None:
    print(f"The viewer is at {url} until Ctrl-C.", flush=True)
    if token is not None:
        print("Who has this address sees all of it and may review and segment; it is shown this once.")
    if beyond:
        print("What is sent is not encrypted: outside of a network that you trust, tunnel it (ssh -L).")
    found = desk.shelf.items()
    results = sum(item.kind == "result" for item in found)
    print(f"{len(found) - results} slides and {results} results are there.", flush=True)
    if left_out := desk.shelf.left_out:
        print(
            f"{len(left_out)} links lead out of what was given and are not followed, such as {left_out[0]}; "
            "give what they lead to, too.",
            flush=True,
        )


@contextmanager
def _ending() -> Iterator[None]:
    """Take the polite way out when the process is told to end, too."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
