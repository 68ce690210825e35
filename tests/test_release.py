"""What a release rests on: one version, licences beside the weights, bounds that are tested, workflows that can run."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import digipath
from digipath.cli import main

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BUNDLES = sorted(path.parent for path in ROOT.glob("digipath/bundles/*/spec.json"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SCRIPTS = [path for path in sorted((ROOT / ".ci").iterdir()) if not path.suffix and path.is_file()]


def bound(requirement: str) -> tuple[str, str | None]:
    """(name, lower bound) of a requirement."""
    name, _, version = requirement.partition(">=")
    return re.sub(r"\[.*\]", "", name).strip().lower(), version or None


def extras() -> dict[str, list[str]]:
    return PROJECT["project"]["optional-dependencies"]


def steps(workflow: Path) -> list[tuple[str, dict]]:
    """(job, step) of every step."""
    yaml = pytest.importorskip("yaml")
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    return [(name, step) for name, job in jobs.items() for step in job.get("steps", ())]


def test_there_is_one_version(capsys):
    assert PROJECT["project"]["dynamic"] == ["version"] and "version" not in PROJECT["project"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "digipath.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", digipath.__version__)
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"digipath {digipath.__version__}\n"
    stated = re.findall(r"^version:\s*[\"']?([^\"'\s]+)", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert stated in ([], [digipath.__version__])


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda folder: folder.name)
def test_weights_come_with_their_card_and_the_licences_of_what_they_were_made_from(folder):
    card, notice = (folder / "README.md").read_text(), (folder / "NOTICE").read_text()
    assert "Not a medical device" in card and "Not a medical device" in notice
    for source, licence in (("EBHI-SEG", "creativecommons.org/licenses/by/4.0"), ("ImageNet", "apache.org/licenses")):
        assert (source in card) == (source in notice)
        assert source not in card or licence in notice
    assert "Changed:" in notice


def test_every_licence_file_that_is_named_exists():
    patterns = PROJECT["project"]["license-files"]
    assert all(list(ROOT.glob(pattern)) for pattern in patterns)
    assert "Apache License" in (ROOT / "LICENSES" / "Apache-2.0.txt").read_text()
    assert len(list(ROOT.glob("digipath/bundles/*/NOTICE"))) == len(BUNDLES)


def test_every_file_of_the_package_is_code_or_declared_as_data():
    home = ROOT / "digipath"
    declared = {
        path for pattern in PROJECT["tool"]["setuptools"]["package-data"]["digipath"] for path in home.glob(pattern)
    }
    others = (path for path in home.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc"))
    assert sorted(set(others) - declared) == []
    assert home / "py.typed" in declared and home / "viewer" / "assets" / "viewer.js" in declared


def test_every_dependency_has_a_lower_bound_that_the_oldest_versions_test():
    lines = (ROOT / ".ci" / "oldest-constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    required = [
        *PROJECT["project"]["dependencies"],
        *(one for name in ("openvino", "dicom", "dask", "viewer") for one in extras()[name]),
    ]
    for requirement in required:
        name, version = bound(requirement)
        assert version, f"{name} has no lower bound"
        assert name in pins, f"{name} is in no .ci/oldest-constraints.txt"
        assert f"{pins[name]}.".startswith(f"{version}."), f"{name} is tested at {pins[name]}, and bound by {version}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_every_script_is_one_and_names_files_that_exist(script):
    assert script.read_text().startswith("#!/usr/bin/env bash\n") and "set -euo pipefail" in script.read_text()
    if sys.platform != "win32":
        assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
        assert script.stat().st_mode & 0o111
    for path in re.findall(r"(?<![\w/$\"])((?:benchmarks|tests|examples|\.ci)/[\w./-]+\w)", script.read_text()):
        assert (ROOT / path).exists(), f"{script.name} names {path}"


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda workflow: workflow.name)
def test_a_workflow_names_what_exists_and_pins_its_actions(workflow):
    for job, step in steps(workflow):
        assert step.keys() & {"run", "uses"}, f"a step of {job} does nothing"
        if "uses" in step:
            assert re.search(r"@(v\d+|release/v\d+)$", step["uses"]), step["uses"]
        command = step.get("run", "")
        for path in re.findall(r"(?<![\w/])((?:\.ci|tests|docs)/[\w./-]*\w)", command):
            assert (ROOT / path).exists(), f"{job} names {path}"
        for names in re.findall(r"\.\[([\w,]+)\]", command):
            assert set(names.split(",")) <= extras().keys(), f"{job} installs {names}"
        if command.startswith("digipath "):
            with pytest.raises(SystemExit, match="0"):
                main([command.split()[1], "--help"])


def test_the_workflows_cover_systems_pythons_and_framework_versions():
    yaml = pytest.importorskip("yaml")
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]
    matrix = jobs["systems"]["strategy"]["matrix"]
    assert {system.partition("-")[0] for system in matrix["system"]} == {"ubuntu", "macos", "windows"}
    classifiers = PROJECT["project"]["classifiers"]
    stated = {text.rpartition(" ")[2] for text in classifiers if re.search(r":: 3\.\d+$", text)}
    assert set(matrix["python"]) == stated
    assert f">={min(matrix['python'])}" == PROJECT["project"]["requires-python"]
    assert {"oldest", "newest", "browser", "docs", "change"} <= jobs.keys()
    assert all(job["timeout-minutes"] for job in jobs.values())


def test_only_a_tag_publishes_and_only_what_was_tested():
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "publish.yml").read_text())
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads "on" as a truth value
    jobs = workflow["jobs"]
    allowed = {name for name, job in jobs.items() if "id-token" in job.get("permissions", {})}
    assert allowed == {"publish"} and workflow["permissions"] == {"contents": "read"}
    assert jobs["publish"]["environment"] and set(jobs["publish"]["needs"]) == jobs.keys() - {"publish"}
    assert jobs["tests"]["uses"] == "./.github/workflows/tests.yml"
    assert "password" not in json.dumps(jobs)
