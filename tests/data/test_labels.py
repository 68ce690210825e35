from dataclasses import replace

import numpy as np
import pytest
import shapely
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from digipath.data import labels, mask_files
from digipath.data.classes import ClassRules
from digipath.data.cohort import Case, Cohort
from digipath.data.labels import label_source
from digipath.data.mask_files import open_mask, reduction
from digipath.errors import AnnotationError, CohortError, SpecError
from digipath.geometry.frame import Box, Frame
from digipath.geometry.polygons import Annotation, rasterize_labels
from digipath.geometry.raster import Raster
from digipath.slides.array import ArraySlide

RNG = np.random.default_rng(3)


def slide(width=300, height=200, mpp=0.5):
    return ArraySlide(np.full((height, width, 3), 200, np.uint8), mpp=mpp, name="slide")


def source(what=None, *, on=None, label=None, classes=("other", "lesion"), groups=None, mask_values=None):
    on = on or slide()
    truth = {} if what is None else {"annotations" if isinstance(what, list) else "mask": what}
    case = Case(slide=on, label=label, **truth)
    cohort = Cohort([case], classes=classes, groups=groups, mask_values=mask_values)
    return label_source(cohort[0], cohort)


def blob(x, y, radius, vertices=60, seed=0):
    rng = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, vertices, endpoint=False)
    reach = radius * rng.uniform(0.6, 1.0, vertices)
    ring = np.stack([x + reach * np.cos(angles), y + reach * np.sin(angles)], 1)
    hole = np.stack([x + 0.2 * reach * np.cos(angles), y + 0.2 * reach * np.sin(angles)], 1)
    return shapely.Polygon(ring, [hole[::-1]])


boxes = st.builds(Box, st.integers(-80, 300), st.integers(-80, 250), st.integers(1, 120), st.integers(1, 120))
mpps = st.sampled_from([0.3, 0.5, 0.71, 1.0, 2.0, 5.3])


@settings(max_examples=25)
@given(box=boxes, mpp=mpps, seed=st.integers(0, 20), vertices=st.sampled_from([8, 60, 600]))
def test_outlines_read_as_a_crop_of_the_whole_slide_rasterised(box, mpp, seed, vertices):
    rng = np.random.default_rng(seed)
    names = ("other", "stroma", "lesion")
    annotations = [
        Annotation(names[1 + i % 2], blob(*rng.uniform(0, 300, 2), rng.uniform(5, 150), vertices, seed + i))
        for i in range(4)
    ]
    on = slide()
    frame = on.frame.at(mpp)
    whole = rasterize_labels(annotations, frame, classes=names)
    expected = np.full(box.height * box.width, 255, np.uint8).reshape(box.height, box.width)
    inside = box.intersect(frame.on_slide)
    if inside.area:
        expected[inside.shift(-box.x, -box.y).slices()] = whole.crop(inside)
    read = source(annotations, on=on, classes=names).read(box, frame)
    np.testing.assert_array_equal(read, expected)
    assert read.dtype == np.uint8


@settings(max_examples=25)
@given(box=boxes, mpp=mpps, downsample=st.sampled_from([1, 2, 3.7, 16]))
def test_a_raster_reads_as_its_nearest_pixels_and_ignores_what_is_off_the_slide(box, mpp, downsample):
    on = slide()
    grid = on.frame.at(on.frame.mpp * downsample)
    mask = Raster(np.random.default_rng(1).integers(0, 3, grid.shape).astype(np.uint8), grid)
    frame = on.frame.at(mpp)
    read = source(mask, on=on, classes=("a", "b", "c"), mask_values={0: "a", 1: "b", 2: "c"}).read(box, frame)
    inside = box.intersect(frame.on_slide)
    outside = np.ones(read.shape, bool)
    if inside.area:
        part = inside.shift(-box.x, -box.y).slices()
        np.testing.assert_array_equal(read[part], mask.sample(inside, frame))
        outside[part] = False
    assert (read[outside] == 255).all()


@pytest.mark.parametrize("kind", ["png", "bit.png", "palette.png", "tif", "lzw.tif", "jpg", "16bit.png", "rgb.png"])
def test_every_kind_of_image_file_gives_the_same_labels(tmp_path, kind):
    truth = np.zeros((200, 300), bool)
    truth[40:120, 64:200] = True
    path = tmp_path / f"mask.{kind}"
    grey = Image.fromarray(truth.astype(np.uint8) * 255)
    if kind == "bit.png":
        grey = grey.convert("1")
    elif kind == "palette.png":
        grey = Image.fromarray(truth.astype(np.uint8), mode="P")
        grey.putpalette([10, 20, 30, 200, 100, 0])
    elif kind == "16bit.png":
        grey = Image.fromarray(truth.astype(np.uint16) * 255)
    elif kind == "rgb.png":
        grey = grey.convert("RGB")
    if kind == "lzw.tif":
        grey.save(path, compression="tiff_lzw")
    else:
        grey.save(path)
    on = slide()
    found = source(path, on=on)
    read = found.read(on.frame.box, on.frame)
    edge = 8 if kind == "jpg" else 0  # a JPEG's blocks
    same = read == truth
    assert same.all() if not edge else (~same).sum() < edge * 4
    assert found.tumour_area_mm2() == pytest.approx((read == 1).sum() * (0.5e-3) ** 2)


@pytest.mark.parametrize("size", [(300, 200), (150, 100), (75, 50), (100, 67), (100, 66), (210, 140), (43, 29)])
def test_a_mask_covers_its_slide_at_any_whole_or_broken_reduction(size):
    scale = reduction(size, (300, 200), case="a")
    for side, full, factor in zip(size, (300, 200), scale, strict=True):
        assert abs(side - full / factor) < 1


@pytest.mark.parametrize("size", [(200, 300), (300, 150), (301, 200), (600, 400), (150, 97), (299, 180)])
def test_a_mask_of_another_shape_is_refused(size):
    with pytest.raises(CohortError, match=f"300 x 200.*got {size[0]} x {size[1]}"):
        reduction(size, (300, 200), case="a")


def test_a_large_tiled_mask_is_read_box_by_box_and_gives_the_same(tmp_path, monkeypatch):
    truth = (RNG.random((25, 38)) > 0.5).astype(np.uint8).repeat(16, 0).repeat(16, 1)[:400, :600] * 255
    path = tmp_path / "mask.tif"
    tifffile.imwrite(path, truth, tile=(128, 128), compression="deflate", photometric="minisblack")
    on = slide(600, 400)
    whole = source(path, on=on)
    monkeypatch.setattr(mask_files, "MAX_PIXELS", 1000)
    assert open_mask(path).is_large
    tiles = source(path, on=on)
    for box, mpp in ((Box(-20, 30, 200, 300), 0.5), (Box(0, 0, 90, 70), 3.3), (Box(500, 390, 200, 50), 0.5)):
        frame = on.frame.at(mpp)
        np.testing.assert_array_equal(tiles.read(box, frame), whole.read(box, frame))
    assert tiles.tumour_area_mm2() == whole.tumour_area_mm2()
    tiles.close()
    assert tiles.read(Box(0, 0, 5, 5), on.frame).shape == (5, 5)


def test_tiles_that_a_large_mask_does_not_store_hold_nothing(tmp_path, monkeypatch):
    truth = np.zeros((400, 600), np.uint8)
    truth[10:250, 100:390] = 255  # also in the first tile, which the writer wants
    parts = (truth[y : y + 128, x : x + 128] for y in range(0, 400, 128) for x in range(0, 600, 128))
    tiles = (np.pad(part, [(0, 128 - side) for side in part.shape]) if part.any() else None for part in parts)
    path = tmp_path / "mask.tif"
    stored = {"tile": (128, 128), "compression": "deflate", "photometric": "minisblack"}
    tifffile.imwrite(path, tiles, shape=truth.shape, dtype=np.uint8, **stored)
    monkeypatch.setattr(mask_files, "MAX_PIXELS", 1000)
    on = slide(600, 400)
    np.testing.assert_array_equal(source(path, on=on).read(on.frame.box, on.frame), truth > 0)


def test_a_large_mask_that_is_not_tiled_is_refused_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(mask_files, "MAX_PIXELS", 1000)
    Image.fromarray(np.zeros((200, 300), np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(CohortError, match="tiled TIFF"):
        source(tmp_path / "mask.png")


def test_a_mask_compressed_with_loss_is_read_whole_or_asks_what_it_holds(tmp_path, monkeypatch):
    path = tmp_path / "mask.tif"
    values = np.zeros((400, 600), np.uint8)
    values[:, 300:] = 255
    Image.fromarray(values).save(path, compression="jpeg")
    file, on = open_mask(path), slide(600, 400)
    assert file.lossy and not file.is_large
    assert (source(path, on=on).read(on.frame.box, on.frame) == (values > 0)).mean() > 0.99
    monkeypatch.setattr(labels, "open_mask", lambda path: replace(file, is_large=True))
    with pytest.raises(CohortError, match="compressed with loss"):
        source(path, on=on)


def test_an_empty_list_of_annotations_says_that_nothing_is_there():
    on = slide()
    found = source([], on=on)
    assert (found.read(on.frame.box, on.frame) == 0).all() and found.tumour_area_mm2() == 0


def test_a_label_alone_is_the_class_of_every_pixel_of_the_slide():
    on = slide()
    normal, lesion = source(on=on, label="other"), source(on=on, label="lesion")
    box = Box(290, 190, 20, 20)
    assert (normal.read(box, on.frame)[:10, :10] == 0).all()
    assert (lesion.read(box, on.frame)[:10, :10] == 1).all()
    assert (lesion.read(box, on.frame)[10:] == 255).all() and (lesion.read(box, on.frame)[:, 10:] == 255).all()
    assert normal.tumour_area_mm2() == 0
    assert lesion.tumour_area_mm2() == pytest.approx(300 * 200 * 0.25e-6)


def test_a_case_that_nothing_is_known_of_is_an_error():
    with pytest.raises(CohortError, match="no annotations, no mask and no label"):
        source()


def test_overlapping_outlines_count_once_and_what_lies_off_the_slide_not_at_all():
    square = shapely.box(10, 10, 110, 110)
    shifted = shapely.box(60, 10, 160, 110)
    beyond = shapely.box(250, 150, 400, 400)
    area = source([Annotation("t", square), Annotation("t", shifted), Annotation("t", beyond)]).tumour_area_mm2()
    assert area == pytest.approx((150 * 100 + 50 * 50) * 0.25e-6)


@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_the_area_of_outlines_is_the_area_of_their_pixels(seed):
    rng = np.random.default_rng(seed)
    annotations = [Annotation("t", blob(*rng.uniform(0, 300, 2), 80, 300, seed + i)) for i in range(3)]
    on = slide()
    found = source(annotations, on=on)
    pixels = (found.read(on.frame.box, on.frame) == 1).sum() * on.frame.pixel_mm2
    assert found.tumour_area_mm2() == pytest.approx(pixels, rel=0.03)


def test_an_area_of_the_first_class_is_a_hole_in_a_larger_one_and_no_hole_in_a_smaller_one():
    outer, hole, island = (shapely.box(50 + k, 50 + k, 150 - k, 150 - k) for k in (0, 20, 40))
    found = source([Annotation("lesion", outer), Annotation("other", hole), Annotation("lesion", island)])
    on = slide()
    read = found.read(on.frame.box, on.frame)
    assert [read[100, x] for x in (40, 60, 80, 100)] == [0, 1, 0, 1]
    assert found.tumour_area_mm2() == pytest.approx((100**2 - 60**2 + 20**2) * 0.25e-6)


def test_groups_say_what_annotations_mean_and_what_is_ignored_covers_all():
    annotations = [
        Annotation("Tumor", shapely.box(0, 0, 100, 100)),
        Annotation("Necrosis", shapely.box(50, 0, 150, 100)),
        Annotation("Fold*", shapely.box(0, 50, 300, 70)),
    ]
    found = source(annotations, groups={"Tumor": "lesion", "Necrosis": "other", "Fold*": None})
    on = slide()
    read = found.read(on.frame.box, on.frame)
    assert read[10, 10] == 1 and read[60, 10] == 255 and read[60, 250] == 255 and read[10, 120] == 0


def test_a_label_that_names_no_class_hints_at_what_explains_the_mask():
    on = slide()
    with pytest.raises(CohortError, match=r"'macro'.*mask_values"):
        source(Raster(np.zeros(on.frame.shape, bool), on.frame), on=on, label="macro")
    known = {0: "other", 1: "lesion"}
    source(Raster(np.zeros(on.frame.shape, bool), on.frame), on=on, label="macro", mask_values=known)


def test_unknown_annotation_classes_are_listed_where_they_cannot_be_understood():
    square = shapely.box(0, 0, 9, 9)
    with pytest.raises(CohortError, match="'Fold', 'Vein'"):
        source([Annotation("Vein", square), Annotation("Fold", square)], groups={"Tumor": "lesion"})
    with pytest.raises(CohortError, match="'Vein'"):
        source([Annotation("Vein", square)], classes=("other", "stroma", "lesion"))


def test_several_names_that_all_count_as_lesion_are_told():
    square = shapely.box(0, 0, 9, 9)
    with pytest.warns(UserWarning, match="Fold, Vein"):
        source([Annotation("Vein", square), Annotation("Fold", square)])


def test_points_and_lines_cover_nothing_and_are_counted():
    with pytest.warns(UserWarning, match="1 of 2"):
        found = source([Annotation("t", shapely.box(0, 0, 9, 9)), Annotation("note", shapely.Point(50, 50))])
    assert found.tumour_area_mm2() == pytest.approx(81 * 0.25e-6)


def test_a_mask_marks_where_the_class_of_its_label_is():
    values = np.zeros((200, 300), bool)
    values[:50] = True
    on, classes = slide(), ("other", "polyp", "lesion")
    found = source(Raster(values, on.frame), on=on, label="polyp", classes=classes)
    np.testing.assert_array_equal(found.read(on.frame.box, on.frame), values)
    assert found.tumour_area_mm2() == 0
    found = source(Raster(values, on.frame), on=on, label="lesion", classes=classes)
    np.testing.assert_array_equal(found.read(on.frame.box, on.frame), values * 2)


def test_a_mask_that_contradicts_its_label_or_explains_nothing_is_refused():
    on = slide()
    marked = Raster(np.full(on.frame.shape, 1, np.uint8), on.frame)
    with pytest.raises(CohortError, match=r"label 'other'.*mask marks"):
        source(marked, on=on, label="other").read(Box(0, 0, 4, 4), on.frame)
    with pytest.raises(CohortError, match="mask_values"):
        source(marked, on=on, classes=("other", "stroma", "lesion"))
    with pytest.raises(CohortError, match=r"holds 7.*mask_values"):
        source(Raster(np.full(on.frame.shape, 7, np.uint8), on.frame), on=on).read(Box(0, 0, 4, 4), on.frame)
    with pytest.raises(CohortError, match="Add 7"):
        source(Raster(np.full(on.frame.shape, 7, np.uint8), on.frame), on=on, mask_values={0: "other"}).read(
            Box(0, 0, 4, 4), on.frame
        )


def test_a_jpeg_of_zeros_and_ones_is_refused_rather_than_read_as_empty(tmp_path):
    values = np.zeros((200, 300), np.uint8)
    values[50:150, 50:150] = 1
    Image.fromarray(values).save(tmp_path / "mask.jpg", quality=100)
    on = slide()
    with pytest.raises(CohortError, match="nothing above 1"):
        source(tmp_path / "mask.jpg", on=on).read(on.frame.box, on.frame)


def test_a_coloured_mask_and_a_file_that_is_none_are_refused(tmp_path):
    Image.fromarray(RNG.integers(0, 255, (200, 300, 3), np.uint8)).save(tmp_path / "mask.png")
    on = slide()
    with pytest.raises(CohortError, match="colours"):
        source(tmp_path / "mask.png", on=on).read(on.frame.box, on.frame)
    (tmp_path / "text.png").write_text("no image")
    for name in ("text.png", "missing.png"):
        with pytest.raises(CohortError, match=name):
            source(tmp_path / name, on=on)


def test_a_raster_of_another_slide_or_of_several_layers_is_refused():
    with pytest.raises(CohortError, match="its slide has"):
        source(Raster(np.zeros((10, 10), bool), Frame.level0(10, 10, 0.5)))
    with pytest.raises(CohortError, match="one layer"):
        source(Raster(np.zeros((200, 300), np.float32), slide().frame))


def test_labels_are_read_in_a_frame_of_the_slide():
    with pytest.raises(SpecError, match=r"slide\.frame\.at"):
        source(label="other").read(Box(0, 0, 4, 4), Frame.level0(10, 10, 0.5))


def test_a_damaged_annotation_file_is_an_annotation_error(tmp_path):
    (tmp_path / "a.geojson").write_text("{")
    cohort = Cohort([Case(slide=slide(), annotations=tmp_path / "a.geojson")])
    with pytest.raises(AnnotationError):
        label_source(cohort[0], cohort)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": "lesion"}, "tuple of names"),
        ({"classes": ("lesion",)}, "different names"),
        ({"classes": ("a", "a")}, "different names"),
        ({"groups": {"Tumor": "lesoin"}}, "Did you mean 'lesion'"),
        ({"mask_values": {1: "tumour"}}, "mask_values maps"),
        ({"mask_values": {"1": "lesion"}}, "whole numbers"),
    ],
)
def test_rules_refuse_nonsense_at_birth(settings, message):
    with pytest.raises(SpecError, match=message):
        ClassRules(**settings)
