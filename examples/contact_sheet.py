"""Shows what each recipe's augmentation does: an image as it is, then changed copies, with the labels outlined.

Beside them, what normalising the stains does: the images as they are above, normalised below.

    python examples/contact_sheet.py --pair IMAGE MASK --pair IMAGE MASK --out docs/images

Without a pair, tissue is made.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from digipath.data.augment import NONE, RECIPES, Strengths, augment
from digipath.slides.stain import estimate, normalise
from digipath.slides.synthetic import SyntheticSettings, SyntheticSlide


def read_pair(image: str, mask: str) -> tuple[np.ndarray, np.ndarray]:
    """An image as RGB, and a mask with 1 where it is not black; their longer side at most 256 pixels."""
    pixels, labels = cv2.imread(image), cv2.imread(mask, cv2.IMREAD_GRAYSCALE)
    if pixels is None or labels is None or pixels.shape[:2] != labels.shape:
        raise SystemExit(f"{image} and {mask} must be an image and a mask of one size.")
    scale = min(1.0, 256 / max(labels.shape))
    pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    labels = cv2.resize(labels, pixels.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), (labels > 127).astype(np.uint8)


def made_pair() -> tuple[np.ndarray, np.ndarray]:
    """A corner of a made slide at 1 um/px."""
    slide = SyntheticSlide(SyntheticSettings(width=256, height=256, mpp=1.0, lesions=1))
    return slide.array(), slide.mask(slide.frame).array().astype(np.uint8)


def tile(image: np.ndarray, labels: np.ndarray | None, *, side: int) -> np.ndarray:
    """An image at this size, its labels outlined in yellow."""
    drawn = image.copy()
    if labels is not None:
        outlines, _ = cv2.findContours(labels, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, outlines, -1, (255, 235, 0), 1)
    return cv2.copyMakeBorder(cv2.resize(drawn, (side, side)), 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(255, 255, 255))


def sheet(pairs: list, strengths: Strengths, *, copies: int, side: int) -> np.ndarray:
    """A row for each pair: first as it is, then `copies` changed."""
    rows = []
    for number, (image, labels) in enumerate(pairs):
        changed = [augment(image, labels, seed=(number, copy), strengths=strengths) for copy in range(copies)]
        rows.append(np.hstack([tile(*one, side=side) for one in [(image, labels), *changed]]))
    return np.vstack(rows)


def normalised(pairs: list, *, side: int) -> np.ndarray:
    """A column for each pair: as it is, and in the colours of the reference."""
    columns = [(image, normalise(image, estimate(image))) for image, _ in pairs]
    return np.vstack([np.hstack([tile(image, None, side=side) for image in row]) for row in zip(*columns, strict=True)])


def save(path: Path, drawn: np.ndarray):
    cv2.imwrite(str(path), cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 75])
    print(f"{path}: {drawn.shape[1]} x {drawn.shape[0]} pixels, {path.stat().st_size / 1000:.0f} kB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", nargs=2, action="append", metavar=("IMAGE", "MASK"))
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--copies", type=int, default=6)
    parser.add_argument("--side", type=int, default=150, help="of a tile, in pixels")
    options = parser.parse_args()
    pairs = [read_pair(*pair) for pair in options.pair or []] or [made_pair()]
    options.out.mkdir(parents=True, exist_ok=True)
    changing = {name: strengths for name, strengths in RECIPES.items() if strengths != NONE}
    for name, strengths in changing.items():
        save(options.out / f"augment-{name}.jpg", sheet(pairs, strengths, copies=options.copies, side=options.side))
    save(options.out / "stain-macenko.jpg", normalised(pairs, side=options.side))


if __name__ == "__main__":
    main()
