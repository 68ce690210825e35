import json
from pathlib import Path

import pytest

from digipath.errors import SpecError
from digipath.runs.task import Outcome, RunSettings, Task


@pytest.mark.parametrize(
    "one",
    [
        Task(slide=Path("a.svs"), folder=Path("out/a")),
        Task(slide=Path("a.svs"), folder=Path("out/a"), mpp=0.25, tissue=Path("t.png"), region=(1, 2, 3, 4)),
        RunSettings(overwrite=True, began=1.5, time_limit=60),
        Outcome(name="a", slide="a.svs", status="ok", areas={"lesion_mm2": 1.0}, notes=("one", "two")),
    ],
)
def test_json_gives_it_back(one):
    assert type(one).from_json(json.loads(json.dumps(one.to_json()))) == one


def test_an_outcome_of_a_newer_version_is_read():
    values = Outcome(name="a", slide="a.svs", status="ok").to_json()
    assert Outcome.from_json(values | {"mood": "good"}).status == "ok"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"errors": "ignore"}, "skip"),
        ({"time_limit": 0}, "time_limit"),
        ({"expiry": 20, "heartbeat": 15}, "expiry=45"),
        ({"wait": -1}, "wait"),
    ],
)
def test_nonsense_is_refused(given, said):
    with pytest.raises(SpecError, match=said):
        RunSettings(**given)


def test_a_status_is_one_of_those_that_are_told():
    with pytest.raises(SpecError, match="locked"):
        Outcome(name="a", slide="a.svs", status="lost")
