"""Values that are made where they are looked at, so that a large mask or map need not fit into memory."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["Layer"]


@dataclass(frozen=True)
class Layer:
    """Values for a `Raster` of a single layer that are sliced like an array, and made by a function of rows.

    Attributes:
        shape: (rows, columns).
        dtype: Type of every value.
        rows: Takes a slice of rows with a start and a stop, and gives (n, columns).

    Example:
        >>> layer = Layer((1000, 3), np.dtype(int), lambda chosen: np.full((chosen.stop - chosen.start, 3), 7))
        >>> layer[10:12, 1]
        array([7, 7])
    """

    shape: tuple[int, int]
    dtype: np.dtype
    rows: Callable[[slice], np.ndarray]

    def __getitem__(self, key) -> np.ndarray:
        first, *rest = key if isinstance(key, tuple) else (key,)
        start, stop, _ = (slice(None) if first is ... else first).indices(self.shape[0])
        return np.asarray(self.rows(slice(start, stop)))[(slice(None), *rest)]
