"""Drawn slides with planted truth, heatmaps of them, and tables beside those of the papers; for the scripts beside it.

A drawn slide is glass with pink tissue, and in it what is planted, in other colours and grains: enough for a network to
learn in a few epochs, and nothing like a real one. What a script prints of it shows that the way from slides to the
paper's table is whole, and never how good a network is.
"""

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import shapely
from shapely import affinity
from shapely.geometry.base import BaseGeometry

from digipath import Annotation, ArraySlide, Frame, Raster, Segmenter
from digipath.data.cohort import Case
from digipath.geometry.polygons import rasterize
from digipath.slides.tissue import tissue_mask

MPP = 8.0  # um per pixel of a drawn slide
GLASS = (244, 243, 245)
# Mean colour, and how grainy it is, of what can be planted.
LOOKS = {
    "tissue": ((232, 190, 212), 10),
    "lesion": ((150, 90, 160), 22),
    "tumour": ((150, 90, 160), 22),
    "stroma": ((222, 140, 178), 14),
}


@dataclass(frozen=True)
class Seen:
    """What is known of a slide after it was looked at.

    Attributes:
        heatmap: Probabilities; a single layer, or one channel a class.
        tissue: Where there is tissue.
        seconds: That it took; None where nothing was computed.
    """

    heatmap: Raster
    tissue: Raster
    seconds: float | None = None


Look = Callable[[Case], Seen]


def arguments(
    description: str, *, more: Callable[[argparse.ArgumentParser], None] | None = None
) -> argparse.ArgumentParser:
    """The options that all these scripts have, and those that `more` adds."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=formatter)
    parser.add_argument("--perfect", action="store_true", help="take the planted truth as heatmaps, and no network")
    parser.add_argument("--noise", type=float, default=0.0, help="of perfect heatmaps, in logits; 0 for none")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller slides")
    parser.add_argument("--seed", type=int, default=0)
    if more:
        more(parser)
    return parser


def ellipse(x: float, y: float, *, length: float, width: float, degrees: float = 0.0) -> shapely.Polygon:
    """An ellipse by its centre and both axes, in any unit."""
    circle = shapely.Point(0, 0).buffer(1, quad_segs=32)
    return affinity.translate(affinity.rotate(affinity.scale(circle, length / 2, width / 2), degrees), x, y)


def drawn_case(
    name: str,
    size_um: tuple[float, float],
    tissue: BaseGeometry,
    planted: Sequence[tuple[str, BaseGeometry]],
    **known: str | None,
) -> Case:
    """A slide of drawn tissue and its truth.

    Args:
        name: Of the slide; it also seeds its grain.
        size_um: Width and height.
        tissue: Where there is tissue, in micrometres.
        planted: Class and place in micrometres of all that is planted, drawn in this order.
        known: The case's `patient` and `split`.
    """
    frame = Frame.level0(*(math.ceil(side / MPP) for side in size_um), MPP)
    truth = [Annotation(kind, shapely.transform(place, lambda um: um / MPP)) for kind, place in planted]
    layers = [Annotation("tissue", shapely.transform(tissue, lambda um: um / MPP)), *truth]
    slide = ArraySlide(_drawn(frame, layers, seed=sum(name.encode())), mpp=MPP, name=name)
    return Case(slide=slide, annotations=truth, **known)


def _drawn(frame: Frame, layers: Sequence[Annotation], *, seed: int) -> np.ndarray:
    """Each layer in its colour with its own grain, (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    image = np.full((*frame.shape, 3), GLASS, np.float32)
    grain = np.zeros(frame.shape, np.float32)
    for layer in layers:
        (color, spread), inside = LOOKS[layer.name], rasterize([layer], frame).array()
        image[inside], grain[inside] = color, spread
    image += (grain * rng.standard_normal(frame.shape, np.float32))[..., None]
    return np.clip(cv2.GaussianBlur(image, None, 0.6), 0, 255).astype(np.uint8)


def truth_of(case: Case, frame: Frame, *, kind: str = "lesion") -> Raster:
    """The planted mask of a class in a frame of the slide."""
    return rasterize([one for one in case.annotations if one.name == kind], frame)


def as_heatmap(mask: Raster) -> Raster:
    """A mask as probabilities of 0 and 1."""
    return Raster(mask.array().astype(np.float32), mask.frame)


def perfect(*, mpp: float = MPP, noise: float = 0.0, seed: int = 0) -> Look:
    """The planted lesions as probabilities: 0 and 1, or with noise what a doubtful network would say.

    Args:
        mpp: Of the heatmap.
        noise: Standard deviation in logits of a smooth doubt about ±4.
        seed: Of the noise.
    """
    rng = np.random.default_rng(seed)

    def look(case: Case) -> Seen:
        frame = case.slide.frame.at(mpp)
        heatmap = as_heatmap(truth_of(case, frame)).array()
        if noise:
            doubt = cv2.GaussianBlur(rng.standard_normal(frame.shape).astype(np.float32), None, 3)
            heatmap = 1 / (1 + np.exp(4 - 8 * heatmap - noise * doubt / doubt.std()))
        return Seen(Raster(heatmap, frame), tissue_mask(case.slide))

    return look


def blurred(look: Look, stride: int) -> Look:
    """What `look` sees, averaged over `stride` x `stride` pixels."""

    def coarser(case: Case) -> Seen:
        seen = look(case)
        return Seen(seen.heatmap.resample(seen.heatmap.frame.coarser(stride)), seen.tissue, seen.seconds)

    return coarser


def by_network(segmenter: Segmenter, *, kind: str | None = "lesion") -> Look:
    """What a network says of the slides, one channel of it or, for None, all."""

    def look(case: Case) -> Seen:
        begin = time.perf_counter()
        result = segmenter.predict(case.slide, progress=False)
        seconds = time.perf_counter() - begin
        heatmap = result.heatmap if kind is None else result.heatmap.channel(kind)
        return Seen(Raster(heatmap.array().astype(np.float32), heatmap.frame, heatmap.channels), result.tissue, seconds)

    return look


def beside(title: str, rows: Mapping[str, tuple[str, str]], *, shows: str) -> None:
    """Print figures beside those of the paper, and what they show.

    Args:
        title: Of the table.
        rows: For each figure, its value here and in the paper.
        shows: One sentence: what the figures do show.
    """
    print(f"\n{title}\n")
    widths = [max(map(len, column)) for column in zip(*((name, *pair) for name, pair in rows.items()), strict=True)]
    widths = [max(width, least) for width, least in zip(widths, (6, 4, 5), strict=True)]
    for name, (here, paper) in {"figure": ("here", "paper"), **rows}.items():
        print("  ".join(text.ljust(width) for text, width in zip((name, here, paper), widths, strict=True)).rstrip())
    print(f"\nThe two columns cannot be compared: these are made slides, those of the paper are real ones. {shows}")
