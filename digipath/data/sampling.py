"""Where the patches of an epoch lie. Coordinates only: a function of (seed, epoch, index), and no pixel on disk.

A sampling configuration looks at the cases once (`plan`) and gives a `Sampler`, whose `epoch` is cheap. What the slides
show decides where patches may lie; random numbers come from integers alone, so that threads change nothing.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np

from digipath.data.classes import IGNORED
from digipath.data.draws import EPOCH, HARD, POINTS, Sampler, cycled, random_stream, sampler_of
from digipath.data.grids import AllTissue, Grid, Tiles, WholePatches
from digipath.data.pool import Pool
from digipath.data.strata import BCC_TABLE, Strata, Stratum
from digipath.errors import SpecError
from digipath.geometry.frame import Box
from digipath.geometry.raster import Raster

__all__ = [
    "BCC_TABLE",
    "AllTissue",
    "Grid",
    "HardNegatives",
    "Images",
    "Sampler",
    "Sampling",
    "Strata",
    "Stratum",
    "Tiles",
    "TumourNormal",
    "WholePatches",
]

# How often candidates are drawn anew for places that turn out to be of the other kind.
_ROUNDS = 12
# Shifts that are tried before the last is moved to the nearest one that is allowed.
_SHIFTS = 16


class Sampling(Protocol):
    """A sampling configuration: how patches are chosen."""

    def plan(self, pool: Pool, *, seed: int = 0) -> Sampler:
        """Look at the cases, and say where the patches of each epoch lie."""


@dataclass(frozen=True, kw_only=True)
class TumourNormal:
    """As many tumour patches as normal ones, moved anew in every epoch (Khened et al. 2021).

    A tumour patch holds at least one pixel of the tumour class, a normal one none, exactly and after being moved, and
    its centre is tissue. Draws are tumour and normal in turn, so that every batch of an even size is half of each. An
    epoch has two draws for each tumour point; slides without tumour give normal points alone, of which each epoch
    takes other ones.

    Attributes:
        per_slide: Tumour points, and normal points, of a slide that has them (2,000 of each for PAIP).
        jitter: Radius of the disc, in pixels, in which a patch's centre is moved; the patch stays on the slide.
        tumour: Name of the tumour class; by default the cohort's last.
    """

    per_slide: int = 2000
    jitter: int = 128
    tumour: str | None = None

    def __post_init__(self):
        if self.per_slide < 1 or self.jitter < 0:
            raise SpecError(
                f"per_slide is at least 1 and jitter at least 0 pixels, got {self.per_slide} and {self.jitter}."
            )

    def plan(self, pool: Pool, *, seed: int = 0) -> Sampler:
        """Find the points of all slides."""
        tumour_class = pool.index_of(self.tumour)
        found = pool.each(lambda case: self._points(pool, case, tumour_class, seed))
        tumour, normal = (np.concatenate(part) for part in zip(*found, strict=True))
        for kind, points in (("tumour", tumour), ("normal", normal)):
            if not len(points):
                raise SpecError(
                    f"tumour and normal patches are drawn 1:1, and no case has a {kind} patch of {pool.patch} px at "
                    f"{pool.mpp:g} um per pixel. {'; '.join(pool.told.values())} For images as small as a patch, use "
                    "Images; for patches of one kind, AllTissue."
                )
        draw = partial(_one_to_one, tumour, normal, self.jitter, seed)
        return sampler_of(pool, draw, tumour_points=len(tumour), normal_points=len(normal))

    def _points(self, pool: Pool, case: int, tumour: int, seed: int) -> list[np.ndarray]:
        """Tumour and normal points of a case."""
        seen, points = pool.overview(case), _Points(pool, case, tumour, self.jitter)
        lesion = seen.labels == tumour
        if tumour == pool.index_of(None) and not lesion.any() and points.labels.tumour_area_mm2() > 0:
            pool.told[case] = (
                f"{pool.cohort[case].name}: its tumour falls between pixels of {seen.frame.mpp:g} um, by which points "
                "are looked for, so that it gives no tumour patches"
            )
        # An outline may leave the tissue, and tissue may be missed where it is pale: the outline is then right.
        wanted = lesion & seen.tissue if (lesion & seen.tissue).any() else lesion
        normal = seen.tissue & ~lesion & (seen.labels != IGNORED)
        rng = random_stream(seed, POINTS, case)
        return [
            points.find(where, seen.factor, accept, count=self.per_slide, rng=rng)
            for where, accept in ((wanted, points.tumour_patch), (normal, points.normal_patch))
        ]


class _Points:
    """Finds points of one case: rows of (case, x, y, least and greatest shift along x, the same along y)."""

    def __init__(self, pool: Pool, case: int, tumour: int, jitter: int):
        self.pool, self.case, self.tumour, self.jitter = pool, case, tumour, jitter
        self.labels, self.frame, self.patch = pool.labels(case), pool.frame(case), pool.patch

    def find(
        self, where: np.ndarray, scale: float, accept: Callable[[int, int], list[int] | None], *, count: int, rng
    ) -> np.ndarray:
        """`count` points whose centres lie `where` a mask is true; fewer where `accept` takes hardly any.

        Args:
            where: (rows, columns) bool.
            scale: Pixels of the patches' frame for each pixel of it.
            accept: From a centre to a point, or None.
            count: Points wanted.
            rng: Random numbers.
        """
        candidates, found = np.flatnonzero(where), []
        for _ in range(_ROUNDS if len(candidates) else 0):
            missing = count - len(found)
            if not missing:
                break
            rows, columns = np.divmod(rng.choice(candidates, missing), where.shape[1])
            xs, ys = ((at + rng.random(missing)) * scale for at in (columns, rows))
            taken = (accept(int(x), int(y)) for x, y in zip(xs, ys, strict=True))
            found.extend([point for point in taken if point is not None])
        return np.array(found, np.int64).reshape(-1, 7)

    def _corner(self, x: int, y: int) -> tuple[int, int]:
        """Upper left corner of the patch around a centre, moved onto the slide."""
        half, (rows, columns) = self.patch // 2, self.frame.shape
        return max(0, min(x - half, columns - self.patch)), max(0, min(y - half, rows - self.patch))

    def _point(self, x: int, y: int, least: tuple[int, int], most: tuple[int, int]) -> list[int]:
        """A point that may be moved within these limits and the slide's."""
        point = [self.case, x, y]
        for corner, side, low, high in zip((x, y), self.frame.shape[::-1], least, most, strict=True):
            point += [max(low, min(0, -corner)), min(high, max(0, side - self.patch - corner))]
        return point

    def _holding(self, left: int, top: int, x: int, y: int) -> list[int]:
        """The point at a corner, from whose patch the pixel (x, y) in it is never moved out."""
        return self._point(left, top, (x - self.patch + 1, y - self.patch + 1), (x, y))

    def tumour_patch(self, x: int, y: int) -> list[int] | None:
        """The point around a centre if it holds tumour; the tumour pixel nearest to the centre stays in the patch."""
        left, top = self._corner(x, y)
        rows, columns = np.nonzero(self.labels.read(Box(left, top, self.patch, self.patch), self.frame) == self.tumour)
        if not len(rows):
            return None
        nearest = np.argmin((rows - (y - top)) ** 2 + (columns - (x - left)) ** 2)
        return self._holding(left, top, int(columns[nearest]), int(rows[nearest]))

    def normal_patch(self, x: int, y: int) -> list[int] | None:
        """The point around a centre if it holds no tumour; it may be moved until one would come in."""
        (left, top), reach = self._corner(x, y), self.jitter
        side = self.patch + 2 * reach
        labels = self.labels.read(Box(left - reach, top - reach, side, side), self.frame)
        own = labels[reach : reach + self.patch, reach : reach + self.patch]
        if (own == self.tumour).any() or (own == IGNORED).all():
            return None
        rows, columns = np.nonzero(labels == self.tumour)
        if len(rows):
            away = [np.maximum(reach - at, at - (reach + self.patch - 1)) for at in (rows, columns)]
            reach = min(reach, int(np.maximum(*away).min()) - 1)
        return self._point(left, top, (-reach, -reach), (reach, reach))

    def around_normal_pixel(self, x: int, y: int) -> list[int] | None:
        """The point around a centre that is not tumour and not ignored; that pixel stays in the patch."""
        if self.labels.read(Box(x, y, 1, 1), self.frame)[0, 0] in (self.tumour, IGNORED):
            return None
        left, top = self._corner(x, y)
        return self._holding(left, top, x - left, y - top)


def _one_to_one(tumour: np.ndarray, normal: np.ndarray, jitter: int, seed: int, epoch: int) -> np.ndarray:
    """The draws of an epoch: tumour, normal, tumour, normal."""
    rng = random_stream(seed, EPOCH, epoch)
    points = np.empty((2 * len(tumour), 7), np.int64)
    points[::2], points[1::2] = tumour[rng.permutation(len(tumour))], normal[cycled(len(normal), len(tumour), rng)]
    return _moved(points, jitter, rng)


def _moved(points: np.ndarray, jitter: int, rng: np.random.Generator) -> np.ndarray:
    """Draws at points, each moved uniformly in a disc, within its own limits."""
    least, most = points[:, 3::2], points[:, 4::2]
    shift, wrong = np.zeros((len(points), 2), np.int64), np.arange(len(points))
    for _ in range(_SHIFTS):
        # Uniform in the disc: the square of the distance is uniform.
        distance, angle = jitter * np.sqrt(rng.random(len(wrong))), rng.uniform(0, 2 * math.pi, len(wrong))
        shift[wrong] = np.rint(np.stack([distance * np.cos(angle), distance * np.sin(angle)], axis=1))
        wrong = wrong[((shift[wrong] < least[wrong]) | (shift[wrong] > most[wrong])).any(1)]
    return np.column_stack([points[:, 0], points[:, 1:3] + np.clip(shift, least, most)])


@dataclass(frozen=True, kw_only=True)
class HardNegatives:
    """Another configuration's draws, and between them patches where a network was wrong on normal tissue.

    Around pixels that the raster of errors marks and that are not tumour; they stay in their patch when it is moved. So
    a network that has learnt learns on from its own mistakes (hard mining, as in Khened et al. 2021 and its code).

    Attributes:
        base: The other configuration; all of its draws stay.
        errors: For the name of each case, a raster that is not 0 where the network was wrong; other cases have none.
        share: Share of such patches in an epoch.
        per_slide: Such points of a slide, of which each epoch takes other ones.
        jitter: Radius of the disc, in pixels, in which a patch's centre is moved.
        tumour: Name of the tumour class; by default the cohort's last.
    """

    base: Sampling
    errors: Mapping[str, Raster]
    share: float = 0.25
    per_slide: int = 2000
    jitter: int = 128
    tumour: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "errors", dict(self.errors))
        if not 0 < self.share < 1:
            raise SpecError(f"share is above 0 and below 1, got {self.share}.")
        if self.per_slide < 1 or self.jitter < 0:
            raise SpecError(
                f"per_slide is at least 1 and jitter at least 0 pixels, got {self.per_slide} and {self.jitter}."
            )

    def plan(self, pool: Pool, *, seed: int = 0) -> Sampler:
        """Find the points, and plan the other configuration."""
        names = [case.name for case in pool.cohort]
        if unknown := sorted(set(self.errors) - set(names)):
            raise SpecError(f"errors are given for cases of the cohort, got {', '.join(map(repr, unknown))} too.")
        base, tumour = self.base.plan(pool, seed=seed), pool.index_of(self.tumour)
        if base.mpp != pool.mpp:
            raise SpecError("hard negatives are mixed with patches at the pool's resolution; Tiles has another.")
        cases = [case for case, name in enumerate(names) if name in self.errors]
        found = pool.each(lambda case: self._points(pool, case, tumour, seed), cases)
        points = np.concatenate([np.zeros((0, 7), np.int64), *found])
        if not len(points):
            return replace(base, told=(*base.told, "the errors mark no normal tissue: there are no hard negatives"))
        draw = partial(_mixed, base.draw, points, self, seed)
        return replace(base, draw=draw, report={**base.report, "hard_points": len(points)})

    def _points(self, pool: Pool, case: int, tumour: int, seed: int) -> np.ndarray:
        errors, points = self.errors[pool.cohort[case].name], _Points(pool, case, tumour, self.jitter)
        scale, rng = errors.frame.scale_to(pool.frame(case)), random_stream(seed, HARD, case)
        return points.find(errors.array() != 0, scale, points.around_normal_pixel, count=self.per_slide, rng=rng)


def _mixed(
    base: Callable[[int], np.ndarray], points: np.ndarray, settings: HardNegatives, seed: int, epoch: int
) -> np.ndarray:
    """The other draws in their order, with hard ones evenly between them."""
    draws, rng = base(epoch), random_stream(seed, HARD, epoch, 0)
    count = max(1, round(len(draws) * settings.share / (1 - settings.share)))
    mixed = np.empty((len(draws) + count, 3), np.int64)
    is_hard = np.zeros(len(mixed), bool)
    is_hard[((np.arange(count) + 0.5) * len(mixed) / count).astype(int)] = True
    mixed[~is_hard] = draws
    mixed[is_hard] = _moved(points[cycled(len(points), count, rng)], settings.jitter, rng)
    return mixed


@dataclass(frozen=True, kw_only=True)
class Images:
    """Whole images of a cohort of photographs, each as large as a patch, with a share for each class of image.

    Within a class, patients count by the root of the number of their images: one with many does not outweigh the
    others, and one with a single image is not seen over and over. Of an image that is larger than a patch, each draw
    takes a patch anywhere; a smaller one lies in the middle of its patch.

    Attributes:
        shares: Share of the draws for each `label` of the cases, in any unit; by default as frequent as they are.
        per_epoch: Draws in an epoch; by default one for each image.
    """

    shares: Mapping[str, float] | None = None
    per_epoch: int | None = None

    def __post_init__(self):
        if self.per_epoch is not None and self.per_epoch < 1:
            raise SpecError(f"per_epoch is a number of draws of at least 1, or None, got {self.per_epoch}.")
        if self.shares is not None:
            object.__setattr__(self, "shares", dict(self.shares))
            if not self.shares or min(self.shares.values()) < 0 or not sum(self.shares.values()) > 0:
                raise SpecError(f"shares are at least 0 and not all 0, got {self.shares}.")

    def plan(self, pool: Pool, *, seed: int = 0) -> Sampler:
        """Weigh the images."""
        weights = self.weights(pool)
        frames = pool.each(pool.frame)
        free = np.array([(frame.width - pool.patch, frame.height - pool.patch) for frame in frames])
        draw = partial(_images, weights, free, self.per_epoch or len(weights), seed)
        return sampler_of(pool, draw, images=int((weights > 0).sum()))

    def weights(self, pool: Pool) -> np.ndarray:
        """(n,) probability of each case."""
        labels = np.array([case.label or "" for case in pool.cohort])
        patients = np.array([case.patient for case in pool.cohort])
        shares = self.shares or dict(zip(*np.unique(labels, return_counts=True), strict=True))
        if unknown := sorted(set(labels.tolist()) ^ set(shares)):
            raise SpecError(
                f"shares name each label of the cases, {', '.join(map(repr, sorted(set(labels.tolist()))))}, got "
                f"{', '.join(map(repr, sorted(shares)))}: {', '.join(map(repr, unknown))} is in one of them alone."
            )
        weights = np.zeros(len(labels))
        for label, share in shares.items():
            of_label = labels == label
            _, patient, counts = np.unique(patients[of_label], return_inverse=True, return_counts=True)
            weight = counts[patient] ** -0.5
            weights[of_label] = share * weight / weight.sum()
        return weights / weights.sum()


def _images(weights: np.ndarray, free: np.ndarray, count: int, seed: int, epoch: int) -> np.ndarray:
    """The draws of an epoch; `free` is by how much (width, height) exceed the patch."""
    rng = random_stream(seed, EPOCH, epoch)
    cases = rng.choice(len(weights), count, p=weights)
    room = free[cases]
    corner = np.where(room > 0, rng.integers(0, np.maximum(room, 0) + 1), -(-room // 2))
    return np.column_stack([cases, corner]).astype(np.int64)
