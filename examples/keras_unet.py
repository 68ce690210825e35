"""Train a UNet in plain Keras: digipath's network, loss, metric and batches, and `model.fit`.

python examples/keras_unet.py --epochs 20 --encoder densenet121 cohort.csv
"""

import argparse

import keras
from made_cohort import made_cohort

import digipath
from digipath import Cohort
from digipath.data.augment import RECIPES
from digipath.data.grids import Grid
from digipath.data.patches import Batches, PatchSource
from digipath.data.pipeline import sequence
from digipath.data.pool import Pool
from digipath.data.sampling import TumourNormal
from digipath.training.losses import HybridLoss
from digipath.training.metrics import IoU


def batches(cohort: Cohort, options: argparse.Namespace, *, training: bool) -> Batches:
    """Augmented patches, half of them with tumour; or, to validate, every patch once as it is."""
    where = {"mpp": options.mpp, "patch": options.patch}
    sampling = TumourNormal(per_slide=options.per_slide) if training else Grid()
    return Batches(
        PatchSource(cohort, **where),
        sampling.plan(Pool(cohort, **where), seed=0),
        batch=8,
        augment=RECIPES["digipathai"] if training else None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cohort", nargs="?", help="CSV file with the splits train and val; by default made slides")
    parser.add_argument("--encoder", default="mobilenetv2")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--mpp", type=float, default=1.0)
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--per-slide", type=int, default=40)
    options = parser.parse_args()
    cohort = Cohort.read(options.cohort) if options.cohort else made_cohort()

    model = digipath.build("unet", encoder=options.encoder, output_stride=2)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=HybridLoss(), metrics=[IoU()])
    model.fit(
        sequence(batches(cohort.select(split="train"), options, training=True)),
        validation_data=sequence(batches(cohort.select(split="val"), options, training=False)),
        epochs=options.epochs,
        verbose=2,
    )
    model.save_weights("unet.weights.h5")


if __name__ == "__main__":
    main()
