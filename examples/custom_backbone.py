"""A backbone of your own under digipath's UNet decoder, trained with `model.fit`, stored as a bundle and applied.

python examples/custom_backbone.py
"""

import argparse

import keras
from keras import layers
from made_cohort import made_cohort

from digipath import Bundle, ModelSpec, Segmenter
from digipath.data.patches import Batches, PatchSource
from digipath.data.pipeline import sequence
from digipath.data.pool import Pool
from digipath.data.sampling import TumourNormal
from digipath.models.blocks import Head
from digipath.models.unet import Decoder, unet
from digipath.training.losses import HybridLoss


def backbone(filters: int = 16) -> keras.Model:
    """uint8 RGB to five maps at stride 2, 4, 8, 16 and 32; scaling belongs to the network."""
    image = keras.Input((None, None, 3), dtype="uint8", name="image")
    x, maps = layers.Rescaling(1 / 127.5, offset=-1, name="scale")(image), []
    for stage in range(5):
        x = layers.SeparableConv2D(filters * 2**stage, 5, strides=2, padding="same", name=f"stage_{stage}")(x)
        x = layers.BatchNormalization(name=f"stage_{stage}_bn")(x)
        x = layers.ReLU(name=f"stage_{stage}_relu")(x)
        maps.append(x)
    return keras.Model(image, maps, name="mine")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--per-slide", type=int, default=40)
    options = parser.parse_args()
    cohort = made_cohort()

    model = unet(backbone(), Decoder(width=0.25, output_stride=2), Head(classes=2), name="my-unet")
    model.compile(optimizer=keras.optimizers.Adam(3e-3), loss=HybridLoss())
    part, where = cohort.select(split="train"), {"mpp": 1.0, "patch": 128}
    sampler = TumourNormal(per_slide=options.per_slide).plan(Pool(part, **where), seed=0)
    model.fit(sequence(Batches(PatchSource(part, **where), sampler, batch=8)), epochs=options.epochs, verbose=2)

    spec = ModelSpec(architecture="my-unet", mpp=1.0, patch=128, output_stride=2)
    Bundle(model, spec).save("my-bundle")
    result = Segmenter("my-bundle").predict(cohort.select(split="val")[0].slide)
    print(result.summary())


if __name__ == "__main__":
    main()
