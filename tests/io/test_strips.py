import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digipath.errors import SpecError
from digipath.io.strips import Bands, replacing


@given(st.integers(1, 60), st.integers(1, 20), st.lists(st.integers(0, 9), max_size=40))
def test_bands_are_of_one_height_and_give_the_whole_back(rows, height, cuts):
    values = np.arange(rows * 3).reshape(rows, 3)
    bands, result, y = Bands("x", values.shape, values.dtype, height), [], 0
    for cut in [*cuts, rows]:
        for top, band in bands.add(y, values[y : y + cut]):
            assert top == sum(len(b) for b in result)
            result.append(band.copy())
        y = min(y + cut, rows)
    bands.finish()
    np.testing.assert_array_equal(np.concatenate(result), values)
    assert all(len(band) == height for band in result[:-1]) and 1 <= len(result[-1]) <= height


def test_the_end_before_the_last_row_is_refused():
    with pytest.raises(SpecError, match="only 0 were written"):
        Bands("x", (3, 3), np.uint8, 2).finish()


def test_a_name_is_given_only_to_what_was_finished(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("one")
        assert not path.exists() and temporary.parent == path.parent
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("two")
        raise KeyboardInterrupt
    assert path.read_text() == "one" and list(path.parent.iterdir()) == [path]
