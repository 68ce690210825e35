"""Judging predictions as challenges and papers do, from folders of files to a report.

    report = camelyon16("truth", "predictions")
    print(report.table())
    report.save("report")

Each protocol is a function of two paths and the same settings; docs/evaluation.md tells files, rules and quirks.
"""

from collections.abc import Mapping

from digipath.protocols._camelyon16 import camelyon16
from digipath.protocols._camelyon17 import camelyon17
from digipath.protocols._digestpath import digestpath
from digipath.protocols._paip import paip
from digipath.protocols._pixels import pixels
from digipath.protocols._sections import sections
from digipath.protocols._tiger import tiger
from digipath.protocols.report import Report, Score
from digipath.protocols.settings import EvaluationSettings

__all__ = [
    "PROTOCOLS",
    "EvaluationSettings",
    "Report",
    "Score",
    "camelyon16",
    "camelyon17",
    "digestpath",
    "paip",
    "pixels",
    "sections",
    "tiger",
]

PROTOCOLS: Mapping = {
    function.__name__: function for function in (camelyon16, camelyon17, paip, digestpath, tiger, sections, pixels)
}
"""Every protocol by its name."""
