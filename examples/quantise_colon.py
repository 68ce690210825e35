"""A colon-lesion bundle's network in int8: made from training images, kept only if it finds the same on others.

python examples/quantise_colon.py digipath/bundles/colon-lesion-light --data ../shared/data

Needs NNCF (pip install nncf) and some minutes. The network is calibrated on 200 images of the EBHI-SEG `train` split,
and scored on all of `val`: Dice of the lesion, pooled over all pixels. It is removed again if Dice falls by 0.005.
"""

import argparse
import json
import os
from pathlib import Path

import cv2
import numpy as np
from colon_card import dice
from colon_data import read_images

from digipath.inference.openvino_runtime import INT8, OpenVINOPredictor
from digipath.inference.quantise import quantise
from digipath.models.bundle import Bundle

CALIBRATION = 200
ALLOWED = 0.005  # of Dice


def lesions(bundle: Bundle, images: np.ndarray, *, precision: str) -> np.ndarray:
    """(n, side, side) float32: the lesion's probability through OpenVINO, enlarged to the images' size."""
    network, side = OpenVINOPredictor(bundle, precision=precision), images.shape[1]
    parts = [network(images[k : k + 8])[..., -1] for k in range(0, len(images), 8)]
    return np.stack([cv2.resize(each, (side, side), interpolation=cv2.INTER_LINEAR) for each in np.concatenate(parts)])


def make(folder: Path, data: Path) -> dict[str, float]:
    """Quantise, score, and write what was found into the description; raises where too much is lost."""
    bundle, val, train = Bundle.load(folder), read_images(data, split="val"), read_images(data, split="train").images
    chosen = np.sort(np.random.default_rng(0).permutation(len(train))[:CALIBRATION])
    before = lesions(bundle, val.images, precision="float32")
    description = quantise(bundle, train[chosen])
    after = lesions(bundle, val.images, precision="int8")
    found = {
        "dice_float32": dice(before > bundle.spec.threshold, val.lesions),
        "dice_int8": dice(after > bundle.spec.threshold, val.lesions),
        "mean_difference": float(np.abs(after - before).mean()),
        "largest_difference": float(np.abs(after - before).max()),
    }
    lost = found["dice_float32"] - found["dice_int8"]
    if lost >= ALLOWED:
        for name in (INT8, "int8.xml", "int8.bin"):
            (folder / name).unlink()
        raise SystemExit(f"Dice falls by {lost:.4f}, and may by {ALLOWED}; nothing is kept. {found}")
    about = json.loads(description.read_text(encoding="utf-8"))
    about["images"] = "EBHI-SEG (Shi et al. 2023), train for calibration, val for the figures"
    about["note"] = f"Dice on EBHI-SEG val {found['dice_int8']:.4f}, in float32 {found['dice_float32']:.4f}"
    description.write_text(json.dumps(about | found, indent=2) + "\n", encoding="utf-8")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DIGIPATH_DATA", "../shared/data")))
    options = parser.parse_args()
    print(json.dumps(make(options.bundle, options.data), indent=2))


if __name__ == "__main__":
    main()
