"""A result inside of a page from elsewhere on this machine, as a notebook is."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

pytest.importorskip("dash")

from digipath.segmentation import Segmentation


@pytest.fixture
def served():
    """A function that serves a page of this machine, at another port than the viewer."""
    servers = []

    def serve(html):
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(html.encode())

            def log_message(self, *_):
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Answer))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/"

    yield serve
    for one in servers:
        one.shutdown()
        one.server_close()


def test_the_frame_shows_tiles_of_slide_and_heatmap_and_nothing_fails(library, page, served):
    failed = []
    page.on("response", lambda response: failed.append(response.url) if response.status >= 400 else None)
    page.on("console", lambda message: failed.append(message.text) if message.type == "error" else None)
    with Segmentation.load(library / "results" / "slide") as result:
        view = result.view(height=500)
        page.goto(served(view._repr_html_()))
        tiles = page.frame_locator("iframe").locator("img.leaflet-tile-loaded")
        tiles.first.wait_for(timeout=60_000)
        page.wait_for_timeout(500)
        sources = [tiles.nth(number).get_attribute("src") for number in range(tiles.count())]
        view.close()
    assert any("/slide/" in one for one in sources) and any("/probability-1/" in one for one in sources)
    assert not failed
