"""Where a step looks: lattices of the right places, inside the mask, from the generator alone."""

import numpy as np
import pytest
import torch
from steps import image_of
from torch import Tensor
from worlds import oblique_grid

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.objective.samplers import Patches, RandomPoints, Sampler, WholeGrid

SAMPLERS = [WholeGrid(), WholeGrid(4.0), Patches(20, 5), RandomPoints(20)]


@pytest.fixture
def mask(grid: Grid) -> Image:
    """1 in a block of voxels away from the border."""
    inside = torch.zeros(grid.shape)
    inside[tuple(slice(3, n - 3) for n in grid.shape)] = 1
    return image_of(inside, grid, "mask")


def blocked(voxels: Tensor, grid: Grid, slack: float) -> bool:
    """Whether continuous indices lie within the block of the mask, up to ``slack`` voxels."""
    upper = torch.tensor(grid.shape, dtype=voxels.dtype) - 4
    return bool(((voxels >= 3 - slack) & (voxels <= upper + slack)).all())


def test_the_whole_grid_is_its_voxel_centres(mask: Image, generator: torch.Generator) -> None:
    sites = WholeGrid().draw(mask, generator)
    assert sites.grid is not None
    assert sites.grid.same_as(mask.grid)
    assert sites.lattice == mask.grid.shape
    assert torch.equal(sites.points[0], mask.grid.points())
    assert sites.spacing == pytest.approx(tuple(mask.grid.spacing))


def test_a_coarser_grid_covers_the_same_box(mask: Image, generator: torch.Generator) -> None:
    sites = WholeGrid(4.0).draw(mask, generator)
    assert sites.grid is not None
    assert all(
        4.0 * 0.999 <= h <= max(4.0, own) * 1.001
        for h, own in zip(sites.spacing, mask.grid.spacing, strict=True)
    )
    np.testing.assert_allclose(sites.grid.center, mask.grid.center, atol=1e-9)
    assert torch.equal(sites.points[0], sites.grid.points())


def test_patches_are_small_lattices_of_the_grid(mask: Image, generator: torch.Generator) -> None:
    grid, d = mask.grid, mask.grid.ndim
    sites = Patches(count=50, size=4).draw(mask, generator)
    assert sites.points.shape == (50, *[4] * d, d)
    assert sites.lattice == (4,) * d
    assert sites.grid is None
    assert sites.spacing == pytest.approx(tuple(grid.spacing))
    for axis in range(d):
        step = sites.points.diff(dim=axis + 1)
        # single precision 100 mm from the origin
        torch.testing.assert_close(
            step,
            torch.tensor(grid.matrix[:, axis], dtype=torch.float32).expand_as(step),
            rtol=0,
            atol=1e-4,
        )


@pytest.mark.parametrize("size", [1, 4, 5])
def test_patches_are_centred_in_the_mask_and_off_the_voxel_centres(
    mask: Image, generator: torch.Generator, size: int
) -> None:
    grid, d = mask.grid, mask.grid.ndim
    middle = (
        grid.to_voxel(Patches(count=4000, size=size).draw(mask, generator).points.double())
        .reshape(4000, -1, d)
        .mean(1)
    )
    assert blocked(middle, grid, 0.5 + 1e-4)
    shift = middle - middle.round()
    assert float(shift.mean().abs()) < 0.01  # 4000 shifts of standard deviation 0.29
    assert float(shift.std()) == pytest.approx(12**-0.5, rel=0.05)
    seen = middle.round().long().unique(dim=0)
    assert len(seen) == int(mask.data.sum())  # every voxel of the mask has its turn


def test_points_are_patches_of_one_site(mask: Image, generator: torch.Generator) -> None:
    sites = RandomPoints(30).draw(mask, generator)
    d = mask.grid.ndim
    assert sites.points.shape == (30, *[1] * d, d)
    assert blocked(mask.grid.to_voxel(sites.points.double()), mask.grid, 0.5 + 1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: type(s).__name__)
def test_the_generator_decides(mask: Image, sampler: Sampler) -> None:
    first, again, other = (
        sampler.draw(mask, torch.Generator().manual_seed(seed)).points for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert torch.equal(first, other) == sampler.deterministic


def test_global_random_numbers_are_left_alone(mask: Image, generator: torch.Generator) -> None:
    before = torch.get_rng_state()
    for sampler in SAMPLERS:
        sampler.draw(mask, generator)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("sampler", [Patches(5), RandomPoints(5)], ids=["patches", "points"])
def test_an_empty_mask_is_refused(sampler: Sampler, generator: torch.Generator) -> None:
    grid = oblique_grid(3)
    with pytest.raises(InputError, match="no voxel of the mask is left"):
        sampler.draw(image_of(torch.zeros(grid.shape), grid), generator)


def test_sites_are_on_the_device_of_the_mask(mask: Image, device: torch.device) -> None:
    for sampler in SAMPLERS:
        there, here = (
            sampler.draw(mask.to(where), torch.Generator().manual_seed(0)).points
            for where in (device, "cpu")
        )
        assert there.device.type == device.type
        # products of a hundred mm round differently
        torch.testing.assert_close(there.cpu(), here, rtol=0, atol=1e-4)
