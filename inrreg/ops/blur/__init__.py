"""Gaussian blur of channels, and of squared differences of images."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.grid import Grid
from inrreg.ops.dispatch import operation
from inrreg.ops.separable import apply_along_axes, smoothing


def _grid(ndim: int) -> Grid:
    return Grid.from_spacing((11, 9, 10)[:ndim], (1.0, 1.5, 0.8)[:ndim])


def _example(ndim: int, generator: torch.Generator) -> tuple[Tensor, Grid, float]:
    grid = _grid(ndim)
    channels = torch.randn(2, *grid.shape, dtype=torch.float64, generator=generator)
    return channels, grid, 0.7


@operation(compiled="inrreg.ops.blur.compiled", example=_example, nan_alike=False)
def blurred(
    channels: Float[Tensor, "c *shape"], grid: Grid, sigma_mm: float
) -> Float[Tensor, "c *shape"]:
    """Each channel on ``grid`` blurred by a Gaussian of ``sigma_mm``, whose weights sum to one at
    the border too.
    """
    return apply_along_axes(channels, smoothing(grid, sigma_mm))


def _example_of_views(
    ndim: int, generator: torch.Generator
) -> tuple[Tensor, list[tuple[int, int]], Grid, float]:
    grid = _grid(ndim)
    views = torch.randn(3, 2, *grid.shape, dtype=torch.float64, generator=generator)
    return views, [(0, 1), (2, 0)], grid, 0.7


@operation(compiled="inrreg.ops.blur.compiled", example=_example_of_views, nan_alike=False)
def blurred_differences(
    views: Float[Tensor, "v c *shape"],
    pairs: Sequence[tuple[int, int]],
    grid: Grid,
    sigma_mm: float,
) -> Float[Tensor, "pairs *shape"]:
    """The squared difference of each pair of images among ``views``, summed over channels and
    blurred by a Gaussian of ``sigma_mm``.
    """
    squared = torch.stack([(views[one] - views[other]).square().sum(0) for one, other in pairs])
    return apply_along_axes(squared, smoothing(grid, sigma_mm))
