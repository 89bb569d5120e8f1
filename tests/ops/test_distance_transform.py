"""Distances up to a limit against scipy's without one."""

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from inrreg.ops.distance_transform import distance_within


@pytest.mark.parametrize("reach", [0.5, 4.0, 6.15, 100.0])
@pytest.mark.parametrize("shape", [(30, 23), (1, 9), (17, 12, 14), (1, 8, 1), (9, 1, 7)])
def test_it_is_scipys_distance_as_far_as_it_reaches(shape: tuple[int, ...], reach: float) -> None:
    rng = np.random.default_rng(0)
    spacing = (2.0, 0.7, 1.3)[: len(shape)]
    for share in (0.002, 0.05, 0.9):
        members = rng.random(shape) < share
        members.flat[0] = True
        expected = np.minimum(distance_transform_edt(~members, sampling=spacing), reach)
        np.testing.assert_allclose(
            distance_within(reach, members, spacing), expected, rtol=0, atol=1e-12
        )
        strided = np.asfortranarray(members)
        np.testing.assert_array_equal(
            distance_within(reach, strided, spacing), distance_within(reach, members, spacing)
        )


def test_nothing_is_as_far_as_it_looks() -> None:
    np.testing.assert_array_equal(
        distance_within(3.0, np.zeros((4, 5, 6), dtype=bool), (1.0, 1.0, 1.0)),
        np.full((4, 5, 6), 3.0),
    )
