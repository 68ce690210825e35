"""Micrometres per pixel of a file: where to find it, and when not to believe it."""

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real

from digipath.errors import ResolutionError, SpecError

__all__ = ["Resolution", "contradiction", "given_resolution", "resolve"]

_PLAUSIBLE = (0.05, 20.0)
_MAX_ANISOTROPY = 1.01
_MAX_CONTRADICTION = 1.2
_MICROMETRES = {
    "um": 1.0, "µm": 1.0, "μm": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0,
    "nm": 1e-3, "mm": 1e3, "millimeter": 1e3, "cm": 1e4, "centimeter": 1e4, "centimetre": 1e4,
    "inch": 25400.0, "in": 25400.0, "m": 1e6,
}  # fmt: skip
_ADVICE = "Give it: open_slide(path, mpp=0.25), or --mpp 0.25 on the command line."


@dataclass(frozen=True)
class Resolution:
    """Micrometres per level-0 pixel along rows and columns, and where they come from."""

    x: float
    y: float
    source: str

    @property
    def mpp(self) -> float:
        """The one number; the geometric mean of both axes."""
        return math.sqrt(self.x * self.y)

    @property
    def plausible(self) -> bool:
        """Whether a microscope could have made it."""
        return all(_PLAUSIBLE[0] <= value <= _PLAUSIBLE[1] for value in (self.x, self.y))

    @property
    def isotropic(self) -> bool:
        """Whether pixels are square, within 1 %."""
        return max(self.x, self.y) <= _MAX_ANISOTROPY * min(self.x, self.y)


def given_resolution(mpp: float) -> Resolution:
    """What the user says, which always wins."""
    if isinstance(mpp, bool) or not (isinstance(mpp, Real) and math.isfinite(mpp) and mpp > 0):
        raise SpecError(f"mpp is a finite number of micrometres per pixel above 0, such as 0.25, got {mpp!r}.")
    return Resolution(float(mpp), float(mpp), "user")


def resolve(name: str, properties: Mapping[str, str]) -> Resolution:
    """The first resolution that a slide's properties state, or a ResolutionError that says what to give.

    Args:
        name: The slide, for messages.
        properties: As OpenSlide names them: `openslide.mpp-x`, `tiff.XResolution`, `tiff.ImageDescription`, ...
    """
    doubts = []
    for found in (_stated(properties), _tiff(properties), _described(properties)):
        if found is None:
            continue
        if found.plausible and found.isotropic:
            return found
        if not found.plausible:
            doubts.append(f"{found.source} says {found.x:.4g} x {found.y:.4g}, outside 0.05 to 20")
        else:
            doubts.append(f"{found.source} says {found.x:.4g} x {found.y:.4g}, which differ by more than 1 %")
        if found.source in ("openslide", "fastslide") or found.plausible:
            break
    else:
        guess = _guessed(properties)
        if guess is not None and guess.plausible:
            warnings.warn(
                f"{name} does not state its resolution; {guess.x:.4g} um/px is guessed from its objective power. "
                f"{_ADVICE}",
                stacklevel=4,
            )
            return guess
    reason = "; ".join(doubts) if doubts else "it states none"
    raise ResolutionError(f"{name} has no usable resolution in micrometres per pixel: {reason}. {_ADVICE}")


def contradiction(mpp: float, properties: Mapping[str, str]) -> str | None:
    """A sentence where micrometres per pixel and objective power are more than 20 % apart; None where they are not.

    An objective of power p goes with about 10 / p um per pixel; intermediate lenses make it another value rightly.
    """
    guess = _guessed(properties)
    if guess is None or max(mpp / guess.mpp, guess.mpp / mpp) <= _MAX_CONTRADICTION:
        return None
    return (
        f"The resolution of {mpp:.4g} um per pixel and the objective of {10 / guess.mpp:g}x, which goes with about "
        f"{guess.mpp:.3g}, contradict each other; every area depends on the resolution."
    )


def _number(text: str | None) -> float | None:
    try:
        value = float(str(text).replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _pair(x: float | None, y: float | None, source: str) -> Resolution | None:
    if x is None and y is None:
        return None
    return Resolution(x or y, y or x, source)


def _stated(properties: Mapping[str, str]) -> Resolution | None:
    for reader in ("openslide", "fastslide"):
        x, y = (_number(properties.get(f"{reader}.mpp-{axis}")) for axis in "xy")
        if x or y:
            return _pair(x, y, reader)
    return None


def _tiff(properties: Mapping[str, str]) -> Resolution | None:
    """Pixels per unit as a TIFF or an image states them; ImageJ names the unit in its description."""
    dots = [_number(properties.get(f"image.dpi-{axis}")) for axis in "xy"]
    if all(dots):
        return Resolution(_MICROMETRES["inch"] / dots[0], _MICROMETRES["inch"] / dots[1], "image-resolution")
    x, y = (_number(properties.get(f"tiff.{axis}Resolution")) for axis in "XY")
    unit = properties.get("tiff.ResolutionUnit", "inch").strip().lower()
    described = re.search(r"^unit=(\S+)", properties.get("tiff.ImageDescription", ""), re.MULTILINE)
    if described and "ImageJ" in properties["tiff.ImageDescription"]:
        unit = described[1].lower().replace("\\u00b5", "u")
    scale = _MICROMETRES.get(unit)
    if scale is None:
        return None
    return _pair(x and scale / x, y and scale / y, "tiff-resolution")


def _described(properties: Mapping[str, str]) -> Resolution | None:
    """Aperio's and OME's words in a TIFF's description."""
    text = properties.get("tiff.ImageDescription", "") or properties.get("openslide.comment", "")
    aperio = re.search(r"\bMPP\s*=\s*([0-9.,]+)", text)
    if aperio:
        return _pair(_number(aperio[1]), None, "image-description")
    values = []
    for axis in "XY":
        size = re.search(rf'PhysicalSize{axis}="([^"]+)"', text)
        unit = re.search(rf'PhysicalSize{axis}Unit="([^"]+)"', text)
        scale = _MICROMETRES.get(unit[1].strip().lower() if unit else "um")
        value = _number(size[1]) if size else None
        values.append(value * scale if value and scale else None)
    return _pair(*values, "image-description")


def _guessed(properties: Mapping[str, str]) -> Resolution | None:
    power = _number(properties.get("openslide.objective-power"))
    if power is None:
        found = re.search(r"\bAppMag\s*=\s*([0-9.]+)", properties.get("tiff.ImageDescription", ""))
        power = _number(found[1]) if found else None
    return Resolution(10 / power, 10 / power, "objective-power (guess)") if power else None
