"""Fine-tune the built-in bundle on slides of your own, its encoder frozen for the first epoch.

python examples/fine_tune.py cohort.csv --out my-bundle
"""

import argparse
import dataclasses

import keras
from made_cohort import made_cohort

from digipath import Bundle, Cohort
from digipath.data.grids import Grid
from digipath.data.patches import Batches, PatchSource
from digipath.data.pipeline import sequence
from digipath.data.pool import Pool
from digipath.data.sampling import TumourNormal
from digipath.training.callbacks import FreezeThenUnfreeze
from digipath.training.losses import HybridLoss
from digipath.training.metrics import Dice


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cohort", nargs="?", help="CSV file with the splits train and val; by default made slides")
    parser.add_argument("--out", default="fine-tuned")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--per-slide", type=int, default=40)
    options = parser.parse_args()
    cohort = Cohort.read(options.cohort) if options.cohort else made_cohort()

    bundle = Bundle.builtin("colon-lesion-light")
    where = {"mpp": bundle.spec.mpp, "patch": bundle.spec.patch}
    feeds = {}
    for split, sampling in (("train", TumourNormal(per_slide=options.per_slide)), ("val", Grid())):
        part = cohort.select(split=split)
        feeds[split] = sequence(
            Batches(PatchSource(part, **where), sampling.plan(Pool(part, **where), seed=0), batch=8)
        )

    model = bundle.model
    model.compile(optimizer=keras.optimizers.Adam(1e-4), loss=HybridLoss(), metrics=[Dice()])
    before = model.evaluate(feeds["val"], verbose=0, return_dict=True)
    unfreeze = FreezeThenUnfreeze(epochs=1)
    model.fit(feeds["train"], validation_data=feeds["val"], epochs=options.epochs, callbacks=[unfreeze], verbose=2)
    after = model.evaluate(feeds["val"], verbose=0, return_dict=True)
    print(f"Dice on the validation slides: {before['dice']:.3f} before, {after['dice']:.3f} after")

    # The temperature was fitted to the old weights; without it the probabilities are the network's own.
    Bundle(model, dataclasses.replace(bundle.spec, temperature=1.0)).save(options.out)
    print(f"digipath predict SLIDE --bundle {options.out} -o results")


if __name__ == "__main__":
    main()
