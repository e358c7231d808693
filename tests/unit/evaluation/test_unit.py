import numpy as np
import pytest

from vplface.errors import DataError
from vplface.evaluation.unit import require_direction, unit


def test_unit_has_rows_of_norm_1_in_float32():
    rows = unit(np.array([[3.0, 4.0], [0.0, 1e-30]]), "probes")
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.0, 1.0]], rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_unit_names_a_row_without_direction(value):
    with pytest.raises(DataError, match=r"1 of 2 embeddings .* that of row 8 of the probes"):
        unit(np.array([[1.0, 0.0], [value, 0.0]]), "probes", first=7)


def test_require_direction_names_the_first_bad_row():
    require_direction(np.array([1e-300, 1e300]), str)
    with pytest.raises(DataError, match=r"2 of 3 .* that of picture 1;"):
        require_direction(np.array([1.0, 0.0, np.nan]), lambda row: f"picture {row}")
