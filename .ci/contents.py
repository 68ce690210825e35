"""Check what is in the two files of a release: `python .ci/contents.py dist`, from the repository's root."""

import sys
import tarfile
import zipfile
from pathlib import Path

BUNDLE = ("spec.json", "weights.safetensors", "README.md", "NOTICE")
STRAY = (
    "__pycache__",
    ".pyc",
    ".pytest_cache",
    ".ruff_cache",
    ".hypothesis",
    ".DS_Store",
    "digipath-demo",
    ".ipynb_checkpoints",
)
BESIDE = ("tests", "docs", "examples", "benchmarks")
SOURCES = (*BESIDE, "CHANGELOG.md", "LICENSE", "README.md", "mkdocs.yml", "setup.cfg", ".ci/run", "pyproject.toml")


def expected() -> list[str]:
    """The package's files, as they stand in the repository."""
    files = (path for path in Path("digipath").rglob("*") if path.is_file())
    return [path.as_posix() for path in files if "__pycache__" not in path.parts]


def faults_of_wheel(path: Path) -> list[str]:
    """One line for each file that is missing or has no place in a wheel."""
    names = zipfile.ZipFile(path).namelist()
    info = f"{'-'.join(path.name.split('-')[:2])}.dist-info"
    wanted = [
        *expected(),
        f"{info}/licenses/LICENSE",
        f"{info}/licenses/LICENSES/Apache-2.0.txt",
        f"{info}/entry_points.txt",
    ]
    wanted += [f"{bundle.as_posix()}/{name}" for bundle in Path("digipath/bundles").iterdir() for name in BUNDLE]
    wanted += [f"{info}/licenses/{bundle.as_posix()}/NOTICE" for bundle in Path("digipath/bundles").iterdir()]
    missing = [f"the wheel lacks {name}" for name in sorted(set(wanted) - set(names))]
    foreign = [name for name in names if name.split("/")[0] not in ("digipath", info)]
    return missing + [f"the wheel holds {name}" for name in foreign] + _stray("wheel", names)


def faults_of_source(path: Path) -> list[str]:
    """The same of a source distribution."""
    with tarfile.open(path) as archive:
        names = [member.name.partition("/")[2] for member in archive.getmembers()]
    missing = [name for name in (*SOURCES, *expected()) if name not in names]
    return [f"the source distribution lacks {name}" for name in missing] + _stray("source distribution", names)


def _stray(what: str, names: list[str]) -> list[str]:
    return [f"the {what} holds {name}" for name in names if any(part in name for part in STRAY)]


def main(folder: str) -> int:
    """Print the faults; 1 where there are any."""
    wheels, sources = list(Path(folder).glob("*.whl")), list(Path(folder).glob("*.tar.gz"))
    if (len(wheels), len(sources)) != (1, 1):
        print(
            f"{folder} holds {len(wheels)} wheels and {len(sources)} source distributions, and should hold one of each"
        )
        return 1
    faults = faults_of_wheel(wheels[0]) + faults_of_source(sources[0])
    print("\n".join(faults) or f"{wheels[0].name} and {sources[0].name} hold what they should, and nothing else")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
