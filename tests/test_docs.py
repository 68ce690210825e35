import re
from pathlib import Path

import pytest

from digipath.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_readme_sets_up_in_two_lines():
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks[:2] == ["pip install . && digipath demo\n", 'pip install -e ".[test]" && pytest\n']


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_that_is_named_exists(page, capsys):
    known = set()
    for command in (
        "predict",
        "analyse",
        "report",
        "export",
        "evaluate",
        "stage",
        "train",
        "demo",
        "view",
        "info",
        "bundles",
        "doctor",
    ):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        known |= set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    lines = (line for line in page.read_text().splitlines() if "python " not in line)  # a script has its own
    text = "\n".join(line for line in lines if "digipath " in line or "`--" in line)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_in_python_are_python(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        compile(block, page.name, "exec")
        for name in re.findall(r"from digipath import ([\w, ]+)", block):
            import digipath

            assert set(name.split(", ")) <= set(digipath.__all__)
