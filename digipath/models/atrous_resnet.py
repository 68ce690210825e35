"""The atrous ResNet-101 of the v3_dcnn paper: class probabilities at one eighth of the input's size.

Guo et al., "A Fast and Refined Cancer Regions Segmentation Framework in Whole-slide Breast Pathological Images"
(Scientific Reports 2019), after Chen et al., "DeepLab" (TPAMI 2018): strides beyond 8 become dilations of 2 and 4, and
nothing enlarges the output.

An input of any height and width L gives ceil(L / 8) values along that side. As every padding is symmetric, output i is
centred on input pixel 8 i: labels for training are those of pixels 0, 8, 16, ...
"""

import keras

from digipath.models.blocks import Head, logits, probabilities


def atrous_resnet(encoder: keras.Model, head: Head, *, name: str) -> keras.Model:
    """The last map of an encoder with output stride 8, classified at each of its positions."""
    image = keras.Input((None, None, 3), dtype="uint8", name="image")
    return keras.Model(image, probabilities(logits(encoder(image)[-1], head), head), name=name)
