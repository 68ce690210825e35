"""What several test files share: where the real data lies."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Shared machines are noisy: how long an example takes says nothing.
settings.register_profile("digipath", deadline=None)
settings.load_profile("digipath")


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of the real slides, images and annotations; a test that needs it skips where it is absent."""
    folder = Path(os.environ.get("DIGIPATH_DATA", Path(__file__).parents[1] / "../shared/data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set DIGIPATH_DATA to the folder that holds it")
    return folder
