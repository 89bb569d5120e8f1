"""Linear interpolation of an image at displaced sites, its derivative, and whether a site stays inside; ``inrreg.interpolation`` says where the sites lie.

Displacements are ``[3, i, j, k]``, images ``[c, x, y, z]``. A site lies at voxel start + i steps[0] + j steps[1] + k steps[2] + u turn. ``parts`` ``[i, j, 2]`` holds begin and end of what is
wanted of each row. A row is done in short loops that the compiler turns into vectors: where its sites lie, in which cells, what stands at the corners.
"""

from typing import Any

import numpy as np

from inrreg.kernels import compiled

Array = Any


@compiled
def interpolate(first: int, stop: int, displacement: Array, parts: Array, image: Array, start: Array, steps: Array, turn: Array, values: Array) -> None:
    """``values`` ``[c, i, j, k]`` of the image in layers ``first`` to ``stop``, 0 outside the parts."""
    shape, n = image.shape[1:], values.shape[3]
    voxels, fraction, below = np.empty((3, n), displacement.dtype), np.empty((3, n), displacement.dtype), np.empty((3, n), np.int64)
    for i in range(first, stop):
        for j in range(values.shape[2]):
            begin, end = parts[i, j]
            values[:, i, j, :begin] = 0
            values[:, i, j, end:] = 0
            place(displacement[:, i, j, begin:end], i, j, begin, start, steps, turn, voxels[:, begin:end])
            for axis in range(3):
                locate(voxels[axis, begin:end], shape[axis], below[axis, begin:end], fraction[axis, begin:end])
            for c in range(len(image)):
                blend(image[c], below[:, begin:end], fraction[:, begin:end], values[c, i, j, begin:end])


@compiled
def interpolate_back(first: int, stop: int, displacement: Array, parts: Array, image: Array, start: Array, steps: Array, turn: Array, of_values: Array, gradient: Array) -> None:
    """``gradient`` ``[3, i, j, k]`` by the displacement of the sum of ``of_values`` times what ``interpolate`` gives."""
    shape, n = image.shape[1:], of_values.shape[3]
    voxels, fraction, below = np.empty((3, n), displacement.dtype), np.empty((3, n), displacement.dtype), np.empty((3, n), np.int64)
    slope = np.empty((3, n), displacement.dtype)
    for i in range(first, stop):
        for j in range(of_values.shape[2]):
            begin, end = parts[i, j]
            gradient[:, i, j, :begin] = 0
            gradient[:, i, j, end:] = 0
            place(displacement[:, i, j, begin:end], i, j, begin, start, steps, turn, voxels[:, begin:end])
            for axis in range(3):
                locate(voxels[axis, begin:end], shape[axis], below[axis, begin:end], fraction[axis, begin:end])
            slope[:, begin:end] = 0
            for c in range(len(image)):
                add_slopes(image[c], below[:, begin:end], fraction[:, begin:end], of_values[c, i, j, begin:end], slope[:, begin:end])
            for axis in range(3):
                hold(voxels[axis, begin:end], shape[axis], slope[axis, begin:end])
            for component in range(3):
                turned(slope[:, begin:end], turn[component], gradient[component, i, j, begin:end])


@compiled
def stay_inside(first: int, stop: int, displacement: Array, parts: Array, shape: Array, start: Array, steps: Array, turn: Array, weight: Array) -> None:
    """``weight`` ``[i, j, k]`` becomes 0 where a site within the parts lies beyond the voxels of an image of ``shape``, or nowhere, and 1 elsewhere."""
    voxels = np.empty((3, weight.shape[2]), displacement.dtype)
    for i in range(first, stop):
        for j in range(weight.shape[1]):
            begin, end = parts[i, j]
            weight[i, j] = 1
            place(displacement[:, i, j, begin:end], i, j, begin, start, steps, turn, voxels[:, begin:end])
            for axis in range(3):
                leave(voxels[axis, begin:end], shape[axis], weight[i, j, begin:end])


@compiled
def place(displacement: Array, i: int, j: int, begin: int, start: Array, steps: Array, turn: Array, voxels: Array) -> None:
    """Where the sites of a row lie from ``begin`` on, ``[3, k]``."""
    number = displacement.dtype.type
    u, v, w = displacement[0], displacement[1], displacement[2]
    for axis in range(3):
        along, first, step = voxels[axis], number(start[axis] + i * steps[0, axis] + j * steps[1, axis] + begin * steps[2, axis]), number(steps[2, axis])
        by_u, by_v, by_w = number(turn[0, axis]), number(turn[1, axis]), number(turn[2, axis])
        for k in range(along.size):
            along[k] = first + number(k) * step + by_u * u[k] + by_v * v[k] + by_w * w[k]


@compiled
def locate(voxels: Array, n: int, below: Array, fraction: Array) -> None:
    """The sample below each position along an axis of ``n`` samples, whose border values are held, and how far above it that lies, 0 to 1; a position that is no number stays none."""
    number = voxels.dtype.type
    zero, last, highest = number(0), number(n - 1), max(n - 2, 0)
    for k in range(voxels.size):
        position = min(max(voxels[k], zero), last)
        sample = min(int(position), highest) if position == position else 0
        below[k], fraction[k] = sample, voxels[k] if voxels[k] != voxels[k] else position - number(sample)


@compiled
def blend(channel: Array, below: Array, fraction: Array, values: Array) -> None:
    """The values in the cells."""
    flat, (x, y, z) = channel.ravel(), stride(channel.shape)
    i, j, k, s, t, r = below[0], below[1], below[2], fraction[0], fraction[1], fraction[2]
    for m in range(values.size):
        at = (i[m] * channel.shape[1] + j[m]) * channel.shape[2] + k[m]
        a, b, c, d = flat[at], flat[at + y], flat[at + x], flat[at + x + y]
        a, b, c, d = a + r[m] * (flat[at + z] - a), b + r[m] * (flat[at + y + z] - b), c + r[m] * (flat[at + x + z] - c), d + r[m] * (flat[at + x + y + z] - d)
        a, c = a + t[m] * (b - a), c + t[m] * (d - c)
        values[m] = a + s[m] * (c - a)


@compiled
def add_slopes(channel: Array, below: Array, fraction: Array, factor: Array, slope: Array) -> None:
    """Add the slopes of the cells along each axis, per voxel, times ``factor``."""
    flat, (x, y, z) = channel.ravel(), stride(channel.shape)
    i, j, k, s, t, r = below[0], below[1], below[2], fraction[0], fraction[1], fraction[2]
    along_x, along_y, along_z = slope[0], slope[1], slope[2]
    for m in range(factor.size):
        at = (i[m] * channel.shape[1] + j[m]) * channel.shape[2] + k[m]
        a, b, c, d = flat[at], flat[at + y], flat[at + x], flat[at + x + y]
        a_z, b_z, c_z, d_z = flat[at + z] - a, flat[at + y + z] - b, flat[at + x + z] - c, flat[at + x + y + z] - d
        a, b, c, d = a + r[m] * a_z, b + r[m] * b_z, c + r[m] * c_z, d + r[m] * d_z
        a_y, c_y, a_z, c_z = b - a, d - c, a_z + t[m] * (b_z - a_z), c_z + t[m] * (d_z - c_z)
        along_x[m] += factor[m] * (c + t[m] * c_y - a - t[m] * a_y)
        along_y[m] += factor[m] * (a_y + s[m] * (c_y - a_y))
        along_z[m] += factor[m] * (a_z + s[m] * (c_z - a_z))


@compiled
def stride(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """How far the next sample along each axis lies from one; none where there is no other."""
    return shape[1] * shape[2] * (shape[0] > 1), shape[2] * (shape[1] > 1), int(shape[2] > 1)


@compiled
def hold(voxels: Array, n: int, slope: Array) -> None:
    """No slope where the value of the border is held."""
    number = voxels.dtype.type
    zero, last = number(0), number(n - 1)
    for k in range(voxels.size):
        slope[k] = zero if (voxels[k] <= zero) | (voxels[k] >= last) else slope[k]


@compiled
def turned(slope: Array, turn: Array, gradient: Array) -> None:
    """Slopes per voxel turned into one by a component of the displacement, per mm."""
    number = slope.dtype.type
    by_x, by_y, by_z, along_x, along_y, along_z = number(turn[0]), number(turn[1]), number(turn[2]), slope[0], slope[1], slope[2]
    for k in range(gradient.size):
        gradient[k] = by_x * along_x[k] + by_y * along_y[k] + by_z * along_z[k]


@compiled
def leave(voxels: Array, n: int, weight: Array) -> None:
    """0 where a position lies beyond the voxels along an axis."""
    number = voxels.dtype.type
    zero, lowest, highest = number(0), number(-0.5), number(n - 0.5)
    for k in range(voxels.size):
        weight[k] = weight[k] if (voxels[k] >= lowest) & (voxels[k] <= highest) else zero
