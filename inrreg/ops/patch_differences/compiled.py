"""What a discrete search compares: a patch of one image with the patches around it in another, for
every keypoint and every label.

Both images are sampled on lattices along their index axes, so that places and shares are one table
an axis. |F - M|^2 is expanded, and the lattice of one channel of M, patch margin included, lies in
the cache while it is multiplied with the patch of F at all labels. Keypoints near each other are
done together, a channel at a time, for they look at the same voxels.
"""

import numpy as np
from numpy.typing import NDArray

from inrreg.ops.loops import compiled

FINENESS = 65536.0
"""Parts of a voxel that places are rounded to, less than points in single precision carry: sites on
voxels are then found to be there, and need no neighbours.
"""
SHORTEST_ROW = 32
"""Numbers that a loop must do to be done in whole vectors."""


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
    """Mean over channels and patch of (F - M)^2, ``costs`` ``[n, x, y, z]``, of images ``[c, x, y,
    z]``; the keypoints are taken in ``order``, so many ``together``.

    ``fixed_start`` and ``moving_start`` ``[n, 3]`` are the voxels of the first site of a keypoint's
    patch, and of the patch under its first label; the steps ``[3]``, from site to site, are voxels
    too. A patch has ``sides`` sites along the axes. Sums over labels run over whole planes of the
    lattice, its margin included: what is found there is left out at the end.
    """
    channels, kind, shape = fixed.shape[0], fixed.dtype.type, costs.shape[1:]
    high, wide = shape[1] + sides[1] - 1, shape[2] + sides[2]
    patch, around = (
        np.zeros((sides[0], sides[1], sides[2] + 1), fixed.dtype),
        np.zeros((shape[0] + sides[0] - 1, high, wide), fixed.dtype),
    )
    weights, planes, flat, ones = (
        np.empty((sides[0], sides[1] * sides[2]), fixed.dtype),
        around.reshape(len(around), -1),
        around.reshape(-1),
        np.ones((sides[0], sides[1] * sides[2]), fixed.dtype),
    )
    shifts = np.array([y * wide + z for y in range(sides[1]) for z in range(sides[2])]).astype(
        np.uint64
    )
    own, squares = (
        np.empty(together, fixed.dtype),
        np.empty((together, len(around), high * wide), fixed.dtype),
    )
    products, sums = (
        np.empty((together, shape[0], (shape[1] - 1) * wide + shape[2]), fixed.dtype),
        np.empty((1, (shape[1] - 1) * wide + shape[2]), fixed.dtype),
    )
    scale = kind(1 / (channels * sides[0] * sides[1] * sides[2]))
    for start in range(first, stop, together):
        group = order[start : min(start + together, stop)]
        own[:], squares[:], products[:] = 0, 0, 0
        for c in range(channels):
            for k in range(len(group)):
                sample(fixed[c], fixed_start[group[k]], fixed_step, patch)
                sample(moving[c], moving_start[group[k]], moving_step, around)
                weights.reshape(patch[:, :, : sides[2]].shape)[:] = patch[:, :, : sides[2]]
                for value in weights.ravel():
                    own[k] += value * value
                add_squares(flat, squares[k].reshape(-1))
                product = products[k]
                for x in range(shape[0]):
                    for o in range(sides[0]):
                        add_products(planes, x + o, weights, o, shifts, product, x)
        for k in range(len(group)):
            square, product, found = squares[k], products[k], costs[group[k]]
            for x in range(np.uint64(shape[0])):
                sums[:] = 0
                for o in range(sides[0]):
                    add_products(square, x + np.uint64(o), ones, o, shifts, sums, 0)
                for y in range(np.uint64(shape[1])):
                    at = y * np.uint64(wide)
                    for z in range(np.uint64(shape[2])):
                        found[x, y, z] = max(
                            (own[k] - kind(2) * product[x, at + z] + sums[0, at + z]) * scale,
                            kind(0),
                        )


@compiled
def sample(
    image: NDArray[np.floating],
    start: NDArray[np.float64],
    step: NDArray[np.float64],
    out: NDArray[np.floating],
) -> None:
    """Linear interpolation of ``image`` ``[x, y, z]`` at the voxels start + index * step, border
    held, into ``out`` but for its last place along z, which is left to hold anything.

    Rows are blended along x and y as long as they are, or ``SHORTEST_ROW``, into a plane of the
    lattice, where each overwrites what the one before left beyond its end; then the plane along
    z.
    """
    high, wide = out.shape[1], out.shape[2]
    places, shares = (
        np.empty((3, max(out.shape)), np.int64),
        np.empty((3, max(out.shape)), image.dtype),
    )
    for axis in range(3):
        sites = out.shape[axis] - (axis == 2)
        place_along(
            start[axis], step[axis], image.shape[axis], places[axis, :sites], shares[axis, :sites]
        )
    along, share = places[2, : wide - 1], shares[2, : wide - 1]
    stride = even_stride(along, share)
    width = stride * wide if stride else min(along[-1] + 2, image.shape[2]) - along[0]
    length, flat = max(width, SHORTEST_ROW), image.reshape(-1)
    if ((places[0, len(out) - 1] + 1) * image.shape[1] + places[1, high - 1] + 1) * image.shape[
        2
    ] + along[0] + length > flat.size:
        # nothing is read beyond the end
        stride, width = 0, min(along[-1] + 2, image.shape[2]) - along[0]
        length = width
    plane = np.empty(high * width + length + 1, image.dtype)
    for i in range(len(out)):
        begin = places[0, i] * image.shape[1] * image.shape[2] + along[0]
        right = image.shape[1] * image.shape[2] if places[0, i] + 1 < image.shape[0] else 0
        for j in range(high):
            up = image.shape[2] if places[1, j] + 1 < image.shape[1] else 0
            blend(
                flat,
                begin + places[1, j] * image.shape[2],
                right,
                up,
                shares[0, i],
                shares[1, j],
                plane,
                j * width,
                length,
            )
        if stride == 1:
            every(plane, share[0], out[i].reshape(-1))
        elif stride == 2:
            every_second(plane, share[0], out[i].reshape(-1))
        else:
            for j in range(high):
                chosen(plane[j * width : j * width + width], along, share, out[i, j, : wide - 1])


@compiled
def blend(
    flat: NDArray[np.floating],
    begin: int,
    right: int,
    up: int,
    a: float,
    b: float,
    out: NDArray[np.floating],
    into: int,
    length: int,
) -> None:
    """The row of the image that starts at ``begin``, with shares ``a`` and ``b`` of those ``right``
    and ``up`` of it. Unsigned numbers, which need no slices: a slice takes as long as a row.
    """
    kind, n, o, p = flat.dtype.type, np.uint64(length), np.uint64(into), np.uint64(begin)
    if a == 0 and b == 0:
        for k in range(n):
            out[o + k] = flat[p + k]
        return
    q, r, u = p + np.uint64(up), p + np.uint64(right), p + np.uint64(right) + np.uint64(up)
    v, w, s, t = (kind(1) - a) * (kind(1) - b), (kind(1) - a) * b, a * (kind(1) - b), a * b
    for k in range(n):
        out[o + k] = v * flat[p + k] + w * flat[q + k] + s * flat[r + k] + t * flat[u + k]


@compiled
def every(values: NDArray[np.floating], share: float, out: NDArray[np.floating]) -> None:
    """Between each value and the next."""
    low, high = values[: len(out)], values[1 : len(out) + 1]
    for k in range(len(out)):
        out[k] = low[k] + share * (high[k] - low[k])


@compiled
def every_second(values: NDArray[np.floating], share: float, out: NDArray[np.floating]) -> None:
    """Between each second value and the next."""
    pairs = values[: 2 * len(out)].reshape(-1, 2)
    for k in range(len(out)):
        out[k] = pairs[k, 0] + share * (pairs[k, 1] - pairs[k, 0])


@compiled
def chosen(
    values: NDArray[np.floating],
    places: NDArray[np.int64],
    shares: NDArray[np.floating],
    out: NDArray[np.floating],
) -> None:
    """Between the value at each place, counted from the first, and the next."""
    for k in range(len(out)):
        at = places[k] - places[0]
        out[k] = values[at] + shares[k] * (values[min(at + 1, len(values) - 1)] - values[at])


@compiled
def place_along(
    start: float, step: float, size: int, places: NDArray[np.int64], shares: NDArray[np.floating]
) -> None:
    """The voxels below start + index * step along an axis of ``size`` voxels, kept within it, and
    the share of the one above.
    """
    for i in range(len(places)):
        position = min(np.rint((start + i * step) * FINENESS) / FINENESS, float(size - 1))
        position = position if position > 0 else 0.0  # NaN too
        places[i] = min(int(position), max(size - 2, 0))
        shares[i] = position - places[i]


@compiled
def even_stride(places: NDArray[np.int64], shares: NDArray[np.floating]) -> int:
    """How many voxels one place is from the next, if that and the share are the same for all; else
    0.
    """
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
def add_products(
    planes: NDArray[np.floating],
    plane: int,
    weights: NDArray[np.floating],
    o: int,
    shifts: NDArray[np.uint64],
    totals: NDArray[np.floating],
    x: int,
) -> None:
    """totals[x, k] += sum over s of weights[o, s] * planes[plane, k + shifts[s]], three at a time:
    the sum is read and written less often.
    """
    n, p, q, r, whole = (
        np.uint64(totals.shape[1]),
        np.uint64(plane),
        np.uint64(o),
        np.uint64(x),
        np.uint64(len(shifts) - len(shifts) % 3),
    )
    for s in range(np.uint64(0), whole, np.uint64(3)):
        t, u = s + np.uint64(1), s + np.uint64(2)
        a, b, c, one, two, three = (
            weights[q, s],
            weights[q, t],
            weights[q, u],
            shifts[s],
            shifts[t],
            shifts[u],
        )
        for k in range(n):
            totals[r, k] += (
                a * planes[p, k + one] + b * planes[p, k + two] + c * planes[p, k + three]
            )
    for s in range(whole, np.uint64(len(shifts))):
        a, one = weights[q, s], shifts[s]
        for k in range(n):
            totals[r, k] += a * planes[p, k + one]
