"""Write a result for other programs: its masks or probabilities as a DICOM segmentation of the slide.

GeoJSON for QuPath, XML for ASAP and TIFFs are in every result folder; a DICOM segmentation needs the slide in DICOM.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from digipath.geometry.raster import Raster
    from digipath.io.dicom import SegmentationNotes
    from digipath.segmentation import Segmentation

__all__ = ["add_arguments", "run"]

_LONGEST = 64


def add_arguments(parser: argparse.ArgumentParser):
    """Declare the options."""
    parser.add_argument("result", type=Path, metavar="RESULT", help="a result folder")
    parser.add_argument(
        "--dicom-seg", type=Path, required=True, metavar="FILE", help="the DICOM segmentation that is written"
    )
    parser.add_argument(
        "--source",
        type=Path,
        metavar="SLIDE",
        help="a DICOM file of the slide, of which the segmentation takes over patient and place on the glass (default: "
        "the slide that was segmented); if it is another form of that, it has to have the same pixels",
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--threshold", type=float, metavar="P", help="probability above which a pixel is of a class (default: its own)"
    )
    kind.add_argument(
        "--probability", action="store_true", help="write probabilities in steps of 1/255 instead of masks"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the file, and say where it is."""
    from digipath.errors import SpecError
    from digipath.geometry.frame import Box
    from digipath.io.dicom import write_segmentation
    from digipath.segmentation import Segmentation

    with Segmentation.load(arguments.result) as result:
        slide = result.info["slide"]
        source = arguments.source or slide["path"]
        threshold = result.threshold if arguments.threshold is None else arguments.threshold
        if source is None or not Path(source).exists():
            raise SpecError(f"the slide in DICOM has to be at hand, and {source or 'an array'} is not: name --source.")
        write_segmentation(
            arguments.dicom_seg,
            _rasters(result, arguments),
            source=source,
            notes=_notes(result.info, None if arguments.probability else threshold),
            bounds=Box(*slide["origin"], slide["width"], slide["height"]),
        )
    print(arguments.dicom_seg)
    return 0


def _rasters(result: "Segmentation", arguments: argparse.Namespace) -> dict[str, "Raster"]:
    """All classes but the background."""
    names = result.classes[1:] or result.classes
    if arguments.probability:
        return {name: result.probability(name) for name in names}
    return {name: result.mask(arguments.threshold, name=name) for name in names}


def _notes(info: Mapping[str, Any], threshold: float | None) -> "SegmentationNotes":
    """The networks by name and hash; where they are too many for a DICOM name, all of them among the parameters."""
    from digipath.io.dicom import SegmentationNotes

    members = [" ".join(filter(None, (one["name"], one["hash"]))) for one in info["bundle"]["members"]]
    joined = " + ".join(members)
    parameters = {"networks": joined, "mpp": f"{info['mpp']['network']:g}"}
    if threshold is not None:
        parameters["threshold"] = f"{threshold:g}"
    name = joined if len(joined) <= _LONGEST else f"digipath, {len(members)} networks"
    return SegmentationNotes(algorithm=name, version=info["versions"].get("digipath", "unknown"), parameters=parameters)
