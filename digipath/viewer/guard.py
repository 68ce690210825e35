"""Whom the viewer answers, and what its pages may load."""

import hashlib
import ipaddress
import secrets
import socket
from html import escape
from urllib.parse import urlsplit

import dash
import flask

__all__ = ["TOKEN", "guard", "is_loopback", "new_token", "refused"]

TOKEN = "token"
"""Name of the parameter of a URL in which the token is brought."""

# Where notebooks are shown: by a server of this machine, or in an editor that is a browser of its own.
_NOTEBOOKS = ("'self'", "http://localhost:*", "http://127.0.0.1:*", "vscode-webview:", "vscode-file:")


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
            return refused(421, "This viewer does not answer under that name; use the address that it printed.")
        if request.method not in ("GET", "HEAD", "OPTIONS") and not _is_own_origin(request):
            return refused(403, "This viewer takes changes from its own pages only.")
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


def refused(status: int, why: str) -> flask.Response:
    """An answer that says in one line why there is no other."""
    return flask.Response(f"{why}\n", status=status, mimetype="text/plain")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what is served there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.casefold() == "localhost"


def new_token() -> str:
    """One that nobody can guess."""
    return secrets.token_urlsafe(24)


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
    if not _same(request.args.get(TOKEN, ""), token):
        return refused(401, "This viewer was started with a token. Open the whole URL that it printed.")
    # A page, and not a redirection: where a link in a mail was followed, a strict cookie would not be sent along.
    place = escape("/" + request.path.lstrip("/\\"))  # and never "//", which would lead elsewhere
    page = f'<!doctype html><meta http-equiv="refresh" content="0;url={place}"><title>digipath</title>'
    answer = flask.Response(page, mimetype="text/html")
    answer.set_cookie(cookie, token, httponly=True, samesite="Strict", path=request.script_root or "/")
    return answer


def _same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())


def _policy(app: dash.Dash, framed: bool) -> str:
    """What the pages may load: nothing that is not from here, and no script but those that Dash has put there."""
    scripts = " ".join(app.csp_hashes())
    frames = " ".join(_NOTEBOOKS) if framed else "'none'"
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
