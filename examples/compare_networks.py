"""Trains networks on EBHI-SEG with the same budget of processor time each, and puts what they reach into one table.

    python examples/compare_networks.py --data ../shared/data --cpu-minutes 14 --out compared bcc-resnet34 fpn-resnet34
    python examples/compare_networks.py --data ../shared/data --out compared --report

All see the same stream of augmented batches and have the same loss, optimiser and schedule; after the last step each is
judged once on `val`, which chose nothing. A name that ends in "+imagenet" starts from the encoder's ImageNet weights,
the others from chance. A run that was stopped goes on from its last checkpoint when started again.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import keras
import numpy as np
from colon_card import overlap_figures
from colon_data import LESION, Batches, Images, read_images, stroma_images, together

from digipath.models.catalog import build
from digipath.training.losses import HybridLoss

NETWORKS = (
    "unet-densenet121",
    "bcc-resnet34",
    "bcc-resnet34-ds",
    "bcc-resnet34-linear",
    "fpn-resnet34",
    "unet-microdosimetry",
    "unet-mobilenetv2",
    "unet-mobilenetv2+imagenet",
)
# What is not as the catalogue has it: light networks are meant to be quick.
LIGHTER = {"unet-mobilenetv2": {"output_stride": 2}, "bcc-mobilenetv2-ds": {"width": 0.25}}
ENCODER = Path("encoders", "mobilenet_v2_0.35_224_imagenet_notop.weights.h5")
PATCH = 224
BATCH = 8
RATE = 1e-3  # highest learning rate
WARM = 0.05  # of the budget: the learning rate rises over it
KEEP_EVERY = 120  # seconds of processor time between checkpoints
MEGAPIXELS = BATCH * PATCH**2 / 1e6


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NETWORKS, metavar="NAME", help="by default all that are compared")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DIGIPATH_DATA", "../shared/data")))
    parser.add_argument("--out", type=Path, default=Path("compared"), help="folder of checkpoints and figures")
    parser.add_argument("--cpu-minutes", type=float, default=14, help="of each network, summed over all cores")
    parser.add_argument("--precision", default="mixed_bfloat16", help="Keras' dtype policy while training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", action="store_true", help="train nothing; print the table of what is in the folder")
    return parser.parse_args()


def made(name: str, data: Path, *, precision: str = "float32") -> keras.Model:
    """The network that `name` means, computing in `precision`."""
    architecture, _, pretrained = name.partition("+")
    keras.config.set_dtype_policy(precision)
    weights = data / ENCODER if pretrained else None
    return build(architecture, weights=weights, **LIGHTER.get(architecture, {}))


def all_outputs(network: keras.Model, images: np.ndarray) -> list[np.ndarray]:
    """Each output's (n, rows, columns, classes) for a batch, from coarse to fine."""
    found = network.predict_on_batch(images)
    return found if isinstance(found, list) else [found]


class Run:
    """The training of one network, and what it needs to go on after a stop."""

    def __init__(self, name: str, options: argparse.Namespace):
        self.name, self.options = name, options
        self.folder = options.out / name
        self.folder.mkdir(parents=True, exist_ok=True)
        keras.utils.set_random_seed(options.seed)
        self.network = made(name, options.data, precision=options.precision)
        self.network.compile(
            optimizer=keras.optimizers.AdamW(RATE, weight_decay=1e-2, clipnorm=5.0),
            loss=[HybridLoss() for _ in self.network.outputs],
            jit_compile=False,
        )
        self.state = {"steps": 0, "cpu_seconds": 0.0}
        if (self.folder / "state.json").is_file():
            self.state = json.loads((self.folder / "state.json").read_text())
            self.network.optimizer.build(self.network.trainable_variables)  # else its moments would not be loaded
            self.network.load_weights(self.folder / "last.weights.h5")

    def train(self, train: Images) -> None:
        """Trains until the budget is spent; tracing the graph, in the first step, is not counted."""
        batches = Batches(batch=BATCH, seed=self.options.seed).stream(train, first=self.state["steps"])
        kept, losses = self.state["cpu_seconds"], []
        before = None
        while (progress := self.state["cpu_seconds"] / (60 * self.options.cpu_minutes)) < 1:
            self.network.optimizer.learning_rate = rate(progress)
            images, kinds = next(batches)
            lesion = (kinds >= LESION).astype(np.uint8)
            found = self.network.train_on_batch(images, [lesion] * len(self.network.outputs))
            losses.append(float(np.ravel(found)[0]))
            self.state["steps"] += 1
            now = time.process_time()
            self.state["cpu_seconds"] += 0.0 if before is None else now - before
            before = now
            if self.state["cpu_seconds"] - kept > KEEP_EVERY:
                kept, before = self.state["cpu_seconds"], None
                self._keep(float(np.mean(losses[-50:])))
        batches.close()
        self._keep(float(np.mean(losses[-50:])) if losses else None)

    def _keep(self, loss: float | None) -> None:
        self.network.save_weights(self.folder / "new.weights.h5")
        (self.folder / "new.weights.h5").replace(self.folder / "last.weights.h5")
        (self.folder / "new.json").write_text(json.dumps(self.state))
        (self.folder / "new.json").replace(self.folder / "state.json")
        print(f"{self.name}: step {self.state['steps']} CPU {self.state['cpu_seconds']:.0f} s loss {loss}", flush=True)

    def judge(self, train: Images, val: Images) -> None:
        """Writes the figures of the last weights, computed in float32, on `val`."""
        network = made(self.name, self.options.data)
        network.set_weights(self.network.get_weights())
        renew_statistics(network, Batches(batch=2 * BATCH, seed=self.options.seed + 1).stream(train))
        network.save_weights(self.folder / "final.weights.h5")
        found = {
            "network": self.name,
            "parameters": sum(int(np.prod(weight.shape)) for weight in network.trainable_weights),
            "budget_cpu_minutes": self.options.cpu_minutes,
            **self.state,
            "outputs": [overlap_figures(p, val.lesions, threshold=0.5) for p in lesion_maps(network, val.images)],
        }
        (self.folder / "figures.json").write_text(json.dumps(found, indent=2) + "\n")


def rate(progress: float) -> float:
    """The learning rate: rises over the first twentieth of the budget, then falls as a cosine to a fiftieth."""
    return RATE * min(1.0, (progress + 0.002) / WARM) * (0.02 + 0.49 * (1 + np.cos(np.pi * min(progress, 1.0))))


def renew_statistics(network: keras.Model, batches: Iterator, *, count: int = 16) -> None:
    """Estimates the means and variances of batch normalisation anew, as plain averages over `count` batches.

    The moving ones still remember the first steps after a training as short as this.
    """
    norms = list(normalisations(network))
    momenta = [norm.momentum for norm in norms]
    for number in range(count):
        for norm in norms:
            norm.momentum = number / (number + 1)
        network(next(batches)[0], training=True)
    batches.close()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def normalisations(network: keras.Model) -> Iterator[keras.layers.BatchNormalization]:
    """All layers of batch normalisation, those of nested networks too."""
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from normalisations(layer)
        elif isinstance(layer, keras.layers.BatchNormalization):
            yield layer


def lesion_maps(network: keras.Model, images: np.ndarray) -> list[np.ndarray]:
    """For each output (n, rows, columns) float32 probabilities of the lesion, enlarged to the images' size."""
    batches = [all_outputs(network, images[k : k + BATCH]) for k in range(0, len(images), BATCH)]
    size = images.shape[2], images.shape[1]
    return [
        np.stack([cv2.resize(each[..., -1], size, interpolation=cv2.INTER_LINEAR) for part in parts for each in part])
        for parts in zip(*batches, strict=True)
    ]


def cpu_seconds(network: keras.Model, *, repeats: int = 5) -> float:
    """Seconds of processor time per megapixel of a forward pass, the least of some."""
    images = np.random.default_rng(0).integers(0, 256, (BATCH, PATCH, PATCH, 3), np.uint8)
    all_outputs(network, images)
    spent = []
    for _ in range(repeats):
        began = time.process_time()
        all_outputs(network, images)
        spent.append(time.process_time() - began)
    return min(spent) / MEGAPIXELS


def report(options: argparse.Namespace) -> None:
    """Measures speed, prints the table and writes it as `report.json`."""
    found = [json.loads(path.read_text()) for path in sorted(options.out.glob("*/figures.json"))]
    for each in found:
        network = made(each["network"], options.data)
        each["cpu_seconds_per_mpx"] = cpu_seconds(network)
        if len(network.outputs) > 1:
            each["exits_cpu_seconds_per_mpx"] = exit_seconds(network)
    found.sort(key=lambda each: -each["outputs"][-1]["pooled_dice"])
    (options.out / "report.json").write_text(json.dumps(found, indent=2) + "\n")
    print("| network | Dice | IoU | image AUC | parameters | CPU s per Mpx | steps |\n|---|---|---|---|---|---|---|")
    for each in found:
        cells = scores(each["outputs"][-1]), f"{each['parameters']:,}", f"{each['cpu_seconds_per_mpx']:.1f}"
        print(f"| `{each['network']}` | {' | '.join(cells)} | {each['steps']} |")
    for each in found:
        if "exits_cpu_seconds_per_mpx" in each:
            print_exits(each)


def exit_seconds(network: keras.Model) -> list[float]:
    """The same of a deeply supervised network cut after each decoder block."""
    from digipath.models.bcc import early_exit

    return [cpu_seconds(early_exit(network, block)) for block in range(len(network.outputs))]


def print_exits(found: dict) -> None:
    """The table of a deeply supervised network's outputs, coarse to fine."""
    print(f"\n`{found['network']}`:\n\n| output | Dice | IoU | image AUC | time of the exit |\n|---|---|---|---|---|")
    seconds = found["exits_cpu_seconds_per_mpx"]
    for number, output in enumerate(found["outputs"]):
        print(f"| ψ{number} | {scores(output)} | {seconds[number] / seconds[-1]:.2f} |")


def scores(output: dict) -> str:
    return " | ".join(f"{output[name]:.3f}" for name in ("pooled_dice", "pooled_iou", "image_auc"))


def main() -> None:
    options = arguments()
    cv2.setNumThreads(1)
    if options.report:
        report(options)
        return
    train, val = (read_images(options.data, split=split) for split in ("train", "val"))
    train = together(train, stroma_images(train))
    for name in options.names:
        run = Run(name, options)
        run.train(train)
        run.judge(train, val)


if __name__ == "__main__":
    main()
