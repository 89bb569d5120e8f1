"""The data term: what each keypoint pays for each label.

The cost of a label d at a keypoint x is the mean over channels and over the sites o of a small patch of

    (F(x + o) - M(x + d + o))^2,

F and M the feature images in one frame. The sites of the patch lie on the lattice of the labels, so one sampling of M around the keypoint serves all of
its labels, and the square is expanded: |F|^2 - 2 F . M + |M|^2, the middle one a small matrix product a keypoint. Keypoints are treated in chunks.
"""

from collections.abc import Sequence
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from graphreg.labels import Labels, lattice
from inrreg.errors import InputError
from inrreg.image import Image
from inrreg.sampling import linear

BYTES = 4
AT_ONCE_MB = {"cpu": 100.0}
"""What is worked on at a time where that is less than the memory allows: a processor's caches gain nothing from more."""


def cost_volume(fixed: Image, moving: Image, keypoints: Float[Tensor, "n d"], labels: Labels, patch_radius: int = 1, memory_mb: float = 2048.0) -> Float[Tensor, "n *labels"]:
    """Patch differences of two feature images in the same frame, at ``keypoints`` in world mm; the patch has 2 ``patch_radius`` + 1 sites an axis, a label's step apart.

    Labels are displacements along the index axes of ``fixed``. Beyond the images their border values hold. No more than ``memory_mb`` is held on top of the images.

    Raises:
        InputError: images of different channels, a range larger than the image, or a bound on the memory that does not hold the volume and one keypoint's work.
    """
    ndim = fixed.grid.ndim
    if fixed.channels != moving.channels:
        raise InputError(f"{fixed.name} has {fixed.channels} channels and {moving.name} {moving.channels}; compare the same feature of both")
    labels.check_within(fixed.grid)
    shape, steps = labels.shape(ndim), labels.steps(ndim)
    turn = torch.tensor(fixed.grid.direction.T, dtype=keypoints.dtype)
    patch = (lattice((patch_radius,) * ndim, steps).to(keypoints.dtype) @ turn).to(keypoints.device)
    around = (lattice([r + patch_radius for r in labels.radii(ndim)], steps).to(keypoints.dtype) @ turn).to(keypoints.device)
    at_once_mb = AT_ONCE_MB.get(keypoints.device.type, memory_mb)
    chunk = chunk_size(len(keypoints), shape, prod(around.shape[:-1]), prod(patch.shape[:-1]), fixed.channels, memory_mb, at_once_mb)
    costs = torch.empty(len(keypoints), *shape, dtype=torch.float32, device=keypoints.device)
    for start in range(0, len(keypoints), chunk):
        points = keypoints[start : start + chunk, None]
        f = linear(fixed, points + patch.reshape(1, -1, ndim))
        m = linear(moving, points + around.reshape(1, -1, ndim))
        costs[start : start + chunk] = _patch_differences(f.transpose(0, 1), m.transpose(0, 1), tuple(around.shape[:-1]), shape)
    return costs


def _patch_differences(f: Float[Tensor, "k c sites"], m: Float[Tensor, "k c around"], around: tuple[int, ...], shape: tuple[int, ...]) -> Float[Tensor, "k *labels"]:
    """Mean over channels and sites of the squared difference, for every label."""
    k, channels, sites = f.shape
    side = round(sites ** (1 / len(shape)))
    squares = m.square().sum(1)[:, None] - 2 * (f.transpose(1, 2) @ m)
    products = squares.reshape(k, *(side,) * len(shape), *around)
    total = f.square().sum((1, 2)).reshape(-1, *(1,) * len(shape)).expand(k, *shape).clone()
    for corner in torch.cartesian_prod(*[torch.arange(side)] * len(shape)).tolist():
        window = tuple(slice(o, o + n) for o, n in zip(corner, shape, strict=True))
        total += products[(slice(None), *corner, *window)]
    return (total / (sites * channels)).clamp_(min=0)


def chunk_size(n: int, shape: Sequence[int], around: int, sites: int, channels: int, memory_mb: float, at_once_mb: float) -> int:
    """How many keypoints are treated at once, so that their work takes ``at_once_mb``, or what ``memory_mb`` leaves beside the volume.

    Raises:
        InputError: not even one; the message says what would fit.
    """
    volume = BYTES * n * prod(shape)
    one = BYTES * 3 * (channels + len(shape) + sites) * around  # values, coordinates and products, three copies of each at the most
    left = memory_mb * 1e6 - volume
    if left < one:
        if n == 0 or one + BYTES * prod(shape) > memory_mb * 1e6:
            raise InputError(
                f"a cost volume of {prod(shape)} labels takes {(one + BYTES * prod(shape)) / 1e6:.3g} MB for a single keypoint, but memory_mb is {memory_mb:g}; allow that much, or take fewer labels"
            )
        fits = max(0, int((memory_mb * 1e6 - one) / (BYTES * prod(shape))))
        raise InputError(
            f"a cost volume of {n} keypoints x {prod(shape)} labels takes {(volume + one) / 1e6:.0f} MB, but memory_mb is {memory_mb:g}; {fits} keypoints would fit with these labels, "
            f"{int(max(0.0, memory_mb * 1e6 - one) / (BYTES * n))} labels with these keypoints: take fewer keypoints, a larger step or a smaller range, or allow more memory"
        )
    return max(1, min(n, int(min(left, 1e6 * at_once_mb) / one)))
