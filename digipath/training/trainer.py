"""A cohort and a recipe in, a bundle out."""

import hashlib
import importlib.util
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from digipath.data.cohort import Cohort
from digipath.data.grids import Grid
from digipath.data.patches import Batches, PatchSource
from digipath.data.pipeline import BatchSequence, dataset, sequence
from digipath.data.pool import Pool
from digipath.errors import SpecError, TrainingError
from digipath.models.bundle import Bundle
from digipath.models.catalog import build
from digipath.models.spec import ModelSpec
from digipath.training import losses, metrics
from digipath.training.callbacks import BestEpochs, FreezeThenUnfreeze, SteppedRate, StopOnRise
from digipath.training.curves import draw_curves
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
    parts = {split: _part(cohort, split) for split in ("train", "val")}
    keras.utils.set_random_seed(chosen.seed)
    with _precision(settings.mixed), _devices(settings.strategy):
        model = _compiled(chosen, cohort)
        run = RunFolder(work_folder(out), _described(chosen, cohort, settings), fresh=settings.fresh)
        _fit(model, _feeds(parts, chosen, settings), Session(run=run, recipe=chosen, settings=settings))
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
    path = next((one for number, _, one in _kept(work_folder(out) / BEST) if number == epoch), None)
    if path is None:
        found = ", ".join(str(number) for number, _, _ in _kept(work_folder(out) / BEST)) or "none"
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


def _part(cohort: Cohort, split: str) -> Cohort:
    part = cohort.select(split=split)
    if not len(part):
        raise TrainingError(
            f"Training needs cases of the splits 'train' and 'val', and there is none of {split!r}. "
            "Fill the column split, or draw it: cohort.split(val=0.2) (--val 0.2)."
        )
    return part


def _described(chosen: Recipe, cohort: Cohort, settings: TrainSettings) -> dict[str, Any]:
    cases = [(case.name, str(case.patient), str(case.split)) for case in cohort]
    digest = hashlib.sha256(repr((cases, cohort.classes)).encode()).hexdigest()[:12]
    return {
        "recipe": json.loads(json.dumps(chosen.describe(), default=str)),
        "cohort": digest,
        "mixed": settings.mixed,
        "strategy": settings.strategy,
        "backend": keras.backend.backend(),
    }


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


def _feeds(parts: dict[str, Cohort], chosen: Recipe, settings: TrainSettings) -> dict[str, Batches]:
    """Training batches as the recipe samples and changes them; validation patches once each, as they are."""
    feeds = {}
    for split, part in parts.items():
        training = split == "train"
        pool = Pool(
            part, mpp=chosen.mpp if training else chosen.resolution, patch=chosen.patch, threads=settings.threads
        )
        sampler = (chosen.sampling if training else Grid()).plan(pool, seed=chosen.seed)
        for told in sampler.told:
            warnings.warn(told, stacklevel=3)
        source = PatchSource(part, mpp=sampler.mpp, patch=chosen.patch, stain=chosen.stain, outside=sampler.outside)
        feeds[split] = Batches(
            source,
            sampler,
            batch=chosen.batch,
            augment=chosen.augmentation if training else None,
            seed=chosen.seed,
            threads=settings.threads,
            mixed=chosen.pasted if training else 0.0,
            drop_last=training,
        )
    return feeds


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


def _fit(model: keras.Model, feeds: dict[str, Batches], session: Session):
    chosen, run = session.recipe, session.run
    monitor = f"val_{chosen.monitor}" if len(model.outputs) == 1 else f"val_{model.output_names[-1]}_{chosen.monitor}"
    stop = StopOnRise(patience=chosen.patience, armed_at=chosen.freeze) if chosen.patience else None
    if run.next_epoch >= chosen.epochs:
        return
    if run.checkpoint is not None:
        _restore(model, session)
    if stop is not None and _stopped(stop, model, run.rows):
        return
    _check_first_batch(feeds)
    targets = _targets(chosen, len(model.outputs))
    feed = dataset if session.settings.strategy else sequence
    training, validation = (feed(feeds[split], epoch=run.next_epoch, targets=targets) for split in ("train", "val"))
    callbacks = _callbacks(session, monitor=monitor, stop=stop)
    if isinstance(training, BatchSequence):
        callbacks.insert(
            0, keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: setattr(training, "epoch", epoch))
        )
    model.fit(
        training,
        validation_data=validation,
        initial_epoch=run.next_epoch,
        epochs=chosen.epochs,
        shuffle=False,
        callbacks=callbacks,
        verbose="auto" if session.settings.progress else 0,
    )


def _callbacks(session: Session, *, monitor: str, stop: StopOnRise | None) -> list[keras.callbacks.Callback]:
    """In the order in which they act: the record keeps the weights as trained, what follows sees their average."""
    chosen, run = session.recipe, session.run
    found: list[keras.callbacks.Callback] = []
    if chosen.freeze:
        found.append(FreezeThenUnfreeze(epochs=chosen.freeze))
    found += [SteppedRate(chosen.rates), Reseed(chosen.seed), Record(run)]
    if chosen.average:
        found.append(keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
    found.append(BestEpochs(run.folder / BEST, keep=chosen.keep, monitor=monitor))
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


def _stopped(stop: StopOnRise, model: keras.Model, rows: list[dict[str, Any]]) -> bool:
    """Whether the epochs so far have already ended the run."""
    stop.set_model(model)
    model.stop_training = False
    for row in rows:
        stop.on_epoch_end(row["epoch"], row)
    return model.stop_training


def _check_first_batch(feeds: dict[str, Batches]):
    for split, batches in feeds.items():
        if not batches.count(0):
            raise TrainingError(
                f"The part {split!r} must give patches and gives none: no tissue was found, or no case has what the "
                "recipe's sampling asks for. Look at the slides, or choose another sampling."
            )


def _kept(folder: Path) -> list[tuple[int, float, Path]]:
    """(epoch from 1 on, value, weights) of the epochs that were kept, the best first."""
    return BestEpochs.kept(folder)


def _stored(run: RunFolder, chosen: Recipe, cohort: Cohort, out: Path) -> Bundle:
    """The best epoch as a bundle, with where it came from."""
    kept = _kept(run.folder / BEST)
    if not kept:
        raise TrainingError(
            f"No epoch of {run.folder} was kept: {chosen.monitor} was never a number. See {HISTORY} there."
        )
    spec = spec_of(chosen, cohort.classes)
    model = build(
        spec.architecture,
        classes=len(spec.classes),
        activation=spec.activation,
        width=spec.width,
        output_stride=spec.output_stride,
    )
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
