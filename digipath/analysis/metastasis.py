"""A classifier of slides by their metastases: an ensemble of random forests on the features of a heatmap.

After M. Khened et al., "A generalized deep learning framework for whole-slide image segmentation and analysis"
(Scientific Reports 11, 2021): 32 features, classes balanced with SMOTETomek, four random forests, of which the majority
decides, and of equally many votes the higher class. The paper calls its forests RF-PI, -PB, -CI and -CB and explains
the letters in a supplement that was not at hand: here the members differ in what they are grown from (each balances the
training set and draws its bootstrap samples with a seed of its own) and, in turns, in their criterion, Gini impurity or
entropy. As in the code of its authors each has 1,000 trees, features are standardised (SMOTE looks for neighbours, so
that units matter), and training slides of a positive class without any region are left out: nothing tells them from
negative ones.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from imblearn.combine import SMOTETomek
from imblearn.over_sampling import SMOTE, RandomOverSampler
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.utils.validation import check_is_fitted

from digipath.analysis.features import FEATURES
from digipath.analysis.forest import Forest
from digipath.analysis.staging import SLIDE_CLASSES
from digipath.errors import ResultError, SpecError
from digipath.io.strips import replacing

__all__ = ["MetastasisClassifier"]

_CRITERIA = ("gini", "entropy")
_NEIGHBOURS = 5  # of SMOTE, Chawla et al. 2002; so a class needs one sample more
_FORMAT, _VERSION = "digipath.metastasis", 1
_SETTINGS = ("n_estimators", "members", "seed")
_MAX_BYTES = 1 << 30
_SAME_MPP = 0.02  # relative; slides of one scanner differ by less, those of different ones by 7 %


class MetastasisClassifier(ClassifierMixin, BaseEstimator):
    """Tells negative slides, isolated tumour cells, micro- and macrometastases apart, in scikit-learn's conventions.

    Args:
        heatmap_mpp: Micrometres per pixel of the heatmaps that the features are measured on; features of heatmaps of
            another resolution are refused.
        n_estimators: Trees of each forest.
        members: Forests.
        seed: Of everything random; the same seed and the same data give the same classifier.

    Attributes:
        classes_: The classes met in training, the gravest last.
        counts_: How many training slides each of them had.
        left_out_: How many training slides of a positive class were left out, for they have no region.
        n_features_in_: 32.

    Example:
        >>> rows = np.concatenate([np.zeros((9, 32)), 1 + np.arange(9 * 32).reshape(9, 32)])
        >>> classifier = MetastasisClassifier(heatmap_mpp=8.0, n_estimators=5)
        >>> classifier.fit(rows, ["negative"] * 9 + ["macro"] * 9).predict(rows[[0, 17]]).tolist()
        ['negative', 'macro']
    """

    def __init__(self, *, heatmap_mpp: float | None = None, n_estimators: int = 1000, members: int = 4, seed: int = 0):
        self.heatmap_mpp = heatmap_mpp
        self.n_estimators = n_estimators
        self.members = members
        self.seed = seed

    def fit(self, X: np.ndarray, y: Sequence[str]) -> "MetastasisClassifier":  # noqa: N803 - scikit-learn's name
        """Learn from slides.

        Args:
            X: (n, 32) features in the order of `FEATURES`.
            y: (n,) classes out of `SLIDE_CLASSES`.
        """
        self._check_settings()
        rows, codes = _rows(X), _codes(y)
        if len(rows) != len(codes):
            raise SpecError(f"each slide has features and a class, got {len(rows)} rows and {len(codes)} classes.")
        kept = rows.any(1) | (codes == 0)
        self.left_out_ = int((~kept).sum())
        if self.left_out_:
            _warn(f"{self.left_out_} slides of a positive class have no region and are left out of training.")
        rows, codes = rows[kept], codes[kept]
        known, codes, counts = np.unique(codes, return_inverse=True, return_counts=True)
        if len(known) < 2:
            raise SpecError(
                f"a classifier learns from at least 2 classes, got {[SLIDE_CLASSES[one] for one in known]}."
            )
        self.classes_ = np.array(SLIDE_CLASSES)[known]
        self.counts_ = dict(zip(self.classes_.tolist(), counts.tolist(), strict=True))
        self.mean_, deviation = rows.mean(0), rows.std(0)
        self.scale_ = np.where(deviation > 0, deviation, 1.0)
        self.forest_ = Forest.of(self._grown(self._scaled(rows), codes), len(known))
        self.n_features_in_ = len(FEATURES)
        return self

    def _check_settings(self) -> None:
        for name in ("n_estimators", "members"):
            if not (isinstance(value := getattr(self, name), int | np.integer) and value >= 1):
                raise SpecError(f"{name} is a whole number of at least 1, got {value!r}.")
        if self.heatmap_mpp is None or not 0 < self.heatmap_mpp < float("inf"):
            raise SpecError(
                "a classifier records the resolution of the heatmaps that it learns from, in micrometres per pixel, "
                f"got heatmap_mpp={self.heatmap_mpp!r}. It is heatmap.frame.mpp."
            )

    def _grown(self, rows: np.ndarray, codes: np.ndarray) -> list[RandomForestClassifier]:
        few = np.flatnonzero(np.bincount(codes) <= _NEIGHBOURS)
        for code in few:
            name = str(self.classes_[code])
            _warn(
                f"class {name!r} has {self.counts_[name]} training slides, and SMOTE needs {_NEIGHBOURS + 1}: they are "
                "repeated, and no new ones are made between them."
            )
        seeds = np.random.SeedSequence(self.seed).generate_state(2 * self.members).reshape(-1, 2) % 2**31
        forests = []
        for member, (balancing, growing) in enumerate(seeds.tolist()):
            forest = RandomForestClassifier(
                self.n_estimators, criterion=_CRITERIA[member % len(_CRITERIA)], random_state=growing
            )
            forests.append(forest.fit(*_balanced(rows, codes, few, balancing)))
        return forests

    def _scaled(self, rows: np.ndarray) -> np.ndarray:
        return (rows - self.mean_) / self.scale_

    def predict_proba(self, X: np.ndarray, *, heatmap_mpp: float | None = None) -> np.ndarray:  # noqa: N803
        """(n, classes) mean of the forests' probabilities, in the order of `classes_`; `predict` counts votes instead.

        Args:
            X: (n, 32) features in the order of `FEATURES`.
            heatmap_mpp: Of the heatmaps they were measured on; checked where it is given.
        """
        return self._members(X, heatmap_mpp).mean(0)

    def predict(self, X: np.ndarray, *, heatmap_mpp: float | None = None) -> np.ndarray:  # noqa: N803
        """(n,) the class that most forests vote for, of equally many votes the gravest.

        Args:
            X: (n, 32) features in the order of `FEATURES`.
            heatmap_mpp: Of the heatmaps they were measured on; checked where it is given.
        """
        chosen = _highest(self._members(X, heatmap_mpp))
        votes = (chosen[..., None] == np.arange(len(self.classes_))).sum(0)
        return self.classes_[_highest(votes)]

    def _members(self, rows: np.ndarray, mpp: float | None) -> np.ndarray:
        """(members, n, classes) probabilities of each forest."""
        check_is_fitted(self, "forest_")
        if mpp is not None and not abs(mpp / self.heatmap_mpp - 1) <= _SAME_MPP:
            raise SpecError(
                f"this classifier learnt from heatmaps of {self.heatmap_mpp:g} µm per pixel, got features of {mpp:g}. "
                "Resample the heatmap and measure again, or train a classifier for that resolution."
            )
        return self.forest_.probabilities(self._scaled(_rows(rows)))

    def save(self, path: str | Path) -> Path:
        """Write the classifier to one file of plain numbers (safetensors), which opens without running anything."""
        from safetensors.numpy import save

        check_is_fitted(self, "forest_")
        told = {
            "format": _FORMAT,
            "version": _VERSION,
            "settings": {name: getattr(self, name) for name in _SETTINGS},
            "heatmap_mpp": float(self.heatmap_mpp),
            "features": list(FEATURES),
            "classes": self.classes_.tolist(),
            "counts": self.counts_,
            "left_out": self.left_out_,
        }
        arrays = self.forest_.arrays() | {"mean": self.mean_, "scale": self.scale_}
        with replacing(path) as unfinished:
            unfinished.write_bytes(save(arrays, metadata={"digipath": json.dumps(told)}))
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> "MetastasisClassifier":
        """Read what `save` wrote; a file that is not so is refused, and never run."""
        told, arrays = _read(Path(path))
        try:
            classifier = cls(heatmap_mpp=told["heatmap_mpp"], **{name: told["settings"][name] for name in _SETTINGS})
            classifier._check_settings()
            classifier.counts_ = {str(name): int(count) for name, count in told["counts"].items()}
            classifier.left_out_, classes = int(told["left_out"]), [str(one) for one in told["classes"]]
            same = told["features"] == list(FEATURES) and classes == [one for one in SLIDE_CLASSES if one in classes]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ResultError(f"{path}: the file's description is not that of a classifier: {error!r}.") from error
        if not same or len(classes) < 2:
            raise ResultError(f"{path}: the classifier is of other features or classes than those of this digipath.")
        classifier.mean_, classifier.scale_ = _scaling(arrays, path)
        classifier.forest_ = Forest.checked(arrays, features=len(FEATURES), classes=len(classes))
        if classifier.forest_.roots.shape != (classifier.members, classifier.n_estimators):
            raise ResultError(f"{path}: the file has other trees than it says. It is damaged; save it again.")
        classifier.classes_, classifier.n_features_in_ = np.array(classes), len(FEATURES)
        return classifier


def _rows(values: np.ndarray) -> np.ndarray:
    """(n, 32) finite float64."""
    rows = np.asarray(values, float)
    if rows.ndim != 2 or rows.shape[1] != len(FEATURES):
        raise SpecError(f"features are rows of {len(FEATURES)} in the order of FEATURES, got an array of {rows.shape}.")
    # Trees compare in float32, and the variance of areas is the largest feature of all.
    if (wrong := np.argwhere(~(np.abs(rows) < np.finfo(np.float32).max))).size:
        row, column = wrong[0]
        raise SpecError(f"features are finite numbers, got {FEATURES[column]} = {rows[row, column]} in row {row}.")
    return rows


def _codes(classes: Sequence[str]) -> np.ndarray:
    """(n,) places in `SLIDE_CLASSES`."""
    codes = {name: code for code, name in enumerate(SLIDE_CLASSES)}
    if strange := sorted({str(one) for one in classes} - set(codes)):
        raise SpecError(f"a slide's class is one of {', '.join(SLIDE_CLASSES)}, got {strange[0]!r}.")
    return np.array([codes[str(one)] for one in classes], int)


def _balanced(rows: np.ndarray, codes: np.ndarray, few: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The training set with as many samples of every class, less those that are too close to another class.

    Where a class would lose all its samples, none are taken away.
    """
    counts = np.bincount(codes)
    repeated = {int(code): int(counts.max()) for code in few}
    rows, codes = RandomOverSampler(sampling_strategy=repeated, random_state=seed).fit_resample(rows, codes)
    made = {code: int(counts.max()) for code in range(len(counts)) if code not in repeated}
    smote = SMOTE(sampling_strategy=made, k_neighbors=_NEIGHBOURS, random_state=seed)
    cleaned = SMOTETomek(sampling_strategy=made, smote=smote, random_state=seed).fit_resample(rows, codes)
    return cleaned if len(np.unique(cleaned[1])) == len(counts) else smote.fit_resample(rows, codes)


def _highest(scores: np.ndarray) -> np.ndarray:
    """Index of the largest along the last axis, of equal ones the last."""
    return scores.shape[-1] - 1 - scores[..., ::-1].argmax(-1)


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)


def _read(path: Path) -> tuple[Mapping[str, Any], dict[str, np.ndarray]]:
    """What a file tells of itself, and its arrays."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ResultError(f"{path}: there is no such file. Write one with MetastasisClassifier.save.")
    if path.stat().st_size > _MAX_BYTES:
        raise ResultError(f"{path}: a classifier has at most {_MAX_BYTES >> 20} MiB, this file has more.")
    try:
        with safe_open(path, framework="np") as stored:
            told = json.loads((stored.metadata() or {}).get("digipath", "null"))
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ResultError(f"{path}: the file is damaged, or none of digipath's: {error}.") from error
    if not isinstance(told, dict) or told.get("format") != _FORMAT:
        raise ResultError(f"{path}: the file holds no classifier of metastases.")
    if told.get("version") != _VERSION:
        raise ResultError(f"{path}: the file is of version {told.get('version')}, this digipath reads {_VERSION}.")
    return told, arrays


def _scaling(arrays: dict[str, np.ndarray], path: str | Path) -> list[np.ndarray]:
    """Mean and scale of the features, taken out of the arrays."""
    scaling = [arrays.pop(name, np.zeros(0)) for name in ("mean", "scale")]
    if any(one.shape != (len(FEATURES),) or one.dtype != float or not np.isfinite(one).all() for one in scaling):
        raise ResultError(f"{path}: there is a mean and a scale for each feature. The file is damaged; save it again.")
    if not (scaling[1] > 0).all():
        raise ResultError(f"{path}: scales are above 0. The file is damaged; save it again.")
    return scaling
