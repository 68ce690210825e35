"""How far the features of planted lesions are from what was planted, at 1 to 4 µm per pixel.

    python benchmarks/shapes.py            (half a minute)
    python benchmarks/shapes.py --quick    (seconds)

Prints JSON: for each of the 32 features the largest error over several heatmaps of twelve well-separated ellipses with
major axes of 100 to 800 µm, as a share of the true value, of skewness and kurtosis as it is. Goals, for the largest,
the mean and the largest region's: 0.05 for areas, axes, solidity and eccentricity, 0.10 for perimeters; the rest has
none. `perimeter_estimators` has the largest error of one ellipse's perimeter by four estimators: Crofton's from four
directions, which is the one in use, and from two; scikit-image's `perimeter`, the way through the centres of border
pixels; and the way along pixel edges.
"""

import argparse
import json
import math
from dataclasses import dataclass

import numpy as np
from skimage.measure import perimeter, perimeter_crofton

from digipath.analysis.features import FEATURES, lesion_features
from digipath.geometry.frame import Frame
from digipath.geometry.raster import Raster

CELL_UM, COLUMNS, ROWS = 900, 4, 3
GOALS = {"area": 0.05, "perimeter": 0.10, "eccentricity": 0.05, "solidity": 0.05, "largest": 0.05}


@dataclass(frozen=True)
class Ellipse:
    """A planted lesion; lengths in µm, the angle in radians."""

    x: float
    y: float
    major: float
    minor: float
    angle: float

    def inside(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Whether each point is in it."""
        dx, dy = x - self.x, y - self.y
        along = dx * math.cos(self.angle) + dy * math.sin(self.angle)
        across = dy * math.cos(self.angle) - dx * math.sin(self.angle)
        return (2 * along / self.major) ** 2 + (2 * across / self.minor) ** 2 <= 1

    def truth(self) -> dict[str, float]:
        """Its measures; the perimeter is Ramanujan's second approximation, good to 1e-4 and better."""
        a, b = self.major / 2, self.minor / 2
        h = ((a - b) / (a + b)) ** 2
        sides = [
            2 * math.hypot(a * f(self.angle), b * g(self.angle))
            for f, g in ((math.cos, math.sin), (math.sin, math.cos))
        ]
        return {
            "area": math.pi * a * b,
            "perimeter": math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h))),
            "eccentricity": math.sqrt(1 - (b / a) ** 2),
            "extent": math.pi * a * b / (sides[0] * sides[1]),
            "solidity": 1.0,
        }


def planted(rng: np.random.Generator) -> list[Ellipse]:
    """Twelve ellipses, each in the middle of a cell of its own, not quite."""
    found = []
    for cell in range(COLUMNS * ROWS):
        major = 100 * 8 ** rng.random()
        centre = [(part + 0.5) * CELL_UM + rng.uniform(-20, 20) for part in (cell % COLUMNS, cell // COLUMNS)]
        found.append(Ellipse(*centre, major, major * rng.uniform(0.4, 0.9), rng.uniform(0, math.pi)))
    return found


def drawn(ellipses: list[Ellipse], mpp: float) -> Raster:
    """A heatmap that is 1 in the ellipses, by the centres of pixels."""
    width, height = round(COLUMNS * CELL_UM / mpp), round(ROWS * CELL_UM / mpp)
    heatmap, cell = np.zeros((height, width), np.float32), CELL_UM / mpp
    for ellipse in ellipses:
        left, top = (math.floor(part // CELL_UM * cell) for part in (ellipse.x, ellipse.y))
        rows, columns = np.ogrid[
            top : min(height, math.ceil(top + cell) + 1), left : min(width, math.ceil(left + cell) + 1)
        ]
        inside = ellipse.inside((columns + 0.5) * mpp, (rows + 0.5) * mpp)
        heatmap[rows[0, 0] : rows[-1, 0] + 1, columns[0, 0] : columns[0, -1] + 1][inside] = 1
    return Raster(heatmap, Frame.level0(width, height, mpp))


def truth_of(ellipses: list[Ellipse]) -> list[float]:
    """The features, in the order of `FEATURES`."""
    largest, measures = max(ellipses, key=lambda one: one.major * one.minor), [one.truth() for one in ellipses]
    area = sum(one["area"] for one in measures)
    values = [largest.major, largest.major, largest.truth()["area"], area / (COLUMNS * ROWS * CELL_UM**2), area]
    for name in ("area", "perimeter", "eccentricity", "extent", "solidity"):
        of = np.array([one[name] for one in measures])
        spread = of.std() or 1.0
        higher = [np.mean(((of - of.mean()) / spread) ** power) for power in (3, 4)]
        values += [of.max(), of.mean(), of.var(), higher[0], higher[1] - 3 if of.std() else 0.0]
    return [*values, 1.0, float(len(ellipses))]


def errors(mpp: float, draws: int) -> dict[str, float]:
    """The largest error of each feature."""
    found = np.zeros((draws, len(FEATURES)))
    for seed in range(draws):
        ellipses = planted(np.random.default_rng(seed))
        truth, measured = truth_of(ellipses), lesion_features(drawn(ellipses, mpp))
        for column, (name, value) in enumerate(zip(FEATURES, truth, strict=True)):
            whole = 1.0 if name.endswith(("skewness", "kurtosis")) else abs(value) or 1.0  # those may be near 0
            found[seed, column] = abs(measured[name] - value) / whole
    return dict(zip(FEATURES, found.max(0).round(4).tolist(), strict=True))


def estimators(mpp: float, draws: int) -> dict[str, float]:
    """The largest error of the perimeter by each estimator, on ellipses of 50 to 400 µm."""
    rng, found = np.random.default_rng(0), []
    for _ in range(draws):
        major, side = 50 * 8 ** rng.random(), 450
        ellipse = Ellipse(*(side / 2 + rng.random(2)), major, major * rng.uniform(0.4, 1), rng.uniform(0, math.pi))
        centres = (np.arange(round(side / mpp)) + 0.5) * mpp
        mask = ellipse.inside(centres, centres[:, None])
        edges = sum(np.count_nonzero(np.diff(mask, axis=axis)) for axis in (0, 1))
        lengths = (perimeter_crofton(mask, 4), perimeter_crofton(mask, 2), perimeter(mask), edges)
        found.append(np.abs(np.array(lengths) * mpp / ellipse.truth()["perimeter"] - 1))
    names = ("crofton_4", "crofton_2", "border_centres", "pixel_edges")
    return dict(zip(names, np.max(found, 0).round(3).tolist(), strict=True))


def goal_of(name: str) -> float | None:
    """The largest error that a feature may have, where there is a goal."""
    statistic = name.removesuffix("_um2").removesuffix("_um").rsplit("_", 1)[-1]
    return GOALS.get(name.split("_")[0]) if statistic in ("max", "mean", "50", "axis") else None


def main() -> None:
    """Measures, and fails where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one heatmap of each resolution")
    draws = 1 if parser.parse_args().quick else 10
    found = {f"{mpp:g} um": errors(mpp, draws) for mpp in (1.0, 2.0, 4.0)}
    missed = [
        f"{name} at {mpp}: {error}"
        for mpp, features in found.items()
        for name, error in features.items()
        if (goal := goal_of(name)) is not None and error > goal
    ]
    shapes = {f"{mpp:g} um": estimators(mpp, 20 * draws) for mpp in (1.0, 2.0, 4.0)}
    print(json.dumps({"errors": found, "perimeter_estimators": shapes, "goals_missed": missed}, indent=1))
    if missed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
