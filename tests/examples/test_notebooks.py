"""What the notebooks are as files; `python examples/notebooks.py` runs them."""

import ast
import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("[0-9][0-9]-*.ipynb"))
# What notebooks may import beside digipath: its own dependencies, and what shows them.
OTHERS = {"IPython", "PIL", "cv2", "keras", "matplotlib", "numpy", "shapely"} | set(sys.stdlib_module_names)


@pytest.fixture
def runner(monkeypatch):
    """The script that runs them, as a module."""
    monkeypatch.syspath_prepend(EXAMPLES)
    yield importlib.import_module("notebooks")
    sys.modules.pop("notebooks")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return json.loads(request.param.read_text(encoding="utf-8"))


def cells_of(notebook, kind):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


def test_there_are_nine_numbered_from_one():
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{number:02d}" for number in range(1, 10)]


def test_each_begins_with_its_number_and_title_and_ends_with_what_to_change(notebook, request):
    number = int(request.node.callspec.id[:2])
    assert source(notebook["cells"][0]).startswith(f"# {number} ")
    assert "## What to change next" in source(notebook["cells"][-1])


def test_each_is_in_format_4_and_says_nothing_of_the_machine_that_ran_it(notebook):
    assert notebook["nbformat"] == 4 and set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert notebook["metadata"]["language_info"] == {"name": "python"}  # no version
    assert all(cell["metadata"] == {} for cell in notebook["cells"])
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])


def test_cells_were_run_in_order_without_errors_and_warnings_and_their_outputs_are_there(notebook):
    code = cells_of(notebook, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert len(outputs) >= 4
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_each_is_small_and_names_no_folder_of_a_machine(notebook, runner):
    assert runner.faults(notebook) == []
    assert not [cell["source"] for cell in notebook["cells"] if runner.ABSOLUTE.search(source(cell))]


def test_each_shows_a_picture(notebook):
    outputs = [output for cell in cells_of(notebook, "code") for output in cell["outputs"]]
    shown = json.dumps([output.get("data", {}) for output in outputs])
    assert re.search(r"image/(jpeg|png)", shown) or source(notebook["cells"][0]).startswith("# 9 ")


def test_words_and_code_take_turns_and_cells_are_short(notebook):
    kinds = [cell["cell_type"] for cell in notebook["cells"]]
    assert kinds.count("markdown") >= 5
    assert "code code code" not in " ".join(kinds)
    assert max(source(cell).count("\n") for cell in cells_of(notebook, "code")) < 60


def test_all_code_compiles_and_each_takes_its_size_from_the_environment(notebook):
    for cell in cells_of(notebook, "code"):
        compile(source(cell), "cell", "exec")
    assert any('SMALL = os.environ.get("DIGIPATH_EXAMPLES", "small")' in source(c) for c in cells_of(notebook, "code"))


def public_names(module):
    """What a module of digipath offers, read and not run: some would load a learning framework."""
    names, listed = set(), None
    for node in ast.parse(Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8")).body:
        targets = [getattr(one, "id", "") for one in node.targets] if isinstance(node, ast.Assign) else []
        listed = ast.literal_eval(node.value) if targets == ["__all__"] else listed
        names |= {getattr(node, "name", ""), *targets}
    return set(listed) if listed else {name for name in names if not name.startswith("_")}


def test_everything_that_is_imported_exists_and_is_public(notebook):
    for cell in cells_of(notebook, "code"):
        for node in ast.walk(ast.parse(source(cell))):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= OTHERS | {"digipath"}
            elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "digipath":
                assert {alias.name for alias in node.names} <= public_names(node.module)
            elif isinstance(node, ast.ImportFrom):
                assert node.module.split(".")[0] in OTHERS


def test_outputs_are_kept_without_times_progress_and_second_pictures(runner):
    png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    shown = {"image/png": png, "text/html": ["<img>"], "text/plain": ["<thing>"]}
    cell = {
        "cell_type": "code",
        "source": ["1"],
        "metadata": {"execution": {"began": "now"}},
        "outputs": [
            {"output_type": "stream", "name": "stdout", "text": ["a"]},
            {"output_type": "stream", "name": "stderr", "text": ["/home/me/a.py:1: UserWarning"]},
            {"output_type": "stream", "name": "stdout", "text": ["b\n"]},
            {"output_type": "execute_result", "data": shown, "metadata": {"image/png": {"width": 1}}},
            {"output_type": "display_data", "data": {"image/png": png}, "metadata": {}},
        ],
    }
    kept = runner.tidied({"cells": [cell], "metadata": {"language_info": {"version": "3"}}})
    outputs = kept["cells"][0]["outputs"]
    assert kept["cells"][0]["metadata"] == {} and "version" not in kept["metadata"]["language_info"]
    assert outputs[0]["text"] == ["ab\n"]
    assert set(outputs[1]["data"]) == {"text/html", "text/plain"} and outputs[1]["metadata"] == {}
    assert set(outputs[2]["data"]) == {"image/png"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("read /home/me/slide.svs", "folder"),
        ("read C:\\slides", "folder"),
        ("10%|█ 1/10 [2.0it/s]", "progress"),
        ("x" * 300_000, "bytes"),
    ],
)
def test_what_should_not_be_passed_on_is_told(runner, text, told):
    cell = {"cell_type": "code", "source": ["1"], "outputs": [{"output_type": "stream", "text": [text]}]}
    (fault,) = runner.faults({"cells": [cell]})
    assert told in fault


def test_paths_that_are_relative_and_addresses_are_no_folders_of_a_machine(runner):
    for text in ("results/home/slide", "https://example.org/home/x", "</tmp/>", "a /usage/"):
        assert not runner.ABSOLUTE.search(text)
