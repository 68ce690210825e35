"""What the site shows beside docs/: files that pages link to, and what the commands say of themselves.

A link out of docs/, such as `../examples/fine_tune.py`, works where the repository is browsed. For the site that file
becomes a page, so that nothing has a twin: Markdown as it is, all else as code.
"""

import contextlib
import io
import json
import os
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ALWAYS = ROOT / "CHANGELOG.md"
LINK = re.compile(r"(?<=\]\()([^)#\s]+)(?=[#)])")
TRIED = re.compile(r"<!-- docs-test: .*?-->\n", re.DOTALL)
HELP = re.compile(r"```sh\ndigipath ([a-z]+) --help\n```\n")
_ORIGINS: dict[str, Path] = {}


def place_of(path: Path) -> str:
    """Where a file of the repository stands on the site."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    name = path.relative_to(ROOT).as_posix()
    if name.startswith("digipath/bundles/"):
        return f"bundles/{path.parent.name}.md"
    return name if name.endswith(".md") else f"sources/{name}.md"


def leads_to(page: Path, target: str) -> Path | None:
    """The file of the repository that a link of a page leads to."""
    if "://" in target:
        return None
    path = (page.parent / target).resolve()
    return path if path.is_file() and path.is_relative_to(ROOT) else None


def linked_from(pages: list[Path]) -> set[Path]:
    """The files outside of docs/ that pages link to."""
    found = (leads_to(page, link) for page in pages for link in LINK.findall(page.read_text(encoding="utf-8")))
    return {path for path in found if path and not path.is_relative_to(DOCS)}


def text_of(path: Path) -> str:
    """A file of the repository as a page."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    if path.suffix == ".ipynb":
        return "\n\n".join(cell_of(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"])
    name = path.relative_to(ROOT).as_posix()
    return f"---\nsearch: {{exclude: true}}\n---\n\n# {name}\n\n````{path.suffix[1:] or 'text'}\n{text}````\n"


def cell_of(kind: str, source: str) -> str:
    """A notebook's cell: words as they are, all else as code."""
    return source if kind == "markdown" else f"````python\n{source}\n````"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that pages link to."""
    linked = {ALWAYS} | linked_from([Path(page.abs_src_path) for page in files.documentation_pages()])
    linked |= linked_from([path for path in linked if path.suffix == ".md"])
    for path in sorted(linked):
        named = path == ALWAYS or place_of(path).startswith("bundles/")
        level = InclusionLevel.INCLUDED if named else InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, place_of(path), content=text_of(path), inclusion=level))
        _ORIGINS[place_of(path)] = path
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Lead links to where files stand on the site, and let commands that ask for help answer."""
    name = page.file.src_uri
    here = _ORIGINS.get(name, DOCS / name)

    def within(link: re.Match[str]) -> str:
        path = leads_to(here, link.group(1))
        return posixpath.relpath(place_of(path), posixpath.dirname(name)) if path else link.group(1)

    markdown = LINK.sub(within, TRIED.sub("", markdown))
    return HELP.sub(lambda command: command.group() + "\n" + answer(command.group(1)), markdown)


def answer(command: str) -> str:
    """What `digipath COMMAND --help` prints, as a block of text."""
    from digipath.cli import main

    said, width = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "92"
    try:
        with contextlib.redirect_stdout(said):
            main([command, "--help"])
    except SystemExit as ended:
        if ended.code:
            raise PluginError(f"a page asks `digipath {command} --help`, and there is no such command.") from ended
    finally:
        os.environ.pop("COLUMNS") if width is None else os.environ.update(COLUMNS=width)
    return f"```text\n{said.getvalue().strip()}\n```\n"
