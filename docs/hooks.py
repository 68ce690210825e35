"""What the site shows beside docs/: files of the repository that pages link to, and what the commands say of themselves.

A link out of docs/, such as `../examples/fine_tune.py`, works where the repository is browsed. For the site that file becomes a
page, so that nothing has a twin: Markdown as it is, all else as code.
"""

import contextlib
import io
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()([^)#\s]+)(?=[#)])")
TRIED = re.compile(r"<!-- docs-test: .*?-->\n", re.S)
HELP = re.compile(r"```sh\ndigipath ([a-z]+) --help\n```\n")


def page_of(path: Path) -> str:
    """Where a file of the repository stands on the site."""
    name = path.relative_to(ROOT).as_posix()
    if name.startswith("digipath/bundles/"):
        return f"bundles/{path.parent.name}.md"
    return name if name.endswith(".md") else f"sources/{name}.md"


def outside(page: Path, target: str) -> Path | None:
    """The file of the repository that a link of a page leads to, if it lies outside of docs/."""
    path = (page.parent / target).resolve()
    leaves = "://" not in target and path.is_file() and path.is_relative_to(ROOT)
    return path if leaves and not path.is_relative_to(ROOT / "docs") else None


def text_of(path: Path) -> str:
    """A file of the repository as a page."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    name = path.relative_to(ROOT).as_posix()
    return f"---\nsearch: {{exclude: true}}\n---\n\n# {name}\n\n````{path.suffix[1:] or 'text'}\n{text}````\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that pages link to."""
    linked = {ROOT / "CHANGELOG.md"}
    for page in files.documentation_pages():
        source = Path(page.abs_src_path)
        found = (outside(source, target) for target in LINK.findall(source.read_text(encoding="utf-8")))
        linked |= {path for path in found if path}
    for path in sorted(linked):
        level = InclusionLevel.INCLUDED if page_of(path) == "CHANGELOG.md" else InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, page_of(path), content=text_of(path), inclusion=level))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Lead links out of docs/ to the pages made above, and let commands that ask for help answer."""
    if page.file.generated_by:
        return markdown
    here = Path(page.file.abs_src_path)
    up = "../" * page.file.src_uri.count("/")

    def within(link: re.Match[str]) -> str:
        path = outside(here, link.group(1))
        return up + page_of(path) if path else link.group(1)

    markdown = LINK.sub(within, TRIED.sub("", markdown))
    return HELP.sub(lambda command: command.group() + "\n" + answer(command.group(1)), markdown)


def answer(command: str) -> str:
    """What `digipath COMMAND --help` prints, as a block of text."""
    from digipath.cli import main

    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            main([command, "--help"])
    except SystemExit as ended:
        if ended.code:
            raise PluginError(f"a page asks `digipath {command} --help`, and there is no such command.") from ended
    return f"```text\n{said.getvalue().strip()}\n```\n"
