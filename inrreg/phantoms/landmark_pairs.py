"""Points that can be told from those around them, near a lesion and far from it."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inrreg.core.grid import Grid
from inrreg.core.image import Points
from inrreg.phantoms.phantom_pair import spread_out

NEAR_MM = (3.0, 10.0)
"""Distance of a near landmark from the lesion's edge; closer, partial volume hides what is tissue.
"""
FAR_MM = 20.0
_SCALE_MM = 2.0
_SHARE = 0.15
"""How many of the voxels of a region count as distinctive."""


def distinctive_points(
    kinds: Int[Tensor, "*shape"],
    lesion: Bool[Tensor, "*shape"],
    tissue: Bool[Tensor, "*shape"],
    grid: Grid,
    counts: tuple[int, int],
    rng: np.random.Generator,
) -> Points:
    """``near 1`` ... and ``far 1`` ..., as many as ``counts`` says, at corners between ``kinds`` of
    tissue, spread out over the ``tissue`` around a ``lesion``; without a lesion all of them are
    far.

    Corners of tissue and not of intensity, so that every contrast has the same landmarks.

    Raises:
        InputError: there are fewer such voxels than asked for.
    """
    from scipy.ndimage import distance_transform_edt

    present = bool(lesion.any())
    distance = (
        torch.from_numpy(distance_transform_edt(~lesion.numpy(), sampling=grid.spacing))
        if present
        else torch.full(lesion.shape, float("inf"))
    )
    regions = {
        "near": (distance >= NEAR_MM[0]) & (distance <= NEAR_MM[1]),
        "far": distance >= FAR_MM,
    }
    wanted = dict(zip(regions, counts if present else (0, sum(counts)), strict=True))
    corner = _cornerness(kinds.double(), grid)
    points, labels = [], []
    for name, region in regions.items():
        if wanted[name]:
            candidates = region & tissue
            strong = candidates & (
                corner >= torch.from_numpy(np.quantile(corner[candidates].numpy(), [1 - _SHARE]))
            )
            points.append(spread_out(grid.points(torch.float64)[strong], wanted[name], rng))
            labels += [f"{name} {i + 1}" for i in range(wanted[name])]
    return Points(torch.cat(points), tuple(labels))


def _cornerness(values: Float[Tensor, "*shape"], grid: Grid) -> Float[Tensor, "*shape"]:
    """1 / trace(S^-1) of the structure tensor S: large where intensity changes in every direction
    (Foerstner and Guelch, 1987).
    """
    from scipy.ndimage import gaussian_filter, gaussian_filter1d

    sigma = _SCALE_MM / grid.spacing
    array = values.double().numpy()
    gradient = [
        gaussian_filter1d(array, max(s, 0.5), axis=axis, order=1) / h
        for axis, (s, h) in enumerate(zip(sigma, grid.spacing, strict=True))
    ]
    tensor = np.stack(
        [np.stack([gaussian_filter(a * b, sigma) for a in gradient], -1) for b in gradient], -1
    )
    scale = max(float(np.trace(tensor, axis1=-2, axis2=-1).mean()), 1e-12)
    return torch.from_numpy(
        1 / np.trace(np.linalg.inv(tensor / scale + 1e-6 * np.eye(grid.ndim)), axis1=-2, axis2=-1)
    )
