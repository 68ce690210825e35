"""Re-makes the built-in bundle: a light UNet that tells colon lesions from everything else, trained on EBHI-SEG.

    python examples/train_colon.py --data ../shared/data --out colon-lesion-light

It is the recipe `colon-light` on the folder of images, with tissue without glands added. A run that was stopped goes on
when started again; any field of the recipe can be set, as in `--set epochs=20`.
"""

import argparse
import csv
import dataclasses
import json
import os
from pathlib import Path

from colon_card import figures, fit_temperature, outputs, write_card
from colon_data import SHARES, read_images, stroma_images

from digipath import ArraySlide, Bundle, Cohort, train
from digipath.data.case import Case
from digipath.data.sampling import Images
from digipath.training.recipes import Recipe, cosine, recipe, replaced
from digipath.training.trainer import TrainSettings

LESION = ("adenocarcinoma", "high-grade-in")
ENCODER = "encoders/mobilenet_v2_0.35_224_imagenet_notop.weights.h5"


def colon_cohort(data: Path, *, mpp: float) -> Cohort:
    """The images of EBHI-SEG, and tissue without any gland, of which they show none."""
    photographs = Cohort.from_folder(data / "ebhi-seg", mpp=mpp, lesion=LESION)
    made = stroma_images(read_images(data, split="train"))
    stroma = [
        Case(slide=ArraySlide(image, mpp=mpp, name=f"stroma-{number}"), label="stroma", split="train")
        for number, image in enumerate(made.images)
    ]
    groups = {**photographs.groups, "stroma": "other"}
    return dataclasses.replace(photographs, cases=(*photographs.cases, *stroma), groups=groups)


def colon_recipe(data: Path, changes: list[str]) -> Recipe:
    """The recipe with the encoder at hand, and half of the draws showing a lesion."""
    sampling = Images(shares=SHARES, per_epoch=1600)
    light = dataclasses.replace(recipe("colon-light"), weights=str(data / ENCODER), sampling=sampling)
    asked = replaced(light, dict(change.split("=", 1) for change in changes))
    return asked if asked.rates != light.rates else dataclasses.replace(asked, rates=cosine(1e-3, epochs=asked.epochs))


def calibrate(folder: Path, data: Path) -> Bundle:
    """Stores the bundle again with the temperature that fits its probabilities to the validation images."""
    bundle, val = Bundle.load(folder), read_images(data, split="val")
    temperature = fit_temperature(bundle.spec, outputs(bundle, val.images), val.lesions)
    Bundle(bundle.model, dataclasses.replace(bundle.spec, temperature=temperature)).save(folder)
    return Bundle.load(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DIGIPATH_DATA", "../shared/data")))
    parser.add_argument("--out", type=Path, default=Path("colon-lesion-light"), help="folder of the finished bundle")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change the recipe")
    parser.add_argument("--mixed", choices=["bfloat16"], help="compute in half precision")
    options = parser.parse_args()
    chosen = colon_recipe(options.data, options.set)
    cohort = colon_cohort(options.data, mpp=chosen.mpp)
    photographs = [case for case in cohort.select(split="train") if case.label != "stroma"]
    train(cohort, chosen, out=options.out, settings=TrainSettings(mixed=options.mixed))
    found = figures(calibrate(options.out, options.data), options.data)
    with (options.out / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    best = max(rows, key=lambda row: float(row[f"val_{chosen.monitor}"]))
    training = {
        "train_images": len(photographs),
        "train_cases": len({case.patient for case in photographs}),
        "epochs": len(rows),
        "best_epoch": int(best["epoch"]) + 1,
        "steps": len(rows) * (chosen.sampling.per_epoch // chosen.batch),
    }
    write_card(options.out, found, training)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
