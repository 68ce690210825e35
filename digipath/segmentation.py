"""One slide's result, in memory or in a folder."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from digipath.card import Card, card
from digipath.errors import ResultError, SpecError
from digipath.evidence import AnalysisSettings, Evidence, lesion_class
from digipath.findings import Findings, analyse
from digipath.geometry.frame import Box, Frame
from digipath.geometry.layer import Layer
from digipath.geometry.polygons import Annotation, polygonize
from digipath.geometry.raster import Raster
from digipath.geometry.regions import Region, find_regions
from digipath.inference.sinks import FULL_DEVIATION, FileSink, strips_of
from digipath.io.asap import write_asap
from digipath.io.geojson import write_geojson
from digipath.io.store import Store, open_store
from digipath.overview import Picture, draw, png
from digipath.result_folder import put_analysis, read_info, staged, without_analysis
from digipath.uncertainty import SPECK_MM2, UncertainRegion, Uncertainty

if TYPE_CHECKING:
    from digipath.slides.slide import Slide
    from digipath.viewer.inline import InlineView

__all__ = ["IGNORED", "Segmentation"]

IGNORED = 255
"""The label of pixels that a result says nothing about."""

_ROWS = 1024
_LESION = (200, 0, 0)
_EXPORTED, _NUMBERED = 100, 10  # uncertain regions among the polygons and in the picture


@dataclass(frozen=True, repr=False)
class Segmentation:
    """The heatmap of one slide, and what is drawn from it.

    Attributes:
        heatmap: Probabilities [row, column, class], float16; 0 where not covered.
        covered: Where the heatmap says something: tissue, inside the region asked for, read and predicted.
        tissue: Where there is tissue.
        thumbnail: The slide, small, in RGB.
        info: What `result.json` holds: slide, bundle, versions, settings, areas, status.
        uncertainty: Variances [row, column, kind] of the last class's probability, float32, in the heatmap's frame; the
            kinds are "aleatoric", over the augmentations, and "epistemic", over the networks. None if not asked for.
        folder: Where it was loaded from; None of a result that is in memory alone.
    """

    heatmap: Raster
    covered: Raster
    tissue: Raster
    thumbnail: Raster
    info: dict[str, Any]
    uncertainty: Raster | None = None
    _store: Store | None = None
    folder: Path | None = None

    def close(self):
        """Let go of the folder's file, if it was loaded from one; what was not read by then can no longer be."""
        if self._store is not None:
            self._store.close()

    def __enter__(self) -> "Segmentation":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __repr__(self) -> str:
        frame = self.heatmap.frame
        return f"<Segmentation of {self.info['slide']['name']!r}: {self.summary()}, {frame.mpp:g} um per pixel>"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the heatmap's channels."""
        return self.heatmap.channels

    @property
    def status(self) -> str:
        """One of "ok", "incomplete" (some tissue is not covered, see `uncovered`) and "empty" (no tissue was found)."""
        return self.info["status"]

    @property
    def threshold(self) -> float:
        """Probability above which a pixel belongs to a lesion, unless another is given."""
        return self.info["threshold"]

    def mask(self, threshold: float | None = None, *, name: str | None = None) -> Raster:
        """Mask of the covered pixels whose probability exceeds a threshold.

        Args:
            threshold: Between 0 and 1; None takes the result's own.
            name: The class; None takes the last, which is the lesion in a bundle of two classes.
        """
        return Raster(self._above(threshold, name).array(), self.heatmap.frame)

    def _above(self, threshold: float | None, name: str | None) -> Raster:
        """The mask, made where it is looked at, so that a large one need not fit into memory."""
        threshold, channel = self._threshold(threshold), self._channel(name)

        def rows(chosen: slice) -> np.ndarray:
            return (self.heatmap.values[chosen, :, channel] > threshold) & self.covered.values[chosen]

        return Raster(Layer(self.heatmap.frame.shape, np.dtype(bool), rows), self.heatmap.frame)

    def probability(self, name: str | None = None) -> Raster:
        """One class of the heatmap, by default the last, read where it is looked at; a single layer."""
        values, channel = self.heatmap.values, self._channel(name)
        layer = Layer(self.heatmap.frame.shape, values.dtype, lambda chosen: values[chosen, :, channel])
        return Raster(layer, self.heatmap.frame)

    def lesion_mm2(self, threshold: float | None = None, *, name: str | None = None) -> float:
        """Area of `mask` in mm2, without holding the mask in memory."""
        return self._above(threshold, name).area_mm2

    def labels(self) -> Raster:
        """The most probable class of each covered pixel, uint8; 255 elsewhere."""
        result = np.full(self.heatmap.frame.shape, IGNORED, np.uint8)
        for box in self.heatmap.frame.rows(_ROWS):
            rows = slice(box.y, box.bottom)
            covered = np.asarray(self.covered.values[rows])
            result[rows][covered] = np.asarray(self.heatmap.values[rows])[covered].argmax(-1)
        return Raster(result, self.heatmap.frame)

    def regions(
        self, threshold: float | None = None, *, name: str | None = None, min_area_mm2: float = 0.0
    ) -> list[Region]:
        """Connected regions of the mask with area in mm2, mean and maximum probability, largest first."""
        mask = self._above(threshold, name)
        return find_regions(mask, self.probability(name), min_area_mm2=min_area_mm2)

    def annotations(
        self,
        threshold: float | None = None,
        *,
        name: str | None = None,
        min_area_mm2: float = 0.0,
        simplify_um: float = 0.0,
    ) -> list[Annotation]:
        """The mask as polygons with holes, in level-0 pixels, with area and probability as measurements.

        With `simplify_um` vertices are left out as long as no outline moves by more; areas stay those of the mask.
        """
        name = self.classes[self._channel(name)]
        regions = self.regions(threshold, name=name, min_area_mm2=min_area_mm2)
        mask = self._above(threshold, name)
        polygons = polygonize(mask, name=name, color=_LESION, simplify_um=simplify_um, min_area_mm2=min_area_mm2)
        return [
            replace(polygon, measurements=_measurements(region))
            for polygon, region in zip(polygons, regions, strict=True)
        ]

    def uncertain_regions(
        self, n: int = 10, *, kind: str = "total", above: float | None = None, min_area_mm2: float = SPECK_MM2
    ) -> list[UncertainRegion]:
        """Where the result is not sure of itself: connected regions, those with the most uncertainty in them first.

        Args:
            n: How many at most.
            kind: "aleatoric", over the augmentations; "epistemic", over the networks; or "total", both together.
            above: Standard deviation of the last class's probability above which a pixel is uncertain; None takes 0.15
                (see `digipath.uncertainty.DOUBT`).
            min_area_mm2: Smaller regions are left out.

        Raises:
            ResultError: The result has no uncertainty of this kind.

        Example:
            >>> for region in result.uncertain_regions(3):  # doctest: +SKIP
            ...     print(region.rank, region.centroid, region.area_mm2, region.mean)
        """
        return Uncertainty(self.uncertainty, self.covered, kind, above, min_area_mm2).regions(n)

    def uncertain_mm2(self, above: float | None = None, *, kind: str = "total") -> float:
        """Area of all uncertain pixels in mm2, the smallest specks too."""
        return Uncertainty(self.uncertainty, self.covered, kind, above).mask.area_mm2

    def overview(self, width: int = 1200, *, threshold: float | None = None) -> np.ndarray:
        """The slide with heatmap, contours, scale bar and colour bar; (rows, width, 3) uint8 RGB."""
        return draw(self.picture(threshold), width=width)

    def picture(
        self, threshold: float | None = None, *, name: str | None = None, dashed: Sequence[Annotation] = ()
    ) -> Picture:
        """What `overview` draws, of any class; `dashed` are polygons whose outlines are drawn too."""
        threshold = self._threshold(threshold)
        return Picture(
            thumbnail=self.thumbnail,
            heatmap=self.probability(name),
            covered=self.covered,
            tissue=self.tissue,
            unread=self._unread,
            threshold=threshold,
            title=self.info["slide"]["name"],
            caption=self.summary(threshold),
            label=f"probability of {self.classes[self._channel(name)]}",
            dashed=dashed,
        )

    def uncertainty_overview(self, width: int = 1200, *, kind: str = "total", above: float | None = None) -> np.ndarray:
        """The slide with its uncertainty, the ten most uncertain regions numbered; (rows, width, 3) uint8 RGB."""
        return draw(self.uncertainty_picture(kind=kind, above=above), width=width)

    def uncertainty_picture(self, *, kind: str = "total", above: float | None = None) -> Picture:
        """What `uncertainty_overview` draws."""
        return self._pictured(Uncertainty(self.uncertainty, self.covered, kind, above))

    def _pictured(self, doubt: Uncertainty) -> Picture:
        return Picture(
            thumbnail=self.thumbnail,
            heatmap=doubt.deviation,
            covered=self.covered,
            tissue=self.tissue,
            unread=self._unread,
            threshold=doubt.above,
            title=self.info["slide"]["name"],
            caption=doubt.summary(_NUMBERED),
            label=f"standard deviation of {self.classes[-1]}",
            quantity="deviation",
            full=FULL_DEVIATION,
            outlined=doubt.annotations(_EXPORTED),
            marks=[region.peak for region in doubt.regions(_NUMBERED)],
        )

    @property
    def _unread(self) -> Raster | None:
        return self.uncovered if self.info["areas"]["uncovered_mm2"] else None

    @property
    def uncovered(self) -> Raster:
        """Mask of tissue that the heatmap says nothing about, though it was asked for; made where it is looked at."""
        frame, wanted = self.covered.frame, self._wanted

        def rows(chosen: slice) -> np.ndarray:
            result = np.zeros((chosen.stop - chosen.start, frame.width), bool)
            box = Box(0, chosen.start, *result.shape[::-1]).intersect(wanted)
            missing = self.tissue.sample(box, frame) & ~np.asarray(self.covered.values[box.slices()])
            result[box.shift(0, -chosen.start).slices()] = missing
            return result

        return Raster(Layer(frame.shape, np.dtype(bool), rows), frame)

    @property
    def _wanted(self) -> Box:
        """The pixels of the heatmap's frame that were asked for."""
        frame, region = self.heatmap.frame, self.info["region"]
        level0 = Frame.level0(*frame.slide_size, frame.mpp / frame.downsample)
        return frame.on_slide if region is None else level0.centres_in(Box(*region), frame)

    def summary(self, threshold: float | None = None) -> str:
        """One line: how much lesion in how much tissue, and how much tissue is not covered."""
        if self.status == "empty":
            return "no tissue was found"
        areas, threshold = self.info["areas"], self._threshold(threshold)
        lesion, tissue = self.lesion_mm2(threshold), areas["covered_mm2"]
        share = f" ({lesion / tissue:.0%})" if tissue else ""
        text = f"{lesion:.2f} mm² {self.classes[-1]} in {tissue:.2f} mm² tissue{share} at p > {threshold:g}"
        lost = areas["uncovered_mm2"]
        return f"{text}; {lost:.2f} mm² of tissue not covered" if lost else text

    def _threshold(self, threshold: float | None) -> float:
        threshold = self.threshold if threshold is None else threshold
        if not isinstance(threshold, Real) or not 0 <= threshold <= 1:
            raise SpecError(f"a threshold is a probability from 0 to 1, got {threshold!r}. A class goes by name=.")
        return float(threshold)  # NumPy would not round one of its own numbers to float16, as the heatmap is

    def _channel(self, name: str | None) -> int:
        if name is None:
            return len(self.classes) - 1
        if name not in self.classes:
            raise SpecError(f"the classes of this result are {', '.join(self.classes)}, got {name!r}.")
        return self.classes.index(name)

    def view(self, *, height: int = 600, slide: "Slide | str | Path | None" = None) -> "InlineView":
        """The result as a map to zoom into, in a notebook; needs `pip install "digipath[viewer]"`.

        Args:
            height: Of its frame in the notebook, in pixels.
            slide: The slide, open or a file, where it is not found at the path that the result remembers.
        """
        from digipath.viewer.inline import view

        return view(self, height=height, slide=slide)

    def _repr_png_(self) -> bytes:
        return png(self.overview(900))

    def _repr_html_(self) -> str:
        areas = self.info["areas"].get("classes_mm2", {})
        return card(Card(picture=self.picture(), summary=self.summary(), areas=areas, info=self.info))

    def save(self, folder: str | Path) -> Path:
        """Write everything into one folder; a result that was there is replaced once the new one is complete."""
        folder = Path(folder)
        with staged(folder) as place:
            rasters = {"tissue": self.tissue, "thumbnail": self.thumbnail}
            kinds = self.uncertainty.channels if self.uncertainty is not None else ()
            with FileSink(place, self.heatmap.frame, (*self.classes, *kinds), rasters) as sink:
                for strip in strips_of(self.heatmap, self.covered, self.uncertainty):
                    sink.write(strip)
            self.write_products(place)
        return folder

    def write_products(self, folder: Path):
        """Write what is drawn from the heatmap: polygons of all classes but the background, overview, `result.json`.

        Of a result with uncertainty, the polygons of its most uncertain regions, and a picture, too. An analysis is not
        written along: `analyse` writes it, together with its polygons.
        """
        doubt = None if self.uncertainty is None else Uncertainty(self.uncertainty, self.covered)
        annotations = self._exported(doubt)
        if doubt is not None:
            (folder / "uncertainty.png").write_bytes(png(draw(self._pictured(doubt), width=1200)))
        write_geojson(folder / "annotations.geojson", annotations, origin=tuple(self.info["slide"]["origin"]))
        write_asap(folder / "annotations.xml", annotations)
        (folder / "overview.png").write_bytes(png(self.overview()))
        (folder / "result.json").write_text(json.dumps(without_analysis(self.info), indent=2) + "\n")

    def _exported(self, doubt: Uncertainty | None, *, but: str | None = None) -> list[Annotation]:
        """Polygons of all classes but the background and one more, and of the most uncertain regions."""
        names = [name for name in self.classes[1:] or self.classes if name != but]
        polygons = [one for name in names for one in self.annotations(name=name)]
        return polygons if doubt is None else polygons + doubt.annotations(_EXPORTED)

    def analyse(self, settings: AnalysisSettings | None = None, *, folder: str | Path | None = None) -> Findings:
        """What follows from the heatmap: lesions and the slide's class, tumour burden, sections with tumour.

        Args:
            settings: What is concluded, of which class, and how; None takes everything.
            folder: The folder of this result, into whose `result.json`, `annotations.geojson` and `overview.png` the
                findings go, in place of earlier ones; `digipath.report.write_report` makes a page of them.

        Example:
            >>> found = result.analyse(folder="results/slide")  # doctest: +SKIP
            >>> found.slide_class, found.burden.percent, found.summary()  # doctest: +SKIP
        """
        settings = settings or AnalysisSettings()
        name, threshold = lesion_class(self.classes, settings), self._threshold(settings.threshold)
        found = analyse(
            Evidence(
                heatmap=self.probability(name),
                covered=self.covered,
                tissue=self.tissue,
                threshold=threshold,
                name=name,
                classes=self.heatmap,
                reservations=tuple(self._reservations()),
            ),
            settings,
        )
        if folder is not None:
            doubt = None if self.uncertainty is None else Uncertainty(self.uncertainty, self.covered)
            others = self._exported(doubt, but=name if settings.lesions else None)
            hulls = [found.burden.hull] if found.burden and found.burden.hull else []
            overview = png(draw(self.picture(dashed=hulls), width=1200))
            put_analysis(folder, found, info=self.info, others=others, overview=overview)
        return found

    def _reservations(self) -> Iterator[str]:
        """What a reader of any conclusion has to know."""
        if lost := self.info["areas"]["uncovered_mm2"]:
            yield f"{lost:.2f} mm2 of tissue is not covered; what lies there is not counted."
        if self.info["region"] is not None:
            yield "Only a region of the slide was looked at; every conclusion is of that region."

    @classmethod
    def load(cls, folder: str | Path) -> "Segmentation":
        """Open a result folder; heatmap and masks are read where they are looked at.

        Raises:
            ResultError: There is no complete result, or it comes from a newer digipath.
        """
        folder = Path(folder)
        info = read_info(folder / "result.json")
        store = open_store(folder / "result.h5")
        missing = {"heatmap", "covered", "tissue", "thumbnail"} - set(store)
        if missing:
            raise ResultError(f"{folder / 'result.h5'} lacks {', '.join(sorted(missing))}. Predict the slide again.")
        rasters = (store[name] for name in ("heatmap", "covered", "tissue", "thumbnail"))
        return cls(*rasters, info=info, uncertainty=store.get("uncertainty"), _store=store, folder=folder.absolute())


def _measurements(region: Region) -> dict[str, float]:
    return {
        "area mm2": region.area_mm2,
        "mean probability": region.mean_probability,
        "max probability": region.max_probability,
    }
