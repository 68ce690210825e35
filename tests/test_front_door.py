import subprocess
import sys

import pytest

import digipath


@pytest.mark.parametrize("name", digipath.__all__)
def test_every_name_of_the_front_door_opens(name):
    assert getattr(digipath, name) is not None and name in dir(digipath)


def test_an_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="Segmentor"):
        digipath.Segmentor  # noqa: B018


def test_the_networks_load_without_a_word():
    code = "import digipath\nassert digipath.architectures()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "" and done.stdout == ""
