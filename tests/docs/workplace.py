"""The folder in which the pages' blocks run: made slides, outlines and masks under the names that the pages use."""

import csv
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from blocks import ROOT
from PIL import Image

from digipath.io.geojson import write_geojson
from digipath.io.pyramid import RGB, PyramidSettings, write_pyramid
from digipath.models.spec import ModelSpec
from digipath.slides.synthetic import SyntheticSettings, SyntheticSlide

WIDTH, HEIGHT, MPP = 640, 480, 1.0
SLIDES = {"slide": 1, "normal_001": 3, "tumor_001": 1, "tumor_002": 2}  # the seeds of those with tumour are chosen
PLACES = {"results/": "results", "patient/": "results", "answers/": "results", "breast/": "breast"}
PLACES |= {"bundles/": "bundles"}


class Workplace:
    """What the pages find, made once; a page works in a copy.

    Attributes:
        home: slides, truth and tables, which every page finds.
    """

    def __init__(self, folder: Path):
        self.folder, self.home = folder, folder / "home"
        for name in ("slides", "outlines", "masks", "truth"):
            (self.home / name).mkdir(parents=True)
        for name, seed in SLIDES.items():
            self._make_slide(name, seed)
        self._write_tables()
        for name in ("digipath", "examples", "benchmarks", "docs"):
            (self.home / name).symlink_to(ROOT / name)

    def copy(self, folder: Path) -> None:
        """Everything in `home` as it was made, in place of what is in `folder`."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.home, folder, symlinks=True)

    def give(self, what: str, folder: Path) -> dict[str, Any]:
        """Put what a reader has by then ("results/") into the folder, or return the names of it ("model").

        A patient's nodes, and results that were reviewed, lie among the other results.
        """
        if what in PLACES:
            shutil.copytree(getattr(self, what[:-1]), folder / PLACES[what], dirs_exist_ok=True)
            return {}
        return {"model": given_model, "image": given_image, "batch": given_batch}[what]()

    def _make_slide(self, name: str, seed: int) -> None:
        lesions = int(not name.startswith("normal"))
        made = SyntheticSlide(SyntheticSettings(width=WIDTH, height=HEIGHT, mpp=MPP, lesions=lesions, seed=seed))
        path = self.home / "slide.svs" if name == "slide" else self.home / "slides" / f"{name}.svs"
        write_pyramid(path, made.frame, made.strips(), channels=RGB, settings=PyramidSettings(compression="jpeg"))
        write_geojson(self.home / "outlines" / f"{name}.geojson", made.annotations())
        mask = Image.fromarray(made.mask(made.frame).array().astype(np.uint8))
        mask.save(self.home / "masks" / f"{name}.png")
        if lesions:
            mask.save(self.home / "truth" / f"{name}.png")

    def _write_tables(self) -> None:
        slides = [f"slides/{name}.svs" for name in SLIDES if name != "slide"]
        outlines = [f"outlines/{name}.geojson" for name in SLIDES if name != "slide"]
        tables = {
            "slides.csv": [("slide",), *((slide,) for slide in slides)],
            "cohort.csv": [
                ("slide", "annotations"),
                *zip(slides, outlines, strict=True),
                ("slide.svs", "outlines/slide.geojson"),
            ],
            "cells.csv": [("x", "y"), *((x, y) for x in range(20, WIDTH, 60) for y in range(20, HEIGHT, 60))],
            "submission.csv": [("patient", "stage"), ("patient_000.zip", "pN1"), ("patient_001.zip", "pN1mi")],
            "reference.csv": [("patient", "stage"), ("patient_000.zip", "pN1"), ("patient_001.zip", "pN0")],
        }
        for name, rows in tables.items():
            with (self.home / name).open("w", newline="") as file:
                csv.writer(file).writerows(rows)

    @cached_property
    def bundles(self) -> Path:
        """Networks that a reader has trained: copies of a built-in one."""
        for name in ("a", "b", "skin", "my-net"):
            shutil.copytree(ROOT / "digipath" / "bundles" / "colon-lesion-light", self.folder / "bundles" / name)
        return self.folder / "bundles"

    @cached_property
    def results(self) -> Path:
        """Results of all slides."""
        from digipath.segmenter import Segmenter

        segmenter, out = Segmenter(), self.folder / "results"
        for name in SLIDES:
            path = self.home / ("slide.svs" if name == "slide" else f"slides/{name}.svs")
            segmenter.predict(path, out=out / name, progress=False).close()
        return out

    @cached_property
    def patient(self) -> Path:
        """Results of the five nodes of a patient."""
        for node in range(5):
            shown = "tumor_001" if node == 2 else "normal_001"
            shutil.copytree(self.results / shown, self.folder / "patient" / f"patient_000_node_{node}")
        return self.folder / "patient"

    @cached_property
    def answers(self) -> Path:
        """A result whose sections Ada has judged, blindly."""
        from digipath.review.review import Review
        from digipath.segmentation import Segmentation

        folder = self.folder / "answers" / "slide"
        shutil.copytree(self.results / "slide", folder)
        with Segmentation.load(folder) as result:
            result.analyse(folder=folder)
        review = Review.open(folder, "Ada", blind=True)
        for section in review.asked.of_kind("section"):
            review = review.relabel(section.id, "tumour section")
        return self.folder / "answers"

    @cached_property
    def breast(self) -> Path:
        """A result that tells tumour, stroma and other tissue apart."""
        from digipath.inference.predictor import FunctionPredictor
        from digipath.segmenter import Segmenter

        spec = ModelSpec(architecture="shades", classes=("other", "stroma", "tumour"), mpp=4.0, patch=64)
        segmenter, out = Segmenter(FunctionPredictor(shades, spec)), self.folder / "breast"
        segmenter.predict(self.home / "slide.svs", out=out / "slide", progress=False).close()
        return out


def shades(patches: np.ndarray) -> np.ndarray:
    """A stand-in for a network of three classes: dark is tumour, paler is stroma."""
    dark = 1 - patches.astype(np.float32).mean(-1) / 255
    tumour, stroma = np.clip(4 * dark - 1.2, 0, 1), np.clip(3 * dark, 0, 1)
    return np.stack([1 - stroma, stroma * (1 - tumour), stroma * tumour], -1)


def given_model() -> dict[str, Any]:
    """`model`: a network of the reader's own."""
    import keras

    colours = keras.Input((None, None, 3), dtype="uint8")
    scaled = keras.layers.Rescaling(1 / 255)(colours)
    return {"model": keras.Model(colours, keras.layers.Conv2D(2, 3, padding="same", activation="softmax")(scaled))}


def given_image() -> dict[str, Any]:
    """`image` and its `labels`, in `epoch` as image number `index`."""
    made = SyntheticSlide(SyntheticSettings(width=256, height=256, mpp=1.0, lesions=1))
    labels = made.mask(made.frame).array().astype(np.uint8)
    return {"image": made.array(), "labels": labels, "epoch": 0, "index": 0}


def given_batch() -> dict[str, Any]:
    """`images` and their `labels`."""
    rng = np.random.default_rng(0)
    return {
        "images": rng.integers(0, 256, (2, 64, 64, 3), np.uint8),
        "labels": rng.integers(0, 2, (2, 64, 64), np.uint8),
    }
