"""Keras, loaded without a word."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

__all__ = ["import_keras"]


def import_keras() -> ModuleType:
    """Import Keras and its backend, and keep what TensorFlow prints then from standard error.

    TensorFlow greets past Python, and before it looks at `TF_CPP_MIN_LOG_LEVEL`. Whoever sets that variable to
    something else than 3 hears it.
    """
    with _silence():
        import keras

    return keras


@contextmanager
def _silence() -> Iterator[None]:
    if "tensorflow" in sys.modules or os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3") != "3":
        yield
        return
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
