"""`digipath view` as a process of its own: it answers under the address that it prints, and ends when it is told to."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.request import HTTPCookieProcessor, build_opener

from blocks import ROOT

_SERVE = "import sys; from digipath.cli import main; sys.exit(main(['view', *sys.argv[1:]]))"


def view(words: Sequence[str]) -> int:
    """Start the viewer with these options on a free port and without a browser, look at its page; the exit code."""
    path = os.pathsep.join(filter(None, [str(ROOT), *sys.path]))
    with subprocess.Popen(
        [sys.executable, "-c", _SERVE, *words, "--no-browser", "--port", "0"],
        cwd=Path.cwd(),
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            said = process.stdout.readline()
            found = re.search(r"http://\S+", said)
            assert found, f"`digipath view` said {said!r} in place of its address"
            page = build_opener(HTTPCookieProcessor(CookieJar())).open(found[0], timeout=60)
            assert page.status == 200 and "html" in page.headers["Content-Type"]
        finally:
            process.terminate()
            process.communicate(timeout=60)  # what it still says is heard, or it would stumble over that
    return process.returncode
