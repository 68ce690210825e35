"""Small slides, and a segmenter that costs nothing: it hands out copies of one finished result."""

import json
import shutil
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from digipath import InferenceSettings, Segmentation, Segmenter
from digipath.errors import SlideError
from digipath.inference.engine import Progress
from digipath.inference.predictor import FunctionPredictor
from digipath.models.spec import ModelSpec
from digipath.networks import Networks
from digipath.runs.find import find_slides
from digipath.slides._fingerprint import fingerprint_file

SPEC = ModelSpec(architecture="darkness", classes=("other", "lesion"), mpp=1.0, patch=64)


def darkness(patches):
    values = (patches[..., 2] < 128).astype(np.float32)
    return np.stack([1 - values, values], -1)


def draw_slide(path, number=0, side=200):
    image = np.full((side, side + 60, 3), 244, np.uint8)
    cv2.circle(image, (side // 2, side // 2), side // 3, (190, 150, 225), -1)
    cv2.rectangle(image, (80, 80), (110 + number, 110), (110, 60, 120), -1)
    cv2.imwrite(str(path), image)
    return path


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A finished result of one slide."""
    folder = tmp_path_factory.mktemp("template")
    segmenter = Segmenter(FunctionPredictor(darkness, SPEC))
    segmenter.predict(draw_slide(folder / "slide.png"), mpp=1.0, out=folder / "result", progress=False)
    return folder / "result"


class CopyingSegmenter:
    """What a run asks of a Segmenter; `prepared`, `predicted` and `closed` list the slides that came by, in order."""

    def __init__(self, template, *, batches=2, bad=(), **settings):
        self.template, self.batches, self.bad = template, batches, bad
        self.settings = InferenceSettings(**settings)
        source = FunctionPredictor(darkness, SPEC)
        self.networks = Networks.of(source, weights=None, settings=self.settings, lenient=False)
        self.program = self.networks.program(self.settings)
        self.prepared, self.predicted, self.closed = [], [], []
        self.at_batch = lambda name, number: None
        self.open, self.most_open, self.mutex = 0, 0, threading.Lock()

    def prepare(self, slide, *, mpp=None, tissue=None, region=None):
        assert tissue is None  # it would be the real one's to look for
        self.prepared.append(slide.stem)
        if slide.stem in self.bad:
            raise SlideError(f"slide {slide.name} is bad.")
        with self.mutex:
            self.open += 1
            self.most_open = max(self.open, self.most_open)
        return Ready(self, slide, mpp, region)

    def predict(self, ready, *, out, progress):
        for number in range(self.batches):
            self.at_batch(ready.slide.stem, number)
            progress(Progress(number + 1, self.batches, 1.0))
        self.predicted.append(ready.slide.stem)
        shutil.copytree(self.template, out, dirs_exist_ok=True)
        info = json.loads((out / "result.json").read_text())
        info["slide"] |= {"path": str(ready.slide), "fingerprint": fingerprint_file(ready.slide)}
        info["slide"] |= {"mpp": ready.mpp} if ready.mpp else {"mpp_source": "TIFF"}
        info["settings"]["overlap"] = self.settings.overlap
        info["region"] = ready.region and list(ready.region)
        (out / "result.json").write_text(json.dumps(info))
        return Segmentation.load(out)


class Ready:
    def __init__(self, segmenter, slide, mpp, region):
        self.segmenter, self.slide, self.mpp, self.region = segmenter, slide, mpp, region

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.slide.stem not in self.segmenter.closed:
            self.segmenter.closed.append(self.slide.stem)
            with self.segmenter.mutex:
                self.segmenter.open -= 1


@pytest.fixture
def copying(template):
    """Makes a `CopyingSegmenter`."""
    return lambda **settings: CopyingSegmenter(template, **settings)


@pytest.fixture
def slides(tmp_path) -> Path:
    """A folder of four small slides: a, b, c, d."""
    folder = tmp_path / "slides"
    folder.mkdir()
    for number, name in enumerate("abcd"):
        draw_slide(folder / f"{name}.png", number)
    return folder


@pytest.fixture
def tasks(slides, tmp_path):
    return find_slides([slides], out=tmp_path / "out", mpp=1.0)


@pytest.fixture
def real():
    """Makes a Segmenter whose network is a function; by default one that calls dark pixels a lesion."""
    return lambda function=darkness, **settings: Segmenter(
        FunctionPredictor(function, SPEC), settings=InferenceSettings(**settings)
    )
