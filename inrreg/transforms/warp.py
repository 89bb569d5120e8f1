"""Carrying the moving image onto the fixed grid: one interpolation through the total map."""

from collections.abc import Callable
from functools import partial
from typing import Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.errors import FrameError, InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image, LabelImage
from inrreg.ops.interpolation import GridToVoxelMap, interpolated
from inrreg.ops.sampling import by_rows, inside, linear, nearest, spline_combination, spline_image
from inrreg.transforms.base import CHUNK, Transform

AnyImage = TypeVar("AnyImage", bound=Image)
Interpolation = Literal["linear", "cubic", "nearest"]


@torch.no_grad()
def warp(
    image: AnyImage,
    transform: Transform,
    grid: Grid,
    outside: float | None = None,
    method: Interpolation = "linear",
) -> AnyImage:
    """The moving ``image`` resampled on the fixed ``grid``: its value at T(x) for every voxel
    centre x; same kind, name, dtype and intensity units.

    ``method`` is linear, cubic (interpolating B-splines) or nearest; labels always take the nearest
    voxel. Where T(x) lies beyond the moving voxels the result is ``outside``: the least value of
    each channel unless given, 0 for labels. Cubic may overshoot the range of the image at sharp
    edges.

    Raises:
        FrameError: image, transform and grid are not all 2-D or all 3-D.
        InputError: an unknown ``method``.
    """
    if not image.grid.ndim == transform.ndim == grid.ndim:
        raise FrameError(
            f"{image.name} is {image.grid.ndim}-D, the transform {transform.ndim}-D and the fixed"
            f" grid {grid.ndim}-D; give all three the same dimension"
        )
    return warped(image, transform.displacement_on(grid), grid, outside, method)


@torch.no_grad()
def warped(
    image: AnyImage,
    displacement: Float[Tensor, "*shape d"],
    grid: Grid,
    outside: float | None = None,
    method: Interpolation = "linear",
) -> AnyImage:
    """``warp`` by a ``displacement`` that is given at every voxel of ``grid``, mm, as
    ``displacement_on(grid)`` returns it.

    Raises:
        InputError: an unknown ``method``.
    """
    fill = _fill(image, outside)
    displacement = displacement.to(image.device)
    if method == "linear" and not isinstance(image, LabelImage):
        return image.with_data(by_rows(image, displacement, grid, fill), grid)
    sample = _sampler(image, method)
    points = grid.points(device=image.device).reshape(-1, grid.ndim)
    u = displacement.reshape(-1, grid.ndim)
    parts = [
        _filled(sample, image.grid, x + part, fill)
        for x, part in zip(points.split(CHUNK), u.split(CHUNK), strict=True)
    ]
    return image.with_data(torch.cat(parts, 1).reshape(-1, *grid.shape), grid)


@torch.no_grad()
def displaced(image: AnyImage, displacement: Float[Tensor, "*shape d"], grid: Grid) -> AnyImage:
    """``image`` at the voxels of ``grid`` moved by ``displacement``, mm, by linear interpolation,
    its border held.
    """
    placement = GridToVoxelMap.unmoved(grid, image.grid)
    data = interpolated(image.data.to(displacement.dtype), displacement, placement)
    return image.with_data(data, grid)


def _sampler(image: Image, method: str) -> Callable[[Tensor], Tensor]:
    """World points -> values; the spline coefficients are computed here, once an image and not once
    a chunk.
    """
    if method not in ("linear", "cubic", "nearest"):
        raise InputError(
            f"no interpolation is called {method!r}; choose linear, cubic or nearest (labels"
            " always take the nearest voxel)"
        )
    if method == "nearest" or isinstance(image, LabelImage):
        return partial(nearest, image)
    return (
        partial(spline_combination, spline_image(image))
        if method == "cubic"
        else partial(linear, image)
    )


def _fill(image: Image, outside: float | None) -> Tensor:
    """The value beyond the moving image, one a channel."""
    if outside is not None:
        return image.data.new_full((image.channels, 1), outside)
    return (
        image.data.new_zeros(image.channels, 1)
        if isinstance(image, LabelImage)
        else image.data.flatten(1).amin(1, keepdim=True)
    )


def _filled(
    sample: Callable[[Tensor], Tensor], grid: Grid, points: Float[Tensor, "n d"], fill: Tensor
) -> Tensor:
    return torch.where(inside(grid, points).bool(), sample(points), fill)
