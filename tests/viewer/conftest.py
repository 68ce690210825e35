"""What tests of the viewer share: a small library of slides and results, a server over it, and a browser."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_QUIET = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def dark(patches: np.ndarray) -> np.ndarray:
    """A stand-in for a network: the darker, the more lesion; what a turn changes is its uncertainty."""
    shade = 1 - patches.astype(np.float32).mean(-1) / 255
    tilt = np.linspace(-0.6, 0.6, shade.shape[2], dtype=np.float32)
    lesion = np.clip(2 * shade - 0.3 + tilt, 0, 1)
    return np.stack([1 - lesion, lesion], -1)


def two_pieces(_) -> np.ndarray:
    """Tissue for a slide of 1,400 x 1,000 pixels: two sections with glass between them."""
    mask = np.zeros((100, 140), bool)
    mask[5:95, 5:60], mask[20:80, 85:135] = True, True
    return mask


@pytest.fixture(scope="session")
def library(tmp_path_factory) -> Path:
    """A folder: slide.tif, results/slide (with uncertainty and an analysis), results/second, and broken.svs.

    Tests that write into it copy it first (`shelf_copy`).
    """
    from digipath.evidence import AnalysisSettings
    from digipath.inference.predictor import FunctionPredictor
    from digipath.inference.settings import InferenceSettings
    from digipath.io.pyramid import RGB, PyramidSettings, write_pyramid
    from digipath.models.spec import ModelSpec
    from digipath.segmenter import Segmenter
    from digipath.slides.synthetic import SyntheticSettings, SyntheticSlide

    folder = tmp_path_factory.mktemp("library")
    for name, seed in (("slide", 0), ("other", 1)):
        made = SyntheticSlide(SyntheticSettings(seed=seed, width=1400, height=1000))
        jpeg = PyramidSettings(compression="jpeg")
        write_pyramid(folder / f"{name}.tif", made.frame, made.strips(), channels=RGB, settings=jpeg)
    (folder / "broken.svs").write_bytes(b"II*\0 this is no slide")
    spec = ModelSpec(architecture="dark", classes=("other", "lesion"), mpp=4.0, patch=64)
    unsure = InferenceSettings(augmentations="all", uncertainty=True)
    (folder / "results").mkdir()
    for name, target, settings in (("slide", "slide", unsure), ("other", "second", None)):
        segmenter = Segmenter(FunctionPredictor(dark, spec), settings=settings)
        out = folder / "results" / target
        with segmenter.predict(folder / f"{name}.tif", out=out, tissue=two_pieces, progress=False) as result:
            if settings:
                apart = AnalysisSettings(join_um=50, min_section_mm2=0.001, min_lesion_mm2=0.0005)
                result.analyse(apart, folder=out)
    return folder


@pytest.fixture
def shelf_copy(library, tmp_path) -> Path:
    """The library, to be written into; results point to the original slides, which are found by their fingerprint."""
    return Path(shutil.copytree(library, tmp_path / "library"))


@pytest.fixture
def start_server() -> Iterator[Callable]:
    """A function of sources (and the options of a desk) that serves them and returns the URL; stopped at the end."""
    from digipath.viewer import server
    from digipath.viewer.desk import Desk
    from digipath.viewer.jobs import Jobs
    from digipath.viewer.opened import Opened
    from digipath.viewer.shelf import Shelf

    running = []

    def start(*sources: Path, out: Path | None = None, **options) -> str:
        shelf, opened = Shelf(sources, out=out), Opened()
        jobs = None if out is None else Jobs(out)
        running.append(server.start(Desk(shelf=shelf, opened=opened, jobs=jobs, **options)))
        return running[-1].url

    yield start
    for one in running:
        one.stop()


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium; tests skip where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    if _CHROMIUM is None:
        pytest.skip("no Chromium on this machine; install it (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=_CHROMIUM, args=list(_QUIET))
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    """A fresh page of 1280 x 800; whatever its scripts report as an error fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    tab, errors = context.new_page(), []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    yield tab
    context.close()
    assert not errors, errors
