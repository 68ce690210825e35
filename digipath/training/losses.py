"""The losses of the five papers, on `keras.ops` alone.

    HybridLoss         half cross-entropy, half Dice     Khened et al., Scientific Reports 2021, Eq. 1 to 3
    SoftDiceLoss       one minus soft Dice               Weishaupt et al., on microdosimetry, appendix 2
    FocalLoss          every output of deep supervision  Le'Clerc Arrastia et al., Journal of Imaging 2021, Eq. 1
    PixelCrossEntropy  one value per 8 pixels            Guo et al., Scientific Reports 2019 (v3_DCNN), formula 2
    PatchCrossEntropy  patch classifiers                 the same, formula 4

Labels of pixels are class indices, (n, rows, columns); those of value `ignored` count nowhere, their gradients are
zero, and a batch of nothing else costs 0. Predictions are probabilities, (n, rows, columns, classes), or one channel,
the probability of class 1.

Losses of pixels and patches come as one value per image, whose mean is the mean over all that is counted in the batch;
losses of the whole batch come as (1,). Neither is a bare number, for Keras leaves such a loss undivided among the
replicas of `tf.distribute`, and their gradients are summed.
"""

import keras
from keras import ops

from digipath.errors import SpecError

SMALLEST = 1e-7
REDUCTION = "sum_over_batch_size"


@keras.saving.register_keras_serializable(package="digipath")
class HybridLoss(keras.losses.Loss):
    """Half cross-entropy, a quarter Dice loss of the background, a quarter Dice loss of the foreground.

    The Dice coefficients have squared denominators (Eq. 1) and run over the whole batch, so that an image without a
    lesion does not make them jump; Eq. 2 is taken with the minus that print lost. Classes beyond the second share the
    foreground's quarter. Predictions smaller than the labels by a whole factor are enlarged bilinearly first.

    Args:
        ignored: label of pixels that count nowhere.
        epsilon: added to both sides of each Dice coefficient's fraction, in pixels: a class that is absent from the
            labels and the prediction costs nothing.
        name: Keras' name of the loss.
    """

    def __init__(self, *, ignored: int = 255, epsilon: float = 1.0, name: str = "hybrid_loss"):
        super().__init__(name=name, reduction=REDUCTION)
        self.ignored = ignored
        self.epsilon = epsilon

    def compared(self, y_true, y_pred):
        """Labels and probabilities of one size, as this loss compares them."""
        return enlarged_pair(y_true, y_pred)

    def call(self, y_true, y_pred):
        """The loss of a batch, (1,)."""
        labels, probabilities = self.compared(y_true, y_pred)
        counted, truth, probabilities = _masked(labels, probabilities, ignored=self.ignored)
        true_class = ops.sum(truth * probabilities, axis=-1, keepdims=True)
        entropy = -ops.sum(counted * ops.log(ops.clip(true_class, SMALLEST, 1.0))) / ops.maximum(ops.sum(counted), 1.0)
        overlap = 2 * ops.sum(truth * probabilities, axis=(0, 1, 2)) + self.epsilon
        total = ops.sum(ops.square(truth) + ops.square(probabilities), axis=(0, 1, 2)) + self.epsilon
        dice = 1 - overlap / total
        return ops.reshape(0.5 * entropy + 0.25 * dice[0] + 0.25 * ops.mean(dice[1:]), (1,))

    def get_config(self) -> dict:
        """What `from_config` needs to make this loss again."""
        return {"ignored": self.ignored, "epsilon": self.epsilon, "name": self.name}


@keras.saving.register_keras_serializable(package="digipath")
class SoftDiceLoss(keras.losses.Loss):
    """One minus the soft Dice of the foreground over the whole batch: 1 - (2 Σab + ε) / (Σa + Σb + ε).

    The paper states no ε; with it two empty masks give a Dice of 1, not 0 / 0. Of more than two classes, the mean over
    all but the first. Predictions smaller than the labels by a whole factor are enlarged bilinearly first.

    Args:
        ignored: label of pixels that count nowhere.
        epsilon: ε, in pixels, above 0.
        name: Keras' name of the loss.
    """

    def __init__(self, *, ignored: int = 255, epsilon: float = 1.0, name: str = "soft_dice_loss"):
        super().__init__(name=name, reduction=REDUCTION)
        if not epsilon > 0:
            raise SpecError(
                f"epsilon is above 0, as two empty masks divide 0 by 0, got {epsilon}. For next to none, give 1e-7."
            )
        self.ignored = ignored
        self.epsilon = epsilon

    def compared(self, y_true, y_pred):
        """Labels and probabilities of one size, as this loss compares them."""
        return enlarged_pair(y_true, y_pred)

    def call(self, y_true, y_pred):
        """The loss of a batch, (1,)."""
        labels, probabilities = self.compared(y_true, y_pred)
        _, truth, probabilities = _masked(labels, probabilities, ignored=self.ignored)
        overlap = 2 * ops.sum(truth * probabilities, axis=(0, 1, 2)) + self.epsilon
        total = ops.sum(truth + probabilities, axis=(0, 1, 2)) + self.epsilon
        return ops.reshape(1 - ops.mean((overlap / total)[1:]), (1,))

    def get_config(self) -> dict:
        """What `from_config` needs to make this loss again."""
        return {"ignored": self.ignored, "epsilon": self.epsilon, "name": self.name}


@keras.saving.register_keras_serializable(package="digipath")
class FocalLoss(keras.losses.Loss):
    """Cross-entropy times (1 - p)^γ, p the probability of the true class; no class has a weight (Keras' own has 0.25).

    A prediction smaller than the labels by a whole factor f, as the coarse outputs of deep supervision are, is compared
    with the labels at the middle of its cells, `[f // 2 :: f]`: labels stay labels. Keras sums over the outputs.

    Args:
        gamma: γ, at least 0; 0 gives the cross-entropy.
        ignored: label of pixels that count nowhere.
        name: Keras' name of the loss.
    """

    def __init__(self, *, gamma: float = 2.0, ignored: int = 255, name: str = "focal_loss"):
        super().__init__(name=name, reduction=REDUCTION)
        if not gamma >= 0:
            raise SpecError(f"gamma turns the loss away from easy pixels, at least 0, got {gamma}. The paper has 2.")
        self.gamma = gamma
        self.ignored = ignored

    def compared(self, y_true, y_pred):
        """Labels and probabilities of one size, as this loss compares them."""
        return centre_pair(y_true, y_pred)

    def call(self, y_true, y_pred):
        """One value per image, (n,)."""
        labels, probabilities = self.compared(y_true, y_pred)
        counted, true_class = _true_class(labels, probabilities, ignored=self.ignored)
        return _per_image(-ops.power(1 - true_class, self.gamma) * ops.log(true_class), counted)

    def get_config(self) -> dict:
        """What `from_config` needs to make this loss again."""
        return {"gamma": self.gamma, "ignored": self.ignored, "name": self.name}


@keras.saving.register_keras_serializable(package="digipath")
class PixelCrossEntropy(keras.losses.Loss):
    """Cross-entropy of a network that returns one value per `stride` pixels: ceil(L / stride) for a side of L.

    Labels are taken at 0, stride, 2 · stride, ..., where the network's values lie: 321 px give 41 of them.

    Args:
        stride: pixels per value of the prediction, along a side; 8 in the paper.
        ignored: label of pixels that count nowhere.
        name: Keras' name of the loss.
    """

    def __init__(self, *, stride: int = 8, ignored: int = 255, name: str = "pixel_cross_entropy"):
        super().__init__(name=name, reduction=REDUCTION)
        if not (isinstance(stride, int) and stride >= 1):
            raise SpecError(f"stride is a whole number of pixels, at least 1, got {stride!r}. The paper has 8.")
        self.stride = stride
        self.ignored = ignored

    def compared(self, y_true, y_pred):
        """Labels and probabilities of one size, as this loss compares them."""
        return first_pair(y_true, y_pred, stride=self.stride)

    def call(self, y_true, y_pred):
        """One value per image, (n,)."""
        labels, probabilities = self.compared(y_true, y_pred)
        counted, true_class = _true_class(labels, probabilities, ignored=self.ignored)
        return _per_image(-ops.log(true_class), counted)

    def get_config(self) -> dict:
        """What `from_config` needs to make this loss again."""
        return {"stride": self.stride, "ignored": self.ignored, "name": self.name}


@keras.saving.register_keras_serializable(package="digipath")
class PatchCrossEntropy(keras.losses.Loss):
    """Cross-entropy of a patch classifier: labels (n,), predictions (n, classes) or (n, 1), the probability of class 1.

    Args:
        ignored: label of patches that count nowhere.
        name: Keras' name of the loss.
    """

    def __init__(self, *, ignored: int = 255, name: str = "patch_cross_entropy"):
        super().__init__(name=name, reduction=REDUCTION)
        self.ignored = ignored

    def call(self, y_true, y_pred):
        """One value per patch, (n,)."""
        if len(y_true.shape) != 1 or len(y_pred.shape) != 2:
            raise SpecError(
                f"Labels of patches are (n,) and predictions (n, classes), got {_shape(y_true)} and {_shape(y_pred)}. "
                "Give one class index per patch; for a label per pixel take PixelCrossEntropy."
            )
        probabilities = named_channels(ops.cast(y_pred, "float32"))
        counted, true_class = _true_class(ops.cast(y_true, "int32"), probabilities, ignored=self.ignored)
        return _per_image(-ops.log(true_class), counted)

    def get_config(self) -> dict:
        """What `from_config` needs to make this loss again."""
        return {"ignored": self.ignored, "name": self.name}


def enlarged_pair(y_true, y_pred):
    """Labels int32 and probabilities float32 of their size, enlarged bilinearly where they were smaller."""
    labels, probabilities = _pixels(y_true, y_pred)
    factor = _factor(labels, probabilities)
    return labels, probabilities if factor == 1 else enlarged(probabilities, rows=labels.shape[1])


def centre_pair(y_true, y_pred):
    """Labels int32, at the middle of each cell of a prediction that is smaller, and probabilities float32."""
    labels, probabilities = _pixels(y_true, y_pred)
    factor = _factor(labels, probabilities)
    return labels[:, factor // 2 :: factor, factor // 2 :: factor], probabilities


def first_pair(y_true, y_pred, *, stride: int):
    """Labels int32 at 0, `stride`, 2 · `stride`, ... and probabilities float32."""
    labels, probabilities = _pixels(y_true, y_pred)
    sampled = labels[:, ::stride, ::stride]
    for want, got in zip(sampled.shape[1:], probabilities.shape[1:3], strict=True):
        if None not in (want, got) and want != got:
            raise SpecError(
                f"At stride {stride} labels {_shape(labels)} go with ceil(side / {stride}) values along a side, got "
                f"predictions {_shape(probabilities)}. Give the network's own output stride."
            )
    return sampled, probabilities


def enlarged(probabilities, *, rows: int):
    """Bilinearly enlarges maps to `rows` rows by a whole factor; maps of that size pass unchanged."""
    factor = rows // probabilities.shape[1]
    if factor == 1:
        return probabilities
    size = (probabilities.shape[1] * factor, probabilities.shape[2] * factor)
    return ops.image.resize(probabilities, size, interpolation="bilinear")


def named_channels(probabilities):
    """Both classes' probabilities where the network gives one channel, the probability of the second."""
    if probabilities.shape[-1] == 1:
        return ops.concatenate([1 - probabilities, probabilities], axis=-1)
    return probabilities


def _shape(tensor) -> tuple:
    return tuple(tensor.shape)


def _pixels(y_true, y_pred):
    """Labels int32 and probabilities float32, refused where they would be broadcast."""
    if len(y_true.shape) != 3 or len(y_pred.shape) != 4:
        raise SpecError(
            "labels are (n, rows, columns) and predictions (n, rows, columns, classes), got "
            f"{_shape(y_true)} and {_shape(y_pred)}. Take the channel off the labels: labels[..., 0]."
        )
    return ops.cast(y_true, "int32"), named_channels(ops.cast(y_pred, "float32"))


def _factor(labels, probabilities) -> int:
    """Pixels of the labels per value of the prediction, along a side; sides that a graph does not know are equal."""
    sides = tuple(zip(labels.shape[1:3], probabilities.shape[1:3], strict=True))
    if any(None in side for side in sides):
        return 1
    factors = {fine / coarse for fine, coarse in sides}
    factor = factors.pop()
    if factors or factor < 1 or factor != int(factor):
        raise SpecError(
            "Labels are as large as predictions, or larger by one whole factor along both sides, got "
            f"{_shape(labels)} and {_shape(probabilities)}. Where L pixels give ceil(L / 8) values, take "
            "PixelCrossEntropy, and metrics with like=PixelCrossEntropy()."
        )
    return int(factor)


def _masked(labels, probabilities, *, ignored: int):
    """Counted pixels (n, rows, columns, 1), one-hot truth and probabilities, both 0 where pixels are ignored."""
    counted = ops.not_equal(labels, ignored)[..., None]
    truth = ops.one_hot(ops.where(labels == ignored, -1, labels), probabilities.shape[-1], dtype="float32")
    return ops.cast(counted, "float32"), truth, ops.where(counted, probabilities, 0.0)


def _true_class(labels, probabilities, *, ignored: int):
    """Counted places as 0 and 1, and the probability there of the true class, away from 0 and 1."""
    counted, truth, probabilities = _masked(labels, probabilities, ignored=ignored)
    true_class = ops.sum(truth * probabilities, axis=-1)
    return counted[..., 0], ops.clip(true_class, SMALLEST, 1 - SMALLEST)


def _per_image(values, counted):
    """One value per image, whose mean is the mean of `values` over all that is counted; 0 where nothing is."""
    places = tuple(range(1, len(values.shape)))
    share = ops.cast(ops.shape(values)[0], "float32") / ops.maximum(ops.sum(counted), 1.0)
    return ops.sum(values * counted, axis=places) * share if places else values * counted * share
