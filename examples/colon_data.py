"""The EBHI-SEG images as training batches and validation arrays, for `train_colon.py`."""

import csv
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path

import cv2
import numpy as np

from digipath.data.augment import Strengths, augment
from digipath.errors import DigipathError

# A pixel's kind: 0 outside of glands, else its image's class. Lesion in the sense of DigestPath is the last two.
KINDS = ("outside", "normal", "polyp", "serrated-adenoma", "low-grade-in", "high-grade-in", "adenocarcinoma")
LESION = 5
# How often an image of each class is drawn; half of the draws show a lesion. Stroma is made by `stroma_images`.
SHARES = {
    "stroma": 0.08,
    "normal": 0.08,
    "polyp": 0.10,
    "serrated-adenoma": 0.07,
    "low-grade-in": 0.19,
    "high-grade-in": 0.16,
    "adenocarcinoma": 0.32,
}


@dataclass(frozen=True, kw_only=True)
class Images:
    """Images of one split with their kinds of pixels.

    Attributes:
        images: (n, 224, 224, 3) uint8 RGB.
        kinds: (n, 224, 224) uint8, indices into `KINDS`.
        classes: (n,) class name of each image.
        cases: (n,) case of each image.
    """

    images: np.ndarray
    kinds: np.ndarray
    classes: np.ndarray
    cases: np.ndarray

    @property
    def lesions(self) -> np.ndarray:
        """(n, 224, 224) bool: pixels of a lesion."""
        return self.kinds >= LESION


def read_images(folder: Path, *, split: str) -> Images:
    """All images of `split` ("train" or "val") below the folder that holds `ebhi-seg`."""
    root = folder / "ebhi-seg"
    if not (root / "index.csv").is_file():
        raise DigipathError(f"The images must lie in {root} with their index.csv, which is not there. Pass --data.")
    with (root / "index.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    images = np.stack([_without_frame(cv2.imread(str(root / "images" / f"{row['name']}.jpg"))) for row in rows])
    masks = np.stack([cv2.imread(str(root / "masks" / f"{row['name']}.png"), cv2.IMREAD_GRAYSCALE) for row in rows])
    classes = np.array([row["class"] for row in rows])
    kind = np.array([KINDS.index(name) for name in classes], np.uint8)
    return Images(
        images=np.ascontiguousarray(images[..., ::-1]),
        kinds=(masks > 127) * kind[:, None, None],
        classes=classes,
        cases=np.array([row["case"] for row in rows]),
    )


def _without_frame(image: np.ndarray) -> np.ndarray:
    """The image with its outermost pixels, a dark line in most photographs, replaced by their neighbours."""
    return np.pad(image[1:-1, 1:-1], ((1, 1), (1, 1), (0, 0)), mode="edge")


def stroma_images(images: Images, *, seed: int = 0) -> Images:
    """Tissue without any gland, of which the photographs show none: glands filled with their own surroundings.

    Every image without a lesion gives one, pieced together from shifted copies of itself. Every second is the product
    of two such, as a thicker section would be: nuclei as dense as in lymphoid tissue.
    """
    rng = np.random.default_rng(seed)
    made = []
    for image, kinds in zip(images.images, images.kinds, strict=True):
        outside = cv2.erode((kinds == 0).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        if kinds.max() < LESION and outside.mean() > 0.2:
            made.append(_filled(image, outside, rng))
    dense = [_doubled(image, rng) if number % 2 else image for number, image in enumerate(made)]
    return Images(
        images=np.stack(dense),
        kinds=np.zeros((len(dense), *images.kinds.shape[1:]), np.uint8),
        classes=np.full(len(dense), "stroma"),
        cases=np.arange(len(dense)).astype(str),
    )


def _filled(image: np.ndarray, outside: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`image` with what is not `outside` of glands taken from turned and shifted copies of itself."""
    filled, known = image.copy(), outside.copy()
    for _ in range(40):
        shift, turn = tuple(rng.integers(0, outside.shape[0], 2)), int(rng.integers(4))
        source = np.roll(np.rot90(outside, turn), shift, (0, 1)) & ~known
        filled[source] = np.roll(np.rot90(image, turn), shift, (0, 1))[source]
        known |= source
    return filled


def _doubled(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two layers of the same tissue on top of each other: their densities add up, so their brightness is multiplied."""
    other = np.roll(np.rot90(image), tuple(rng.integers(0, image.shape[0], 2)), (0, 1))
    white = np.percentile(image, 95, axis=(0, 1))
    return np.clip(image * (other / white), 0, 255).astype(np.uint8)


def together(first: Images, second: Images) -> Images:
    """Both, one after the other."""
    pairs = ((getattr(first, part.name), getattr(second, part.name)) for part in fields(Images))
    return Images(**{part.name: np.concatenate(pair) for part, pair in zip(fields(Images), pairs, strict=True)})


def draw_weights(images: Images) -> np.ndarray:
    """Probability of drawing each image: `SHARES` of the classes, and within one, cases by the root of their images.

    The few images whose mask covers them whole hardly count: their stroma and lymphocytes are marked as lesion too.
    """
    weights = np.zeros(len(images.classes))
    for name, share in SHARES.items():
        of_class = images.classes == name
        _, case, counts = np.unique(images.cases[of_class], return_inverse=True, return_counts=True)
        weight = counts[case] ** -0.5
        weight = np.where((images.kinds[of_class] > 0).mean((1, 2)) > 0.985, 0.15 * weight, weight)
        weights[of_class] = share * weight / weight.sum()
    return weights / weights.sum()


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Augmented batches, each a function of the seed and its number alone: a resumed run sees what it would have seen.

    Attributes:
        batch: images in a batch.
        mixed: share of images into which a rectangle of another is pasted, so that no image is of one class alone.
        strengths: how far the augmentation goes.
        seed: seeds every draw.
        threads: how many make batches.
    """

    batch: int = 16
    mixed: float = 0.25
    strengths: Strengths = field(default_factory=Strengths)
    seed: int = 0
    threads: int = 2

    def stream(self, images: Images, *, first: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches without end, from number `first` on: (n, 224, 224, 3) images and (n, 224, 224) kinds, both uint8."""
        weights = draw_weights(images)
        with ThreadPoolExecutor(self.threads) as pool:
            waiting = deque(pool.submit(self.make, images, weights, first + ahead) for ahead in range(3 * self.threads))
            while True:
                batch = waiting.popleft().result()
                first += 1
                waiting.append(pool.submit(self.make, images, weights, first + 3 * self.threads - 1))
                yield batch

    def make(self, images: Images, weights: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch `number`."""
        rng = np.random.default_rng((self.seed, number))
        made = [self._draw(images, weights, rng) for _ in range(self.batch)]
        return np.stack([image for image, _ in made]), np.stack([kinds for _, kinds in made])

    def _draw(self, images: Images, weights: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        image, kinds = self._augmented(images, weights, rng)
        if rng.random() < self.mixed:
            other, other_kinds = self._augmented(images, weights, rng)
            rows, columns = (_span(side, rng) for side in kinds.shape)
            image[rows, columns], kinds[rows, columns] = other[rows, columns], other_kinds[rows, columns]
        return image, kinds

    def _augmented(
        self, images: Images, weights: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        index = rng.choice(len(weights), p=weights)
        return augment(images.images[index], images.kinds[index], seed=rng, strengths=self.strengths)


def _span(side: int, rng: np.random.Generator) -> slice:
    """A random stretch of 35 to 75 % of `side`."""
    length = int(side * rng.uniform(0.35, 0.75))
    start = int(rng.integers(side - length + 1))
    return slice(start, start + length)
