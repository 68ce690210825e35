"""Early exits of networks with deep supervision, as far as they can be told without Keras.

Le'Clerc Arrastia et al. (Journal of Imaging 2021): block l of the decoder returns maps of stride 16 / 2^l, and every
block has learnt to segment. `digipath.models.bcc` builds and cuts the networks.
"""

import dataclasses
import re

from digipath.errors import SpecError
from digipath.models.spec import ModelSpec

__all__ = ["STRIDES", "cut_spec", "is_supervised", "kept"]

STRIDES = (16, 8, 4, 2, 1)
"""Pixels of the input per value of the maps of each block of the decoder, from coarse to fine."""

_PART = re.compile(r"block_(\d)_[12]_(?:conv|bn)/|score_(\d)/")


def is_supervised(spec: ModelSpec) -> bool:
    """Whether a specification is that of a network of the catalogue with deep supervision."""
    return spec.architecture.startswith("bcc-") and spec.architecture.endswith("-ds")


def cut_spec(spec: ModelSpec, block: int) -> ModelSpec:
    """The specification of the network cut after a block, which must be one of a network with deep supervision."""
    if not is_supervised(spec):
        raise SpecError(
            f"An early exit needs a network with deep supervision, and {spec.architecture} has none: its blocks were "
            "not trained to segment. Train one whose name ends in '-ds'."
        )
    blocks = [number for number, stride in enumerate(STRIDES) if stride >= spec.output_stride]
    if isinstance(block, bool) or block not in blocks:
        raise SpecError(
            f"{spec.architecture} can be left after one of its blocks {blocks[0]} to {blocks[-1]}, got {block!r}. "
            "0 is the coarsest."
        )
    name = spec.architecture.removesuffix("-ds")
    return dataclasses.replace(spec, architecture=name, output_stride=STRIDES[block])


def kept(path: str, block: int) -> bool:
    """Whether the network cut after a block still has the weight of this path."""
    found = _PART.match(path)
    if found is None:
        return True
    of_block, of_score = found.groups()
    return int(of_block) <= block if of_block else int(of_score) == block
