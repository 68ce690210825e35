"""What a colon-lesion bundle can do, measured on the stored file: the figures, and the model card made of them.

python examples/colon_card.py digipath/bundles/colon-lesion-light --data ../shared/data
"""

import argparse
import dataclasses
import json
import os
from pathlib import Path

import cv2
import keras
import numpy as np
from colon_data import Images, read_images
from sklearn.metrics import roc_auc_score

from digipath.models.bundle import Bundle
from digipath.models.spec import ModelSpec

CUT = 0.1  # share of an image's pixels above the threshold from which the image is called a lesion


def outputs(bundle: Bundle, images: np.ndarray, *, batch: int = 16) -> np.ndarray:
    """What the network returns for images (n, rows, columns, 3)."""
    parts = [bundle.model(images[k : k + batch], training=False) for k in range(0, len(images), batch)]
    return np.concatenate([keras.ops.convert_to_numpy(part) for part in parts])


def lesion_maps(spec: ModelSpec, output: np.ndarray, *, side: int) -> np.ndarray:
    """(n, side, side) float32: the lesion's probability, bilinearly enlarged to the images' size."""
    maps = spec.probabilities(output)[..., -1]
    return np.stack([cv2.resize(each, (side, side), interpolation=cv2.INTER_LINEAR) for each in maps])


def fit_temperature(spec: ModelSpec, output: np.ndarray, truth: np.ndarray) -> float:
    """The temperature of the smallest cross-entropy over all pixels, to a hundredth."""

    def entropy(temperature: float) -> float:
        tempered = dataclasses.replace(spec, temperature=temperature)
        p = np.clip(lesion_maps(tempered, output, side=truth.shape[1]), 1e-6, 1 - 1e-6)
        return float(-np.mean(np.log(np.where(truth, p, 1 - p))))

    coarse = min(np.arange(0.5, 3.01, 0.25), key=entropy)
    return round(float(min(np.arange(coarse - 0.2, coarse + 0.21, 0.05), key=entropy)), 2)


def calibration_error(p: np.ndarray, truth: np.ndarray, *, bins: int = 15) -> float:
    """Expected calibration error of the lesion's probability over all pixels, in `bins` equal steps."""
    which = np.minimum((p * bins).astype(int), bins - 1).ravel()
    total = np.bincount(which, minlength=bins)
    gap = np.bincount(which, p.ravel(), bins) - np.bincount(which, truth.ravel(), bins)
    return float(np.abs(gap).sum() / total.sum())


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (found & truth).sum() / max(found.sum() + truth.sum(), 1))


def overlap_figures(p: np.ndarray, truth: np.ndarray, *, threshold: float) -> dict:
    """Figures of the pixels, and of the images by the share of their pixels above the threshold."""
    found, lesion = p > threshold, truth.any((1, 2))
    each = np.array([dice(a, b) for a, b in zip(found[lesion], truth[lesion], strict=True)])
    score = found.mean((1, 2))
    figures = {
        "images": len(p),
        "lesion_images": int(lesion.sum()),
        "pooled_dice": dice(found, truth),
        "pooled_iou": float((found & truth).sum() / (found | truth).sum()),
        "dice_per_lesion_image": {"mean": float(each.mean()), "median": float(np.median(each))},
    }
    if (~lesion).sum() < 10:
        return figures  # too few to say anything of whole images
    called = score >= CUT
    return figures | {
        "image_auc": float(roc_auc_score(lesion, score)),
        "image_sensitivity": float(called[lesion].mean()),
        "image_specificity": float(1 - called[~lesion].mean()),
    }


def val_figures(bundle: Bundle, val: Images) -> dict:
    """Everything the model card says of the `val` split."""
    truth, output = val.lesions, outputs(bundle, val.images)
    p = lesion_maps(bundle.spec, output, side=truth.shape[1])
    plain = lesion_maps(dataclasses.replace(bundle.spec, temperature=1.0), output, side=truth.shape[1])
    false = (p > bundle.spec.threshold) & ~truth
    return overlap_figures(p, truth, threshold=bundle.spec.threshold) | {
        "cases": len(set(val.cases)),
        "false_positive_area": {name: float(false[val.classes == name].mean()) for name in sorted(set(val.classes))},
        "calibration_error": {"before": calibration_error(plain, truth), "after": calibration_error(p, truth)},
        "temperature": bundle.spec.temperature,
    }


def lymph_node_figures(bundle: Bundle, data: Path) -> dict:
    """The same on lymph nodes with and without metastases of breast cancer, which the network was not made for."""
    folder = data / "camelyon16-patches"
    images = np.stack([cv2.imread(str(path))[..., ::-1] for path in sorted((folder / "images").iterdir())])
    masks = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 0 for path in sorted((folder / "masks").iterdir())]
    truth = np.stack(masks)
    p = lesion_maps(bundle.spec, outputs(bundle, images, batch=4), side=truth.shape[1])
    found = p > bundle.spec.threshold
    return overlap_figures(p, truth, threshold=bundle.spec.threshold) | {
        "share_of_metastasis_found": float(found[truth].mean()),
        "share_of_other_tissue_found": float(found[~truth].mean()),
    }


def figures(bundle: Bundle, data: Path) -> dict:
    """All figures of a stored bundle."""
    found = {"hash": bundle.hash, "val": val_figures(bundle, read_images(data, split="val"))}
    if (data / "camelyon16-patches").is_dir():
        found["lymph_nodes"] = lymph_node_figures(bundle, data)
    return found


def write_card(folder: Path, found: dict, training: dict) -> None:
    """Writes `figures.json` and the model card beside the bundle stored in `folder`."""
    (folder / "figures.json").write_text(json.dumps(found | {"training": training}, indent=2) + "\n")
    areas = found["val"]["false_positive_area"]
    card = Path(__file__).with_name("colon_card.md").read_text(encoding="utf-8")
    written = card.format(
        **found,
        **training,
        cut=CUT,
        spec=dataclasses.asdict(Bundle.load(folder).spec),
        classes=" | ".join(areas),
        rule="---|" * (len(areas) - 1) + "---",
        areas=" | ".join(f"{100 * area:.1f} %" for area in areas.values()),
    )
    (folder / "README.md").write_text(written, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DIGIPATH_DATA", "../shared/data")))
    options = parser.parse_args()
    print(json.dumps(figures(Bundle.load(options.bundle), options.data), indent=2))


if __name__ == "__main__":
    main()
