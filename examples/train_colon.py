"""Re-makes the built-in bundle: a light UNet that tells colon lesions from everything else, trained on EBHI-SEG.

    python examples/train_colon.py --data ../shared/data --out colon-lesion-light --minutes 90

A run that was stopped goes on from its last checkpoint when started again with the same `--work`.
"""

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path

import cv2
import keras
import numpy as np
from colon_card import figures, fit_temperature, outputs, write_card
from colon_data import KINDS, LESION, Batches, Images, read_images, stroma_images, together
from keras import layers

from digipath.models.bundle import Bundle
from digipath.models.catalog import build
from digipath.models.spec import ModelSpec
from digipath.training.losses import HybridLoss

ARCHITECTURE = "unet-mobilenetv2"
MPP = 1.1
PATCH = 224  # the size of the photographs: all figures are measured at it
STRIDE = 2
MEMORY = 0.995  # of the moving average of weights, a step
AVERAGE_EVERY = 5  # steps


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DIGIPATH_DATA", "../shared/data")))
    parser.add_argument("--out", type=Path, default=Path("colon-lesion-light"), help="folder of the finished bundle")
    parser.add_argument("--work", type=Path, default=Path("colon-training"), help="folder of log and checkpoints")
    parser.add_argument("--minutes", type=float, default=90, help="time to train; the learning rate falls over it")
    parser.add_argument(
        "--epochs", type=int, help="at most so many epochs of 100 steps; the learning rate falls over them"
    )
    parser.add_argument("--rate", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def training_model(network: keras.Model) -> keras.Model:
    """The network with two more outputs that exist in training only: the kind of gland at stride 2 and at stride 8.

    Every image marks where its glands are and of which class, but only half of them show a lesion.
    """
    kinds = [
        layers.Conv2D(len(KINDS), 1, activation="softmax", dtype="float32", name=f"kinds_{stride}")(
            network.get_layer(f"decoder_{stride}_after_relu").output
        )
        for stride in (STRIDE, 8)
    ]
    return keras.Model(network.input, [network.output, *kinds], name="training")


def targets(kinds: np.ndarray) -> list[np.ndarray]:
    """What the three outputs are trained on."""
    return [(kinds >= LESION).astype(np.uint8), kinds[:, 1::STRIDE, 1::STRIDE], kinds[:, 4::8, 4::8]]


def compiled(model: keras.Model, *, rate: float) -> keras.Model:
    entropy = keras.losses.SparseCategoricalCrossentropy
    model.compile(
        optimizer=keras.optimizers.AdamW(rate, weight_decay=1e-2, clipnorm=5.0),
        loss=[HybridLoss(), entropy(), entropy()],
        loss_weights=[1.0, 0.3, 0.2],
        jit_compile=False,
    )
    return model


def lesion_probabilities(network: keras.Model, images: np.ndarray) -> np.ndarray:
    """(n, rows, columns) float32 at the images' size."""
    values = np.concatenate([network.predict_on_batch(images[k : k + 16])[..., -1] for k in range(0, len(images), 16)])
    size = images.shape[2], images.shape[1]
    return np.stack([cv2.resize(value, size, interpolation=cv2.INTER_LINEAR) for value in values])


def pooled_dice(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Dice of all pixels taken together."""
    found = probabilities > 0.5
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


class Run:
    """A training run and what it needs to go on after a stop."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.work = options.work
        self.work.mkdir(parents=True, exist_ok=True)
        encoder = options.data / "encoders" / "mobilenet_v2_0.35_224_imagenet_notop.weights.h5"
        self.network = build(ARCHITECTURE, output_stride=STRIDE, weights=encoder)
        self.judged = build(ARCHITECTURE, output_stride=STRIDE)
        self.model = compiled(training_model(self.network), rate=options.rate)
        self.state = {"step": 0, "minutes": 0.0, "best": 0.0, "best_step": 0}
        self.average = self.network.get_weights()
        if (self.work / "state.json").is_file():
            self._resume()

    def _resume(self) -> None:
        self.state = json.loads((self.work / "state.json").read_text())
        self.model.optimizer.build(self.model.trainable_variables)  # else its moments would not be loaded
        self.model.load_weights(self.work / "last.weights.h5")
        with np.load(self.work / "average.npz") as stored:
            self.average = [stored[f"{k:04d}"] for k in range(len(stored.files))]
        print(f"resumed at step {self.state['step']}", flush=True)

    def train(self, train: Images, val: Images) -> None:
        """Trains until the minutes or the epochs are over; every 100 steps the average is judged on `val`."""
        batches = Batches(seed=self.options.seed).stream(train, first=self.state["step"])
        began, before, losses = time.monotonic(), self.state["minutes"], []
        while (progress := self._progress()) < 1:
            self.model.optimizer.learning_rate = self._rate(progress)
            images, kinds = next(batches)
            losses.append(self.model.train_on_batch(images, targets(kinds))[0])
            self.state["step"] += 1
            self.state["minutes"] = before + (time.monotonic() - began) / 60
            if self.state["step"] % AVERAGE_EVERY == 0:
                self._follow()
            if self.state["step"] % 100 == 0:
                self._judge(val, loss=float(np.mean(losses[-100:])))
        batches.close()

    def _progress(self) -> float:
        by_time = self.state["minutes"] / self.options.minutes
        return max(by_time, self.state["step"] / (100 * self.options.epochs)) if self.options.epochs else by_time

    def _rate(self, progress: float) -> float:
        """Rises over 200 steps, falls as a cosine to a fiftieth."""
        warm = min(1.0, (self.state["step"] + 1) / 200)
        return self.options.rate * warm * (0.02 + 0.49 * (1 + np.cos(np.pi * min(progress, 1.0))))

    def _follow(self) -> None:
        """Moves the average towards the weights; early on faster, so that it forgets where it came from."""
        memory = min(MEMORY, self.state["step"] / (self.state["step"] + 50)) ** AVERAGE_EVERY
        for mean, value in zip(self.average, self.network.get_weights(), strict=True):
            mean *= memory
            mean += (1 - memory) * value

    def _judge(self, val: Images, *, loss: float) -> None:
        self.judged.set_weights(self.average)
        dice = pooled_dice(lesion_probabilities(self.judged, val.images), val.lesions)
        better = dice > self.state["best"]
        if better:
            self.state |= {"best": dice, "best_step": self.state["step"]}
            self._write("best.weights.h5", self.judged.save_weights)
        self._write("last.weights.h5", self.model.save_weights)
        self._write("average.npz", lambda path: np.savez(path, **{f"{k:04d}": a for k, a in enumerate(self.average)}))
        self._write("state.json", lambda path: path.write_text(json.dumps(self.state)))
        print(
            f"step {self.state['step']} minute {self.state['minutes']:.1f} loss {loss:.4f} val Dice {dice:.4f}"
            f"{' best' if better else ''}",
            flush=True,
        )

    def _write(self, name: str, write) -> None:
        path = self.work / f"new-{name}"
        write(path)
        path.replace(self.work / name)


def finish(run: Run, train: Images, val: Images) -> None:
    """Stores the best average as a bundle, with the temperature and the figures of the stored file."""
    folder = run.options.out
    run.judged.load_weights(run.work / "best.weights.h5")
    spec = ModelSpec(architecture=ARCHITECTURE, mpp=MPP, patch=PATCH, output_stride=STRIDE)
    Bundle(run.judged, spec).save(folder)
    stored = Bundle.load(folder)
    temperature = fit_temperature(spec, outputs(stored, val.images), val.lesions)
    Bundle(stored.model, dataclasses.replace(spec, temperature=temperature)).save(folder)
    training = {
        "minutes": run.state["minutes"],
        "planned": run.options.minutes,
        "steps": run.state["step"],
        "best_step": run.state["best_step"],
        "train_images": len(train.images),
        "train_cases": len(set(train.cases)),
    }
    found = figures(Bundle.load(folder), run.options.data)
    write_card(folder, found, training)
    print(json.dumps(found, indent=2))


def main() -> None:
    options = arguments()
    cv2.setNumThreads(1)
    keras.utils.set_random_seed(options.seed)
    train, val = (read_images(options.data, split=split) for split in ("train", "val"))
    run = Run(options)
    run.train(together(train, stroma_images(train)), val)
    finish(run, train, val)


if __name__ == "__main__":
    main()
