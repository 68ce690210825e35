"""The harness itself: blocks are found where pages have them, and what is wrong on a page fails."""

import sys
from types import SimpleNamespace

import pytest
from blocks import Directive, blocks
from running import Page, recipes_with, run_line

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the pages' lines are for a POSIX shell")
FENCE = "```"


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A function of a page's text that runs its blocks in a folder without anything in it."""
    monkeypatch.setattr("blocks.ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)

    def run(text: str) -> None:
        (tmp_path / "page.md").write_text(text, encoding="utf-8")
        running = Page(SimpleNamespace(copy=lambda folder: None, give=lambda what, folder: {what: 7}), tmp_path)
        for block in blocks(tmp_path / "page.md"):
            running.run(block)

    return run


def test_blocks_are_read_with_their_lines_and_directives_also_in_lists(tmp_path):
    (tmp_path / "page.md").write_text(
        f"1. Do\n\n   <!-- docs-test: given a b, why, and why -->\n   <!-- docs-test: exits 1, it has to -->\n"
        f"   {FENCE}sh\n   digipath info\n     x\n   {FENCE}\n\n{FENCE}python\n1\n{FENCE}\n"
    )
    first, second = blocks(tmp_path / "page.md")
    assert (first.language, first.line, first.text) == ("sh", 6, "digipath info\n  x\n")
    assert first.directives == (Directive("given", "a b", "why, and why"), Directive("exits", "1", "it has to"))
    assert (second.language, second.line, second.directives) == ("python", 11, ())


def test_python_that_fails_or_takes_names_from_another_block_fails_the_page(page):
    page(
        f"{FENCE}python\nx = 1\n{FENCE}\n\n<!-- docs-test: continues, it is short -->\n{FENCE}python\nx + 1\n{FENCE}\n"
    )
    page(f"<!-- docs-test: given model, it is theirs -->\n{FENCE}python\nassert model == 7\n{FENCE}\n")
    with pytest.raises(NameError):
        page(f"{FENCE}python\nx = 1\n{FENCE}\n\n{FENCE}python\nx + 1\n{FENCE}\n")


def test_commands_that_fail_fail_the_page_unless_it_says_so(page):
    page(f"<!-- docs-test: exits 1, there is none -->\n{FENCE}sh\ndigipath info none.svs  # fails\n{FENCE}\n")
    with pytest.raises(AssertionError, match=r"page.md:2.*ended with 1"):
        page(f"{FENCE}sh\ndigipath info none.svs\n{FENCE}\n")
    with pytest.raises(AssertionError, match="ended with 2"):
        page(f"{FENCE}sh\npip install digipath && digipath info --no-such-option\n{FENCE}\n")
    with pytest.raises(AssertionError, match="ended with 3"):
        page(f"{FENCE}sh\nls | cat\nexit 3\n{FENCE}\n")


def test_what_is_skipped_does_not_run_and_what_is_replaced_has_to_be_there(page):
    page(f"<!-- docs-test: skip, it is wrong -->\n{FENCE}python\n1 / 0\n{FENCE}\n")
    page(f"<!-- docs-test: replace 0 by 1, zero divides nothing -->\n{FENCE}python\n1 / 0\n{FENCE}\n")
    with pytest.raises(AssertionError, match="is not in the block"):
        page(f"<!-- docs-test: replace 2 by 1, a slip -->\n{FENCE}python\n1 / 1\n{FENCE}\n")


def test_patterns_find_files_as_in_a_shell_unless_they_are_quoted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr("running.in_process", lambda words: seen.append(words))
    for name in ("a.svs", "b.svs"):
        (tmp_path / name).touch()
    assert run_line("digipath predict *.svs --normal 'a*' -o out") == 0
    assert seen == [["predict", "a.svs", "b.svs", "--normal", "a*", "-o", "out"]]


def test_recipes_are_as_they_were_after_a_block_that_changed_them():
    from digipath.training.recipes import RECIPES

    before = dict(RECIPES)
    with recipes_with({"epochs": "1", "sampling.per_epoch": "8"}):
        assert RECIPES["colon-light"].epochs == 1 and RECIPES["bcc-unet"] == before["bcc-unet"]
    assert before == RECIPES
    with pytest.raises(AssertionError, match="no recipe has the fields epoch"), recipes_with({"epoch": "1"}):
        pass
