"""Dice against hand-counted voxels and SimpleITK."""

import json

import numpy as np
import pytest
import SimpleITK
import torch
from evaluation_cases import GRIDS, oblique_2d, oblique_3d, sitk_image

from inrreg.core.errors import FrameError, InputError
from inrreg.core.grid import Grid
from inrreg.core.image import LabelImage
from inrreg.evaluation import label_overlap


def labels(array, grid, name="labels"):
    return LabelImage.from_array(np.asarray(array), grid, name)


def test_hand_counted():
    grid = Grid.from_spacing((2, 4), 1.0)
    fixed = labels([[1, 1, 1, 0], [2, 2, 5, 0]], grid)
    warped = labels([[1, 1, 0, 1], [2, 7, 7, 0]], grid)
    result = label_overlap(fixed, warped)
    # 5 is lost, 7 is not asked for
    assert result.dice == {1: pytest.approx(2 * 2 / 6), 2: pytest.approx(2 * 1 / 3), 5: 0}
    assert result.mean_dice == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert json.loads(json.dumps(result.to_json())) == pytest.approx(
        {
            "n_labels": 3,
            "mean_dice": 4 / 9,
            "label_1_dice": 2 / 3,
            "label_2_dice": 2 / 3,
            "label_5_dice": 0,
        }
    )


@pytest.mark.parametrize("grid", GRIDS, ids=["2-D", "3-D"])
def test_equals_simpleitk(grid):
    generator = np.random.default_rng(0)
    fixed = generator.integers(0, 4, grid.shape)
    warped = np.where(
        generator.random(grid.shape) < 0.6, fixed, generator.integers(0, 4, grid.shape)
    )
    oracle = SimpleITK.LabelOverlapMeasuresImageFilter()
    oracle.Execute(
        sitk_image(fixed.astype(np.int32), grid), sitk_image(warped.astype(np.int32), grid)
    )
    assert label_overlap(labels(fixed, grid), labels(warped, grid)).dice == pytest.approx(
        {label: oracle.GetDiceCoefficient(label) for label in (1, 2, 3)}
    )


def test_identical_labels_overlap_fully():
    array = np.arange(oblique_3d().n_voxels).reshape(oblique_3d().shape) % 5
    assert set(
        label_overlap(labels(array, oblique_3d()), labels(array, oblique_3d())).dice.values()
    ) == {1}


def test_refuses_other_grids_and_empty_labels():
    grid = oblique_3d()
    ones = labels(np.ones(grid.shape), grid, "organs")
    with pytest.raises(FrameError, match="organs"):
        label_overlap(labels(np.ones(oblique_2d().shape), oblique_2d()), ones)
    with pytest.raises(InputError, match="organs holds no label"):
        label_overlap(labels(np.zeros(grid.shape), grid, "organs"), ones)
    with pytest.raises(InputError, match="2 channels"):
        label_overlap(ones, LabelImage(torch.ones(2, *grid.shape, dtype=torch.int32), grid))
