"""What a discrete search compares: a patch of one image with the patches around it in another, for every keypoint and every label.

Both images are sampled on lattices along their index axes, so that places and shares are one table an axis. |F - M|^2 is expanded, and the lattice of one channel of M, patch margin
included, lies in the cache while it is multiplied with the patch of F at all labels. Keypoints near each other are done together, a channel at a time, for they look at the same voxels.
"""

import numpy as np
from numpy.typing import NDArray

from inrreg.kernels import compiled

FINENESS = 65536.0
"""Parts of a voxel that places are rounded to, less than points in single precision carry: sites on voxels are then found to be there, and need no neighbours."""


@compiled
def patch_differences(
    first: int,
    stop: int,
    order: NDArray[np.int64],
    together: int,
    fixed: NDArray[np.floating],
    moving: NDArray[np.floating],
    fixed_start: NDArray[np.float64],
    moving_start: NDArray[np.float64],
    fixed_step: NDArray[np.float64],
    moving_step: NDArray[np.float64],
    sides: NDArray[np.int64],
    costs: NDArray[np.float32],
) -> None:
    """Mean over channels and patch of (F - M)^2, ``costs`` ``[n, x, y, z]``, of images ``[c, x, y, z]``; the keypoints are taken in ``order``, so many ``together``.

    ``fixed_start`` and ``moving_start`` ``[n, 3]`` are the voxels of the first site of a keypoint's patch, and of the patch under its first label; the steps ``[3]``, from site to site, are voxels
    too. A patch has ``sides`` sites along the axes. Sums over labels run over whole planes of the lattice, its margin included: what is found there is left out at the end.
    """
    channels, kind, shape = fixed.shape[0], fixed.dtype.type, costs.shape[1:]
    high, wide = shape[1] + sides[1] - 1, shape[2] + sides[2] - 1
    patch, around = np.empty((sides[0], sides[1], sides[2]), fixed.dtype), np.empty((shape[0] + sides[0] - 1, high, wide), fixed.dtype)
    weights, planes, flat, ones = patch.reshape(sides[0], -1), around.reshape(len(around), -1), around.reshape(-1), np.ones(sides[1] * sides[2], fixed.dtype)
    shifts = np.array([y * wide + z for y in range(sides[1]) for z in range(sides[2])])
    own, squares = np.empty(together, fixed.dtype), np.empty((together, len(around), high * wide), fixed.dtype)
    products, sums = np.empty((together, shape[0], (shape[1] - 1) * wide + shape[2]), fixed.dtype), np.empty((shape[1] - 1) * wide + shape[2], fixed.dtype)
    scale = kind(1 / (channels * sides[0] * sides[1] * sides[2]))
    for start in range(first, stop, together):
        group = order[start : min(start + together, stop)]
        own[:], squares[:], products[:] = 0, 0, 0
        for c in range(channels):
            for k in range(len(group)):
                sample(fixed[c], fixed_start[group[k]], fixed_step, patch)
                sample(moving[c], moving_start[group[k]], moving_step, around)
                for value in patch.ravel():
                    own[k] += value * value
                add_squares(flat, squares[k].reshape(-1))
                for x in range(shape[0]):
                    for o in range(sides[0]):
                        add_products(planes[x + o], weights[o], shifts, products[k, x])
        for k in range(len(group)):
            for x in range(shape[0]):
                sums[:] = 0
                for o in range(sides[0]):
                    add_products(squares[k, x + o], ones, shifts, sums)
                for y in range(shape[1]):
                    product, square, found = products[k, x, y * wide : y * wide + shape[2]], sums[y * wide : y * wide + shape[2]], costs[group[k], x, y]
                    for z in range(len(found)):
                        found[z] = max((own[k] - kind(2) * product[z] + square[z]) * scale, kind(0))


@compiled
def sample(image: NDArray[np.floating], start: NDArray[np.float64], step: NDArray[np.float64], out: NDArray[np.floating]) -> None:
    """Linear interpolation of ``image`` ``[x, y, z]`` at the voxels start + index * step, into ``out``; border held."""
    kind = image.dtype.type
    places, shares = np.empty((3, max(out.shape)), np.int64), np.empty((3, max(out.shape)), image.dtype)
    for axis in range(3):
        place_along(start[axis], step[axis], image.shape[axis], places[axis, : out.shape[axis]], shares[axis, : out.shape[axis]])
    along, share = places[2, : out.shape[2]], shares[2, : out.shape[2]]
    near, far = along[0], min(along[-1] + 2, image.shape[2])
    stride, same = even_stride(along, share), share[0]
    blend = np.empty(far - near + 1, image.dtype)
    for i in range(out.shape[0]):
        x, right, a = places[0, i], min(places[0, i] + 1, image.shape[0] - 1), shares[0, i]
        for j in range(out.shape[1]):
            y, up, b = places[1, j], min(places[1, j] + 1, image.shape[1] - 1), shares[1, j]
            left_low = image[x, y, near:far]
            if a == 0 and b == 0:
                for k in range(len(left_low)):
                    blend[k] = left_low[k]
            else:
                left_high, right_low, right_high = image[x, up, near:far], image[right, y, near:far], image[right, up, near:far]
                v, w, s, t = (kind(1) - a) * (kind(1) - b), (kind(1) - a) * b, a * (kind(1) - b), a * b
                for k in range(len(left_low)):
                    blend[k] = v * left_low[k] + w * left_high[k] + s * right_low[k] + t * right_high[k]
            blend[far - near] = blend[far - near - 1]
            line = out[i, j]
            if stride == 1:
                low, high = blend[: len(line)], blend[1 : len(line) + 1]
                for k in range(len(line)):
                    line[k] = low[k] + same * (high[k] - low[k])
            elif stride == 2:
                for k in range(len(line)):
                    line[k] = blend[2 * k] + same * (blend[2 * k + 1] - blend[2 * k])
            else:
                for k in range(len(line)):
                    at = along[k] - near
                    line[k] = blend[at] + share[k] * (blend[at + 1] - blend[at])


@compiled
def place_along(start: float, step: float, size: int, places: NDArray[np.int64], shares: NDArray[np.floating]) -> None:
    """The voxels below start + index * step along an axis of ``size`` voxels, kept within it, and the share of the one above."""
    for i in range(len(places)):
        position = min(np.rint((start + i * step) * FINENESS) / FINENESS, float(size - 1))
        position = position if position > 0 else 0.0  # NaN too
        places[i] = min(int(position), max(size - 2, 0))
        shares[i] = position - places[i]


@compiled
def even_stride(places: NDArray[np.int64], shares: NDArray[np.floating]) -> int:
    """How many voxels one place is from the next, if that and the share are the same for all; else 0."""
    stride = places[1] - places[0] if len(places) > 1 else 1
    for i in range(1, len(places)):
        if places[i] - places[i - 1] != stride or shares[i] != shares[0]:
            return 0
    return stride


@compiled
def add_squares(values: NDArray[np.floating], total: NDArray[np.floating]) -> None:
    """total += values^2."""
    for k in range(len(total)):
        total[k] += values[k] * values[k]


@compiled
def add_products(plane: NDArray[np.floating], weights: NDArray[np.floating], shifts: NDArray[np.int64], total: NDArray[np.floating]) -> None:
    """total[k] += sum over s of weights[s] * plane[k + shifts[s]], three at a time: the sum is read and written less often."""
    n = len(total)
    for s in range(0, len(shifts) - 2, 3):
        one, two, three = plane[shifts[s] : shifts[s] + n], plane[shifts[s + 1] : shifts[s + 1] + n], plane[shifts[s + 2] : shifts[s + 2] + n]
        a, b, c = weights[s], weights[s + 1], weights[s + 2]
        for k in range(n):
            total[k] += a * one[k] + b * two[k] + c * three[k]
    for s in range(len(shifts) - len(shifts) % 3, len(shifts)):
        one, a = plane[shifts[s] : shifts[s] + n], weights[s]
        for k in range(n):
            total[k] += a * one[k]
