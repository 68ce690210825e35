"""Freezing the encoder for the first epochs of anybody's `model.fit`, and unfreezing it so that it does learn."""

import contextlib
import difflib
import itertools
import weakref
from collections.abc import Iterator

import keras

from digipath.errors import SpecError

__all__ = ["Continued", "FreezeThenUnfreeze", "set_rate"]

_FLAGS: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # frozen encoder: who in it was trainable before


class FreezeThenUnfreeze(keras.callbacks.Callback):
    """Trains without the encoder for some epochs, then with it (Khened et al. 2021: two epochs).

    A layer's `trainable` means nothing to a step that is compiled already, and Keras' optimizers keep to the variables
    that they were built for. So at either change the optimizer is made again from its configuration, over the variables
    that are trainable now, and the step with it. It then begins as after `compile`, as do moving averages of weights;
    a learning rate schedule goes on where it was. (With the old step count, Adam would not correct the bias of the
    encoder's fresh moments, and move it up to six times as far as the learning rate says, for hundreds of steps.)

    What was not trainable within the encoder before stays so. A frozen BatchNormalization keeps its statistics.
    A training that ends while the encoder is frozen leaves it trainable, as it was found.

    Args:
        epochs: how many epochs the encoder is frozen for. A training resumed after them never freezes it.
        encoder: name of the encoder, a layer or model within the model; by default the one model nested in it.
        frozen_rate: learning rate while it is frozen; by default the optimizer's.
        rate: learning rate from then on; by default what it was when `fit` first froze the encoder. (Give it where an
            optimizer's state is loaded, which holds the frozen rate.)

    Example:
        >>> callbacks = [FreezeThenUnfreeze(epochs=2, frozen_rate=1e-5, rate=2e-4)]
        >>> # network.fit(batches, epochs=20, callbacks=callbacks)
    """

    def __init__(
        self,
        *,
        epochs: int = 2,
        encoder: str | None = None,
        frozen_rate: float | None = None,
        rate: float | None = None,
    ):
        super().__init__()
        if not (isinstance(epochs, int) and epochs >= 0):
            raise SpecError(f"epochs counts the epochs with a frozen encoder, 0 or more, got {epochs!r}.")
        for name, value in (("frozen_rate", frozen_rate), ("rate", rate)):
            if value is not None and not value > 0:
                raise SpecError(
                    f"{name} is a learning rate above 0, got {value}. Leave it out to keep the optimizer's."
                )
        self.epochs = epochs
        self.encoder = encoder
        self.frozen_rate = frozen_rate
        self.rate = rate
        self._phase: bool | None = None
        self._found_rate: float | None = None

    def on_train_begin(self, logs=None):
        """Look for the encoder, so that a wrong name is told before the first step."""
        del logs
        _encoder(self.model, self.encoder)
        self._phase = None

    def on_epoch_begin(self, epoch, logs=None):
        """Freeze or unfreeze when this epoch asks for another state than the model is in."""
        del logs
        self._enter(frozen=epoch < self.epochs)

    def on_train_end(self, logs=None):
        """Unfreeze what training ended too early to unfreeze."""
        del logs
        if self._phase:
            self._enter(frozen=False)

    def _enter(self, *, frozen: bool):
        model = self.model
        if _encoder(model, self.encoder).trainable == frozen:
            self.set_frozen(model, frozen, encoder=self.encoder)
            _renew_optimizer(model)
            model.make_train_function(force=True)
        if self._phase != frozen:
            self._set_rate(model.optimizer, frozen=frozen)
        self._phase = frozen

    def _set_rate(self, optimizer, *, frozen: bool):
        if frozen and self.frozen_rate is not None:
            self._found_rate = _rate(optimizer)
        rate = self.frozen_rate if frozen else self.rate or self._found_rate
        if rate is not None:
            set_rate(optimizer, rate)

    @staticmethod
    def set_frozen(model: keras.Model, frozen: bool, *, encoder: str | None = None):
        """Freeze or unfreeze the encoder outside of `fit`, for example before an optimizer's state is loaded.

        Args:
            model: that holds the encoder; its optimizer is left as it is.
            frozen: whether the encoder shall be.
            encoder: its name; by default the one model nested in `model`.
        """
        part = _encoder(model, encoder)
        if frozen and part.trainable:
            _FLAGS[part] = [(weakref.ref(layer), layer.trainable) for layer in _within(part)]
            part.trainable = False
        elif not frozen and not part.trainable:
            part.trainable = True
            for reference, trainable in _FLAGS.pop(part, ()):
                if (layer := reference()) is not None:
                    layer.trainable = trainable
        if frozen and not model.trainable_variables:
            FreezeThenUnfreeze.set_frozen(model, False, encoder=encoder)
            raise SpecError(
                f"Something besides the encoder must be left to train, and {part.name!r} is all of {model.name!r}. "
                "Name the encoder within it: FreezeThenUnfreeze(encoder=...)."
            )


def _encoder(model: keras.Model, name: str | None) -> keras.layers.Layer:
    """The layer of that name, at any depth, or the one model that is nested in `model`."""
    if name is None:
        nested = [layer for layer in model.layers if isinstance(layer, keras.Model)]
        if len(nested) == 1:
            return nested[0]
        found = ", ".join(repr(layer.name) for layer in nested) or "none"
        raise SpecError(
            f"Without a name the encoder is the one model nested in {model.name!r}, which has: {found}. "
            "Name it: FreezeThenUnfreeze(encoder=...)."
        )
    named = {layer.name: layer for layer in itertools.islice(_within(model), 1, None)}
    if name not in named:
        near = difflib.get_close_matches(name, named, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise SpecError(f"encoder names a layer of {model.name!r}, which has no {name!r}.{hint}")
    return named[name]


def _within(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """The layer and, of a model, all layers within it, outer ones first."""
    yield layer
    if isinstance(layer, keras.Model):
        for inner in layer.layers:
            yield from _within(inner)


@keras.saving.register_keras_serializable(package="digipath")
class Continued(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate schedule from its step `after` on, for an optimizer that counts anew.

    Args:
        schedule: the schedule.
        after: how many of its steps are done.
    """

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, *, after: int):
        self.schedule = schedule
        self.after = after

    def __call__(self, step):
        """The learning rate `step` steps further on."""
        return self.schedule(step + self.after)

    def get_config(self) -> dict:
        """What `from_config` needs to make this schedule again."""
        return {"schedule": keras.optimizers.schedules.serialize(self.schedule), "after": self.after}

    @classmethod
    def from_config(cls, config: dict) -> "Continued":
        """The schedule that `get_config` described."""
        return cls(keras.optimizers.schedules.deserialize(config["schedule"]), after=config["after"])


def _renew_optimizer(model: keras.Model):
    """Give the model an optimizer like its own, built over the variables that are trainable now."""
    strategy = getattr(model, "distribute_strategy", None)
    with strategy.scope() if strategy is not None else contextlib.nullcontext():
        fresh = _alike(model.optimizer)
        fresh.build(model.trainable_variables)
        _continue_averages(model, fresh)
    model.optimizer = fresh


def _alike(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """A new optimizer of the same configuration; a schedule goes on where it was."""
    config = optimizer.get_config()
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        scale = float(optimizer.dynamic_scale.numpy()) if optimizer.built else optimizer.initial_scale
        inner = _alike(optimizer.inner_optimizer)
        return type(optimizer)(inner, scale, optimizer.dynamic_growth_steps, name=optimizer.name)
    if isinstance(config["learning_rate"], dict):
        schedule = keras.optimizers.schedules.deserialize(config["learning_rate"])
        config["learning_rate"] = Continued(schedule, after=int(keras.ops.convert_to_numpy(optimizer.iterations)))
    fresh = type(optimizer).from_config(config)
    for name in ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"):  # not in the configuration
        if hasattr(optimizer, name):
            setattr(fresh, name, getattr(optimizer, name))
    return fresh


def _continue_averages(model: keras.Model, fresh: keras.optimizers.Optimizer):
    """Gives the new optimizer the old one's moving averages of weights, and the weights where it has none.

    SwapEMAWeights exchanges both at the begin of an epoch: a new average, which is 0, would end up as the weight.
    """
    old, fresh = (getattr(one, "inner_optimizer", one) for one in (model.optimizer, fresh))
    if not fresh.use_ema:
        return
    known = {slot.path: slot for slot in old.variables} if int(keras.ops.convert_to_numpy(old.iterations)) else {}
    for variable, average in zip(model.trainable_variables, fresh._model_variables_moving_average, strict=True):
        if average is not None:
            # Through NumPy: on JAX both would share one buffer, which a training step gives away once.
            average.assign(keras.ops.convert_to_numpy(known.get(average.path, variable)))


def _rate(optimizer) -> float:
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


def set_rate(optimizer: keras.optimizers.Optimizer, rate: float):
    """Set an optimizer's learning rate."""
    try:
        optimizer.learning_rate = rate
    except TypeError as error:
        raise SpecError(
            f"A learning rate can be set where the optimizer has a number, not a schedule, got {rate} to set. "
            "Compile with a number, or leave the rates to the schedule."
        ) from error
