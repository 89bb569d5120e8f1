"""Kernels and weights of the shooting: closed forms on oblique grids, symmetry, and masks that make
no sense.
"""

import math

import pytest
import torch
from worlds import oblique

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.metamorphosis import (
    EvolvingMaskWeight,
    Gaussian,
    Kernel,
    MaskWeight,
    MultiScale,
    UniformWeight,
    ZeroWeight,
    growing,
)

kernels = pytest.mark.parametrize(
    "kernel", [Gaussian(2.0), MultiScale((1.5, 4.0), (1.0, 3.0))], ids=["gaussian", "multi-scale"]
)


def ball(grid: Grid, radius_mm: float = 3.0) -> Image:
    """1 within a radius of the middle."""
    inside = (grid.points() - torch.tensor(grid.center, dtype=torch.float32)).norm(
        dim=-1
    ) < radius_mm
    return Image(inside.to(torch.float32)[None], grid, "lesion")


# --- kernels --------------------------------------------------------------------------------------


@kernels
def test_a_kernel_is_symmetric_and_positive(
    kernel: Kernel, grid: Grid, generator: torch.Generator
) -> None:
    """To the borders: rows that were normalised there would cost the symmetry, and with it the
    Hamiltonian.
    """
    f, g = torch.randn(2, 1, *grid.shape, generator=generator, dtype=torch.float64)
    operator = kernel.on(grid, f)
    torch.testing.assert_close((f * operator(g)).sum(), (g * operator(f)).sum())
    assert float((f * operator(f)).sum()) > 0


@kernels
def test_a_kernel_keeps_constants_inside(kernel: Kernel) -> None:
    grid = Grid.from_spacing((81, 61), (0.8, 1.1), direction=oblique(2))
    blurred = kernel.on(grid, torch.zeros(()))(torch.ones(1, *grid.shape))
    assert float(blurred[0, 40, 30]) == pytest.approx(1, abs=1e-5)
    # zero is assumed beyond the grid
    assert float(blurred[0, 0, 30]) == pytest.approx(0.5, abs=0.15)


def test_widths_are_in_mm_on_any_grid() -> None:
    """A Gaussian of s blurred by one of sigma has the variance s^2 + sigma^2, whatever the
    voxels.
    """
    grid = Grid.from_spacing((64, 40), (0.7, 1.3), (-20.0, 5.0), oblique(2))
    squared = (grid.points(torch.float64) - torch.tensor(grid.center)).square().sum(-1)
    blurred = Gaussian(3.0).on(grid, squared)(torch.exp(-squared / (2 * 2.0**2))[None])[0]
    expected = 4 / 13 * torch.exp(-squared / (2 * 13))
    torch.testing.assert_close(blurred, expected, rtol=0, atol=1e-4)  # what lies beyond 20 mm


def test_scales_are_averaged_by_their_weights(generator: torch.Generator) -> None:
    grid, field = Grid.from_spacing((12, 10), 1.0), torch.randn(2, 12, 10, generator=generator)
    narrow, wide = (Gaussian(s).on(grid, field)(field) for s in (1.5, 4.0))
    torch.testing.assert_close(
        MultiScale((1.5, 4.0), (1.0, 3.0)).on(grid, field)(field), 0.25 * narrow + 0.75 * wide
    )
    torch.testing.assert_close(
        MultiScale((1.5, 4.0)).on(grid, field)(field), 0.5 * narrow + 0.5 * wide
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Gaussian(0.0), "a positive width in mm, got 0"),
        (lambda: Gaussian(math.nan), "a positive width"),
        (lambda: MultiScale(()), "at least one width"),
        (lambda: MultiScale((3.0, -1.0)), "a positive width in mm, got -1"),
        (lambda: MultiScale((3.0, 5.0), (1.0,)), "2 widths needs as many positive weights"),
    ],
)
def test_kernels_that_are_none(build: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build()  # type: ignore[operator]


# --- weights --------------------------------------------------------------------------------------


def test_constant_weights(grid_2d: Grid) -> None:
    like, mask = torch.zeros((), dtype=torch.float64), ball(grid_2d)
    assert float(ZeroWeight().on(grid_2d, 4, like).max()) == 0
    assert float(UniformWeight().on(grid_2d, 4, like).min()) == 1
    weights = MaskWeight(mask).on(grid_2d, 4, like)
    assert weights.shape == (5, 1, *grid_2d.shape)
    assert weights.dtype == torch.float64
    # single-precision voxel positions
    torch.testing.assert_close(
        weights, mask.data.double().expand(5, 1, *grid_2d.shape), rtol=0, atol=1e-4
    )


def test_a_mask_may_lie_on_another_grid() -> None:
    """Its place in the world counts; beyond it nothing is absent."""
    grid = Grid.from_spacing((40, 40), 1.0, (-20.0, -20.0))
    mask = Image(
        torch.ones(1, 12, 10), Grid.from_spacing((12, 10), (0.5, 0.7), (3.0, -5.0)), "patch"
    )
    mask.data[0, 0] = 0
    seen = MaskWeight(mask).on(grid, 1, torch.zeros(()))[0, 0]
    inside = grid.to_voxel(torch.tensor([[5.0, -2.0], [-5.0, -2.0]])).round().long()
    assert [float(seen[tuple(index)]) for index in inside] == pytest.approx([1.0, 0.0], abs=1e-5)


def test_an_evolving_mask_passes_through_its_states(grid_2d: Grid) -> None:
    small, large = ball(grid_2d, 2.0), ball(grid_2d, 5.0)
    weights = EvolvingMaskWeight((small, large)).on(grid_2d, 4, torch.zeros(()))
    for k, weight in enumerate(weights):
        torch.testing.assert_close(
            weight, (1 - k / 4) * small.data + k / 4 * large.data, rtol=0, atol=1e-4
        )


def test_a_growing_mask_begins_as_a_ball_and_ends_as_the_lesion(grid: Grid) -> None:
    lesion = ball(grid, 5.0)
    states = growing(lesion, states=4, seed_mm=2.0).masks
    sizes = [int(state.data.sum()) for state in states]
    assert sizes == sorted(sizes)
    assert 0 < sizes[0] < 0.5 * sizes[-1]
    assert torch.equal(states[-1].data, lesion.data)


def test_masks_that_make_no_sense(grid_2d: Grid) -> None:
    everything, nothing = (
        Image(value * torch.ones(1, *grid_2d.shape), grid_2d, "lesion") for value in (1, 0)
    )
    for build in (MaskWeight, growing, lambda mask: EvolvingMaskWeight((ball(grid_2d), mask))):
        with pytest.raises(InputError, match="lesion covers the whole image"):
            build(everything)
        with pytest.raises(InputError, match="lesion is empty"):
            build(nothing)
    with pytest.raises(InputError, match="two states or more, got 1"):
        EvolvingMaskWeight((ball(grid_2d),))
