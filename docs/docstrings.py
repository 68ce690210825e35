"""What the API reference makes of docstrings: an "Example:" is a block of code, as "Examples:" is to its reader."""

import re
from typing import Any

import griffe


class OneExample(griffe.Extension):
    """Read the section "Example:" as "Examples:"."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:  # noqa: ARG002
        """Rename the section before the docstring is parsed."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
