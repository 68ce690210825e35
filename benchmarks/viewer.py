"""What a tile of the viewer costs, beside OpenSlide's own Deep Zoom; prints JSON.

    python benchmarks/viewer.py                        # a made slide of 20,000 x 20,000 px; two minutes
    python benchmarks/viewer.py --data ../shared/data  # CMU-1-Small-Region.svs, too
    python benchmarks/viewer.py --quick                # 4,000 x 4,000 px and fewer tiles; seconds

Every figure is a ratio of two measurements of one run, tile by tile in turn, so that it means the same on a slow and on
a noisy machine. A tile is 256 x 256 pixels, read and written as JPEG of the same quality by both; zooms are drawn
evenly from those at which the slide is larger than a tile, then a tile of the zoom. `DeepZoomGenerator` is that of
openslide-python, without overlap.

a  `tile`: 1,000 random tiles by `digipath.viewer.tiles.slide_tile` over Deep Zoom's `get_tile` and Pillow: the ratios
   of the medians and of the 95th percentiles (goal: at most 1.2 each), and the same of tiles that lie wholly on the
   slide. The others, a third because coarse zooms have little else, are smaller pictures of Deep Zoom's, and of ours
   pictures of full size that are transparent beyond the slide
b  `clients`: eight at once, in seconds for fifty tiles. `in_process`: eight threads that make our tiles, over eight
   that make Deep Zoom's (goal: at most 1.2). `over_http`: eight clients of the viewer, over eight of a server with Deep
   Zoom's tiles, guarded by nothing, that looks nothing up (goal: at most 1.2). `price_of_http`: eight clients of the
   viewer, over eight threads that make Deep Zoom's tiles and send them nowhere (to be known)
c  `memory`: megabytes added by looking at forty slides one after the other with eight kept open, over those added by
   the first eight (goal: at most 1.1)
"""

import argparse
import functools
import http.client
import io
import json
import logging
import multiprocessing
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import flask
import numpy as np
import openslide
from openslide.deepzoom import DeepZoomGenerator
from waitress import serve

from digipath.geometry.frame import Frame
from digipath.io.pyramid import RGB, PyramidSettings, write_pyramid
from digipath.slides.synthetic import SyntheticSettings, SyntheticSlide
from digipath.viewer.desk import Desk
from digipath.viewer.guard import guard
from digipath.viewer.opened import Opened
from digipath.viewer.routes import add_routes
from digipath.viewer.shelf import Shelf, open_shown
from digipath.viewer.tiles import QUALITY, SIDE, Tiling, slide_tile

CLIENTS = 8
ROUND = 50
BLOCK = 2048
LOOKS = 25  # tiles of each of many slides
REAL = "slides/CMU-1-Small-Region.svs"

Place = tuple[int, int, int]


def main():
    """Make the slides, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small slide, and fewer tiles")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="where slides/CMU-1-Small-Region.svs is")
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(json.dumps(memory_of(arguments.memory_of)))
        return
    side, count = (4_000, 100) if arguments.quick else (20_000, 1_000)
    with tempfile.TemporaryDirectory() as folder:
        slides = {f"made, {side} x {side} px": make_slide(Path(folder) / "slide.tif", side)}
        if arguments.data:
            slides[Path(REAL).name] = arguments.data / REAL
        figures = {"cores": os.cpu_count(), "tiles": count, "slides": {}}
        for name, path in slides.items():
            figures["slides"][name] = {"tile": tile(path, count), "clients": clients(path, count)}
        figures["memory"] = memory(Path(folder), 1_500 if arguments.quick else 4_000)
    print(json.dumps(figures, indent=2))


def make_slide(path: Path, side: int, *, seed: int = 0) -> Path:
    """A JPEG pyramid of made tissue."""
    block = SyntheticSlide(SyntheticSettings(seed=seed, width=BLOCK, height=BLOCK, lesions=1)).array()
    across = np.concatenate([block] * (1 + side // BLOCK), axis=1)[:, :side]
    strips = ((y, across[np.arange(y, min(y + 512, side)) % BLOCK]) for y in range(0, side, 512))
    settings = PyramidSettings(compression="jpeg")
    write_pyramid(path, Frame.level0(side, side, 0.5), strips, channels=RGB, settings=settings)
    return path


def places(tiling: Tiling, count: int, *, seed: int = 0) -> list[Place]:
    """Random tiles (z, x, y), of every zoom as many."""
    drawn = random.Random(seed)
    width, height = tiling.width, tiling.height
    zooms = [z for z in range(tiling.levels + 1) if max(width, height) > SIDE * tiling.downsample(z)]
    result = []
    for _ in range(count):
        z = drawn.choice(zooms)
        across, down = (-(-side // (SIDE * tiling.downsample(z))) for side in (width, height))
        result.append((z, drawn.randrange(across), drawn.randrange(down)))
    return result


class DeepZoom:
    """OpenSlide's own tiles of one slide."""

    def __init__(self, path: Path):
        self._tiles = DeepZoomGenerator(openslide.OpenSlide(path), tile_size=SIDE, overlap=0)

    def __call__(self, place: Place) -> bytes:
        """One tile, as JPEG."""
        z, x, y = place
        content = io.BytesIO()
        self._tiles.get_tile(z, (x, y)).save(content, "jpeg", quality=QUALITY)
        return content.getvalue()


def tile(path: Path, count: int) -> dict[str, object]:
    """Figure a."""
    with open_shown(path) as slide:
        tiling = Tiling(slide.frame.width, slide.frame.height)
        makers = {"ours": lambda place: slide_tile(slide, tiling, *place), "deepzoom": DeepZoom(path)}
        asked, seconds = places(tiling, count), []
        for number, place in enumerate(asked):
            each = {
                name: timed(functools.partial(makers[name], place)) for name in sorted(makers, reverse=bool(number % 2))
            }
            seconds.append((each["ours"], each["deepzoom"]))
        inside = [pair for pair, place in zip(seconds, asked, strict=True) if is_inside(tiling, place)]
    return {**ratios(seconds), "inside": {"tiles": len(inside), **ratios(inside)}, "backend": slide.backend}


def is_inside(tiling: Tiling, place: Place) -> bool:
    """Whether a tile lies wholly on the slide."""
    z, x, y = place
    side = SIDE * tiling.downsample(z)
    return (x + 1) * side <= tiling.width and (y + 1) * side <= tiling.height


def ratios(seconds: Sequence[tuple[float, float]]) -> dict[str, object]:
    """Ours over Deep Zoom's, and the milliseconds of both."""
    ours, theirs = ([1e3 * pair[k] for pair in seconds] for k in (0, 1))
    told: dict[str, object] = {}
    for name, point in (("median", 50), ("p95", 95)):
        both = [float(np.percentile(each, point)) for each in (ours, theirs)]
        told |= {f"{name}_ratio": round(both[0] / both[1], 3), f"{name}_ms": [round(each, 2) for each in both]}
    return told


def clients(path: Path, count: int) -> dict[str, object]:
    """Figure b: medians over rounds of fifty tiles, all four ways in each."""
    theirs, rounds = DeepZoom(path), []
    ours, plain = served(serve_ours, path), served(serve_deepzoom, path)  # both start at once
    with open_shown(path) as slide, ours as our_url, plain as their_url:
        tiling = Tiling(slide.frame.width, slide.frame.height)
        works = {
            "ours": functools.partial(make, lambda place: slide_tile(slide, tiling, *place)),
            "theirs": functools.partial(make, theirs),
            "our server": functools.partial(ask, our_url),
            "their server": functools.partial(ask, their_url),
        }
        asked = places(tiling, count, seed=1)
        for work in works.values():
            work(asked[:ROUND])
        for number, first in enumerate(range(0, count, ROUND)):
            some, order = asked[first : first + ROUND], sorted(works, reverse=bool(number % 2))
            rounds.append({name: timed(functools.partial(works[name], some)) for name in order})

    def ratio(one: str, other: str) -> float:
        return round(statistics.median(each[one] / each[other] for each in rounds), 3)

    return {
        "in_process": ratio("ours", "theirs"),
        "over_http": ratio("our server", "their server"),
        "price_of_http": ratio("our server", "theirs"),
        "tiles_per_second": round(ROUND / statistics.median(each["our server"] for each in rounds)),
    }


def make(maker: Callable[[Place], bytes], asked: Sequence[Place]) -> None:
    """Make tiles in eight threads."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        for content in pool.map(maker, asked):
            assert content


def ask(url: str, asked: Sequence[Place]) -> None:
    """Ask for tiles with eight clients, each over a connection that it keeps, as browsers do."""
    host, _, ending = url.removeprefix("http://").partition("/")

    def client(number: int) -> None:
        connection = http.client.HTTPConnection(host, timeout=60)
        for z, x, y in asked[number::CLIENTS]:
            connection.request("GET", f"/{ending}/{z}/{x}/{y}")
            answer = connection.getresponse()
            if answer.status != 200 or not answer.read():
                raise RuntimeError(f"tile {z}/{x}/{y}: {answer.status}")
        connection.close()

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(client, range(CLIENTS)))


class served:  # noqa: N801 - used as a function
    """A server in a process of its own, for the length of a block; gives the URL of its tiles."""

    def __init__(self, target: Callable, path: Path):
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=target, args=(path, there), daemon=True)
        self._process.start()

    def __enter__(self) -> str:
        return self._here.recv()

    def __exit__(self, *_) -> None:
        self._process.terminate()
        self._process.join()


def serve_ours(path: Path, told) -> None:
    """The viewer, without pages."""
    import dash

    desk = Desk(shelf=Shelf([path]), opened=Opened())
    [item] = desk.shelf.items()
    app = dash.Dash("viewer")
    app.layout = dash.html.Div()
    add_routes(app, desk)
    guard(app, host="127.0.0.1", token=None)
    listen(app.server, told, f"tiles/{item.id}/slide")


def serve_deepzoom(path: Path, told) -> None:
    """A server of Deep Zoom's tiles, as in the examples of openslide-python."""
    app, maker = flask.Flask("deepzoom"), DeepZoom(path)

    @app.route("/tiles/<int:z>/<int:x>/<int:y>")
    def answer(z: int, x: int, y: int) -> flask.Response:
        return flask.Response(maker((z, x, y)), mimetype="image/jpeg")

    listen(app, told, "tiles")


def listen(app: flask.Flask, told, ending: str) -> None:
    """Serve with as many threads as there are clients, and tell where."""
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    listening = socket.create_server(("127.0.0.1", 0))
    told.send(f"http://127.0.0.1:{listening.getsockname()[1]}/{ending}")
    serve(app, sockets=[listening], threads=CLIENTS)


def memory(folder: Path, side: int) -> dict[str, object]:
    """Figure c, in a process of its own."""
    made = make_slide(folder / "kept.tif", side).read_bytes()
    many = folder / "many"
    many.mkdir()
    for number in range(40):
        (many / f"{number}.tif").write_bytes(made)
    # Without this, glibc keeps some tens of MB that have been freed, more or fewer by chance.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**16)}
    command = [sys.executable, __file__, "--memory-of", str(many)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout)


def memory_of(folder: Path) -> dict[str, object]:
    """What looking at every slide of a folder adds to this process."""
    shelf, opened = Shelf([folder]), Opened(limit=8)
    items, begin, after = shelf.items(), resident(), []
    for item in items:
        with opened.slide(item) as slide:
            tiling = Tiling(slide.frame.width, slide.frame.height)
            make(lambda place, slide=slide, tiling=tiling: slide_tile(slide, tiling, *place), places(tiling, LOOKS))
        after.append(resident() - begin)
    few, many = max(after[:8]), max(after)
    megabytes = {"8 slides": round(few), f"{len(items)} slides": round(many)}
    return {"ratio": round(many / few, 3), "MB": megabytes, "open": len(opened)}


def resident() -> float:
    """Megabytes of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
