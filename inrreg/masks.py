"""Masks: 1 means "use this"."""

import numpy as np
import torch

from inrreg.errors import InputError
from inrreg.image import Image, LabelImage
from inrreg.space import Grid


def as_weight(mask: LabelImage | Image | None, grid: Grid, device: torch.device | str = "cpu") -> Image:
    """A mask as a floating-point image of 0 and 1 on ``grid``; everything where no mask is given."""
    if mask is None:
        return Image(torch.ones(1, *grid.shape, device=device), grid, "whole image")
    return Image((mask.data > 0.5).to(torch.float32).to(device), mask.grid, mask.name)


def dilated(mask: Image, margin_mm: float) -> Image:
    """``mask`` grown by ``margin_mm`` in every direction (shrunk where negative), voxel centre to voxel centre."""
    from scipy.ndimage import distance_transform_edt

    if margin_mm == 0 or bool((mask.data > 0.5).all()):
        return mask
    inside = mask.data[0].cpu().numpy() > 0.5
    if margin_mm > 0:
        grown = distance_transform_edt(~inside, sampling=mask.grid.spacing) <= margin_mm
    else:
        grown = distance_transform_edt(inside, sampling=mask.grid.spacing) > -margin_mm
    return mask.with_data(torch.from_numpy(grown.astype(np.float32))[None].to(mask.device))


def bounding_box(mask: Image, margin_mm: float = 0.0) -> tuple[list[int], list[int]]:
    """First and past-the-last voxel of the mask along each axis, ``margin_mm`` wider, within the grid.

    Raises:
        InputError: the mask is empty.
    """
    lower, upper = [], []
    occupied = mask.data[0] > 0
    if not bool(occupied.any()):
        raise InputError(f'{mask.name} is empty: no voxel is above 0, and 1 means "use this"; leave the mask out, or check that it belongs to the image')
    for axis, (n, h) in enumerate(zip(mask.grid.shape, mask.grid.spacing, strict=True)):
        others = [a for a in range(mask.grid.ndim) if a != axis]
        present = occupied.any(dim=others[1]).any(dim=others[0]).nonzero()[:, 0] if len(others) == 2 else occupied.any(dim=others[0]).nonzero()[:, 0]
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
    voxel = [float((weights.sum(dim=[b for b in range(mask.grid.ndim) if b != a]) * axes[a]).sum() / total) for a in range(mask.grid.ndim)]
    return mask.grid.matrix @ np.array(voxel) + mask.grid.origin
