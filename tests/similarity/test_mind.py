"""MIND and MIND-SSC: channels and their definition, invariances, anisotropic voxels, and use as a
measure.
"""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, shift
from steps import image_of, noise, step_between, voxels_of
from torch import Tensor
from worlds import oblique

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.similarity import MSE, Mind, MindSSC

KINDS = pytest.mark.parametrize("kind", [Mind, MindSSC])


def scene(points: Tensor) -> Tensor:
    """Waves of 30 to 40 mm along several directions."""
    waves = torch.tensor(
        [[0.2, 0.05, 0.03], [-0.05, 0.18, 0.08], [0.03, -0.1, 0.13], [0.1, 0.1, -0.1]],
        dtype=points.dtype,
    )[:, : points.shape[-1]]
    return (points @ waves.T + torch.tensor([0.3, 1.1, 2.0, 0.7], dtype=points.dtype)).sin().sum(-1)


def neighbours(ndim: int) -> np.ndarray:
    """Offsets of one step along each index axis, back and forth, axis by axis."""
    return np.stack(
        [sign * np.eye(ndim, dtype=int)[axis] for axis in range(ndim) for sign in (-1, 1)]
    )


@pytest.mark.parametrize(
    ("kind", "ndim", "channels"), [(Mind, 2, 4), (Mind, 3, 6), (MindSSC, 2, 4), (MindSSC, 3, 12)]
)
def test_one_channel_a_pair_of_neighbours(kind: type, ndim: int, channels: int) -> None:
    grid = Grid.from_spacing((12, 11, 10)[:ndim], (1.0, 1.2, 2.0)[:ndim], direction=oblique(ndim))
    result = kind()(image_of(noise(grid.shape, 1), grid))
    assert (result.channels, result.grid) == (channels, grid)
    assert 0 <= float(result.data.min()) < 0.5
    torch.testing.assert_close(result.data.amax(0), torch.ones(grid.shape, dtype=torch.float64))


@KINDS
@pytest.mark.parametrize("ndim", [2, 3])
def test_equals_its_definition(kind: type, ndim: int, device: torch.device) -> None:
    """exp(-D / V) from scipy's shifts and Gaussian filter, away from the border, with an offset of
    half voxels along one axis.
    """
    grid = Grid.from_spacing((26, 24, 22)[:ndim], (1.0, 2.0, 4 / 3)[:ndim], direction=oblique(ndim))
    values = noise(grid.shape, 4)
    views = {
        tuple(o): shift(values[0].numpy(), -o * 2.0 / grid.spacing, order=1, mode="nearest")
        for o in (*neighbours(ndim), np.zeros(ndim, int))
    }
    pairs = (
        [((0,) * ndim, tuple(o)) for o in neighbours(ndim)]
        if kind is Mind
        else [(tuple(a), tuple(b)) for a, b in combinations(neighbours(ndim), 2) if a @ b == 0]
    )
    distance = np.stack(
        [
            gaussian_filter(
                (views[a] - views[b]) ** 2, 1.2 / grid.spacing, mode="nearest", truncate=4.01
            )
            for a, b in pairs
        ]
    )
    distance -= distance.min(0)
    expected = np.exp(-distance / distance.mean(0))
    result = kind(2.0, 1.2)(image_of(values, grid).to(device)).data.cpu()
    # an offset and four sigma
    inner = (slice(None), *[slice(int(np.ceil(7 / h)), -int(np.ceil(7 / h))) for h in grid.spacing])
    # the tails of the two kernels end differently
    np.testing.assert_allclose(result[inner], expected[inner], atol=2e-4)


@KINDS
@pytest.mark.parametrize(("gain", "offset"), [(250.0, -1000.0), (-3.0, 2.0), (1e-3, 0.0)])
def test_forgets_gain_and_offset(
    kind: Callable[[], Callable[[Image], Image]], gain: float, offset: float, grid: Grid
) -> None:
    image = image_of(noise(grid.shape, 1), grid)
    expected = kind()(image).data
    torch.testing.assert_close(
        kind()(image.with_data(gain * image.data + offset)).data, expected, rtol=0, atol=1e-6
    )
    single = image.with_data((gain * image.data + offset).float())
    # intensities of 1000 in single precision
    torch.testing.assert_close(kind()(single).data, expected.float(), rtol=0, atol=2e-3)


@KINDS
@pytest.mark.parametrize(("long", "typical", "rare"), [(2, 2e-3, 0.02), (3, 0.06, 0.5)])
@pytest.mark.parametrize("ndim", [2, 3])
def test_does_not_depend_on_the_voxels(
    kind: type, ndim: int, long: int, typical: float, rare: float
) -> None:
    """The same scene on an isotropic and on an anisotropic grid, compared at the voxels that they
    share.

    An offset of 2 mm falls on voxels of 2 mm. It falls between those of 3 mm, and linear
    interpolation adds a ninth of h^2 times the curvature, which is half of what neighbours on
    either side of a smooth slope differ by.
    """
    frame = (-31.0, 47.0, 112.0)[:ndim], oblique(ndim)
    even = Grid.from_spacing((43, 40, 46)[3 - ndim :], 1.0, *frame)
    other = Grid.from_spacing(
        (85, 40, -(-46 // long))[3 - ndim :], (0.5, 1.0, long)[3 - ndim :], *frame
    )
    margin = slice(6, -6)
    one_pick, other_pick = (
        (margin, margin, slice(2 * long, 46 - 2 * long, long))[3 - ndim :],
        (
            slice(12, -12, 2),
            margin,
            slice(2, -2),
        )[3 - ndim :],
    )
    torch.testing.assert_close(
        even.points()[one_pick], other.points()[other_pick], rtol=0, atol=1e-3
    )
    waves = [Image(scene(grid.points(torch.float64))[None], grid) for grid in (even, other)]
    one, two = (
        kind()(image).data[:, *pick]
        for image, pick in zip(waves, (one_pick, other_pick), strict=True)
    )
    error = (one - two).abs()
    assert float(one.std()) > 0.3  # there is something to compare
    assert float(error.mean()) < typical
    assert float(error.flatten().quantile(0.99)) < rare
    in_voxels = kind()(Image(waves[1].data, Grid.from_spacing(other.shape, 1.0, *frame))).data[
        :, *other_pick
    ]
    # as it would be if a voxel were a millimetre
    assert float((one - in_voxels).abs().mean()) > 0.1


@KINDS
@pytest.mark.parametrize("value", [0.0, -1000.0])
def test_a_constant_image_has_a_finite_descriptor(
    kind: type, value: float, grid: Grid, device: torch.device
) -> None:
    flat = kind()(image_of(torch.full(grid.shape, value), grid).to(device)).data
    assert bool(torch.isfinite(flat).all())
    torch.testing.assert_close(flat, torch.ones_like(flat))


@KINDS
def test_flat_regions_beside_structure_are_finite(kind: type) -> None:
    grid = Grid.from_spacing((40, 30), (1.0, 1.5))
    values = torch.zeros(grid.shape)
    values[25:, 10:20] = noise((15, 10), 1)[0]
    result = kind()(image_of(values, grid)).data
    assert bool(torch.isfinite(result).all())
    assert float(result[:, :10].min()) == 1  # nothing differs there, and no noise is blown up


@KINDS
def test_a_thin_stack_has_a_descriptor(kind: type) -> None:
    grid = Grid.from_spacing((10, 9, 1), (1.0, 1.0, 5.0))
    assert bool(torch.isfinite(kind()(image_of(noise(grid.shape, 1), grid)).data).all())


@KINDS
def test_channels_of_the_image_are_taken_together(kind: type, grid: Grid) -> None:
    values = noise(grid.shape, 1)
    torch.testing.assert_close(
        kind()(image_of(torch.cat([values, values]), grid)).data,
        kind()(image_of(values, grid)).data,
    )


def test_is_a_feature_of_a_measure(grid: Grid) -> None:
    """The same anatomy in another contrast costs nothing, and less than where it is displaced."""
    fixed = noise(grid.shape, 1)
    measure = MSE(feature=MindSSC())
    assert hash(MindSSC()) == hash(MindSSC())
    aligned = float(measure(step_between(fixed, 3 - 2 * fixed, grid)))
    assert aligned == pytest.approx(0.0, abs=1e-12)
    displaced = float(measure(step_between(fixed, 3 - 2 * fixed.roll(2, 1), grid)))
    assert displaced > 0.01
    one, other = (
        MindSSC()(image_of(values, grid)).data for values in (fixed, 1 - noise(grid.shape, 2))
    )
    assert float(measure(step_between(fixed, 1 - noise(grid.shape, 2), grid))) == pytest.approx(
        float((one - other).square().mean())
    )
    assert float(measure(step_between(fixed, fixed, grid, sites=voxels_of(grid)))) == pytest.approx(
        0.0, abs=1e-9
    )


@KINDS
@pytest.mark.parametrize(
    "wrong",
    [{"offset_mm": 0.0}, {"offset_mm": -1.0}, {"sigma_mm": -0.1}, {"offset_mm": float("nan")}],
)
def test_impossible_lengths_are_refused(kind: type, wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="offset above 0 mm and a patch of 0 mm or more"):
        kind(**wrong)
