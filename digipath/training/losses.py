"""The hybrid loss of Khened et al. (Scientific Reports 2021), Eq. 1 to 3."""

import keras
from keras import ops

from digipath.errors import SpecError


@keras.saving.register_keras_serializable(package="digipath")
class HybridLoss(keras.losses.Loss):
    """Half cross-entropy, a quarter Dice loss of the background, a quarter Dice loss of the foreground.

    The Dice coefficients have squared denominators (Eq. 1) and run over the whole batch, so that an image without a
    lesion does not make them jump; Eq. 2 is taken with the minus that print lost. Classes beyond the second share the
    foreground's quarter. Predictions smaller than the labels by a whole factor are enlarged bilinearly first.

    Labels are class indices, (n, rows, columns); pixels of label `ignored` count nowhere. Predictions are probabilities
    (n, rows, columns, classes), or one channel, the probability of class 1.

    Args:
        ignored: label of pixels that count nowhere.
        epsilon: added to both sides of each Dice coefficient's fraction, in pixels: a class that is absent from the
            labels and the prediction costs nothing.
        name: Keras' name of the loss.
    """

    def __init__(self, *, ignored: int = 255, epsilon: float = 1.0, name: str = "hybrid_loss"):
        super().__init__(name=name, reduction=None)
        self.ignored = ignored
        self.epsilon = epsilon

    def call(self, y_true, y_pred):
        """The loss of a batch, one number."""
        if len(y_true.shape) != 3 or len(y_pred.shape) != 4:
            raise SpecError(
                "labels are (n, rows, columns) and predictions (n, rows, columns, classes), got "
                f"{tuple(y_true.shape)} and {tuple(y_pred.shape)}. Take the channel off the labels: labels[..., 0]."
            )
        probabilities = enlarged(_named_channels(ops.cast(y_pred, "float32")), rows=y_true.shape[1])
        labels = ops.cast(y_true, "int32")
        counted = ops.cast(ops.not_equal(labels, self.ignored), "float32")[..., None]
        truth = ops.one_hot(ops.where(labels == self.ignored, 0, labels), probabilities.shape[-1]) * counted
        probabilities = probabilities * counted
        true_class = ops.sum(truth * probabilities, axis=-1, keepdims=True)
        entropy = -ops.sum(counted * ops.log(ops.clip(true_class, 1e-7, 1.0))) / ops.maximum(ops.sum(counted), 1.0)
        overlap = 2 * ops.sum(truth * probabilities, axis=(0, 1, 2)) + self.epsilon
        total = ops.sum(ops.square(truth) + ops.square(probabilities), axis=(0, 1, 2)) + self.epsilon
        dice = 1 - overlap / total
        return 0.5 * entropy + 0.25 * dice[0] + 0.25 * ops.mean(dice[1:])

    def get_config(self) -> dict:
        """What `from_config` needs to make this loss again."""
        return {"ignored": self.ignored, "epsilon": self.epsilon, "name": self.name}


def _named_channels(probabilities):
    """Both classes' probabilities where the network gives one channel, the probability of the second."""
    if probabilities.shape[-1] == 1:
        return ops.concatenate([1 - probabilities, probabilities], axis=-1)
    return probabilities


def enlarged(probabilities, *, rows: int):
    """Bilinearly enlarges maps to `rows` rows by a whole factor; maps of that size pass unchanged."""
    factor = rows // probabilities.shape[1]
    if factor == 1:
        return probabilities
    size = (probabilities.shape[1] * factor, probabilities.shape[2] * factor)
    return ops.image.resize(probabilities, size, interpolation="bilinear")
