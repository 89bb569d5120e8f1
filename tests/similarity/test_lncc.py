"""Local correlation against a loop over windows, with its invariances, masks, borders and
gradients.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
import torch
from scipy import ndimage
from steps import Table, between_centres, noise, step_between, voxels_of
from torch import Tensor
from worlds import Wave, oblique_grid

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.objective.features import Window
from inrreg.objective.samplers import Patches, RandomPoints, Sites
from inrreg.objective.step import Samples, Step
from inrreg.ops.separable import box_sum
from inrreg.similarity import LNCC, MSE
from inrreg.similarity.lncc import local_correlation, local_moments, spread

SHARP = LNCC(window_mm=4.0, flatness=0.0)
"""Windows of 5 x 5 x 3 voxels on the oblique grid, of any contrast."""


def looped(
    fixed: Tensor, warped: Tensor, weight: Tensor, radii: Sequence[int], floors: tuple[float, float]
) -> np.ndarray:
    """The definition: a weighted correlation coefficient of the voxels of each window, with the
    floors added to both variances.
    """
    result = np.zeros(fixed.shape)
    for site in product(*map(range, fixed.shape)):
        window = tuple(slice(max(0, i - r), i + r + 1) for i, r in zip(site, radii, strict=True))
        f, w, m = (array[window].numpy().ravel() for array in (fixed, warped, weight))
        if m.sum() == 0:
            continue
        (variance_f, covariance), (_, variance_w) = np.cov(f, w, aweights=m, ddof=0)
        result[site] = covariance / np.sqrt((variance_f + floors[0]) * (variance_w + floors[1]))
    return result


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("ndim", "window_mm", "radii"), [(3, 4.0, (2, 2, 1)), (3, 1.0, (1, 1, 1)), (2, 5.0, (3, 2))]
)
def test_equals_a_loop_over_windows(
    ndim: int, window_mm: float, radii: tuple[int, ...], masked: bool
) -> None:
    grid = oblique_grid(ndim)
    fixed, moving = noise(grid.shape, 1), noise(grid.shape, 2)
    weight = (
        noise(grid.shape, 3) * (noise(grid.shape, 4) > 0.6)
        if masked
        else torch.ones(1, *grid.shape)
    ).double()
    lncc = LNCC(window_mm, flatness=0.3)
    step = step_between(fixed, moving, grid, weight)
    assert lncc.radii(step.sites.spacing, step.sites.lattice) == radii
    floors = tuple(
        0.09 * float(np.cov(values.numpy().ravel(), aweights=weight.numpy().ravel(), ddof=0))
        for values in (fixed, moving)
    )
    expected = looped(fixed[0], moving[0], weight[0], radii, (floors[0], floors[1]))
    # below that a window counts as empty
    counted = (
        ndimage.uniform_filter(weight[0].numpy(), [2 * r + 1 for r in radii], mode="constant")
        * np.prod([2 * r + 1 for r in radii])
        > 1e-3
    )
    # two-pass against one-pass variance
    np.testing.assert_allclose(lncc.map(step)[0, 0].numpy()[counted], expected[counted], atol=1e-9)
    assert float(lncc(step)) == pytest.approx(
        1 - float((weight[0].numpy() * expected)[counted].sum() / weight.sum()), abs=1e-9
    )


@pytest.mark.parametrize("radii", [(1, 2, 3), (0, 9, 1)])
def test_box_sum_is_scipys_uniform_filter(
    radii: tuple[int, ...], generator: torch.Generator
) -> None:
    data = torch.rand(2, 3, 6, 7, 8, generator=generator, dtype=torch.float64)
    size = [2 * r + 1 for r in radii]
    expected = ndimage.uniform_filter(data.numpy(), [1, 1, *size], mode="constant") * np.prod(size)
    np.testing.assert_allclose(box_sum(data, radii), expected, atol=1e-11)


def test_box_sum_is_its_own_adjoint(generator: torch.Generator) -> None:
    data = torch.rand(1, 2, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: box_sum(x, (2, 1)), data)
    assert torch.autograd.gradgradcheck(lambda x: box_sum(x, (2, 1)), data)


def test_identical_and_inverted_images(grid: Grid) -> None:
    fixed = noise(grid.shape, 1)
    # a flatness of 1e-3 adds 1e-6 of the image's variance to each window's, which is up to ten
    # times smaller
    floor = 1e-5
    assert float(SHARP(step_between(fixed, fixed, grid))) == pytest.approx(0, abs=floor)
    assert float(SHARP(step_between(fixed, 1 - fixed, grid))) == pytest.approx(2, abs=floor)


def test_gain_and_offset_change_nothing(grid: Grid) -> None:
    fixed, moving, lncc = noise(grid.shape, 1), noise(grid.shape, 2), LNCC(4.0)
    expected = lncc.map(step_between(fixed, moving, grid))
    torch.testing.assert_close(
        lncc.map(step_between(fixed, 250 * moving - 900, grid)), expected, rtol=0, atol=1e-9
    )
    torch.testing.assert_close(
        lncc.map(step_between(1e-3 * fixed + 5e-3, moving, grid)), expected, rtol=0, atol=1e-9
    )


def test_gain_and_offset_change_little_in_single_precision(grid: Grid) -> None:
    """Computed tomography in HU without a window: offsets of a few standard deviations."""
    fixed, moving = (noise(grid.shape, seed)[None].float() for seed in (1, 2))
    weight = torch.ones_like(fixed)
    radii = [1] * grid.ndim

    def measured(f: Tensor, w: Tensor) -> Tensor:
        return local_correlation(
            f,
            w,
            weight,
            radii,
            local_moments(f, weight, radii),
            (0.01 * spread(f, weight), 0.01 * spread(w, weight)),
        )

    # a variance of 1e5 is a difference of numbers around 1e7
    torch.testing.assert_close(
        measured(1000 * fixed - 3000, 500 * moving + 2000),
        measured(fixed, moving),
        rtol=0,
        atol=1e-2,
    )


def test_a_slowly_varying_bias_is_forgiven_where_mse_sees_it() -> None:
    grid = oblique_grid(2)
    fixed = noise(grid.shape, 1)
    # a gain of 0.6 to 1.6 over waves of 30 mm, windows of 4 mm
    bias = torch.exp(0.5 * Wave(2)(grid.points(torch.float64)) / 3)[None]
    plain, biased = step_between(fixed, fixed, grid), step_between(fixed, bias * fixed + bias, grid)
    assert float(SHARP(biased)) - float(SHARP(plain)) < 0.02
    assert float(MSE()(biased)) > 0.5


def test_flat_windows_are_drawn_to_zero() -> None:
    grid = oblique_grid(2)
    flat = (torch.arange(24) < 12)[:, None].expand(grid.shape)
    fixed = torch.where(flat, 1e-4, 1.0) * noise(grid.shape, 1)[0]
    local = LNCC(4.0).map(step_between(fixed, fixed, grid))[0, 0]
    # its noise is a ten-thousandth of the rest's, its variance a millionth of the floor
    assert float(local[:9].max()) < 1e-4
    assert float(local[15:].min()) > 0.9


@pytest.mark.parametrize("value", [1e6, -1e6])
def test_what_the_masks_leave_out_changes_nothing(grid: Grid, value: float) -> None:
    fixed, moving = noise(grid.shape, 1), noise(grid.shape, 2)
    fixed_mask, moving_mask = (
        noise(grid.shape, seed) > threshold for seed, threshold in ((3, 0.3), (4, 0.7))
    )
    # next to the moving mask interpolation mixes both sides
    beyond = ~torch.from_numpy(ndimage.binary_dilation(moving_mask[0].numpy()))[None]
    assert int(beyond.sum()) > 20
    expected = step_between(fixed, moving, grid, fixed_mask, moving_mask)
    absurd = step_between(
        torch.where(fixed_mask, fixed, value),
        torch.where(beyond, value, moving),
        grid,
        fixed_mask,
        moving_mask,
    )
    assert 0.15 < float(expected.weight.mean()) < 0.25
    for lncc in (LNCC(4.0), SHARP):
        # both in double precision
        torch.testing.assert_close(lncc.map(absurd), lncc.map(expected), rtol=0, atol=1e-9)
        assert float(lncc(absurd)) == pytest.approx(float(lncc(expected)), abs=1e-9)


def test_an_empty_mask_counts_as_no_agreement(grid: Grid) -> None:
    fixed = noise(grid.shape, 1)
    assert float(SHARP(step_between(fixed, fixed, grid, torch.zeros(grid.shape)))) == 1


def test_a_window_larger_than_the_lattice_is_refused(grid: Grid) -> None:
    fixed = noise(grid.shape, 1)
    with pytest.raises(
        InputError,
        match=r"LNCC needs lattices of at least its window, .* choose a smaller window_mm",
    ):
        LNCC(50.0)(step_between(fixed, fixed, grid))


def test_loose_points_are_refused(grid: Grid, generator: torch.Generator) -> None:
    fixed = noise(grid.shape, 1)
    sites = RandomPoints(10).draw(step_between(fixed, fixed, grid).level.fixed_mask, generator)
    with pytest.raises(InputError, match="sample the whole grid or larger patches"):
        LNCC(4.0)(step_between(fixed, fixed, grid, sites=sites))


def test_a_patch_on_voxel_centres_sees_what_the_grid_sees_in_its_middle(
    grid: Grid, generator: torch.Generator
) -> None:
    fixed, moving = noise(grid.shape, 1), noise(grid.shape, 2)
    dense = step_between(fixed, moving, grid)
    drawn = Patches(count=40, size=5).draw(dense.level.fixed_mask, generator)
    on_centres = Sites(grid.to_world(grid.to_voxel(drawn.points.double()).round()), drawn.spacing)
    lncc = LNCC(2.0 if grid.ndim == 2 else 3.5, flatness=0.0)
    radii = lncc.radii(dense.sites.spacing, (5,) * grid.ndim)
    middle = (slice(None), 0, *[2] * grid.ndim)
    patches = lncc.map(step_between(fixed, moving, grid, sites=on_centres))[middle]
    voxels = grid.to_voxel(on_centres.points)[(slice(None), *[2] * grid.ndim)].round().long()
    within = (
        (voxels >= torch.tensor(radii)) & (voxels < torch.tensor(grid.shape) - torch.tensor(radii))
    ).all(-1)
    assert int(within.sum()) > 10
    expected = lncc.map(dense)[0, 0][tuple(voxels[within].T)]
    # the floors, 1e-6 of the variance of what each has seen, differ
    torch.testing.assert_close(patches[within], expected, rtol=0, atol=1e-5)


def test_channels_are_averaged(grid: Grid) -> None:
    fixed, moving = noise(grid.shape, 1, channels=2), noise(grid.shape, 2, channels=2)
    each = [float(SHARP(step_between(fixed[c], moving[c], grid))) for c in range(2)]
    # the floors are common
    assert float(SHARP(step_between(fixed, moving, grid))) == pytest.approx(np.mean(each), abs=1e-5)


def test_its_feature_is_compared(grid: Grid) -> None:
    fixed, moving = noise(grid.shape, 1), noise(grid.shape, 2)
    clipped = LNCC(4.0, feature=Window(0.4, 0.6))(step_between(fixed, moving, grid))
    assert float(clipped) == pytest.approx(
        float(LNCC(4.0)(step_between(fixed.clamp(0.4, 0.6), moving.clamp(0.4, 0.6), grid))),
        abs=1e-9,
    )


@pytest.mark.parametrize("ndim", [2, 3])
def test_gradient_by_the_motion_is_right(ndim: int) -> None:
    grid = oblique_grid(ndim).cropped((3, 2, 1)[:ndim], (7, 5, 4)[:ndim])
    fixed, moving, weight = noise(grid.shape, 1), noise(grid.shape, 2), noise(grid.shape, 3)
    # the variance of the whole warped image is held constant on purpose, so the gradient is exact
    # for a flatness of 0 only
    assert torch.autograd.gradcheck(
        lambda u: LNCC(2.0, flatness=0.0)(
            step_between(fixed, moving, grid, weight, transform=Table(u))
        ),
        between_centres(grid),
        atol=1e-5,
    )


def test_moments_of_the_fixed_image_are_kept_and_still_right(grid: Grid) -> None:
    """Two steps over the same samples: the second one reads what the first one computed, and not
    where its own weight differs.
    """
    fixed, moving = noise(grid.shape, 1), noise(grid.shape, 2)
    lncc, first = LNCC(4.0), step_between(fixed, moving, grid, sites=voxels_of(grid))
    shift = 2.2 * torch.tensor(grid.matrix[:, 0])
    again = Step(first.samples, Table(torch.zeros_like(first.sites.points)), None)
    leaving = Step(first.samples, Table(shift.expand_as(first.sites.points)), None)
    assert torch.equal(lncc.map(first), lncc.map(again))
    fresh = Step(
        Samples(first.level, first.sites), Table(shift.expand_as(first.sites.points)), None
    )
    assert float(leaving.weight.mean()) < 1
    assert torch.equal(lncc.map(leaving), lncc.map(fresh))


def test_each_channel_has_a_floor_of_its_own() -> None:
    """A bright contrast beside a faint one does not flatten it: the cost of both is the mean of the
    costs of each.
    """
    grid = Grid.from_spacing((12, 11, 10), 2.0)
    bright, faint = 0.6 + 0.04 * noise(grid.shape, 1), 0.2 + 0.01 * noise(grid.shape, 2)
    others = bright + 0.01 * noise(grid.shape, 3), faint + 0.003 * noise(grid.shape, 4)
    alone = [
        float(LNCC(6.0)(step_between(f, m, grid)))
        for f, m in zip((bright, faint), others, strict=True)
    ]
    both = float(LNCC(6.0)(step_between(torch.stack([bright, faint]), torch.stack(others), grid)))
    assert both == pytest.approx(sum(alone) / 2, rel=1e-6)
