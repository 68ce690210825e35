"""A cohort and a recipe in, a bundle out."""

import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from digipath.data.cohort import Cohort
from digipath.data.pipeline import BatchSequence, dataset, sequence
from digipath.errors import SpecError, TrainingError
from digipath.models.bundle import Bundle
from digipath.models.catalog import build, rebuild
from digipath.models.spec import ModelSpec
from digipath.training import losses, metrics
from digipath.training.callbacks import BestEpochs, FreezeThenUnfreeze, SteppedRate, StopOnRise
from digipath.training.curves import draw_curves
from digipath.training.feeds import feeds_of, parts_of
from digipath.training.recipes import Recipe, recipe
from digipath.training.record import CURVES, HISTORY, Record, Reseed, RunFolder

__all__ = ["TrainSettings", "bundle_of", "train"]

LOSSES = {
    "hybrid": losses.HybridLoss,
    "soft-dice": losses.SoftDiceLoss,
    "focal": losses.FocalLoss,
    "pixel": losses.PixelCrossEntropy,
    "patch": losses.PatchCrossEntropy,
}
BEST = "best"


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How a run uses the machine; nothing here changes what is learnt, but for rounding.

    Attributes:
        threads: that read and change patches; by default one a core.
        strategy: None, or "mirrored": every device works on its share of each batch (TensorFlow alone).
        mixed: None, or "bfloat16" or "float16": compute in it, keep weights in float32.
        tensorboard: also write TensorBoard's files (TensorFlow alone).
        progress: whether to show bars.
        fresh: begin anew where an earlier run of the same output was stopped.
    """

    threads: int | None = None
    strategy: str | None = None
    mixed: str | None = None
    tensorboard: bool = False
    progress: bool = True
    fresh: bool = False

    def __post_init__(self):
        if self.strategy not in (None, "mirrored"):
            raise SpecError(f"strategy is None or 'mirrored', got {self.strategy!r}.")
        if self.threads is not None and self.threads < 1:
            raise SpecError(f"threads is at least 1, or None for one a core, got {self.threads}.")
        if self.mixed not in (None, "bfloat16", "float16"):
            raise SpecError(f"mixed is None, 'bfloat16' or 'float16', got {self.mixed!r}.")
        if self.tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise SpecError("tensorboard=True needs the package tensorboard. Install it: pip install tensorboard.")
        needs = [name for name in ("strategy", "tensorboard") if getattr(self, name)]
        if needs and keras.backend.backend() != "tensorflow":
            raise SpecError(
                f"{needs[0]} needs TensorFlow as Keras' backend, which is {keras.backend.backend()}. "
                "Leave it out, or set KERAS_BACKEND=tensorflow before Python starts."
            )


def train(
    cohort: Cohort, recipe_or_name: Recipe | str, *, out: str | os.PathLike, settings: TrainSettings | None = None
) -> Bundle:
    """Train a network as a recipe says, and store it as a bundle.

    A run that was stopped goes on from its last finished epoch when it is started again with the same arguments, with
    the same random numbers. While it goes on, `<out>-training` beside the bundle holds its log, its curves, its last
    state and its best epochs; the best epochs, the log and the curves stay there.

    Args:
        cohort: cases of the splits "train" and "val"; others are left out.
        recipe_or_name: a recipe, or the name of one (`digipath.training.recipes.RECIPES`).
        out: folder of the bundle.
        settings: how to use the machine.

    Returns:
        The stored bundle, with the weights of the best epoch by the recipe's `monitor`; `recipe.json` and `history.csv`
        lie beside them.

    Raises:
        CohortError: something is wrong with the cohort; all that is wrong is told at once.
        TrainingError: the run cannot begin or go on.
    """
    chosen = recipe(recipe_or_name) if isinstance(recipe_or_name, str) else recipe_or_name
    settings, out = settings or TrainSettings(), Path(out)
    cohort.require()
    parts = parts_of(cohort)
    keras.utils.set_random_seed(chosen.seed)
    with _precision(settings.mixed), _devices(settings.strategy):
        model = _compiled(chosen, cohort)
        run = RunFolder(work_folder(out), _described(chosen, cohort, settings), fresh=settings.fresh)
        _fit(model, parts, Session(run=run, recipe=chosen, settings=settings))
    return _stored(run, chosen, cohort, out)


def work_folder(out: str | os.PathLike) -> Path:
    """Where a run keeps what belongs to it and not to the bundle."""
    out = Path(out)
    return out.with_name(f"{out.name}-training")


def bundle_of(epoch: int, *, out: str | os.PathLike) -> Bundle:
    """Store another of a finished run's best epochs as the bundle `out`, for whoever ranks them by another criterion.

    Args:
        epoch: number from 1 on, as in the names of the files in `<out>-training/best`.
        out: the bundle of the run.
    """
    out = Path(out)
    before = Bundle.load(out)
    path = next((one for number, _, one in BestEpochs.kept(work_folder(out) / BEST) if number == epoch), None)
    if path is None:
        found = ", ".join(str(number) for number, _, _ in BestEpochs.kept(work_folder(out) / BEST)) or "none"
        raise TrainingError(f"An epoch is one of those kept ({found}), got {epoch}. Train with a larger `keep`.")
    model = before.model
    model.load_weights(path)
    Bundle(model, before.spec).save(out)
    return Bundle.load(out)


@dataclass(frozen=True, kw_only=True)
class Session:
    """A run, its recipe and its settings, as they go through the functions below together."""

    run: RunFolder
    recipe: Recipe
    settings: TrainSettings


def _described(chosen: Recipe, cohort: Cohort, settings: TrainSettings) -> dict[str, Any]:
    cases = [(case.name, str(case.patient), str(case.split)) for case in cohort]
    described = json.loads(json.dumps(chosen.describe(), default=str))
    del described["chosen"]  # says where numbers come from, and changes none
    return {
        "recipe": described,
        "cohort": _digest(repr((cases, cohort.classes)).encode()),
        "truth": _digest(_truth(cohort).encode()),
        "mixed": settings.mixed,
        "strategy": settings.strategy,
        "backend": keras.backend.backend(),
    }


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _truth(cohort: Cohort) -> str:
    """What says which class each pixel is, as text that changes with it; where the files lie does not matter."""
    told = []
    for case in cohort:
        outlines, mask = case.annotations, case.mask
        if isinstance(outlines, Path):
            outlines = _digest(outlines.read_bytes())
        elif outlines is not None:
            outlines = [(one.name, one.geometry.wkt) for one in outlines]
        told.append((case.label, case.mpp, outlines, mask.stat().st_size if isinstance(mask, Path) else mask is None))
    return repr((told, *(sorted((each or {}).items()) for each in (cohort.groups, cohort.mask_values))))


@contextmanager
def _precision(mixed: str | None) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(f"mixed_{mixed}" if mixed else "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _devices(strategy: str | None):
    if strategy is None:
        return nullcontext()
    import tensorflow as tf

    return tf.distribute.MirroredStrategy().scope()


def _compiled(chosen: Recipe, cohort: Cohort) -> keras.Model:
    model = build(
        chosen.architecture,
        classes=len(cohort.classes),
        activation=chosen.activation,
        width=chosen.width,
        output_stride=chosen.output_stride,
        weights=chosen.weights,
    )
    outputs = len(model.outputs)
    loss = LOSSES[chosen.loss]()
    judged = _metrics(chosen, loss)
    model.compile(
        optimizer=_optimizer(chosen),
        loss=[loss] * outputs if outputs > 1 else loss,
        metrics=[[]] * (outputs - 1) + [judged] if outputs > 1 else judged,
        jit_compile=False if keras.backend.backend() == "tensorflow" else "auto",
    )
    return model


def _optimizer(chosen: Recipe) -> keras.optimizers.Optimizer:
    ema = {"use_ema": True, "ema_momentum": chosen.average} if chosen.average else {}
    rate = chosen.rates[0][1]
    if chosen.decay:
        return keras.optimizers.AdamW(
            rate, weight_decay=chosen.decay, amsgrad=chosen.amsgrad, clipnorm=chosen.clip, **ema
        )
    return keras.optimizers.Adam(rate, amsgrad=chosen.amsgrad, clipnorm=chosen.clip, **ema)


def _metrics(chosen: Recipe, loss: keras.losses.Loss) -> list[keras.metrics.Metric]:
    if chosen.kind == "classifier":
        return [metrics.PatchAccuracy(name="accuracy")]
    return [metrics.IoU(like=loss), metrics.Dice(like=loss)]


def _targets(chosen: Recipe, outputs: int) -> Callable[[np.ndarray], Any]:
    """From a batch's labels to what the network's outputs are compared with."""
    if chosen.kind == "classifier":
        return lambda labels: patch_labels(labels, centre=chosen.centre)
    return (lambda labels: labels) if outputs == 1 else (lambda labels: (labels,) * outputs)


def patch_labels(labels: np.ndarray, *, centre: int) -> np.ndarray:
    """(n,) class of each patch: the highest class in the square of `centre` pixels in its middle; 255 where all is 255.

    So a value of a classifier that steps by `centre` belongs to the cell that it was trained for.
    """
    rows, columns = ((max(0, (side - centre) // 2), min(side, (side + centre) // 2)) for side in labels.shape[1:])
    cell = labels[:, slice(*rows), slice(*columns)].reshape(len(labels), -1)
    counted = np.where(cell == 255, -1, cell.astype(np.int16)).max(axis=1)
    return np.where(counted < 0, 255, counted).astype(np.uint8)


def _fit(model: keras.Model, parts: dict[str, Cohort], session: Session):
    chosen, run = session.recipe, session.run
    monitor = f"val_{chosen.monitor}" if len(model.outputs) == 1 else f"val_{model.output_names[-1]}_{chosen.monitor}"
    stop = StopOnRise(patience=chosen.patience, armed_at=chosen.freeze) if chosen.patience else None
    if run.checkpoint is not None:
        _restore(model, session)
        _rank_last(model, session, monitor)
    if run.next_epoch >= chosen.epochs:
        return
    if stop is not None and _stopped(stop, model, run.rows):
        return
    feeds = feeds_of(parts, chosen, threads=session.settings.threads)
    targets = _targets(chosen, len(model.outputs))
    feed = dataset if session.settings.strategy else sequence
    training, validation = (feed(feeds[split], epoch=run.next_epoch, targets=targets) for split in ("train", "val"))
    callbacks = _callbacks(session, monitor=monitor, stop=stop)
    if isinstance(training, BatchSequence):
        callbacks.insert(
            0, keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: setattr(training, "epoch", epoch))
        )
    try:
        model.fit(
            training,
            validation_data=validation,
            initial_epoch=run.next_epoch,
            epochs=chosen.epochs,
            shuffle=False,
            callbacks=callbacks,
            verbose="auto" if session.settings.progress else 0,
        )
    finally:
        for one in (training, validation):
            if isinstance(one, BatchSequence):
                one.close()
        for batches in feeds.values():
            batches.source.close()


def _callbacks(session: Session, *, monitor: str, stop: StopOnRise | None) -> list[keras.callbacks.Callback]:
    """In the order in which they act: the record keeps the weights as trained, what follows sees their average."""
    chosen, run = session.recipe, session.run
    found: list[keras.callbacks.Callback] = []
    if chosen.freeze:
        found.append(FreezeThenUnfreeze(epochs=chosen.freeze))
    found += [SteppedRate(chosen.rates), Reseed(chosen.seed), Record(run)]
    if chosen.average:
        found.append(keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
    found.append(_best(session, monitor))
    if stop is not None:
        found.append(stop)
    if session.settings.tensorboard:
        found.append(keras.callbacks.TensorBoard(run.folder / "tensorboard"))
    return found


def _restore(model: keras.Model, session: Session):
    """Bring network and optimizer back to where the last finished epoch left them."""
    chosen, run = session.recipe, session.run
    if chosen.freeze:
        FreezeThenUnfreeze.set_frozen(model, run.next_epoch - 1 < chosen.freeze)
    model.optimizer.build(model.trainable_variables)
    model.load_weights(run.checkpoint)


def _best(session: Session, monitor: str) -> BestEpochs:
    return BestEpochs(session.run.folder / BEST, keep=session.recipe.keep, monitor=monitor)


def _rank_last(model: keras.Model, session: Session, monitor: str):
    """Rank the last finished epoch again: a kill may have come after it was recorded and before it was kept."""
    if not session.run.rows:
        return
    last, best = session.run.rows[-1], _best(session, monitor)
    ranking = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if session.recipe.average else []
    for callback in (*ranking, best):
        callback.set_model(model)
        callback.set_params({"epochs": 0})  # none of them is the last: weights and averages change places again
    best.on_train_begin()
    for callback in (*ranking, best):
        callback.on_epoch_end(last["epoch"], last)
    for callback in ranking:
        callback.on_epoch_begin(session.run.next_epoch)


def _stopped(stop: StopOnRise, model: keras.Model, rows: list[dict[str, Any]]) -> bool:
    """Whether the epochs so far have already ended the run."""
    stop.set_model(model)
    model.stop_training = False
    for row in rows:
        stop.on_epoch_end(row["epoch"], row)
    return model.stop_training


def _stored(run: RunFolder, chosen: Recipe, cohort: Cohort, out: Path) -> Bundle:
    """The best epoch as a bundle, with where it came from."""
    kept = BestEpochs.kept(run.folder / BEST)
    if not kept:
        raise TrainingError(
            f"No epoch of {run.folder} was kept: {chosen.monitor} was never a number. See {HISTORY} there."
        )
    spec = spec_of(chosen, cohort.classes)
    model = rebuild(spec)
    model.load_weights(kept[0][2])
    run.write(CURVES, draw_curves(run.rows, title=f"{chosen.name}: epoch {kept[0][0]} is the best"))
    extra = {"recipe.json": json.dumps(chosen.describe(), indent=2, default=str) + "\n", HISTORY: run.history()}
    Bundle(model, spec).save(out, extra=extra)
    shutil.copy2(run.folder / CURVES, out / CURVES)
    return Bundle.load(out)


def spec_of(chosen: Recipe, classes: tuple[str, ...]) -> ModelSpec:
    """What a network trained by this recipe expects and returns."""
    return ModelSpec(
        architecture=chosen.architecture,
        mpp=chosen.resolution,
        patch=chosen.bundle_patch or chosen.patch,
        kind=chosen.kind,
        classes=tuple(classes),
        activation=chosen.activation,
        output_stride=chosen.output_stride,
        width=chosen.width,
        stain=chosen.stain,
    )
