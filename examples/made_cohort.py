"""A small cohort of made slides with planted lesions, so that the scripts beside it run anywhere."""

from digipath import ArraySlide
from digipath.data.cohort import Case, Cohort
from digipath.slides.synthetic import SyntheticSettings, SyntheticSlide


def made_cohort(*, slides: int = 3, side: int = 768, mpp: float = 1.0) -> Cohort:
    """Slides of `side` px, the last for validation, each with one lesion outlined."""
    cases = []
    for number in range(slides):
        made = SyntheticSlide(SyntheticSettings(width=side, height=side, mpp=mpp, lesions=1, seed=number))
        split = "val" if number == slides - 1 else "train"
        slide = ArraySlide(made.array(), mpp=mpp, name=f"made-{number}")
        cases.append(Case(slide=slide, annotations=made.annotations(), split=split))
    return Cohort(cases)
