"""What several test files share: where the real data lies, and a cache of their own."""

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


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    """Tests neither find what the user's own runs have cached, nor leave anything there."""
    with pytest.MonkeyPatch.context() as patch:
        if "DIGIPATH_CACHE" not in os.environ:
            patch.setenv("DIGIPATH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
