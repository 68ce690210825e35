"""The fenced blocks of the pages that people read, and what the pages say about how they are tried.

A block of Python or of shell lines runs as it is written, after the blocks above it, in a folder of its page. What
cannot run so says it in HTML comments just above the block, one directive each, and always with a reason:

    <!-- docs-test: skip, REASON -->                      it is only looked at
    <!-- docs-test: continues, REASON -->                 Python that goes on with the names of the block before
    <!-- docs-test: given model images, REASON -->        names that the reader has, from `workplace.GIVEN`
    <!-- docs-test: with epochs=1 batch=2, REASON -->     these fields of every recipe hold other values
    <!-- docs-test: replace OLD by NEW, REASON -->        this text of the block is another
    <!-- docs-test: exits 1, REASON -->                   its last shell line ends with this code
"""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PYTHON, SHELL = ("python", "py"), ("sh", "bash", "shell", "console")
SHOWN = ("", "text", "json", "yaml", "toml", "csv", "xml", "html", "mermaid", "bibtex", "dockerfile", "groovy")
TAKES_VALUE = {"skip": False, "continues": False, "given": True, "with": True, "replace": True, "exits": True}

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w-]*)(?P<title>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```", re.M | re.S
)
_REMARK = re.compile(r"(?:^|\s)#.*$")
_COMMENT = re.compile(r"<!-- docs-test: (.*?) -->", re.S)
_ABOVE = re.compile(r"(?:<!-- docs-test: (?:(?!-->).)*? -->\s*)+\Z", re.S)


@dataclass(frozen=True)
class Directive:
    """What a page says about a block: `skip`, `with epochs=1`, and why."""

    kind: str
    value: str
    reason: str


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `line` is that of its first line of text."""

    page: Path
    line: int
    language: str
    text: str
    directives: tuple[Directive, ...]

    @property
    def place(self) -> str:
        """Where it stands, for people."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def said(self, kind: str) -> list[str]:
        """The values of the directives of a kind; empty if there is none."""
        return [one.value for one in self.directives if one.kind == kind]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in their order."""
    content = page.read_text(encoding="utf-8")
    return [_block(page, content, match) for match in _FENCE.finditer(content)]


def _block(page: Path, content: str, match: re.Match[str]) -> Block:
    above = _ABOVE.search(content, 0, match.start())
    return Block(
        page=page,
        line=content.count("\n", 0, match.start("text")) + 1,
        language=match["language"],
        text=textwrap.dedent(match["text"]),
        directives=tuple(directive(text) for text in _COMMENT.findall(above[0] if above else "")),
    )


def directive(text: str) -> Directive:
    """The directive of a comment, without its reason if it gives none.

    >>> directive("with epochs=1, forty take a day")
    Directive(kind='with', value='epochs=1', reason='forty take a day')
    >>> directive("replace a, b by c, there is no b, alas")
    Directive(kind='replace', value='a, b by c', reason='there is no b, alas')
    """
    kind, _, rest = " ".join(text.split()).partition(" ")
    if kind.endswith(","):
        return Directive(kind[:-1], "", rest)
    old, by, rest = rest.partition(" by ") if kind == "replace" else ("", "", rest)  # which may hold commas
    value, _, reason = rest.partition(", ")
    return Directive(kind, old + by + value, reason)


def commands(text: str) -> list[str]:
    r"""The lines of a shell block, continued ones as one, without comments and the prompt.

    >>> commands("# first\ndigipath info \\\n slide.svs  # now\n$ digipath doctor\n")
    ['digipath info   slide.svs', 'digipath doctor']
    """
    lines = (_REMARK.sub("", line).strip().removeprefix("$ ") for line in text.replace("\\\n", " ").splitlines())
    return [line for line in lines if line]
