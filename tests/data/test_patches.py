"""Laws of reading patches, and of batches."""

import threading

import numpy as np
import pytest
import shapely

from digipath.data.augment import Strengths
from digipath.data.case import Case
from digipath.data.cohort import Cohort
from digipath.data.draws import Sampler
from digipath.data.patches import Batches, PatchSource
from digipath.data.pool import Pool
from digipath.data.sampling import TumourNormal
from digipath.data.slide_pool import SlidePool
from digipath.errors import ResolutionError, SpecError
from digipath.geometry.frame import Box
from digipath.geometry.polygons import Annotation
from digipath.slides.array import ArraySlide
from digipath.slides.stain import normalise, slide_stains
from digipath.slides.synthetic import SyntheticSettings, SyntheticSlide

PATCH = 16


def noise(side: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    outline = (Annotation("tumour", shapely.box(8, 4, 30, 28)),)
    return Cohort(
        [Case(slide=ArraySlide(noise(40, seed), mpp=1.0, name=str(seed)), annotations=outline) for seed in range(5)]
    )


def sampler_of(draws: np.ndarray, *, mpp: float = 1.0, patch: int = PATCH) -> Sampler:
    """Turned by one draw in every epoch."""
    return Sampler(mpp=mpp, patch=patch, draw=lambda epoch: np.roll(draws, epoch, axis=0))


@pytest.fixture(scope="module")
def draws() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.column_stack([rng.integers(0, 5, 23), rng.integers(-8, 40, (23, 2))])


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("mpp", [1.0, 2.0])
def test_a_patch_is_what_the_slide_and_its_labels_give_there(cohort, monkeypatch, in_memory, mpp):
    monkeypatch.setattr("digipath.data.patches._SMALL", 10**6 if in_memory else 0)
    source = PatchSource(cohort, mpp=mpp, patch=PATCH)
    slide = cohort[2].slide
    frame = slide.frame.at(mpp)
    for x, y in ((0, 0), (3, 5), (-4, 10), (12, -7), (30, 30), (100, 0)):
        image, labels = source.read(2, x, y)
        np.testing.assert_array_equal(image, slide.read(Box(x, y, PATCH, PATCH), frame))
        columns, rows = ((np.arange(start, start + PATCH) + 0.5) * mpp for start in (x, y))
        known = ((rows > 0) & (rows < 40))[:, None] & ((columns > 0) & (columns < 40))
        lesion = ((rows > 4) & (rows < 28))[:, None] & ((columns > 8) & (columns < 30))
        np.testing.assert_array_equal(labels, np.where(known, lesion, 255))


@pytest.mark.parametrize("small", [True, False])
def test_what_is_outside_is_black_where_zero_padding_is_asked_for(cohort, monkeypatch, small):
    monkeypatch.setattr("digipath.data.patches._SMALL", 10**6 if small else 0)
    image, labels = PatchSource(cohort, mpp=1.0, patch=PATCH, outside=0).read(0, 32, 0)
    assert (image[:, 8:] == 0).all()
    assert (labels[:, 8:] == 255).all()
    np.testing.assert_array_equal(image[:, :8], cohort[0].slide.read(Box(32, 0, 8, PATCH), cohort[0].slide.frame))


class Damaged(ArraySlide):
    """A slide of which a corner cannot be read."""

    def read_covered(self, box, frame, *, kernel="box"):
        pixels, _ = super().read_covered(box, frame, kernel=kernel)
        lost = Box(0, 0, 6, 6)
        inside = self.frame.box_in(lost, frame).intersect(box)
        if inside.area:
            pixels[inside.shift(-box.x, -box.y).slices()] = 255
        return pixels, [lost] if inside.area else []


@pytest.mark.parametrize("small", [True, False])
def test_what_cannot_be_read_is_ignored_counted_and_warned_of_once(monkeypatch, small):
    monkeypatch.setattr("digipath.data.patches._SMALL", 10**6 if small else 0)
    cohort = Cohort([Case(slide=Damaged(noise(40, 0), mpp=1.0, name="torn"), label="other")])
    source = PatchSource(cohort, mpp=1.0, patch=PATCH)
    with pytest.warns(UserWarning, match="torn cannot be read") as told:
        for _ in range(3):
            _, labels = source.read(0, 2, 3)
    assert len(told) == 1
    assert (labels[:3, :4] == 255).all()
    assert (labels == 255).sum() == 12
    assert source.unread == {"torn": {Box(0, 0, 6, 6)}}


def test_images_in_memory_stay_within_their_bound(cohort):
    source = PatchSource(cohort, mpp=1.0, patch=PATCH, memory=2 * 40 * 40 * 4)
    for case in range(5):
        source.read(case, 0, 0)
    assert len(source._whole) == 2


def test_stains_are_normalised_as_at_inference():
    slide = ArraySlide(SyntheticSlide(SyntheticSettings(width=256, height=256, mpp=1.0)).array(), mpp=1.0)
    cohort, plain = Cohort([Case(slide=slide, label="other")]), slide.read(Box(100, 90, 64, 64), slide.frame)
    expected = normalise(plain, slide_stains(slide))
    assert not np.array_equal(expected, plain)
    for memory in (0, 2**24):
        image, _ = PatchSource(cohort, mpp=1.0, patch=64, stain="macenko", memory=memory).read(0, 100, 90)
        np.testing.assert_array_equal(image, expected)


def test_a_real_slide_gives_the_same_batches_to_one_thread_and_to_many(data):
    cohort = Cohort(
        [
            Case(
                slide=data / "slides/CMU-1-Small-Region.svs",
                annotations=(Annotation("tumour", shapely.box(600, 600, 1400, 1500)),),
            )
        ]
    )
    sampler = TumourNormal(per_slide=8).plan(Pool(cohort, mpp=1.1, patch=64))
    made = []
    for threads in (1, 4):
        source = PatchSource(cohort, mpp=1.1, patch=64, memory=0)
        made.append(Batches(source, sampler, batch=16, augment=Strengths(), threads=threads).make(1, 0))
        source.close()
    for one, other in zip(*made, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (made[0][1] == 1).any()


def test_nothing_is_kept_without_memory(cohort):
    source = PatchSource(cohort, mpp=1.0, patch=PATCH, memory=0)
    image, labels = source.read(1, 4, 4)
    assert not source._whole
    for kept, read in zip(PatchSource(cohort, mpp=1.0, patch=PATCH).read(1, 4, 4), (image, labels), strict=True):
        np.testing.assert_array_equal(kept, read)


@pytest.mark.parametrize("strengths", [None, Strengths()])
@pytest.mark.parametrize("mixed", [0.0, 0.5])
def test_batches_are_the_same_whatever_the_threads_and_the_order(cohort, draws, strengths, mixed):
    made = []
    for threads, order in ((1, range(6)), (5, range(5, -1, -1))):
        source = PatchSource(cohort, mpp=1.0, patch=PATCH)
        batches = Batches(source, sampler_of(draws), batch=4, augment=strengths, seed=3, threads=threads, mixed=mixed)
        assert batches.count(2) == 6
        made.append({number: batches.make(2, number) for number in order})
    for number in range(6):
        for one, other in zip(made[0][number], made[1][number], strict=True):
            np.testing.assert_array_equal(one, other)
    assert made[0][0][0].shape == (4, PATCH, PATCH, 3)
    assert len(made[0][5][1]) == 3


def test_patches_without_augmentation_are_those_that_were_drawn(cohort, draws):
    source = PatchSource(cohort, mpp=1.0, patch=PATCH)
    images, labels = Batches(source, sampler_of(draws), batch=23).make(0, 0)
    for place, (case, x, y) in enumerate(draws.tolist()):
        image, classes = source.read(case, x, y)
        np.testing.assert_array_equal(images[place], image)
        np.testing.assert_array_equal(labels[place], classes)


def test_image_and_labels_are_moved_together():
    values = np.repeat(np.random.default_rng(0).integers(0, 2, (10, 10)), 4, 0).repeat(4, 1)
    pixels = np.repeat(np.where(values, 200, 20)[..., None], 3, 2).astype(np.uint8)
    outline = tuple(
        Annotation("tumour", shapely.box(4 * x, 4 * y, 4 * x + 4, 4 * y + 4)) for y, x in np.argwhere(values[::4, ::4])
    )
    cohort = Cohort([Case(slide=ArraySlide(pixels, mpp=1.0), annotations=outline)])
    still = Strengths(turn=0, colour=0, stained=0, blurred=0, sharpened=0, compressed=0, noisy=0)
    source = PatchSource(cohort, mpp=1.0, patch=24)
    batches = Batches(source, sampler_of(np.full((40, 3), (0, 7, 3)), patch=24), batch=40, augment=still, mixed=0.5)
    images, labels = batches.make(0, 0)
    np.testing.assert_array_equal(images[..., 0] > 100, labels == 1)
    assert len({image.tobytes() for image in images}) > 8


def test_an_incomplete_batch_can_be_left_out(cohort, draws):
    batches = Batches(PatchSource(cohort, mpp=1.0, patch=PATCH), sampler_of(draws), batch=4, drop_last=True)
    assert batches.count() == 5
    with pytest.raises(IndexError):
        batches.make(0, 5)


def test_a_source_of_another_resolution_or_size_is_refused(cohort, draws):
    source = PatchSource(cohort, mpp=1.0, patch=PATCH)
    for sampler in (sampler_of(draws, mpp=2.0), sampler_of(draws, patch=8)):
        with pytest.raises(SpecError, match="read as they were planned"):
            Batches(source, sampler)


def test_an_error_in_a_thread_reaches_the_reader(cohort):
    batches = Batches(PatchSource(cohort, mpp=0.25, patch=PATCH), sampler_of(np.zeros((4, 3), int), mpp=0.25))
    with pytest.raises(ResolutionError, match="case 0"):
        batches.make(0, 0)


def test_open_slides_stay_within_their_bound_and_none_in_use_is_closed(tmp_path):
    import cv2

    for name in range(4):
        cv2.imwrite(str(tmp_path / f"{name}.png"), noise(20, name))
    cohort = Cohort([Case(slide=tmp_path / f"{name}.png", mpp=1.0, label="other") for name in range(4)])
    pool = SlidePool(cohort, open_slides=2)
    with pool.lend(0) as first, pool.lend(1), pool.lend(2):
        assert len(pool._open) == 3
        assert first.read(Box(0, 0, 2, 2), first.frame).shape == (2, 2, 3)
    assert len(pool._open) == 2

    def read(case):
        for _ in range(20):
            with pool.lend(case) as slide:
                slide.read(Box(0, 0, 20, 20), slide.frame)

    threads = [threading.Thread(target=read, args=(case,)) for case in (0, 1, 2, 3) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pool._open) == 2
    pool.close()
    assert not pool._open


@pytest.mark.parametrize("change", [{"patch": 0}, {"stain": "vahadane"}, {"outside": 300}, {"open_slides": 0}])
def test_a_source_that_makes_no_sense_is_refused(cohort, change):
    with pytest.raises(SpecError):
        PatchSource(cohort, **{"mpp": 1.0, "patch": PATCH, **change})


@pytest.mark.parametrize("change", [{"batch": 0}, {"threads": 0}, {"seed": -1}, {"mixed": 1.5}])
def test_batches_that_make_no_sense_are_refused(cohort, draws, change):
    with pytest.raises(SpecError):
        Batches(PatchSource(cohort, mpp=1.0, patch=PATCH), sampler_of(draws), **change)
