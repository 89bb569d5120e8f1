"""Masks: 1 means "use this"."""

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image, LabelImage
from inrreg.ops.distance_transform import distance_within
from inrreg.ops.sampling import on_grid


def as_weight(
    mask: LabelImage | Image | None, grid: Grid, device: torch.device | str = "cpu"
) -> Image:
    """A mask as a floating-point image of 0 and 1 on ``grid``; everything where no mask is given.

    Raises:
        InputError: the mask is empty.
    """
    if mask is None:
        return Image(torch.ones(1, *grid.shape, device=device), grid, "whole image")
    if not bool((mask.data > 0.5).any()):
        raise InputError(
            f'{mask.name} is empty: no voxel is above 0.5, and 1 means "use this"; leave the mask'
            " out, or check that it belongs to the image"
        )
    return Image((mask.data > 0.5).to(torch.float32).to(device), mask.grid, mask.name)


def without(mask: Image, lesion: Image) -> Image:
    """``mask`` (1 = use) less ``lesion`` (1 = has no counterpart), which may lie on any grid of the
    same image and is 0 beyond it.
    """
    return mask.with_data(mask.data * (1 - on_grid(lesion, mask.grid).data.clamp(0, 1)))


def dilated(mask: Image, margin_mm: float) -> Image:
    """``mask`` grown by ``margin_mm`` in every direction (shrunk where negative).

    Distances are between voxel centres.
    """
    if margin_mm == 0 or bool((mask.data > 0.5).all()):
        return mask
    inside = mask.data[0] > 0.5
    grown = (
        _reached(inside, mask.grid, margin_mm)
        if margin_mm > 0
        else ~_reached(~inside, mask.grid, -margin_mm)
    )
    return mask.with_data(grown[None].to(torch.float32))


def _reached(
    inside: Bool[Tensor, "*shape"], grid: Grid, distance_mm: float
) -> Bool[Tensor, "*shape"]:
    """Where some voxel that is ``inside`` lies no farther than ``distance_mm``, voxel centre to
    voxel centre.
    """
    # beyond the reach all distances are the same, so it must be longer than the limit
    return distance_within(1.01 * distance_mm, inside, grid.spacing) <= distance_mm


def signed_distance(mask: Image, clip_mm: float) -> Image:
    """Signed distance to the mask edge over ``clip_mm``, clipped to [-1, 1], positive inside."""
    inside = mask.data[0] > 0.5
    distance = distance_within(clip_mm, ~inside, mask.grid.spacing) - distance_within(
        clip_mm, inside, mask.grid.spacing
    )
    return mask.with_data((distance / clip_mm)[None].to(torch.float32))


def lung_mask(image: Image, air_below: float = -400.0) -> Image:
    """The lungs of a chest CT in HU: air inside the body, vessels included; 1 means "use this".

    Voxels below ``air_below`` that hang together, do not reach the edges of the box that run along
    the body (the air around the patient does), and are no smaller than a tenth of the largest such
    piece, closed over 5 mm.

    Raises:
        InputError: no such piece is found.
    """
    from scipy import ndimage

    values = image.data[0].cpu().numpy()
    pieces, count = ndimage.label(values < air_below)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    sizes[0] = 0
    sizes[np.unique(_edges_along_body(pieces, image.grid))] = 0
    if sizes.max() * np.prod(image.grid.spacing) < 50_000:
        raise InputError(
            f"no lungs were found in {image.name} (air below {air_below:g} HU inside the body);"
            " give masks, or choose a preset for another organ"
        )
    lungs = (sizes >= 0.1 * sizes.max())[pieces]
    radius = np.maximum(np.round(5.0 / image.grid.spacing), 1).astype(int)
    padded = np.pad(lungs, [(r, r) for r in radius])
    ball = (
        sum(
            (np.arange(-r, r + 1).reshape([-1 if a == b else 1 for b in range(lungs.ndim)]) / r)
            ** 2
            for a, r in enumerate(radius)
        )
        <= 1
    )
    closed = ndimage.binary_closing(padded, ball)[tuple(slice(r, -r) for r in radius)]
    filled = ndimage.binary_fill_holes(closed)
    return Image(
        torch.from_numpy(filled.astype(np.float32))[None].to(image.device),
        image.grid,
        f"lungs found in {image.name}",
    )


def _edges_along_body(pieces: np.ndarray, grid: Grid) -> np.ndarray:
    """The values on the four edges of the box along the index axis that runs along the body (the
    four corners in 2-D).
    """
    along_body = int(np.abs(grid.direction[-1]).argmax()) if grid.ndim == 3 else -1
    for axis in range(grid.ndim):
        if axis != along_body:
            pieces = np.take(pieces, [0, -1], axis=axis)
    return pieces


def bounding_box(mask: Image, margin_mm: float = 0.0) -> tuple[list[int], list[int]]:
    """First and past-the-last voxel of the mask along each axis, ``margin_mm`` wider, within the
    grid.
    """
    lower, upper = [], []
    occupied = mask.data[0] > 0
    for axis, (n, h) in enumerate(zip(mask.grid.shape, mask.grid.spacing, strict=True)):
        others = [a for a in range(mask.grid.ndim) if a != axis]
        present = (
            occupied.any(dim=others[1]).any(dim=others[0]).nonzero()[:, 0]
            if len(others) == 2
            else occupied.any(dim=others[0]).nonzero()[:, 0]
        )
        margin = int(np.ceil(margin_mm / h))
        lower.append(max(0, int(present[0]) - margin))
        upper.append(min(n, int(present[-1]) + 1 + margin))
    return lower, upper


def cropped(image: Image, lower: list[int], upper: list[int]) -> Image:
    """The voxels ``lower`` to ``upper`` of ``image``."""
    part = (slice(None), *[slice(a, b) for a, b in zip(lower, upper, strict=True)])
    return image.with_data(image.data[part].contiguous(), image.grid.cropped(lower, upper))


def centroid(mask: Image) -> np.ndarray:
    """World position of the middle of the mask's mass, mm."""
    weights = mask.data[0].double()
    axes = [torch.arange(n, dtype=torch.float64, device=mask.device) for n in mask.grid.shape]
    total = weights.sum()
    voxel = [
        float(
            (weights.sum(dim=[b for b in range(mask.grid.ndim) if b != a]) * axes[a]).sum() / total
        )
        for a in range(mask.grid.ndim)
    ]
    return mask.grid.matrix @ np.array(voxel) + mask.grid.origin
