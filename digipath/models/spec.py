"""ModelSpec: what a network expects and what it returns. NumPy alone: it can be read where TensorFlow is missing."""

import dataclasses
import json
from dataclasses import dataclass

import numpy as np

from digipath.errors import BundleError, SpecError

__all__ = ["FORMAT_VERSION", "ModelSpec"]

FORMAT_VERSION = 1
KINDS = ("segmenter", "classifier")
ACTIVATIONS = ("softmax", "sigmoid")
KERNELS = ("box", "bilinear", "bicubic", "lanczos")
NORMALISATIONS = ("none", "macenko")  # those of digipath.slides.stain
OWN_WIDTHS = {"slim-inceptionv3": 0.1}  # of catalogue networks that are published slimmed down; of all others 1


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What a network expects and what it returns.

    Attributes:
        architecture: name in the catalogue, or any other for a network of the user's own.
        mpp: micrometres per pixel that the network was trained at.
        patch: side of its patches, in pixels at `mpp`.
        kind: "segmenter" (values for every position) or "classifier" (values for the patch).
        classes: a name for each channel, the lesion last.
        activation: "softmax", or "sigmoid": one channel, the probability of the second of two classes.
        output_stride: pixels of the patch per value of a segmenter's output, along a side.
        margin: pixels at each border of a patch that no value describes.
        resampling: kernel that brings a slide to `mpp`: "box", "bilinear", "bicubic" or "lanczos".
        threshold: probability of the lesion above which a pixel is one.
        temperature: divides the logarithms of the probabilities before they are made to sum to one; 1 for none.
        width: factor on a catalogue network's channels, as in `digipath.build`; None becomes the network's own, 1 for
            all but the slimmed-down Inception-v3.
        stain: "macenko" where the network was trained on slides whose stains were normalised (digipath.slides.stain),
            and so is applied to such; "none" for colours as they are.
        format_version: of the bundle.

    Example:
        >>> ModelSpec(architecture="unet-mobilenetv2", mpp=1.1, patch=224, output_stride=2).classes
        ('other', 'lesion')
    """

    architecture: str
    mpp: float
    patch: int
    kind: str = "segmenter"
    classes: tuple[str, ...] = ("other", "lesion")
    activation: str = "softmax"
    output_stride: int = 1
    margin: int = 0
    resampling: str = "box"
    threshold: float = 0.5
    temperature: float = 1.0
    width: float | None = None
    stain: str = "none"
    format_version: int = FORMAT_VERSION

    def __post_init__(self):
        _check_choices(self)
        if self.width is None:
            object.__setattr__(self, "width", OWN_WIDTHS.get(self.architecture, 1.0))
        _check_classes(self)
        _check_numbers(self)
        _check_geometry(self)

    @property
    def channels(self) -> int:
        """How many channels the network itself returns: one for a sigmoid, else one a class."""
        return 1 if self.activation == "sigmoid" else len(self.classes)

    def probabilities(self, output: np.ndarray) -> np.ndarray:
        """What the network returned as (n, rows, columns, classes) float32; the classes sum to one.

        Names both classes of a sigmoid, applies the temperature, gives a classifier's (n, classes) one row and column.
        """
        values = np.asarray(output, np.float32)
        if self.kind == "classifier" and values.ndim == 2:
            values = values[:, None, None, :]
        if values.ndim != 4 or values.shape[-1] != self.channels:
            raise SpecError(
                f"A {self.kind} with {self.activation} over {self.classes} returns {self.channels} channels, "
                f"got an array of shape {np.shape(output)}. Correct the specification's kind, classes or activation."
            )
        if self.activation == "sigmoid":
            values = np.concatenate([1 - values, values], axis=-1)
        return values if self.temperature == 1 else _tempered(values, self.temperature)

    def to_json(self) -> str:
        """The specification as JSON, the same text for equal specifications."""
        entries = dataclasses.asdict(self)
        if self.stain == "none":  # as before there was a choice: bundles keep their hashes, and older readers read them
            del entries["stain"]
        return json.dumps(entries, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "ModelSpec":
        """The specification that `to_json` wrote; unknown entries and newer formats are errors."""
        try:
            entries = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BundleError(
                f"A specification must be JSON, and this is not: {error}. Save the bundle again."
            ) from error
        if not isinstance(entries, dict):
            raise BundleError(
                f"A specification must be a JSON object, got {type(entries).__name__}. Save the bundle again."
            )
        version = entries.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise BundleError(
                f"The bundle has format version {version}; this digipath reads up to {FORMAT_VERSION}. Update digipath."
            )
        known = {field.name: field for field in dataclasses.fields(cls)}
        if unknown := sorted(set(entries) - set(known)):
            raise BundleError(f"A specification has no entry {', '.join(unknown)}. It may have: {', '.join(known)}.")
        required = {name for name, field in known.items() if field.default is dataclasses.MISSING}
        if missing := sorted(required - set(entries)):
            raise BundleError(f"A specification needs {', '.join(missing)}. Add what is missing to spec.json.")
        if isinstance(entries.get("classes"), list):
            entries["classes"] = tuple(entries["classes"])
        return cls(**entries)


def _tempered(values: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities to the power 1 / temperature, scaled to sum to one; through logarithms, so that none is lost."""
    logs = np.log(np.clip(values, 1e-7, 1.0)) / np.float32(temperature)
    powers = np.exp(logs - logs.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _check_choices(spec: ModelSpec) -> None:
    if not (isinstance(spec.architecture, str) and spec.architecture.strip()):
        raise SpecError(
            f"architecture is a name, got {spec.architecture!r}. Any name will do for a network of your own."
        )
    choices = (
        ("kind", KINDS),
        ("activation", ACTIVATIONS),
        ("resampling", KERNELS),
        ("stain", NORMALISATIONS),
    )
    for name, allowed in choices:
        if getattr(spec, name) not in allowed:
            raise SpecError(f"{name} is one of {', '.join(allowed)}, got {getattr(spec, name)!r}. Choose one of them.")


def _check_classes(spec: ModelSpec) -> None:
    classes = spec.classes
    if not isinstance(classes, tuple) or not all(isinstance(name, str) and name.strip() for name in classes):
        raise SpecError(f"classes is a tuple of names, got {classes!r}. Write for example ('other', 'lesion').")
    if bad := [name for name in classes if not name.isprintable()]:
        raise SpecError(f"classes are named in printable characters, as results show them, got {bad[0]!r}. Rename it.")
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise SpecError(
            f"classes holds at least two different names, got {classes}. Name the rest too: ('other', 'lesion')."
        )
    if spec.activation == "sigmoid" and len(classes) != 2:
        raise SpecError(f"A sigmoid tells two classes apart, got {classes}. Use activation='softmax' for more.")


def _check_numbers(spec: ModelSpec) -> None:
    ranges = (
        ("mpp", 0.05, 50, "micrometres per pixel"),
        ("threshold", 0, 1, "a probability"),
        ("temperature", 0.01, 100, "a divisor of log-probabilities"),
        ("width", 0.01, 4, "a factor on channels"),
    )
    for name, low, high, meaning in ranges:
        value = getattr(spec, name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SpecError(f"{name} is a number ({meaning}), got {value!r}. Give a number from {low} to {high}.")
        if not low <= value <= high:
            raise SpecError(f"{name} lies between {low} and {high} ({meaning}), got {value}. Correct it.")


def _check_geometry(spec: ModelSpec) -> None:
    for name, least in (("patch", 1), ("output_stride", 1), ("margin", 0), ("format_version", 1)):
        value = getattr(spec, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise SpecError(f"{name} is a whole number from {least} up, got {value!r}. Write it without a point.")
    if spec.patch % spec.output_stride or spec.margin % spec.output_stride:
        raise SpecError(
            f"patch and margin are multiples of output_stride {spec.output_stride}, got {spec.patch}, {spec.margin}. "
            f"The next patch that fits is {-(-spec.patch // spec.output_stride) * spec.output_stride}."
        )
    if 2 * spec.margin >= spec.patch:
        raise SpecError(
            f"margin leaves something of the patch, got {spec.margin} at each border of {spec.patch}. Make it smaller."
        )
