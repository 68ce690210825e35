"""The examples of docstrings are true."""

import doctest
import importlib

import pytest
from blocks import ROOT

SOURCES = [path for path in sorted((ROOT / "digipath").rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]
NAMES = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in SOURCES]


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of_a_module_come_out_as_they_say(name, capsys):
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        pytest.skip(f"{name} needs {error.name}, of one of the extras")
    failed, _ = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0, capsys.readouterr().out
