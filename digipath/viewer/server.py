"""What the viewer answers: tiles, thumbnails and files beside the pages; to whom, and until when."""

import hashlib
import ipaddress
import logging
import secrets
import socket
import threading
import webbrowser
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import cv2
import dash
import flask
import numpy as np
from waitress import wasyncore
from waitress.server import create_server

from digipath.errors import DigipathError, ResultError, SpecError
from digipath.viewer.opened import Opened
from digipath.viewer.shelf import Item
from digipath.viewer.tiles import Tiling, layer_tile, slide_tile, thumbnail

if TYPE_CHECKING:
    from digipath.viewer.desk import Desk

__all__ = ["FILES", "Running", "add_routes", "guard", "is_loopback", "new_token", "serve", "start"]

FILES = {
    "annotations.geojson": "application/geo+json",
    "annotations.xml": "application/xml",
    "contours.csv": "text/csv",
    "overview.png": "image/png",
    "report.html": "text/html",
    "result.json": "application/json",
    "review.geojson": "application/geo+json",
    "review.json": "application/json",
    "review.xml": "application/xml",
    "uncertainty.png": "image/png",
}
"""The files of a result that may be fetched, and what they are."""

_THREADS = 8
_SHOWN = {"image/png", "text/html"}  # in the browser; the others are saved
_FOREVER = "private, max-age=31536000, immutable"
_THUMBNAILS = 2000  # kept, of some 10 KB each
_TOKEN = "token"
_OPEN = ("slide", "tissue")  # layers that tell nothing of the model's answer
# A page from somebody else's result may not run anything, nor fetch anything.
_FILE_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox allow-popups"


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


def add_routes(app: dash.Dash, desk: "Desk") -> None:
    """Answer for tiles, thumbnails and files, under the desk's prefix.

    Names in a URL are looked up among what the shelf has found, and never become part of a path.
    """
    pictures = _Pictures(desk.opened)

    def tile(id: str, layer: str, z: int, x: int, y: int) -> flask.Response:
        item = desk.shelf.get(id)
        if layer not in _OPEN:
            _unless_hidden(desk, item)
        if layer == "slide":
            with desk.opened.slide(item) as slide:
                content = slide_tile(slide, Tiling(slide.frame.width, slide.frame.height), z, x, y)
            return _picture(content, "image/jpeg", item)
        with desk.opened.view(item) as view:
            content = layer_tile(view, layer, z, x, y, threshold=_threshold())
        return _picture(content, "image/png", item)

    def thumbnails(id: str) -> flask.Response:
        item = desk.shelf.get(id)
        return _picture(pictures.of(item), "image/jpeg", item)

    def files(id: str, name: str) -> flask.Response:
        item = desk.shelf.get(id)
        if name not in FILES or item.kind != "result" or item.held is not None:
            raise SpecError(f"there is no file {name[:60]!r} to be fetched. There may be: {', '.join(FILES)}.")
        _unless_hidden(desk, item)
        path = item.path / name
        if not path.is_file() or not desk.shelf.allows(path):
            raise SpecError(f"{item.name} has no {name}.")
        answer = flask.send_file(
            path,
            mimetype=FILES[name],
            as_attachment=FILES[name] not in _SHOWN,
            download_name=f"{item.name}-{name}",
            max_age=0,
        )
        answer.headers["Content-Security-Policy"] = _FILE_POLICY
        return answer

    for rule, answer in (
        ("tiles/<id>/<layer>/<int:z>/<int:x>/<int:y>", tile),
        ("thumbnails/<id>", thumbnails),
        ("files/<id>/<name>", files),
    ):
        app.server.add_url_rule(f"{desk.prefix}{rule}", f"digipath-{answer.__name__}", _telling(answer))


def guard(app: dash.Dash, *, host: str, token: str | None, framed: bool = False) -> None:
    """Answer only whom the viewer is meant for; called when all callbacks are there.

    A page from elsewhere that a browser shows at the same time can neither read nor change anything: names of hosts
    that are not this machine's are refused (against DNS rebinding), and so are posts from other origins. The pages
    themselves may load nothing that does not come from here.

    Args:
        app: The application.
        host: Where it is served.
        token: What a browser has to bring, once, in the URL; it then has a cookie. None asks for none.
        framed: Whether pages of this machine, such as a notebook, may show the viewer inside of theirs.
    """
    policy = _policy(app, framed)
    cookie = f"digipath_{hashlib.sha256((token or '').encode()).hexdigest()[:12]}"
    names = {host.casefold(), "localhost", socket.gethostname().casefold(), socket.getfqdn().casefold()}

    def check() -> flask.Response | None:
        request = flask.request
        if not _is_ours(request.host, names):
            return _refused(421, "This viewer does not answer under that name; use the address that it printed.")
        if request.method not in ("GET", "HEAD", "OPTIONS") and not _is_own_origin(request):
            return _refused(403, "This viewer takes changes from its own pages only.")
        return None if token is None else _admit(token, cookie)

    def protect(answer: flask.Response) -> flask.Response:
        headers = answer.headers
        headers.setdefault("Content-Security-Policy", policy)
        headers.setdefault("Cache-Control", "no-store")
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "no-referrer"
        headers["Cross-Origin-Resource-Policy"] = "same-origin"
        if not framed:
            headers["X-Frame-Options"] = "DENY"
        return answer

    app.server.before_request(check)
    app.server.after_request(protect)


def serve(desk: "Desk", *, host: str, port: int, token: str | None = None, open_browser: bool = False) -> Running:
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
    if token is None and not is_loopback(host):
        raise SpecError(f"beyond this machine the viewer is served with a token only, got the host {host!r} without.")
    running = _run(desk, host=host, port=port, token=token, framed=False)
    if open_browser and token is None:
        webbrowser.open(running.url)
    return running


def start(desk: "Desk", *, prefix: str | None = None) -> Running:
    """Serve a desk on a free port of this machine, for a test or a notebook, which may show it in a frame.

    Args:
        desk: What is served.
        prefix: Path under which it is served, in place of the desk's; one that cannot be guessed keeps other users of
            this machine out.
    """
    desk = desk if prefix is None else replace(desk, prefix=prefix)
    return _run(desk, host="127.0.0.1", port=0, token=None, framed=True)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what is served there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.casefold() == "localhost"


def new_token() -> str:
    """One that nobody can guess."""
    return secrets.token_urlsafe(24)


def _run(desk: "Desk", *, host: str, port: int, token: str | None, framed: bool) -> Running:
    from digipath.viewer.app import make_app

    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a browser asks for more tiles than there are threads
    app = make_app(desk)
    guard(app, host=host, token=token, framed=framed)
    sockets: dict[int, wasyncore.dispatcher] = {}
    try:
        server = create_server(app.server, map=sockets, host=host, port=port, threads=_THREADS, ident=None)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SpecError(
            f"{host}, port {port}, cannot be listened at: {reason}. Give another --port (0 takes a free one) or --host."
        ) from error
    shown, port = _address(server, host)
    ending = "" if token is None else f"?{_TOKEN}={token}"
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


class _Pictures:
    """Small pictures of slides, those that were made last."""

    def __init__(self, opened: Opened):
        self._opened = opened
        self._lock = threading.Lock()
        self._made: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    def of(self, item: Item) -> bytes:
        key = item.id, item.version
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
        content = self._make(item)
        with self._lock:
            self._made[key] = content
            while len(self._made) > _THUMBNAILS:
                self._made.popitem(last=False)
        return content

    def _make(self, item: Item) -> bytes:
        if item.has_slide:
            with self._opened.slide(item) as slide:
                return thumbnail(slide)
        with self._opened.view(item) as view:
            if view.thumbnail is None:
                raise ResultError(f"{item.name} has no picture yet.")
            return _small(view.thumbnail.array())


def _small(pixels: np.ndarray) -> bytes:
    scale = min(1.0, 320 / max(pixels.shape[:2]))
    size = tuple(max(1, round(side * scale)) for side in pixels.shape[1::-1])
    shrunk = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", cv2.cvtColor(shrunk, cv2.COLOR_RGB2BGR))[1].tobytes()


def _telling(answer: Callable[..., flask.Response]) -> Callable[..., flask.Response]:
    """Say in one line what could not be answered."""

    def told(**names) -> flask.Response:
        try:
            return answer(**names)
        except SpecError as error:
            return _refused(404, str(error))
        except (DigipathError, OSError) as error:
            return _refused(422, str(error))

    return told


def _unless_hidden(desk: "Desk", item: Item) -> None:
    """Withhold in a blind study what the model said."""
    if desk.hidden(item):
        raise ResultError(f"what the model said of {item.name} is withheld until it was reviewed.")


def _threshold() -> float | None:
    text = flask.request.args.get("t")
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        raise SpecError(f"a threshold is a number from 0 to 1, got {text[:40]!r}.") from None


def _picture(content: bytes, kind: str, item: Item) -> flask.Response:
    answer = flask.Response(content, mimetype=kind)
    answer.headers["Cache-Control"] = _FOREVER if flask.request.args.get("v") == item.version else "no-store"
    return answer


def _refused(status: int, why: str) -> flask.Response:
    return flask.Response(f"{why}\n", status=status, mimetype="text/plain")


def _is_ours(host: str, names: set[str]) -> bool:
    """Whether a Host header names this machine: by an address, which no foreign name can be, or by its own name."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name.casefold() in names or bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _is_own_origin(request: flask.Request) -> bool:
    """Whether a change comes from a page of this server, or from what is no browser."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc.casefold() == request.host.casefold()


def _admit(token: str, cookie: str) -> flask.Response | None:
    """Let through who has the cookie; give it to who has the token."""
    request = flask.request
    if _same(request.cookies.get(cookie, ""), token):
        return None
    if not _same(request.args.get(_TOKEN, ""), token):
        return _refused(401, "This viewer was started with a token. Open the whole URL that it printed.")
    # A page, and not a redirection: where a link in a mail was followed, a strict cookie would not be sent along.
    page = f'<!doctype html><meta http-equiv="refresh" content="0;url={escape(request.path)}"><title>digipath</title>'
    answer = flask.Response(page, mimetype="text/html")
    answer.set_cookie(cookie, token, httponly=True, samesite="Strict", path=request.script_root or "/")
    return answer


def _same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())


def _policy(app: dash.Dash, framed: bool) -> str:
    """What the pages may load: nothing that is not from here, and no script but those that Dash has put there."""
    scripts = " ".join(app.csp_hashes())
    frames = "'self' http://localhost:* http://127.0.0.1:*" if framed else "'none'"
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src 'self' {scripts}",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "connect-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            f"frame-ancestors {frames}",
        ]
    )
