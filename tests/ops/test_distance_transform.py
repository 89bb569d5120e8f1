"""Distances up to a limit against scipy's without one."""

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from inrreg.ops.dispatch import second_derivatives
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
        found = distance_within(reach, torch.from_numpy(members), spacing)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
        with second_derivatives():  # the torch form
            found = distance_within(reach, torch.from_numpy(members), spacing)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_nothing_is_as_far_as_it_looks() -> None:
    found = distance_within(3.0, torch.zeros(4, 5, 6, dtype=torch.bool), (1.0, 1.0, 1.0))
    assert torch.equal(found, torch.full((4, 5, 6), 3.0, dtype=torch.float64))
