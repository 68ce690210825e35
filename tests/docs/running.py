"""How a block runs: Python by itself, shell lines through the command's own main, all else in a shell."""

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blocks import PYTHON, SHELL, Block, commands
from workplace import Workplace

_SIMPLE = re.compile(r"(digipath|pip|pytest)\b[^|;<>$`]*\Z")
_TOGETHER = re.compile(r"(cd|export|for|while|if)\b|.*<<")  # what later lines depend on
_PATIENCE = 300  # seconds that a command in a shell of its own may take


class Page:
    """Runs the blocks of a page one after the other, in its folder."""

    def __init__(self, workplace: Workplace, folder: Path):
        self.workplace, self.folder = workplace, folder
        self._names: dict[str, Any] = {}
        workplace.copy(folder)

    def run(self, block: Block) -> None:
        """Run a block as its directives say; what goes wrong raises."""
        if block.said("skip") or block.language not in (*PYTHON, *SHELL):
            return
        names = {
            name: value
            for what in " ".join(block.said("given")).split()
            for name, value in self.workplace.give(what, self.folder).items()
        }
        with recipes_with(dict(change.split("=") for change in " ".join(block.said("with")).split())):
            if block.language in PYTHON:
                self._run_python(block, names)
            else:
                self._run_shell(block)

    def _run_python(self, block: Block, names: Mapping[str, Any]) -> None:
        before = self._names if block.said("continues") else {"__name__": "__main__"}
        self._names = {**before, **names}
        # The lines are numbered as on the page, so that an error tells where.
        exec(compile("\n" * (block.line - 1) + written(block), block.place, "exec"), self._names)

    def _run_shell(self, block: Block) -> None:
        lines = commands(written(block))
        if any(_TOGETHER.match(line) for line in lines):
            lines = ["\n".join(lines)]
        for number, line in enumerate(lines):
            expected = int(block.said("exits")[0]) if block.said("exits") and number + 1 == len(lines) else 0
            code = run_line(line)
            assert code == expected, f"{block.place}: `{line}` ended with {code} in place of {expected}"


def written(block: Block) -> str:
    """The block's text with what its directives replace."""
    text = block.text
    for change in block.said("replace"):
        old, new = change.split(" by ")
        assert old in text, f"{block.place}: {old!r}, which is to be replaced, is not in the block"
        text = text.replace(old, new)
    return text


def run_line(line: str) -> int:
    """Run a line, which may be several joined by &&; its exit code."""
    if not _SIMPLE.match(line):
        return in_shell(line)
    for part in line.split("&&"):
        words = expanded(part)
        if words[0] == "digipath" and (code := in_process(words[1:])):
            return code
    return 0  # pip and pytest are what runs this; which extras pip names is looked at elsewhere


def expanded(line: str) -> list[str]:
    """The words of a line, with its patterns expanded and its comment gone, as a shell has them."""
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {line.strip()}"], capture_output=True, check=True, text=True)
    return done.stdout.split("\0")[:-1]


def in_process(words: list[str]) -> int:
    """Run `digipath` in this process, where TensorFlow is loaded already; its exit code."""
    from digipath.cli import main

    if words[0] == "view" and "--help" not in words:
        from viewing import view

        return view(words[1:])
    try:
        return main(words)
    except SystemExit as ended:
        return ended.code or 0


def in_shell(script: str) -> int:
    """Run lines in a shell that finds this environment's commands first; its exit code."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(["bash", "-euo", "pipefail", "-c", script], env=environment, timeout=_PATIENCE).returncode


@contextmanager
def recipes_with(changes: Mapping[str, str]) -> Iterator[None]:
    """All recipes that have these fields with other values, for a network and an hour that are the reader's."""
    from digipath.errors import SpecError

    if not changes:
        yield
        return
    from digipath.training.recipes import RECIPES, replaced

    before, told = dict(RECIPES), []
    for name, one in before.items():
        try:
            RECIPES[name] = replaced(one, changes)
        except SpecError as error:
            told.append(str(error))
    assert len(told) < len(before), f"no recipe has the fields {', '.join(changes)}: {told[0]}"
    try:
        yield
    finally:
        RECIPES.update(before)
