import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("dash")

from dash import html

from digipath.errors import SpecError
from digipath.inference.settings import EFFORTS
from digipath.models.bundle import BUILTIN, Bundle, builtin_names
from digipath.prepared import JOURNAL
from digipath.runs.lock import Lock
from digipath.runs.task import RunSettings
from digipath.segmenter import Segmenter
from digipath.viewer import segment_panel
from digipath.viewer.desk import Desk
from digipath.viewer.jobs import Job, Jobs, Order, _from_bundle
from digipath.viewer.offers import EFFORT_LINES, begun_with, offers
from digipath.viewer.opened import Opened
from digipath.viewer.shelf import Shelf


def desk_of(*sources: Path, out: Path | None = None, **options) -> Desk:
    jobs = None if out is None else Jobs(out)
    return Desk(shelf=Shelf(sources, out=out), opened=Opened(), jobs=jobs, **options)


def offered(*sources: Path):
    shelf = Shelf(sources)
    return offers(shelf, shelf.items())


def item_of(desk: Desk, name: str):
    return next(one for one in desk.shelf.items() if one.name == name)


def job_of(state: str, **changes) -> Job:
    return Job(id="1", slide=Path("slide.tif"), order=Order(), state=state, **changes)


def test_every_built_in_network_is_offered_the_default_first_with_a_sentence_on_what_it_is_for(library):
    found = offered(library)
    assert found[0].value == Bundle.builtin().name and sorted(one.value for one in found) == sorted(builtin_names())
    for one in found:
        assert one.purpose.endswith(".") and "colon" in one.purpose and "**" not in one.purpose and not one.problem


def test_bundles_beside_the_slides_are_offered_and_broken_ones_say_why(library, tmp_path):
    shutil.copy(library / "slide.tif", tmp_path)
    for name in ("mine", "bare", "broken"):
        shutil.copytree(BUILTIN / "colon-patch-classifier", tmp_path / name)
    (tmp_path / "mine" / "README.md").write_text("# mine\n\nFinds what\nI look for. And more.\n")
    (tmp_path / "bare" / "README.md").unlink()
    (tmp_path / "broken" / "spec.json").write_text("{")
    found = {one.name: one for one in offered(tmp_path) if Path(one.value).is_absolute()}
    assert found["mine"].purpose == "Finds what I look for."
    assert found["bare"].purpose == "Tells other, lesion apart."
    assert found["broken"].problem and not found["mine"].problem
    assert len(offered(tmp_path / "slide.tif")) == len(builtin_names())  # what was not given is not looked at


def test_every_effort_has_a_line():
    assert set(EFFORT_LINES) == set(EFFORTS)


def test_what_the_form_does_not_offer_is_refused(library, tmp_path):
    desk = desk_of(library, out=tmp_path)
    item = item_of(desk, "slide.tif")
    good = segment_panel._order(desk, item, "colon-lesion-ds", "fast", ["yes"], None)
    assert good == Order(bundle="colon-lesion-ds", effort="fast", uncertainty=True)
    for bundle, effort in (
        (str(BUILTIN / "colon-lesion-ds"), "fast"),
        ("/etc", "fast"),
        ("colon-lesion-ds", "wild"),
        (None, "fast"),
    ):
        with pytest.raises(SpecError, match="one of those that the page offers"):
            segment_panel._order(desk, item, bundle, effort, [], None)


@pytest.mark.parametrize(
    "order",
    [
        Order(bundle="colon-lesion-ds", effort="fast"),
        Order(bundle="colon-lesion-light", effort="thorough"),
        Order(bundle="colon-lesion-light", effort="balanced", uncertainty=True),
    ],
)
def test_how_a_result_was_begun_is_found_in_its_journal(tmp_path, order):
    """`Segmenter` writes the journal; nothing is predicted for this."""
    segmenter = _from_bundle(order)
    settings = {
        name: value
        for name, value in vars(segmenter.settings).items()
        if name not in ("batch", "threads", "threshold", "max_unread")
    }
    identity = {"networks": segmenter.networks.describe(), "settings": settings}
    begin(tmp_path / "slide", identity)
    (item,) = [one for one in Shelf([tmp_path]).items() if one.status == "running"]
    assert begun_with(item) == order


def begin(folder: Path, identity: dict) -> None:
    slide = {
        "name": "slide",
        "path": None,
        "fingerprint": None,
        "width": 8,
        "height": 8,
        "mpp": 2.0,
        "mpp_source": "file",
    }
    frame = {"width": 4, "height": 4, "downsample": 2.0, "mpp": 4.0, "slide_size": [8, 8]}
    document = {
        "format": "digipath journal",
        "format_version": 1,
        "identity": {"slide": slide, **identity},
        "frame": frame,
    }
    document |= {"channels": ["other", "lesion"], "resumed": 0, "strips": [[0, 1, 0]], "state": {}}
    (folder / JOURNAL).mkdir(parents=True)
    (folder / JOURNAL / "journal.json").write_text(json.dumps(document))


def test_what_was_begun_in_a_way_that_cannot_be_ordered_is_not_guessed(tmp_path):
    begin(tmp_path / "slide", {"networks": {"members": [{"name": "a"}, {"name": "b"}]}, "settings": {"overlap": 0.9}})
    (item,) = Shelf([tmp_path]).items()
    assert begun_with(item) == Order()


def test_another_process_at_work_is_told_and_nothing_can_be_started(tmp_path, library):
    begin(tmp_path / "out" / "slide", {})
    desk = desk_of(library, out=tmp_path / "out")
    item = next(one for one in desk.shelf.items() if one.status == "running")
    form, _, progress, *_ = segment_panel._shown(desk, item)
    assert (form, progress) == (False, True)
    with Lock(item.path, RunSettings(heartbeat=0.05, expiry=60)):
        form, _, progress, far, cancel, told, *_ = segment_panel._shown(desk, item)
        assert (form, progress, far, cancel) == (True, False, None, True) and told.startswith("Another process")


def test_progress_is_seen_in_full_and_read_out_in_tenths(library, tmp_path):
    desk = desk_of(library, out=tmp_path)
    item = item_of(desk, "slide.tif")
    seen, said = segment_panel._told(desk, item, job_of("running", done=1279, total=10000, left=400.0))
    assert seen == ["1,279 of 10,000 patches, about 7 min left"] and said == "Segmenting, 10 %."
    seen, said = segment_panel._told(desk, item, job_of("running", message="Loading the network."))
    assert seen == ["Loading the network."] and said == "Segmentation begun."
    assert "Stopping" in segment_panel._told(desk, item, job_of("running", stopping=True, done=1, total=2))[0][0]
    assert segment_panel._told(desk, item, job_of("failed", message="no."))[1] == "It failed: no."


def test_in_a_blind_study_the_end_does_not_tell_what_was_found(library, tmp_path):
    finished = job_of("finished", message="3.20 mm² lesion in 9.00 mm² tissue")
    for blind in (True, False):
        desk = desk_of(library, out=tmp_path, blind=blind)
        told = segment_panel._told(desk, item_of(desk, "slide.tif"), finished)
        assert ("3.20" in str(told)) is not blind


def test_in_a_blind_study_nothing_tells_how_many_patches_a_second_stage_looks_at(library, tmp_path):
    begin(tmp_path / "out" / "slide", {})
    desk = desk_of(library, out=tmp_path / "out", blind=True)
    job = job_of("running", done=1279, total=10000, left=400.0)
    assert segment_panel._told(desk, item_of(desk, "slide.tif"), job)[0] == ["Segmenting."]
    running = next(one for one in desk.shelf.items() if one.status == "running")
    with Lock(running.path, RunSettings(heartbeat=0.05, expiry=60)):
        assert segment_panel._shown(desk, running)[5] == "Another process segments this slide."


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.2, "1 s"), (89, "89 s"), (91, "2 min"), (3000, "50 min"), (9000, "2.5 h")]
)
def test_durations_are_told_as_people_do(seconds, told):
    assert segment_panel._duration(seconds) == told


def test_a_slide_without_mpp_has_a_field_for_it_and_no_other_has(library, tmp_path):
    from PIL import Image

    Image.new("RGB", (64, 64), "white").save(tmp_path / "plain.tif")
    shutil.copy(library / "slide.tif", tmp_path)
    shutil.copy(library / "broken.svs", tmp_path)
    desk = desk_of(tmp_path, out=tmp_path / "out")
    asked = {one.name: segment_panel.lacks_mpp(one) for one in desk.shelf.items()}
    assert asked == {"plain.tif": True, "slide.tif": False, "broken.svs": False}
    fields = [
        part
        for part in walk(segment_panel.layout(desk, item_of(desk, "plain.tif")))
        if getattr(part, "id", "") == "segment-mpp-field"
    ]
    assert [field.hidden for field in fields] == [False]


def walk(part):
    yield part
    children = getattr(part, "children", None)
    for child in children if isinstance(children, list | tuple) else [children]:
        if hasattr(child, "to_plotly_json"):
            yield from walk(child)


def test_results_of_a_slide_are_linked_from_it_and_where_nothing_may_be_segmented_nothing_is_shown(library, tmp_path):
    desk = desk_of(library, out=tmp_path / "out")
    panel = segment_panel.layout(desk, item_of(desk, "slide.tif"))
    links = [part for part in walk(panel) if type(part).__name__ == "Link"]
    assert [link.children for link in links] == ["slide"]
    assert links[0].href == f"/view/{item_of(desk, 'slide').id}"
    closed = segment_panel.layout(desk_of(library), item_of(desk, "slide.tif"))
    assert isinstance(closed, html.Div) and closed.hidden


def test_uncertainty_sees_every_patch_in_eight_views():
    made = _from_bundle(Order(bundle="colon-lesion-light", effort="fast", uncertainty=True))
    assert isinstance(made, Segmenter) and made.settings.uncertainty and len(made.settings.augmentations) == 8
    assert made.settings.overlap == EFFORTS["fast"].overlap
    plain = _from_bundle(Order(bundle="colon-lesion-light", effort="fast"))
    assert plain.settings == EFFORTS["fast"] and plain.effort == "fast"
