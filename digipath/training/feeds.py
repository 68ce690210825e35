"""What a run learns from and what it is judged by: the parts of a cohort, as batches; nothing that cannot be judged."""

import warnings

from digipath.data.cohort import Cohort
from digipath.data.draws import Sampler
from digipath.data.grids import Grid
from digipath.data.patches import Batches, PatchSource
from digipath.data.pool import Pool
from digipath.errors import TrainingError
from digipath.training.recipes import Recipe

__all__ = ["feeds_of", "parts_of"]


def parts_of(cohort: Cohort) -> dict[str, Cohort]:
    """The cases of the splits "train" and "val"; cases without a split are told, as nobody means to leave them out."""
    parts = {split: cohort.select(split=split) for split in ("train", "val")}
    for split, part in parts.items():
        if not len(part):
            raise TrainingError(
                f"Training needs cases of the splits 'train' and 'val', and there is none of {split!r}. "
                "Fill the column split, or draw it: cohort.split(val=0.2) (--val 0.2)."
            )
    if nowhere := [case.name for case in cohort if case.split is None]:
        warnings.warn(
            f"{len(nowhere)} of {len(cohort)} cases are in no split and so left out ({', '.join(nowhere[:3])}"
            f"{', ...' if len(nowhere) > 3 else ''}). Fill the column split for all, or draw it: --val 0.2.",
            stacklevel=3,
        )
    return parts


def feeds_of(parts: dict[str, Cohort], chosen: Recipe, *, threads: int | None) -> dict[str, Batches]:
    """Training batches as the recipe samples and changes them; validation patches once each, as they are.

    Args:
        parts: of the splits "train" and "val".
        chosen: the recipe.
        threads: that read and change patches; None for one a core.

    Raises:
        TrainingError: a part gives no batch, or no tumour by which anything could be learnt or judged.
    """
    feeds = {}
    for split, part in parts.items():
        training = split == "train"
        sampler = _sampler(part, chosen, training=training, threads=threads)
        for told in sampler.told:
            warnings.warn(told, stacklevel=3)
        source = PatchSource(part, mpp=sampler.mpp, patch=chosen.patch, stain=chosen.stain, outside=sampler.outside)
        feeds[split] = Batches(
            source,
            sampler,
            batch=chosen.batch,
            augment=chosen.augmentation if training else None,
            seed=chosen.seed,
            threads=threads,
            mixed=chosen.pasted if training else 0.0,
            drop_last=training,
        )
        _check(split, feeds[split])
    return feeds


def _sampler(part: Cohort, chosen: Recipe, *, training: bool, threads: int | None) -> Sampler:
    pool = Pool(part, mpp=chosen.mpp if training else chosen.resolution, patch=chosen.patch, threads=threads)
    try:
        return (chosen.sampling if training else Grid()).plan(pool, seed=chosen.seed)
    finally:
        pool.close()


def _check(split: str, batches: Batches):
    patches, batch = len(batches.draws(0)), batches.batch
    if not patches:
        raise TrainingError(
            f"The part {split!r} must give patches and gives none: no tissue was found, or no case has what the "
            "recipe's sampling asks for. Look at the slides, or choose another sampling."
        )
    if not batches.count(0):
        raise TrainingError(
            f"The part {split!r} must fill a batch of {batch} patches and gives {patches}. Take a smaller batch "
            f"(--set batch={patches}), overlapping patches (--set sampling.stride=...), or more slides."
        )
    if batches.sampler.report.get("tumour_patches") == 0:
        raise TrainingError(
            f"The part {split!r} must show the class {batches.source.cohort.classes[-1]!r}, and none of its {patches} "
            "patches does: a network that finds nothing would be the best. Divide the patients otherwise, or look at "
            "groups and labels."
        )
