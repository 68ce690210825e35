"""Trains the two small bundles that a cascade needs, on EBHI-SEG: one with early exits, and a patch classifier.

    python examples/train_cascade.py segmenter --data ../shared/data --out colon-lesion-ds --work cascade
    python examples/train_cascade.py classifier --data ../shared/data --out colon-patch-classifier --work cascade

The segmenter is the MobileNetV2 UNet of the basal cell carcinoma paper with deep supervision, the classifier the same
encoder with one vector of probabilities; both start from ImageNet weights, without which neither learns much in so
short a time. Both are judged on `val`, which chose nothing but a temperature.
"""

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import compare_networks
import cv2
import keras
import numpy as np
from colon_card import calibration_error, fit_temperature, outputs, overlap_figures
from colon_data import Batches, Images, read_images, stroma_images, together
from sklearn.metrics import roc_auc_score

from digipath.models.bundle import Bundle
from digipath.models.catalog import build
from digipath.models.spec import ModelSpec

MPP = 1.1
SEGMENTER = "bcc-mobilenetv2-ds"
CLASSIFIER = "classifier-mobilenetv2"
PATCH = 128  # of the classifier
CENTRE = 64  # a patch is a lesion where any pixel of this square in its middle is
CUTS = 2  # patches out of each augmented image
GRID = (0, 48, 96)  # where patches of `val` begin, along both sides


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("segmenter", "classifier"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DIGIPATH_DATA", "../shared/data")))
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished bundle")
    parser.add_argument("--work", type=Path, default=Path("cascade"), help="folder of checkpoints")
    parser.add_argument("--cpu-minutes", type=float, default=20, help="summed over all cores")
    parser.add_argument("--precision", default="mixed_bfloat16", help="Keras' dtype policy while training")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out, options.bundle = options.work, options.out  # as `compare_networks.Run` names them
    return options


def segmenter(options: argparse.Namespace, train: Images, val: Images) -> None:
    """Trains, stores and judges the network with early exits."""
    name = f"{SEGMENTER}+imagenet"
    run = compare_networks.Run(name, options)
    run.train(train)
    run.judge(train, val)
    network = compare_networks.made(SEGMENTER, options.data)
    network.load_weights(run.folder / "final.weights.h5")
    settings = compare_networks.LIGHTER[SEGMENTER]
    spec = ModelSpec(architecture=SEGMENTER, mpp=MPP, patch=compare_networks.PATCH, **settings)
    Bundle(network, spec).save(options.bundle)
    stored = Bundle.load(options.bundle)
    last = keras.Model(stored.model.input, stored.model.outputs[-1])
    temperature = fit_temperature(spec, outputs(Bundle(last, _plain(spec)), val.images), val.lesions)
    Bundle(stored.model, dataclasses.replace(spec, temperature=temperature)).save(options.bundle)
    exits = []
    for block, (maps, seconds) in enumerate(
        zip(
            compare_networks.lesion_maps(stored.model, val.images),
            compare_networks.exit_seconds(stored.model),
            strict=True,
        )
    ):
        figures = overlap_figures(maps, val.lesions, threshold=0.5)
        exits.append({"block": block, "cpu_seconds_per_mpx": seconds, **figures})
    finish(options, run.state, {"val": exits[-1], "exits": exits})


def _plain(spec: ModelSpec) -> ModelSpec:
    return dataclasses.replace(spec, architecture=spec.architecture.removesuffix("-ds"))


def patches(images: np.ndarray, kinds: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Patches cut at random out of a batch of images, and their labels (n,)."""
    corners = rng.integers(0, images.shape[1] - PATCH + 1, (len(images) * CUTS, 2))
    cuts = [(number // CUTS, slice(y, y + PATCH), slice(x, x + PATCH)) for number, (y, x) in enumerate(corners)]
    return np.stack([images[cut] for cut in cuts]), labels(np.stack([kinds[cut] for cut in cuts]))


def labels(kinds: np.ndarray) -> np.ndarray:
    """1 where any pixel of the square in the middle is of a lesion."""
    edge = (PATCH - CENTRE) // 2
    return (kinds[:, edge:-edge, edge:-edge] >= compare_networks.LESION).any((1, 2)).astype(np.uint8)


def grid(images: Images) -> tuple[np.ndarray, np.ndarray]:
    """All patches of the grid, image by image, and their labels."""
    cuts = [(slice(None), slice(y, y + PATCH), slice(x, x + PATCH)) for y in GRID for x in GRID]
    found = np.stack([images.images[cut] for cut in cuts], 1), np.stack([images.kinds[cut] for cut in cuts], 1)
    return found[0].reshape(-1, PATCH, PATCH, 3), labels(found[1].reshape(-1, PATCH, PATCH))


def stream(train: Images, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of patches without end."""
    rng = np.random.default_rng(seed)
    for images, kinds in Batches(seed=seed).stream(train):
        yield patches(images, kinds, rng)


def classifier(options: argparse.Namespace, train: Images, val: Images) -> None:
    """Trains, stores and judges the patch classifier."""
    keras.utils.set_random_seed(options.seed)
    keras.config.set_dtype_policy(options.precision)
    network = build(CLASSIFIER, weights=options.data / compare_networks.ENCODER)
    network.compile(
        optimizer=keras.optimizers.AdamW(compare_networks.RATE, weight_decay=1e-2, clipnorm=5.0),
        loss=keras.losses.SparseCategoricalCrossentropy(),
        jit_compile=False,
    )
    state = fit(network, options, stream(train, options.seed))
    keras.config.set_dtype_policy("float32")
    judged = build(CLASSIFIER)
    judged.set_weights(network.get_weights())
    compare_networks.renew_statistics(judged, stream(train, options.seed + 1))
    spec = ModelSpec(architecture=CLASSIFIER, kind="classifier", mpp=MPP, patch=PATCH, margin=(PATCH - CENTRE) // 2)
    Bundle(judged, spec).save(options.bundle)
    images, truth = grid(val)
    p = classified(Bundle.load(options.bundle), images)
    tempered = dataclasses.replace(spec, temperature=temperature(p, truth))
    Bundle(judged, tempered).save(options.bundle)
    p = classified(Bundle.load(options.bundle), images)
    finish(options, state, {"val": classifier_figures(p, truth, val)})


def fit(network: keras.Model, options: argparse.Namespace, batches: Iterator) -> dict:
    """Trains until the budget is spent; the first step, which traces the graph, is not counted."""
    state, began, losses = {"steps": 0, "cpu_seconds": 0.0}, None, []
    while (progress := state["cpu_seconds"] / (60 * options.cpu_minutes)) < 1:
        network.optimizer.learning_rate = compare_networks.rate(progress)
        losses.append(float(np.ravel(network.train_on_batch(*next(batches)))[0]))
        began = time.process_time() if began is None else began
        state |= {"steps": state["steps"] + 1, "cpu_seconds": time.process_time() - began}
        if state["steps"] % 100 == 0:
            loss = float(np.mean(losses[-100:]))
            print(f"step {state['steps']} CPU {state['cpu_seconds']:.0f} s loss {loss:.4f}", flush=True)
    batches.close()
    return state


def classified(bundle: Bundle, images: np.ndarray) -> np.ndarray:
    """The lesion's probability of each patch."""
    return bundle.spec.probabilities(outputs(bundle, images, batch=64))[:, 0, 0, -1]


def temperature(p: np.ndarray, truth: np.ndarray) -> float:
    """The temperature of the smallest cross-entropy, to a twentieth; `p` was given at 1."""
    odds = np.log(np.clip(p, 1e-7, 1 - 1e-7) / np.clip(1 - p, 1e-7, 1))

    def entropy(divisor: float) -> float:
        return float(np.mean(np.logaddexp(0, np.where(truth, -odds, odds) / divisor)))

    return round(float(min(np.arange(0.5, 3.01, 0.05), key=entropy)), 2)


def classifier_figures(p: np.ndarray, truth: np.ndarray, val: Images) -> dict:
    """Figures of the patches, of the images by their highest patch, and what a cascade would pass on."""
    truth, lesion = truth.astype(bool), val.lesions.any((1, 2))
    called = p > 0.5
    passing = {}
    for wanted in (0.95, 0.98, 0.99):
        threshold = float(np.quantile(p[truth], 1 - wanted))
        passing[f"{wanted}"] = {"threshold": threshold, "other_patches_passed": float((p[~truth] >= threshold).mean())}
    return {
        "patches": len(p),
        "lesion_patches": int(truth.sum()),
        "patch_auc": float(roc_auc_score(truth, p)),
        "patch_sensitivity": float(called[truth].mean()),
        "patch_specificity": float(1 - called[~truth].mean()),
        "image_auc_of_highest_patch": float(roc_auc_score(lesion, p.reshape(len(lesion), -1).max(1))),
        "image_auc_of_mean_patch": float(roc_auc_score(lesion, p.reshape(len(lesion), -1).mean(1))),
        "calibration_error": calibration_error(p, truth),
        "sensitivity_wanted": passing,
    }


def finish(options: argparse.Namespace, state: dict, found: dict) -> None:
    """Writes the figures of the stored bundle beside it."""
    found = {"hash": Bundle.load(options.bundle).hash, **found, "training": state}
    (options.bundle / "figures.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


def main() -> None:
    options = arguments()
    cv2.setNumThreads(1)
    train, val = (read_images(options.data, split=split) for split in ("train", "val"))
    train = together(train, stroma_images(train))
    {"segmenter": segmenter, "classifier": classifier}[options.kind](options, train, val)


if __name__ == "__main__":
    main()
