"""Every block of Python and of shell lines that a page shows runs, after those above it, on small made slides.

Run by `pytest -m slow tests/docs`, in an environment with the extras that the pages speak of.
"""

import pytest
from blocks import PAGES, PYTHON, ROOT, SHELL, blocks
from running import Page
from workplace import Workplace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def workplace(tmp_path_factory):
    return Workplace(tmp_path_factory.mktemp("docs"))


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(block.language in (*PYTHON, *SHELL) for block in blocks(page))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_every_block_of_a_page_runs(page, workplace, tmp_path, monkeypatch):
    folder = tmp_path / "work"
    running = Page(workplace, folder)
    monkeypatch.chdir(folder)
    for block in blocks(page):
        running.run(block)
