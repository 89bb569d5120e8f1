"""The compiled forms of ``inrreg.ops.interpolation``, and their loops.

Displacements are ``[3, i, j, k]``, images ``[c, x, y, z]``. A site lies at voxel start + i steps[0]
+ j steps[1] + k steps[2] + u turn. ``parts`` ``[i, j, 2]`` holds begin and end of the part of each
row that is asked for. A row is done in short loops that the compiler turns into vectors: positions
of its sites, their cells, the values at the corners.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.ops.dispatch import in_three
from inrreg.ops.interpolation import GridToVoxelMap, vectors, volumes
from inrreg.ops.loops import Index, compiled, in_parallel

Array = Any


@compiled
def interpolate(
    first: int,
    stop: int,
    displacement: Array,
    parts: Array,
    image: Array,
    start: Array,
    steps: Array,
    turn: Array,
    values: Array,
) -> None:
    """``values`` ``[c, i, j, k]`` of the image in layers ``first`` to ``stop``, 0 outside the
    parts.
    """
    n, flat, (x, y, z) = (
        np.uint64(values.shape[3]),
        image.reshape(len(image), -1),
        stride(image.shape[1:]),
    )
    voxels, fraction, below = buffers(displacement)
    for i in range(np.uint64(first), np.uint64(stop)):
        for j in range(np.uint64(values.shape[2])):
            begin, end = np.uint64(parts[i, j, 0]), np.uint64(parts[i, j, 1])
            place(displacement, i, j, begin, end, start, steps, turn, voxels)
            locate(voxels, begin, end, image.shape[1:], below, fraction)
            for channel in range(np.uint64(len(image))):
                for k in range(begin):
                    values[channel, i, j, k] = 0
                for k in range(begin, end):
                    at, s, t, r = below[k], fraction[0, k], fraction[1, k], fraction[2, k]
                    a, b, c, d = (
                        flat[channel, at],
                        flat[channel, at + y],
                        flat[channel, at + x],
                        flat[channel, at + x + y],
                    )
                    a, b = (
                        a + r * (flat[channel, at + z] - a),
                        b + r * (flat[channel, at + y + z] - b),
                    )
                    c, d = (
                        c + r * (flat[channel, at + x + z] - c),
                        d + r * (flat[channel, at + x + y + z] - d),
                    )
                    a, c = a + t * (b - a), c + t * (d - c)
                    values[channel, i, j, k] = a + s * (c - a)
                for k in range(end, n):
                    values[channel, i, j, k] = 0


@compiled
def interpolate_back(
    first: int,
    stop: int,
    displacement: Array,
    parts: Array,
    image: Array,
    start: Array,
    steps: Array,
    turn: Array,
    of_values: Array,
    gradient: Array,
) -> None:
    """``gradient`` ``[3, i, j, k]``: the derivative by the displacement of the sum of ``of_values``
    times the values that ``interpolate`` returns.
    """
    flat, (x, y, z) = image.reshape(len(image), -1), stride(image.shape[1:])
    voxels, fraction, below = buffers(displacement)
    slope, number = np.empty_like(voxels), displacement.dtype.type
    n = np.uint64(of_values.shape[3])
    for i in range(np.uint64(first), np.uint64(stop)):
        for j in range(np.uint64(of_values.shape[2])):
            begin, end = np.uint64(parts[i, j, 0]), np.uint64(parts[i, j, 1])
            place(displacement, i, j, begin, end, start, steps, turn, voxels)
            locate(voxels, begin, end, image.shape[1:], below, fraction)
            for k in range(begin, end):
                slope[0, k], slope[1, k], slope[2, k] = 0, 0, 0
            for channel in range(np.uint64(len(image))):
                for k in range(begin, end):
                    at, factor = below[k], of_values[channel, i, j, k]
                    s, t, r = fraction[0, k], fraction[1, k], fraction[2, k]
                    a, b = flat[channel, at], flat[channel, at + y]
                    c, d = flat[channel, at + x], flat[channel, at + x + y]
                    a_z, b_z = flat[channel, at + z] - a, flat[channel, at + y + z] - b
                    c_z, d_z = flat[channel, at + x + z] - c, flat[channel, at + x + y + z] - d
                    a, b, c, d = a + r * a_z, b + r * b_z, c + r * c_z, d + r * d_z
                    a_y, c_y = b - a, d - c
                    a_z, c_z = a_z + t * (b_z - a_z), c_z + t * (d_z - c_z)
                    slope[0, k] += factor * (c + t * c_y - a - t * a_y)
                    slope[1, k] += factor * (a_y + s * (c_y - a_y))
                    slope[2, k] += factor * (a_z + s * (c_z - a_z))
            hold(voxels, begin, end, image.shape[1:], slope)
            for component in range(np.uint64(3)):
                by_x, by_y = number(turn[component, 0]), number(turn[component, 1])
                by_z = number(turn[component, 2])
                for k in range(begin):
                    gradient[component, i, j, k] = 0
                for k in range(begin, end):
                    gradient[component, i, j, k] = (
                        by_x * slope[0, k] + by_y * slope[1, k] + by_z * slope[2, k]
                    )
                for k in range(end, n):
                    gradient[component, i, j, k] = 0


@compiled
def stay_inside(
    first: int,
    stop: int,
    displacement: Array,
    parts: Array,
    shape: Array,
    start: Array,
    steps: Array,
    turn: Array,
    weight: Array,
    left: Array,
) -> None:
    """``left`` ``[i, j, k]`` becomes ``weight``, and 0 where a site within the parts lies beyond
    the voxels of an image of ``shape``, or nowhere.
    """
    number, voxels, n = (
        displacement.dtype.type,
        np.empty((3, weight.shape[2]), displacement.dtype),
        np.uint64(weight.shape[2]),
    )
    zero, lowest = number(0), number(-0.5)
    last_x, last_y, last_z = number(shape[0] - 0.5), number(shape[1] - 0.5), number(shape[2] - 0.5)
    for i in range(np.uint64(first), np.uint64(stop)):
        for j in range(np.uint64(weight.shape[1])):
            begin, end = np.uint64(parts[i, j, 0]), np.uint64(parts[i, j, 1])
            place(displacement, i, j, begin, end, start, steps, turn, voxels)
            for k in range(n):
                left[i, j, k] = weight[i, j, k]
            for k in range(begin, end):
                u, v, w = voxels[0, k], voxels[1, k], voxels[2, k]
                within = (
                    (u >= lowest)
                    & (u <= last_x)
                    & (v >= lowest)
                    & (v <= last_y)
                    & (w >= lowest)
                    & (w <= last_z)
                )
                left[i, j, k] = left[i, j, k] if within else zero


@compiled
def buffers(displacement: Array) -> tuple[Array, Array, Array]:
    """Buffers for a row of sites: their voxel positions, the fractions above the samples below, and
    the indices of these samples.
    """
    n = displacement.shape[3]
    return (
        np.empty((3, n), displacement.dtype),
        np.empty((3, n), displacement.dtype),
        np.empty(n, np.uint64),
    )


@compiled
def place(
    displacement: Array,
    i: Index,
    j: Index,
    begin: Index,
    end: Index,
    start: Array,
    steps: Array,
    turn: Array,
    voxels: Array,
) -> None:
    """Where the sites of a row lie, from ``begin`` to ``end``, ``[3, k]``."""
    number = displacement.dtype.type
    for axis in range(np.uint64(3)):
        first, step = (
            number(start[axis] + i * steps[0, axis] + j * steps[1, axis]),
            number(steps[2, axis]),
        )
        by_u, by_v, by_w = number(turn[0, axis]), number(turn[1, axis]), number(turn[2, axis])
        for k in range(begin, end):
            voxels[axis, k] = (
                first
                + number(k) * step
                + by_u * displacement[0, i, j, k]
                + by_v * displacement[1, i, j, k]
                + by_w * displacement[2, i, j, k]
            )


@compiled
def locate(
    voxels: Array,
    begin: Index,
    end: Index,
    shape: tuple[int, int, int],
    below: Array,
    fraction: Array,
) -> None:
    """The flat index of the sample below each position in an image of ``shape`` whose border values
    are held, and the fraction above it, 0 to 1; the fraction of a position that is NaN is NaN.
    """
    number = voxels.dtype.type
    zero = number(0)
    for axis in range(3):
        along, last, highest, n = (
            np.uint64(axis),
            number(shape[axis] - 1),
            max(shape[axis] - 2, 0),
            np.uint64(shape[axis]),
        )
        for k in range(begin, end):
            voxel = voxels[along, k]
            position = min(max(voxel, zero), last)
            sample = min(int(position), highest) if position == position else 0
            below[k] = np.uint64(sample) if axis == 0 else below[k] * n + np.uint64(sample)
            fraction[along, k] = voxel if voxel != voxel else position - number(sample)


@compiled
def stride(shape: tuple[int, int, int]) -> tuple[Index, Index, Index]:
    """Steps in the flat image to the next sample along each axis; 0 where there is only one."""
    return (
        np.uint64(shape[1] * shape[2] * (shape[0] > 1)),
        np.uint64(shape[2] * (shape[1] > 1)),
        np.uint64(shape[2] > 1),
    )


@compiled
def hold(
    voxels: Array, begin: Index, end: Index, shape: tuple[int, int, int], slope: Array
) -> None:
    """No slope where the value of the border is held."""
    number = voxels.dtype.type
    zero = number(0)
    for axis in range(3):
        along, last = np.uint64(axis), number(shape[axis] - 1)
        for k in range(begin, end):
            slope[along, k] = (
                zero if (voxels[along, k] <= zero) | (voxels[along, k] >= last) else slope[along, k]
            )


def interpolated(
    data: Float[Tensor, "c *shape"],
    displacement: Float[Tensor, "*lattice d"],
    placement: GridToVoxelMap,
) -> Float[Tensor, "c *lattice"]:
    """See ``inrreg.ops.interpolation.interpolated``."""
    dtype = torch.promote_types(displacement.dtype, data.dtype)
    return _Interpolation.apply(
        displacement.movedim(-1, 0).to(dtype), data.detach().to(dtype), placement
    )


class _Interpolation(torch.autograd.Function):
    """Values of the image, and their derivative by the displacement, per mm."""

    @staticmethod
    def forward(ctx: Any, displacement: Tensor, data: Tensor, placement: GridToVoxelMap) -> Tensor:
        ctx.save_for_backward(displacement, data)
        ctx.placement = placement
        parts, *where = placement.arrays
        values = displacement.new_empty(len(data), *displacement.shape[1:])
        in_parallel(
            interpolate,
            len(parts),
            vectors(displacement),
            parts,
            volumes(data),
            *where,
            volumes(values),
        )
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        displacement, data = ctx.saved_tensors
        parts, *where = ctx.placement.arrays
        of_values = volumes(gradient)
        result = np.empty((3, *of_values.shape[1:]), of_values.dtype)
        in_parallel(
            interpolate_back,
            len(parts),
            vectors(displacement),
            parts,
            volumes(data),
            *where,
            of_values,
            result,
        )
        of_components = result if len(displacement) == 3 else result[::2, :, 0]
        return torch.from_numpy(of_components), None, None


@torch.no_grad()
def within(
    weight: Float[Tensor, "*lattice"],
    displacement: Float[Tensor, "*lattice d"],
    shape: Sequence[int],
    placement: GridToVoxelMap,
) -> Float[Tensor, "*lattice"]:
    """See ``inrreg.ops.interpolation.within``."""
    parts, *where = placement.arrays
    left = torch.empty_like(weight, memory_format=torch.contiguous_format)
    in_parallel(
        stay_inside,
        len(parts),
        vectors(displacement.movedim(-1, 0)),
        parts,
        np.array(in_three(shape, len(shape), 1)),
        *where,
        volumes(weight[None])[0],
        volumes(left[None])[0],
    )
    return left
