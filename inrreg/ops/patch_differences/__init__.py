"""The difference of a patch of one image from the patches around it in another, for every keypoint
and every label: the data term of a discrete search.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.ops.dispatch import operation
from inrreg.ops.sampler import linear_at

FINENESS = 65536.0
"""Parts of a voxel that places are rounded to, less than points in single precision carry: sites on
voxels are then found to be there, and need no neighbours.
"""


def _example(ndim: int, generator: torch.Generator) -> tuple[object, ...]:
    shape = (24, 22, 21)[:ndim]
    fixed, moving = torch.randn(2, 3, *shape, dtype=torch.float64, generator=generator)
    start = 26 * torch.rand(2, 20, ndim, dtype=torch.float64, generator=generator) - 5
    steps = (0.5, 1.3, 0.7)[:ndim], (0.9, 1.1, 1.5)[:ndim]
    return fixed, moving, *start, *steps, 3, (5, 3, 4)[:ndim], 7


@operation(compiled="inrreg.ops.patch_differences.compiled", example=_example)
@torch.no_grad()
def patch_differences(
    fixed: Float[Tensor, "c *shape"],
    moving: Float[Tensor, "c *around"],
    fixed_start: Float[Tensor, "n d"],
    moving_start: Float[Tensor, "n d"],
    fixed_step: Sequence[float],
    moving_step: Sequence[float],
    side: int,
    labels: tuple[int, ...],
    at_once: int,
) -> Float[Tensor, "n *labels"]:
    """Mean over channels and patch of (F - M)^2, in single precision. No gradient.

    Args:
        fixed_start: the voxel of the first site of each keypoint's patch in ``fixed``.
        moving_start: the voxel of the first site of the patch in ``moving`` under its first label.
        fixed_step: from site to site along each axis, in voxels of ``fixed``.
        moving_step: from site to site and from label to label, in voxels of ``moving``.
        side: sites of a patch along each axis.
        labels: their number along each axis.
        at_once: how many keypoints are worked on at once, which bounds the memory.
    """
    costs = fixed.new_empty(len(fixed_start), *labels, dtype=torch.float32)
    around = tuple(n + side - 1 for n in labels)
    for part, of_fixed, of_moving in zip(
        costs.split(at_once), fixed_start.split(at_once), moving_start.split(at_once), strict=True
    ):
        f = _on_lattices(fixed, of_fixed, fixed_step, (side,) * len(labels))
        m = _on_lattices(moving, of_moving, moving_step, around)
        part.copy_(expanded_differences(f, m, around, labels))
    return costs


def _on_lattices(
    image: Float[Tensor, "c *shape"],
    start: Float[Tensor, "k d"],
    step: Sequence[float],
    sites: tuple[int, ...],
) -> Float[Tensor, "k c sites"]:
    """Linear interpolation at the voxels start + index * step, border held."""
    k, ndim = start.shape
    coordinates = image.new_empty(k, *sites, ndim)
    for axis, (n, size) in enumerate(zip(sites, image.shape[1:], strict=True)):
        index = torch.arange(n, dtype=torch.float64, device=start.device)
        voxels = start[:, axis, None].double() + index * step[axis]
        voxels = (voxels * FINENESS).round() / FINENESS
        places = (voxels * (2 / max(size - 1, 1)) - 1).to(image.dtype)
        around = [n if a == axis else 1 for a in range(ndim)]
        coordinates[..., ndim - 1 - axis] = places.reshape(k, *around)
    return linear_at(image, coordinates.reshape(k, -1, ndim)).transpose(0, 1)


def expanded_differences(
    f: Float[Tensor, "k c sites"],
    m: Float[Tensor, "k c around"],
    around: tuple[int, ...],
    shape: tuple[int, ...],
) -> Float[Tensor, "k *labels"]:
    """Mean over channels and sites of the squared difference for every label, as |F|^2 - 2 F . M +
    |M|^2, the middle one by a small matrix product a keypoint.
    """
    k, channels, sites = f.shape
    side = round(sites ** (1 / len(shape)))
    squares = m.square().sum(1)[:, None] - 2 * (f.transpose(1, 2) @ m)
    products = squares.reshape(k, *(side,) * len(shape), *around)
    total = f.square().sum((1, 2)).reshape(-1, *(1,) * len(shape)).expand(k, *shape).clone()
    for corner in torch.cartesian_prod(*[torch.arange(side)] * len(shape)).tolist():
        window = tuple(slice(o, o + n) for o, n in zip(corner, shape, strict=True))
        total += products[(slice(None), *corner, *window)]
    return (total / (sites * channels)).clamp_(min=0)
