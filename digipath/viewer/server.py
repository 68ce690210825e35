"""The server of the viewer: to people by `digipath view`, and to tests and notebooks on a free port."""

import logging
import socket
import threading
import webbrowser
from dataclasses import dataclass, replace

from waitress import wasyncore
from waitress.server import create_server

from digipath.errors import SpecError
from digipath.viewer.app import make_app
from digipath.viewer.desk import Desk
from digipath.viewer.guard import TOKEN, guard, is_loopback

__all__ = ["Running", "serve", "start"]

_THREADS = 8
_BODY = 8 * 2**20  # bytes: ten outlines of ten thousand vertices, told twice
# Who keeps connections open without asking for anything leaves room for others: a browser takes six or so.
_LIMITS = {"max_request_body_size": _BODY, "max_request_header_size": 2**16, "connection_limit": 500}
_LIMITS |= {"channel_timeout": 60, "cleanup_interval": 10}


@dataclass(frozen=True)
class Running:
    """A server in a thread of its own.

    Attributes:
        url: Where the list of slides and results is; with the token, if there is one.
    """

    url: str
    _thread: threading.Thread
    _stopping: threading.Event

    def stop(self) -> None:
        """End it; requests that are under way are finished."""
        self._stopping.set()
        self._thread.join(timeout=10)

    def wait(self) -> None:
        """Come back when it was ended, or with KeyboardInterrupt."""
        while self._thread.is_alive():
            self._thread.join(timeout=0.5)


def serve(desk: Desk, *, host: str, port: int, token: str | None = None, open_browser: bool = False) -> Running:
    """Serve a desk to people.

    Args:
        desk: What is served.
        host: Address to listen at; beyond this machine ("127.0.0.1") only with a token.
        port: 0 takes a free one.
        token: See `guard`.
        open_browser: Whether to show it in the user's browser; not with a token, which other users of this machine
            would see in the list of its processes.

    Raises:
        SpecError: A host beyond this machine without a token, or a port or host that cannot be listened at.
    """
    if not 0 <= port < 2**16:
        raise SpecError(f"a port is a number from 0, which takes a free one, to 65535, got {port}.")
    if token is None and not is_loopback(host):
        raise SpecError(f"beyond this machine the viewer is served with a token only, got the host {host!r} without.")
    running = _run(desk, host=host, port=port, token=token, framed=False)
    if open_browser and token is None:
        webbrowser.open(running.url)
    return running


def start(desk: Desk, *, prefix: str | None = None) -> Running:
    """Serve a desk on a free port of this machine, for a test or a notebook, which may show it in a frame.

    Args:
        desk: What is served.
        prefix: Path under which it is served, in place of the desk's; one that cannot be guessed keeps other users of
            this machine out.
    """
    desk = desk if prefix is None else replace(desk, prefix=prefix)
    return _run(desk, host="127.0.0.1", port=0, token=None, framed=True)


def _run(desk: Desk, *, host: str, port: int, token: str | None, framed: bool) -> Running:
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a browser asks for more tiles than there are threads
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # the list says what is broken
    app = make_app(desk)
    app.server.config["MAX_CONTENT_LENGTH"] = _BODY
    guard(app, host=host, token=token, framed=framed)
    sockets: dict[int, wasyncore.dispatcher] = {}
    try:
        server = create_server(app.server, map=sockets, host=host, port=port, threads=_THREADS, ident=None, **_LIMITS)
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error).rstrip(".")
        raise SpecError(
            f"{host}, port {port}, cannot be listened at: {reason}. Give another --port (0 takes a free one) or --host."
        ) from error
    shown, port = _address(server, host)
    ending = "" if token is None else f"?{TOKEN}={token}"
    stopping = threading.Event()

    def loop() -> None:
        while not stopping.is_set():
            wasyncore.loop(timeout=0.2, use_poll=hasattr(wasyncore.select, "poll"), map=sockets, count=1)
        server.task_dispatcher.shutdown()
        wasyncore.close_all(sockets, ignore_all=True)

    thread = threading.Thread(target=loop, name="digipath viewer", daemon=True)
    thread.start()
    return Running(f"http://{shown}:{port}{desk.prefix}{ending}", thread, stopping)


def _address(server, host: str) -> tuple[str, int]:
    """(host, port) for a URL."""
    port = server.effective_port if hasattr(server, "effective_port") else server.effective_listen[0][1]
    if host in ("0.0.0.0", "::", "[::]"):
        return socket.gethostname(), int(port)
    return (f"[{host.strip('[]')}]" if ":" in host else host), int(port)
