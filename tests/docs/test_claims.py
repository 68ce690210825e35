"""What can be told of the pages without running them: their blocks, commands, scripts, extras and names exist."""

import ast
import doctest
import io
import re
import shlex
import tomllib
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import blocks as reading
import pytest
from blocks import PAGES, PYTHON, ROOT, SHELL, SHOWN, TAKES_VALUE, blocks, commands

import digipath
from digipath import cli

BLOCKS = [block for page in PAGES for block in blocks(page)]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
MOST_SKIPS = 10


def test_the_reader_of_blocks_keeps_its_own_examples():
    assert doctest.testmod(reading).failed == 0


def test_every_directive_is_known_and_has_a_reason():
    for block in BLOCKS:
        for one in block.directives:
            assert one.kind in TAKES_VALUE, f"{block.place}: {one.kind!r} is no directive"
            assert bool(one.value) == TAKES_VALUE[one.kind], f"{block.place}: {one.kind} says {one.value!r}"
            assert one.reason, f"{block.place}: {one.kind} without a reason"


@each_page
def test_every_directive_stands_above_a_block(page):
    above = sum(len(block.directives) for block in blocks(page))
    assert page.read_text(encoding="utf-8").count("<!-- docs-test:") == above


def test_few_blocks_are_skipped():
    skipped = [f"{block.place}: {one.reason}" for block in BLOCKS for one in block.directives if one.kind == "skip"]
    assert len(skipped) <= MOST_SKIPS, "\n".join(skipped)


def test_every_block_says_what_it_is_in():
    for block in BLOCKS:
        assert block.language in (*PYTHON, *SHELL, *SHOWN), f"{block.place}: a block in {block.language}"
        if block.language not in (*PYTHON, *SHELL):
            assert not block.text.startswith(("digipath ", "$ ")), f"{block.place}: a command that nobody runs"


@each_page
def test_every_command_is_one_that_digipath_takes(page, monkeypatch, capsys):
    monkeypatch.setattr("digipath.cli._COMMANDS", [deaf(module) for module in cli._COMMANDS])
    for block in (block for block in blocks(page) if block.language in SHELL):
        for part in re.findall(r"(?:^|&& |\| )(digipath [^&|\n]*)", "\n".join(commands(block.text)), re.MULTILINE):
            try:
                code = cli.main(shlex.split(part)[1:])
            except SystemExit as ended:
                code = ended.code
            assert code == 0, f"{block.place}: `{part}`: {capsys.readouterr().err}"


@pytest.fixture(scope="module")
def options():
    """Every option of every command."""
    helps = io.StringIO()
    with redirect_stdout(helps):
        for command in ([], *([module.__name__.rpartition(".")[2]] for module in cli._COMMANDS)):
            with pytest.raises(SystemExit):
                cli.main([*command, "--help"])
    return set(re.findall(r"--[a-z-]+", helps.getvalue()))


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_option_that_is_named_exists(page, options):
    text = page.read_text(encoding="utf-8")
    scripts = re.findall(r"python ((?:examples|benchmarks)/[\w/]+\.py)", text)
    theirs = {option for path in scripts for option in re.findall(r'"(--[a-z-]+)"', source_of(ROOT / path))}
    named = " ".join(re.findall(r"`((?:digipath |--)[^`\n]*)`", text))
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", named)) <= options | theirs


@each_page
def test_every_script_is_there_and_has_the_options_that_are_named(page):
    for path, rest in re.findall(
        r"python ((?:examples|benchmarks)/[\w/]+\.py)([^`\n&|]*)", page.read_text(encoding="utf-8")
    ):
        assert (ROOT / path).is_file(), f"{page.name} names {path}"
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", rest):
            assert f'"{option}"' in source_of(ROOT / path), f"{page.name}: {path} has no {option}"


@each_page
def test_every_extra_is_one_of_the_package(page):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for names in re.findall(r"pip install (?:-e )?\"?(?:digipath|\.)\[([\w,-]+)\]", page.read_text(encoding="utf-8")):
        assert set(names.split(",")) <= set(extras), f"{page.name}: an extra of {names} is not in pyproject.toml"


@each_page
def test_every_name_that_is_imported_or_named_in_full_exists(page):
    named = set(re.findall(r"`(?:[\w.]+ )?(digipath(?:\.\w+)+)", page.read_text(encoding="utf-8")))
    for block in blocks(page):
        if block.language in PYTHON:
            for node in ast.walk(ast.parse(block.text)):
                if isinstance(node, ast.ImportFrom) and node.module.startswith("digipath"):
                    named |= {f"{node.module}.{one.name}" for one in node.names}
                elif isinstance(node, ast.Import):
                    named |= {one.name for one in node.names if one.name.startswith("digipath.")}
    missing = sorted(name for name in named if not exists(name))
    assert not missing, f"{page.name} names {', '.join(missing)}"


def deaf(module):
    """A subcommand that takes its options and does nothing."""
    return SimpleNamespace(
        __name__=module.__name__, __doc__=module.__doc__, add_arguments=module.add_arguments, run=lambda arguments: 0
    )


def source_of(script: Path) -> str:
    """The text of a script and of those beside it that it imports."""
    text = script.read_text(encoding="utf-8")
    beside = {one for one in script.parent.glob("*.py") if re.search(rf"^(?:from|import) {one.stem}\b", text, re.M)}
    return "\n".join([text, *(one.read_text(encoding="utf-8") for one in beside)])


def exists(name: str) -> bool:
    """Whether a module, or a name within one, or within a class of one, is in the package; nothing is imported."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        home = ROOT.joinpath(*parts[:length])
        path = home / "__init__.py" if home.is_dir() else home.with_suffix(".py")
        if path.is_file():
            rest = parts[length:]
            return not rest or any(found == rest[: len(found)] for found in names_in(path))
    return False


@cache
def names_in(path: Path) -> list[list[str]]:
    """The names that a module defines or imports; what is asked within one of its classes is taken as there."""
    found = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        found += [[name] for name in defined(node)]
    if path.parent.name == "digipath" and path.name == "__init__.py":
        found += [[name] for name in digipath.__all__]
    return found


def defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [one.asname or one.name for one in node.names]
    if isinstance(node, ast.If | ast.Try):
        return [name for one in node.body for name in defined(one)]
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    return [one.id for one in targets if isinstance(one, ast.Name)]
