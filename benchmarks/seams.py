"""How visible the borders of patches are in a heatmap, by window and overlap; prints JSON.

    python benchmarks/seams.py [SLIDE --mpp UM]

The reference is the built-in network on one patch that holds the whole slide, which has no borders. `difference` is the
mean absolute difference from it; `seams` is the mean step across the borders of patches over the mean step anywhere,
divided by the same of the reference: 1 where borders do not show. Without a slide, a made one is used.
"""

import argparse
import json

import numpy as np

from digipath.inference.settings import InferenceSettings
from digipath.segmenter import Segmenter
from digipath.slides.array import ArraySlide
from digipath.slides.slide import Slide, open_slide
from digipath.slides.synthetic import SyntheticSettings, SyntheticSlide

PATCH = 256


def main():
    """Measure every combination."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", nargs="?")
    parser.add_argument("--mpp", type=float)
    arguments = parser.parse_args()
    if arguments.slide:
        slide = open_slide(arguments.slide, mpp=arguments.mpp)
    else:
        slide = ArraySlide(SyntheticSlide(SyntheticSettings(width=2816, height=2048)).array(), mpp=0.5)
    side = max(slide.frame.shape) // 32 * 32 + 32
    reference = heatmap(slide, InferenceSettings(patch=side))
    figures = {
        f"{window}, overlap {overlap}": compare(
            heatmap(slide, InferenceSettings(patch=PATCH, overlap=overlap, window=window)), reference, overlap
        )
        for window in ("mean", "hann")
        for overlap in (0.25, 0.5, 0.75)
    }
    print(json.dumps(figures, indent=2))


def heatmap(slide: Slide, settings: InferenceSettings) -> np.ndarray:
    """The probability of the lesion, everywhere."""
    everywhere = np.ones(slide.frame.coarser(16).shape, bool)
    result = Segmenter(settings=settings).predict(slide, tissue=everywhere, progress=False)
    return result.heatmap.channel(result.classes[-1]).array().astype(np.float64)


def compare(values: np.ndarray, reference: np.ndarray, overlap: float) -> dict[str, float]:
    """Both figures for one heatmap; the network's output has half the side of its patch."""
    stride = int(PATCH * (1 - overlap)) // 2
    return {
        "difference": round(float(np.abs(values - reference).mean()), 4),
        "seams": round(seams(values, stride) / seams(reference, stride), 2),
    }


def seams(values: np.ndarray, stride: int) -> float:
    """Mean step at multiples of the stride over the mean step anywhere."""
    at, anywhere = [], []
    for axis in (0, 1):
        steps = np.abs(np.diff(values, axis=axis)).mean(1 - axis)
        at.append(steps[stride - 1 :: stride])
        anywhere.append(steps)
    return float(np.concatenate(at).mean() / np.concatenate(anywhere).mean())


if __name__ == "__main__":
    main()
