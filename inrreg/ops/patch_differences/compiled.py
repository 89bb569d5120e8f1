"""The compiled form of ``patch_differences``.

Both images are sampled on lattices along their index axes, so that places and shares are one table
an axis. |F - M|^2 is expanded, and the lattice of one channel of M, patch margin included, lies in
the cache while it is multiplied with the patch of F at all labels. Keypoints near each other are
done together, a channel at a time, for they look at the same voxels.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from inrreg.ops.dispatch import as_volume, in_three
from inrreg.ops.loops import compiled, in_parallel
from inrreg.ops.patch_differences import FINENESS

SHORTEST_ROW = 32
"""Numbers that a loop must do to be done in whole vectors."""
TOGETHER = 16
"""Keypoints that are worked on together at most: their values fit the cache next to a core."""
NEAR = 16
"""Edge in voxels of the cubes that keypoints are done in, one after the other: those of a cube look
at much the same voxels.
"""


@compiled
def difference_groups(
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
    z]``; the keypoints are taken in ``order``, ``together`` at a time.

    ``fixed_start`` and ``moving_start`` ``[n, 3]`` are the voxels of the first site of a keypoint's
    patch, and of the patch under its first label; the steps ``[3]``, from site to site, are voxels
    too. A patch has ``sides`` sites along the axes. Sums over labels run over whole planes of the
    lattice, its margin included; ``write_costs`` leaves the margin out.
    """
    channels, kind, shape = fixed.shape[0], fixed.dtype.type, costs.shape[1:]
    high, wide = shape[1] + sides[1] - 1, shape[2] + sides[2]
    patch = np.zeros((sides[0], sides[1], sides[2] + 1), kind)
    around = np.zeros((shape[0] + sides[0] - 1, high, wide), kind)
    shifts = np.array([y * wide + z for y in range(sides[1]) for z in range(sides[2])]).astype(
        np.uint64
    )
    own = np.empty(together, kind)
    squares = np.empty((together, len(around), high * wide), kind)
    products = np.empty((together, shape[0], (shape[1] - 1) * wide + shape[2]), kind)
    scale = kind(1 / (channels * sides[0] * sides[1] * sides[2]))
    for start in range(first, stop, together):
        group = order[start : min(start + together, stop)]
        own[:], squares[:], products[:] = 0, 0, 0
        for c in range(channels):
            for k in range(len(group)):
                sample(fixed[c], fixed_start[group[k]], fixed_step, patch)
                sample(moving[c], moving_start[group[k]], moving_step, around)
                own[k] = add_channel(own[k], patch, around, shifts, squares[k], products[k])
        for k in range(len(group)):
            write_costs(own[k], squares[k], products[k], shifts, wide, scale, costs[group[k]])


@compiled
def add_channel(
    own: np.floating,
    patch: NDArray[np.floating],
    around: NDArray[np.floating],
    shifts: NDArray[np.uint64],
    squares: NDArray[np.floating],
    products: NDArray[np.floating],
) -> np.floating:
    """Onto ``squares`` those of ``around``, onto ``products`` those of ``patch`` with it at all
    labels; returns ``own`` and the squares of ``patch``, whose last place along z is not used.
    """
    weights = np.empty((len(patch), len(shifts)), patch.dtype)
    weights.reshape(patch[:, :, :-1].shape)[:] = patch[:, :, :-1]
    for value in weights.ravel():
        own += value * value
    add_squares(around.reshape(-1), squares.reshape(-1))
    planes = around.reshape(len(around), -1)
    for x in range(len(products)):
        for o in range(len(weights)):
            add_products(planes, x + o, weights, o, shifts, products, x)
    return own


@compiled
def write_costs(
    own: np.floating,
    squares: NDArray[np.floating],
    products: NDArray[np.floating],
    shifts: NDArray[np.uint64],
    wide: int,
    scale: float,
    costs: NDArray[np.float32],
) -> None:
    """``costs`` ``[x, y, z]`` of one keypoint: own - 2 products + squares summed over the patch, by
    ``scale``, 0 where rounding makes it less.
    """
    kind, sides = products.dtype.type, len(squares) - len(products) + 1
    ones = np.ones((sides, len(shifts)), products.dtype)
    sums = np.empty((1, products.shape[1]), products.dtype)
    for x in range(np.uint64(costs.shape[0])):
        sums[:] = 0
        for o in range(sides):
            add_products(squares, x + np.uint64(o), ones, o, shifts, sums, 0)
        for y in range(np.uint64(costs.shape[1])):
            at = y * np.uint64(wide)
            for z in range(np.uint64(costs.shape[2])):
                cost = (own - kind(2) * products[x, at + z] + sums[0, at + z]) * scale
                costs[x, y, z] = kind(0) if cost < 0 else cost


@compiled
def sample(
    image: NDArray[np.floating],
    start: NDArray[np.float64],
    step: NDArray[np.float64],
    out: NDArray[np.floating],
) -> None:
    """Linear interpolation of ``image`` ``[x, y, z]`` at the voxels start + index * step, border
    held, into ``out`` but for its last place along z, which may hold anything.

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
    """See ``inrreg.ops.patch_differences.patch_differences``."""
    n, ndim = fixed_start.shape
    costs = torch.empty(n, *labels, dtype=torch.float32)
    starts = [_starts(start) for start in (fixed_start, moving_start)]
    in_parallel(
        difference_groups,
        n,
        np.lexsort((starts[0] // NEAR).T),
        max(1, min(TOGETHER, at_once // torch.get_num_threads())),
        *[as_volume(image.detach(), ndim).contiguous().numpy() for image in (fixed, moving)],
        *starts,
        *[np.array(in_three(step, ndim), np.float64) for step in (fixed_step, moving_step)],
        np.array(in_three([side] * ndim, ndim)).astype(np.int64),
        as_volume(costs, ndim).numpy(),
    )
    return costs


def _starts(start: Float[Tensor, "n d"]) -> NDArray[np.float64]:
    """Of three axes; that between two is a single voxel long."""
    places = start.detach().double().contiguous().numpy()
    return places if places.shape[1] == 3 else np.insert(places, 1, 0.0, axis=1)
