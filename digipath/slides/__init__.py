"""Pixels from disk: slides of every format, tissue, and made slides."""

from digipath.slides.array import ArraySlide
from digipath.slides.slide import Slide, describe, open_slide

__all__ = ["ArraySlide", "Slide", "describe", "open_slide"]
