"""Dice, IoU, mIoU and Tumor-mIoU while a network trains, on `keras.ops` alone.

They take what the losses take: labels (n, rows, columns), predictions (n, rows, columns, classes) or one channel, and
leave pixels of label `ignored` out. The lesion is the last class, predicted where its probability exceeds the
threshold. Results are those of all batches together and not means over batches, as in `digipath.evaluation.overlap`.

Args that they share:
    threshold: probability of the lesion above which a pixel is one.
    ignored: label of pixels that count nowhere.
    like: the loss as which a prediction smaller than the labels is compared with them, for example
        PixelCrossEntropy(); by default the prediction is enlarged, as by HybridLoss.
    name: Keras' name of the metric.
"""

import math
from dataclasses import dataclass

import keras
from keras import ops

from digipath.errors import SpecError
from digipath.training.losses import HybridLoss, named_channels

__all__ = ["Dice", "IoU", "MeanIoU", "PatchAccuracy", "TumorMeanIoU"]


@keras.saving.register_keras_serializable(package="digipath")
class Dice(keras.metrics.Metric):
    """2 TP / (2 TP + FP + FN) over all counted pixels; 1 where neither labels nor predictions had a lesion."""

    def __init__(
        self,
        *,
        threshold: float = 0.5,
        ignored: int = 255,
        like: keras.losses.Loss | None = None,
        name: str = "dice",
    ):
        super().__init__(name=name)
        self.comparison = _comparison(threshold, ignored, like)
        self.overlap, self.whole = (self.add_variable((), "zeros", name=part) for part in ("overlap", "whole"))

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Count a batch."""
        tp, fp, fn, _ = self.comparison.counts(y_true, y_pred, sample_weight)
        self.overlap.assign_add(ops.sum(2 * tp))
        self.whole.assign_add(ops.sum(2 * tp + fp + fn))

    def result(self):
        """The Dice coefficient of all that was counted."""
        return _ratio(self.overlap, self.whole, empty=1.0)

    def get_config(self) -> dict:
        """What `from_config` needs to make this metric again."""
        return self.comparison.config() | {"name": self.name}


@keras.saving.register_keras_serializable(package="digipath")
class IoU(keras.metrics.Metric):
    """TP / (TP + FP + FN) over all counted pixels; 1 where neither labels nor predictions had a lesion."""

    def __init__(
        self,
        *,
        threshold: float = 0.5,
        ignored: int = 255,
        like: keras.losses.Loss | None = None,
        name: str = "iou",
    ):
        super().__init__(name=name)
        self.comparison = _comparison(threshold, ignored, like)
        self.overlap, self.whole = (self.add_variable((), "zeros", name=part) for part in ("overlap", "whole"))

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Count a batch."""
        tp, fp, fn, _ = self.comparison.counts(y_true, y_pred, sample_weight)
        self.overlap.assign_add(ops.sum(tp))
        self.whole.assign_add(ops.sum(tp + fp + fn))

    def result(self):
        """The IoU of all that was counted."""
        return _ratio(self.overlap, self.whole, empty=1.0)

    def get_config(self) -> dict:
        """What `from_config` needs to make this metric again."""
        return self.comparison.config() | {"name": self.name}


@keras.saving.register_keras_serializable(package="digipath")
class MeanIoU(keras.metrics.Metric):
    """The mean over images of the mean of the IoUs of lesion and rest (Guo et al. 2019, mIoU).

    In an image a class that neither labels nor prediction have is left out; an image without a counted pixel is, too.
    NaN while there was no other. While a network trains, a patch stands for the paper's slide.
    """

    def __init__(
        self,
        *,
        threshold: float = 0.5,
        ignored: int = 255,
        like: keras.losses.Loss | None = None,
        name: str = "mean_iou",
    ):
        super().__init__(name=name)
        self.comparison = _comparison(threshold, ignored, like)
        self.total, self.images = (self.add_variable((), "zeros", name=part) for part in ("total", "images"))

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Judge the images of a batch."""
        counts = self.comparison.counts(y_true, y_pred, sample_weight)
        judged = ops.cast(sum(counts) > 0, "float32")
        self.total.assign_add(ops.sum(judged * _mean_iou(*counts)))
        self.images.assign_add(ops.sum(judged))

    def result(self):
        """The mean over images."""
        return _ratio(self.total, self.images, empty=math.nan)

    def get_config(self) -> dict:
        """What `from_config` needs to make this metric again."""
        return self.comparison.config() | {"name": self.name}


@keras.saving.register_keras_serializable(package="digipath")
class TumorMeanIoU(keras.metrics.Metric):
    """`MeanIoU` over the images alone whose labels have a lesion (Guo et al. 2019, Tumor-mIoU); NaN while none had."""

    def __init__(
        self,
        *,
        threshold: float = 0.5,
        ignored: int = 255,
        like: keras.losses.Loss | None = None,
        name: str = "tumor_mean_iou",
    ):
        super().__init__(name=name)
        self.comparison = _comparison(threshold, ignored, like)
        self.total, self.images = (self.add_variable((), "zeros", name=part) for part in ("total", "images"))

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Judge the images of a batch."""
        tp, fp, fn, tn = self.comparison.counts(y_true, y_pred, sample_weight)
        judged = ops.cast(tp + fn > 0, "float32")
        self.total.assign_add(ops.sum(judged * _mean_iou(tp, fp, fn, tn)))
        self.images.assign_add(ops.sum(judged))

    def result(self):
        """The mean over images with a lesion."""
        return _ratio(self.total, self.images, empty=math.nan)

    def get_config(self) -> dict:
        """What `from_config` needs to make this metric again."""
        return self.comparison.config() | {"name": self.name}


@keras.saving.register_keras_serializable(package="digipath")
class PatchAccuracy(keras.metrics.Metric):
    """The share of patches whose likeliest class is theirs: labels (n,), predictions (n, classes) or (n, 1).

    NaN while no patch was counted.
    """

    def __init__(self, *, ignored: int = 255, name: str = "patch_accuracy"):
        super().__init__(name=name)
        self.ignored = ignored
        self.hits, self.patches = (self.add_variable((), "zeros", name=part) for part in ("hits", "patches"))

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Count a batch."""
        _refuse_weights(sample_weight)
        if len(y_true.shape) != 1 or len(y_pred.shape) != 2:
            raise SpecError(
                "Labels of patches are (n,) and predictions (n, classes), got "
                f"{tuple(y_true.shape)} and {tuple(y_pred.shape)}. For a label per pixel take IoU or Dice."
            )
        labels = ops.cast(y_true, "int32")
        found = ops.cast(ops.argmax(named_channels(ops.cast(y_pred, "float32")), axis=-1), "int32")
        counted = ops.not_equal(labels, self.ignored)
        self.hits.assign_add(ops.sum(ops.cast(ops.logical_and(counted, found == labels), "float32")))
        self.patches.assign_add(ops.sum(ops.cast(counted, "float32")))

    def result(self):
        """The share of all that was counted."""
        return _ratio(self.hits, self.patches, empty=math.nan)

    def get_config(self) -> dict:
        """What `from_config` needs to make this metric again."""
        return {"ignored": self.ignored, "name": self.name}


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    """How a metric compares labels and predictions."""

    threshold: float
    ignored: int
    like: keras.losses.Loss | None

    def counts(self, y_true, y_pred, sample_weight=None) -> tuple:
        """True and false positives, false and true negatives of each image, (n,) float32."""
        _refuse_weights(sample_weight)
        labels, probabilities = (self.like or HybridLoss()).compared(ops.convert_to_tensor(y_true), y_pred)
        counted = ops.not_equal(labels, self.ignored)
        lesion = ops.equal(labels, probabilities.shape[-1] - 1)
        found = probabilities[..., -1] > self.threshold
        pairs = ((lesion, found), (~lesion, found), (lesion, ~found), (~lesion, ~found))
        return tuple(ops.sum(ops.cast(counted & one & other, "float32"), axis=(1, 2)) for one, other in pairs)

    def config(self) -> dict:
        """The arguments that made it, as plain values."""
        like = None if self.like is None else keras.losses.serialize(self.like)
        return {"threshold": self.threshold, "ignored": self.ignored, "like": like}


def _comparison(threshold: float, ignored: int, like) -> _Comparison:
    """The comparison; `like` may come as what `get_config` made of it."""
    if not 0 <= threshold < 1:
        raise SpecError(f"threshold is a probability that a lesion's exceeds, from 0 to below 1, got {threshold}.")
    like = keras.losses.get(like)
    if like is not None and not hasattr(like, "compared"):
        raise SpecError(
            f"like is a loss of digipath.training.losses that compares pixels, got {like!r}. Leave it out to enlarge "
            "smaller predictions."
        )
    return _Comparison(threshold=float(threshold), ignored=ignored, like=like)


def _refuse_weights(sample_weight):
    if sample_weight is not None:
        raise SpecError(
            "Pixels and patches count once each here, and weights came with them. List it in compile's metrics, not in "
            "its weighted_metrics."
        )


def _mean_iou(tp, fp, fn, tn):
    """The mean of the IoUs of the classes that an image has, in labels or prediction; 0 where nothing is counted."""
    wholes = (tp + fp + fn, tn + fp + fn)
    ious = [part / ops.maximum(whole, 1.0) for part, whole in zip((tp, tn), wholes, strict=True)]
    present = [ops.cast(whole > 0, "float32") for whole in wholes]
    return sum(ious) / ops.maximum(sum(present), 1.0)


def _ratio(part, whole, *, empty: float):
    part, whole = ops.convert_to_tensor(part), ops.convert_to_tensor(whole)
    return ops.where(whole > 0, part / ops.maximum(whole, 1.0), empty)
