"""A result's folder: its record, read and written so that a name never stands for half a file."""

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from digipath.analysis.microdosimetry import contours_csv
from digipath.errors import ResultError
from digipath.findings import Findings
from digipath.geometry.polygons import Annotation
from digipath.io.geojson import write_geojson
from digipath.io.strips import replacing

__all__ = ["CONTOURS", "FORMAT_VERSION", "put_analysis", "read_info", "staged", "without_analysis", "writing"]

FORMAT_VERSION = 1

CONTOURS = "contours.csv"
"""Where the distances of lesions lie, if an analysis was asked for them."""

# What some results have and others have not.
_OPTIONAL = ("heatmap.*tif", "aleatoric.tif", "epistemic.tif", "uncertainty.png", "report.html", CONTOURS)


def read_info(path: Path) -> dict[str, Any]:
    """What a `result.json` holds.

    Raises:
        ResultError: There is none, it is damaged, or it comes from a newer digipath.
    """
    try:
        info = json.loads(path.read_text())
        version = info["format_version"]
    except FileNotFoundError:
        raise ResultError(
            f"{path.parent} holds no complete result: there is no {path.name}. Predict the slide again."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultError(f"{path} is damaged ({error}). Predict the slide again.") from error
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ResultError(
            f"{path} has format {version}, and this digipath reads up to {FORMAT_VERSION}. Install a newer digipath."
        )
    return info


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Tell in one line why a result's folder cannot be made."""
    try:
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(None, "it is a file")
        yield
    except OSError as error:
        raise ResultError(f"a result is written to a folder, and {folder} cannot be: {error.strerror}.") from error


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A temporary folder whose files move into `folder` at the end, `result.json` last, or vanish on an exception.

    It lies inside of a folder that is there: that may be a disk of its own, and nothing can be renamed to another disk.
    """
    place = (folder if folder.is_dir() else folder.parent) / f".{folder.name}.{uuid.uuid4().hex[:12]}.part"
    with writing(folder):
        place.mkdir(parents=True)
    try:
        yield place
        files = sorted(place.iterdir(), key=lambda path: path.name == "result.json")
        for path in files:  # a power cut may not leave names of files that are not on the disk
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        folder.mkdir(exist_ok=True)
        (folder / "result.json").unlink(missing_ok=True)
        for pattern in _OPTIONAL:  # of a result with other classes, or with an uncertainty
            for old in folder.glob(pattern):
                old.unlink()
        for path in files:
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def put_analysis(
    folder: str | Path, found: Findings, *, info: Mapping[str, Any], others: Iterable[Annotation], overview: bytes
) -> None:
    """Write findings into the folder of their result: polygons and picture, then "analysis" in `result.json`.

    An analysis that was there is replaced, and a report of it removed. Every file is whole at any time.

    Args:
        folder: Holds the result.
        found: The findings.
        info: The result's record, which has to be that of the folder.
        others: The result's polygons beside those of the findings, in level-0 pixels.
        overview: A PNG file.

    Raises:
        ResultError: The folder holds no result, or another one.
    """
    path = Path(folder) / "result.json"
    there, own = (without_analysis(one) for one in (read_info(path), json.loads(json.dumps(info))))
    if there != own:
        raise ResultError(
            f"findings are written to the folder of their result, and {folder} holds another one, perhaps predicted "
            "anew meanwhile. Load it and analyse it again, or save this one to a folder of its own first."
        )
    with writing(path.parent):
        annotations, origin = [*found.annotations(), *others], tuple(info["slide"]["origin"])
        write_geojson(path.with_name("annotations.geojson"), annotations, origin=origin)
        for old in ("report.html", CONTOURS):
            path.with_name(old).unlink(missing_ok=True)
        if found.contours is not None:
            with replacing(path.with_name(CONTOURS)) as unfinished:
                unfinished.write_text(contours_csv(found.contours))
        with replacing(path.with_name("overview.png")) as unfinished:
            unfinished.write_bytes(overview)
        with replacing(path) as unfinished:
            unfinished.write_text(json.dumps({**there, "analysis": found.to_json()}, indent=2, allow_nan=False) + "\n")


def without_analysis(info: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of how a result came about."""
    return {name: value for name, value in info.items() if name != "analysis"}
