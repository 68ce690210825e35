"""What a segmenter is made of, as JSON: what another process needs to make the same one."""

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from digipath.errors import BundleError, SpecError
from digipath.inference.cascade import Cascade
from digipath.inference.predictor import Predictor
from digipath.inference.settings import InferenceSettings
from digipath.models.bundle import BUILTIN, Bundle
from digipath.segmenter import Segmenter

__all__ = ["SegmenterSpec"]


@dataclass(frozen=True, kw_only=True)
class SegmenterSpec:
    """What a segmenter is made of: names, folders and numbers alone.

    Attributes:
        members: Of each bundle the absolute folder, or the name of a built-in one, and its hash.
        first: The same of a cascade's first stage; nothing where there is none.
        weights: One for each member, or None.
        settings: An `InferenceSettings` as a dictionary.
        effort: As the segmenter was given it.

    Example:
        >>> spec = SegmenterSpec.of(Segmenter("colon-lesion-light", effort="fast"))
        >>> SegmenterSpec.from_json(spec.to_json()) == spec
        True
        >>> spec.make().networks.members[0].name
        'colon-lesion-light'
    """

    members: tuple[tuple[str, str], ...]
    first: tuple[tuple[str, str], ...] = ()
    weights: tuple[float, ...] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    effort: str | None = None

    @classmethod
    def of(cls, segmenter: Segmenter) -> "SegmenterSpec":
        """What `segmenter` is made of.

        Raises:
            SpecError: A network of it lies in no folder, so that another process could not load it.
        """
        networks = segmenter.networks
        return cls(
            members=tuple(map(_source, networks.members)),
            first=tuple(map(_source, networks.first)),
            weights=networks.weights,
            settings=json.loads(json.dumps(asdict(segmenter.settings))),
            effort=segmenter.effort,
        )

    def make(self, *, threads: int | None = None) -> Segmenter:
        """The segmenter, in this process.

        Args:
            threads: That read slides where the settings leave it open.

        Raises:
            BundleError: A bundle is not there, or is another one than where the specification was made.
        """
        settings = InferenceSettings(**self.settings)
        if settings.threads is None:
            settings = replace(settings, threads=threads)
        members = [_bundle(*source) for source in self.members]
        networks = [Cascade([_bundle(*source) for source in self.first], members)] if self.first else members
        return Segmenter(networks, settings=settings, effort=self.effort, weights=self.weights)

    def to_json(self) -> str:
        """One line that `from_json` reads; equal segmenters give equal lines."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "SegmenterSpec":
        """The specification that `to_json` wrote."""
        values = json.loads(text)
        sources = {name: tuple(tuple(source) for source in values[name]) for name in ("members", "first")}
        weights = values["weights"]
        return cls(**values | sources | {"weights": None if weights is None else tuple(weights)})


def _source(network: Bundle | Predictor) -> tuple[str, str]:
    """Where another process finds a network: folder or built-in name, and hash."""
    if not isinstance(network, Bundle) or network.folder is None:
        kind = f"the bundle {network.name!r}" if isinstance(network, Bundle) else f"a {type(network).__name__}"
        raise SpecError(
            f"the workers of a cluster load bundles from their folders, and {kind} lies in none. "
            "Store it first, Bundle(model, spec).save(folder), and give the folder."
        )
    folder = network.folder.absolute()
    return folder.name if folder.parent == BUILTIN else str(folder), network.hash


def _bundle(source: str, expected: str) -> Bundle:
    """The bundle of a folder or built-in name, which is the one that was meant."""
    bundle = Bundle.load(BUILTIN / source)  # an absolute folder stays what it is
    if bundle.hash != expected:
        raise BundleError(
            f"all workers must find the bundle of the run's begin, and {source} has hash {bundle.hash} here and had "
            f"{expected} there. Put it where all workers see it, or install the same digipath on all."
        )
    return bundle
