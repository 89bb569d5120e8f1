"""The data term: what each keypoint pays for each label.

The cost of a label d at a keypoint x is the mean over channels and over the sites o of a small
patch of

    (F(x + o) - M(x + d + o))^2,

F and M the feature images in one frame. The sites of the patch lie on the lattice of the labels, so
one sampling of M around the keypoint serves all of its labels, and the square is expanded: |F|^2 -
2 F . M + |M|^2. Where the index axes of both images are the same, ``inrreg.ops.patch_differences``
does this; else both are sampled at points, in chunks of keypoints.
"""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from graphreg.labels import Labels, lattice
from inrreg.core.errors import InputError
from inrreg.core.image import Image
from inrreg.ops.patch_differences import expanded_differences, patch_differences
from inrreg.ops.sampling import linear

BYTES = 4
AT_ONCE_MB = {"cpu": 100.0}
"""What is worked on at a time where that is less than the memory allows: a processor's caches gain
nothing from more.
"""


def cost_volume(
    fixed: Image,
    moving: Image,
    keypoints: Float[Tensor, "n d"],
    labels: Labels,
    patch_radius: int = 1,
    memory_mb: float = 2048.0,
) -> Float[Tensor, "n *labels"]:
    """Patch differences of two feature images in the same frame, at ``keypoints`` in world mm; the
    patch has 2 ``patch_radius`` + 1 sites an axis, a label's step apart.

    Labels are displacements along the index axes of ``fixed``. Beyond the images their border
    values hold. No more than ``memory_mb`` is held on top of the images.

    Raises:
        InputError: images of different channels, a range larger than the image, or a bound on the
            memory that does not hold the volume and one keypoint's work.
    """
    ndim = fixed.grid.ndim
    if fixed.channels != moving.channels:
        raise InputError(
            f"{fixed.name} has {fixed.channels} channels and {moving.name} {moving.channels};"
            " compare the same feature of both"
        )
    labels.check_within(fixed.grid)
    shape, sites = labels.shape(ndim), (2 * patch_radius + 1,) * ndim
    at_once_mb = AT_ONCE_MB.get(keypoints.device.type, memory_mb)
    chunk = chunk_size(
        len(keypoints),
        shape,
        prod(n + 2 * patch_radius for n in shape),
        prod(sites),
        fixed.channels,
        memory_mb,
        at_once_mb,
    )
    if moving.grid.aligned_with(fixed.grid):
        return _along_axes(fixed, moving, keypoints, labels, patch_radius, chunk)
    costs = torch.empty(len(keypoints), *shape, dtype=torch.float32, device=keypoints.device)
    for part, points in zip(costs.split(chunk), keypoints.split(chunk), strict=True):
        part.copy_(_at_points(fixed, moving, points, labels, patch_radius))
    return costs


def _along_axes(
    fixed: Image,
    moving: Image,
    keypoints: Float[Tensor, "n d"],
    labels: Labels,
    patch_radius: int,
    at_once: int,
) -> Float[Tensor, "n *labels"]:
    """Of images whose index axes are the same, ``at_once`` keypoints at a time."""
    ndim = fixed.grid.ndim
    steps, radii = np.array(labels.steps(ndim)), np.array(labels.radii(ndim))
    starts, strides = list[Tensor](), list[list[float]]()
    for image, reach in ((fixed, patch_radius), (moving, radii + patch_radius)):
        step = steps / image.grid.spacing
        margin = torch.tensor(reach * step, dtype=torch.float64, device=keypoints.device)
        starts.append(image.grid.to_voxel(keypoints.detach().double()) - margin)
        strides.append(step.tolist())
    return patch_differences(
        fixed.data.detach().to(keypoints.dtype),
        moving.data.detach().to(keypoints.dtype),
        starts[0],
        starts[1],
        strides[0],
        strides[1],
        2 * patch_radius + 1,
        labels.shape(ndim),
        at_once,
    )


def _at_points(
    fixed: Image, moving: Image, keypoints: Float[Tensor, "k d"], labels: Labels, patch_radius: int
) -> Float[Tensor, "k *labels"]:
    """The same for images of any index axes, all keypoints at once."""
    ndim, steps, dtype, device = (
        fixed.grid.ndim,
        labels.steps(fixed.grid.ndim),
        keypoints.dtype,
        keypoints.device,
    )
    turn = torch.tensor(fixed.grid.direction.T, dtype=dtype)
    patch = (lattice((patch_radius,) * ndim, steps).to(dtype) @ turn).to(device)
    around = (lattice([r + patch_radius for r in labels.radii(ndim)], steps).to(dtype) @ turn).to(
        device
    )
    f = linear(fixed, keypoints[:, None] + patch.reshape(1, -1, ndim))
    m = linear(moving, keypoints[:, None] + around.reshape(1, -1, ndim))
    return expanded_differences(
        f.transpose(0, 1), m.transpose(0, 1), tuple(around.shape[:-1]), labels.shape(ndim)
    )


def chunk_size(
    n: int,
    shape: Sequence[int],
    around: int,
    sites: int,
    channels: int,
    memory_mb: float,
    at_once_mb: float,
) -> int:
    """How many keypoints are treated at once, so that their work takes ``at_once_mb``, or what
    ``memory_mb`` leaves beside the volume.

    Raises:
        InputError: not even one; the message says what would fit.
    """
    volume = BYTES * n * prod(shape)
    # values, coordinates and products, three copies of each at the most
    one = BYTES * 3 * (channels + len(shape) + sites) * around
    left = memory_mb * 1e6 - volume
    if left < one:
        if n == 0 or one + BYTES * prod(shape) > memory_mb * 1e6:
            raise InputError(
                f"a cost volume of {prod(shape)} labels takes"
                f" {(one + BYTES * prod(shape)) / 1e6:.3g} MB for a single keypoint, but memory_mb"
                f" is {memory_mb:g}; allow that much, or take fewer labels"
            )
        fits = max(0, int((memory_mb * 1e6 - one) / (BYTES * prod(shape))))
        raise InputError(
            f"a cost volume of {n} keypoints x {prod(shape)} labels takes"
            f" {(volume + one) / 1e6:.0f} MB, but memory_mb is {memory_mb:g}; {fits} keypoints"
            f" would fit with these labels, {int(max(0.0, memory_mb * 1e6 - one) / (BYTES * n))}"
            " labels with these keypoints: take fewer keypoints, a larger step or a smaller range,"
            " or allow more memory"
        )
    return max(1, min(n, int(min(left, 1e6 * at_once_mb) / one)))
