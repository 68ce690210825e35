"""Write a result for other programs: outlines, a mask, or a DICOM segmentation of the slide.

Every result folder has its outlines as GeoJSON and ASAP XML and its heatmap as a TIFF; here they are written at another
threshold, without specks, with fewer vertices, and in further formats. A DICOM segmentation needs the slide in DICOM.
"""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from digipath.geometry.polygons import Annotation
    from digipath.geometry.raster import Raster
    from digipath.io.dicom import SegmentationNotes
    from digipath.segmentation import Segmentation

__all__ = ["add_arguments", "run"]

_LONGEST = 64
_ROWS = 1024
_OUTLINED = ("geojson", "asap", "imagescope")


def add_arguments(parser: argparse.ArgumentParser):
    """Declare the options."""
    parser.add_argument("result", type=Path, metavar="RESULT", help="a result folder")
    parser.add_argument("--threshold", type=float, metavar="P", help="probability above which a pixel is of a class")
    parser.add_argument("--class", dest="name", metavar="NAME", help="only this class (default: all but the first)")
    _add_outline_arguments(parser.add_argument_group("outlines"))
    parser.add_argument_group("pixels").add_argument(
        "--mask",
        type=Path,
        metavar="FILE",
        help="a pyramidal TIFF, 0 and 255, in the heatmap's resolution; of one class",
    )
    _add_dicom_arguments(parser.add_argument_group("DICOM"))


def _add_outline_arguments(group):
    for name, program in (
        ("geojson", "QuPath (.geojson, .geojson.gz)"),
        ("asap", "ASAP"),
        ("imagescope", "ImageScope"),
    ):
        group.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"outlines for {program}")
    group.add_argument("--min-area", type=float, default=0.0, metavar="MM2", help="leave out what has less area")
    group.add_argument(
        "--simplify", type=float, default=0.0, metavar="UM", help="leave out vertices that move no outline by more"
    )


def _add_dicom_arguments(group):
    group.add_argument("--dicom-seg", type=Path, metavar="FILE", help="a DICOM segmentation")
    group.add_argument(
        "--source",
        type=Path,
        metavar="SLIDE",
        help="a DICOM file of the slide, of which the segmentation takes over patient and place on the glass (default: "
        "the slide that was segmented); if it is another form of that, it has to have the same pixels",
    )
    group.add_argument(
        "--probability", action="store_true", help="in it, probabilities in steps of 1/255 instead of masks"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the files, and say where they are."""
    from digipath.segmentation import Segmentation

    outlined = [name for name in _OUTLINED if getattr(arguments, name) is not None]
    if not (outlined or arguments.mask or arguments.dicom_seg):
        arguments.usage_error("say what is written: --geojson, --asap, --imagescope, --mask or --dicom-seg")
    if arguments.probability and arguments.threshold is not None:
        arguments.usage_error("probabilities have no threshold: --probability or --threshold")
    with Segmentation.load(arguments.result) as result:
        names = _names(result, arguments)
        if outlined:
            _write_outlines(result, names, arguments)
        if arguments.mask is not None:
            _write_mask(result, names, arguments)
        if arguments.dicom_seg is not None:
            _write_dicom(result, names, arguments)
    for name in (*outlined, "mask", "dicom_seg"):
        if getattr(arguments, name) is not None:
            print(getattr(arguments, name))
    return 0


def _names(result: "Segmentation", arguments: argparse.Namespace) -> tuple[str, ...]:
    """The classes that are written: the one that was named, else all but the background."""
    from digipath.errors import SpecError

    if arguments.name is None:
        return result.classes[1:] or result.classes
    if arguments.name not in result.classes:
        raise SpecError(f"the classes of this result are {', '.join(result.classes)}, got {arguments.name!r}.")
    return (arguments.name,)


def _write_outlines(result: "Segmentation", names: tuple[str, ...], arguments: argparse.Namespace) -> None:
    from digipath.io.asap import write_asap
    from digipath.io.geojson import write_geojson
    from digipath.io.imagescope import write_imagescope

    found = list(_outlines(result, names, arguments))
    if arguments.geojson is not None:
        write_geojson(arguments.geojson, found, origin=tuple(result.info["slide"]["origin"]))
    if arguments.asap is not None:
        write_asap(arguments.asap, found)
    if arguments.imagescope is not None:
        write_imagescope(arguments.imagescope, found, mpp=result.info["slide"]["mpp"])


def _outlines(result: "Segmentation", names: tuple[str, ...], arguments: argparse.Namespace) -> Iterator["Annotation"]:
    for name in names:
        yield from result.annotations(
            arguments.threshold, name=name, min_area_mm2=arguments.min_area, simplify_um=arguments.simplify
        )


def _write_mask(result: "Segmentation", names: tuple[str, ...], arguments: argparse.Namespace) -> None:
    import numpy as np

    from digipath.io.pyramid import write_pyramid

    if len(names) > 1:
        arguments.usage_error(f"a mask is of one class; say which with --class: {', '.join(names)}")
    mask = result.mask(arguments.threshold, name=names[0])
    strips = (
        (box.y, np.where(mask.values[box.slices()], np.uint8(255), np.uint8(0))) for box in mask.frame.rows(_ROWS)
    )
    write_pyramid(arguments.mask, mask.frame, strips, channels=names)


def _write_dicom(result: "Segmentation", names: tuple[str, ...], arguments: argparse.Namespace) -> None:
    from digipath.errors import SpecError
    from digipath.geometry.frame import Box
    from digipath.io.dicom import write_segmentation

    slide = result.info["slide"]
    source = arguments.source or slide["path"]
    threshold = result.threshold if arguments.threshold is None else arguments.threshold
    if source is None or not Path(source).exists():
        raise SpecError(f"the slide in DICOM has to be at hand, and {source or 'an array'} is not: name --source.")
    write_segmentation(
        arguments.dicom_seg,
        _rasters(result, names, arguments),
        source=source,
        notes=_notes(result.info, None if arguments.probability else threshold),
        bounds=Box(*slide["origin"], slide["width"], slide["height"]),
    )


def _rasters(result: "Segmentation", names: tuple[str, ...], arguments: argparse.Namespace) -> dict[str, "Raster"]:
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
