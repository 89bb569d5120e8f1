"""The compiled form of ``bending_energy``: one walk for the value, one for the derivative."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from inrreg.ops.dispatch import as_volume, in_three
from inrreg.ops.jacobian_entries import as_jacobian, entries
from inrreg.ops.loops import compiled, in_parallel


@compiled
def squared_slopes(
    start: int, stop: int, entries: NDArray, factors: NDArray, sums: NDArray
) -> None:
    """sums[e i] = the squared differences between neighbours, those along axis a times
    ``factors[a]``, in plane i of entry e ``[e, n0, n1, n2]`` and from it to plane i + 1.
    """
    _, planes, rows, n = entries.shape
    for row in range(start, stop):
        e, i = row // planes, row % planes
        total = 0.0
        for m in range(rows):
            here = entries[e, i, m]
            plane_on, row_on, next_one = (
                entries[e, min(i + 1, planes - 1), m],
                entries[e, i, min(m + 1, rows - 1)],
                here[1:],
            )
            along_0 = along_1 = along_2 = entries.dtype.type(0)
            for k in range(n):
                along_0 += (plane_on[k] - here[k]) ** 2
                along_1 += (row_on[k] - here[k]) ** 2
            for k in range(n - 1):
                along_2 += (next_one[k] - here[k]) ** 2
            total += factors[0] * along_0 + factors[1] * along_1 + factors[2] * along_2
        sums[row] = total


@compiled
def half_derivative(
    start: int, stop: int, entries: NDArray, factors: NDArray, out: NDArray
) -> None:
    """Half the derivative of the sum of ``squared_slopes``, rows e i."""
    _, planes, rows, n = entries.shape
    kind = entries.dtype.type
    f, g, h = kind(factors[0]), kind(factors[1]), kind(factors[2])
    for row in range(start, stop):
        e, i = row // planes, row % planes
        for m in range(rows):
            here, target = entries[e, i, m], out[e, i, m]
            # at a border the row itself, from which it does not differ
            above, below = entries[e, max(i - 1, 0), m], entries[e, min(i + 1, planes - 1), m]
            left, right = entries[e, i, max(m - 1, 0)], entries[e, i, min(m + 1, rows - 1)]
            for k in range(n):
                target[k] = f * ((here[k] - above[k]) + (here[k] - below[k])) + g * (
                    (here[k] - left[k]) + (here[k] - right[k])
                )
            middle, before, after, inner = here[1:], here, here[2:], target[1:]
            for k in range(n - 2):
                inner[k] += h * ((middle[k] - before[k]) + (middle[k] - after[k]))
            if n > 1:
                target[0] += h * (here[0] - here[1])
                target[n - 1] += h * (here[n - 1] - here[n - 2])


class _BendingEnergy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, jacobian: Tensor, spacing: tuple[float, ...]) -> Tensor:
        parts, shape = entries(jacobian), jacobian.shape[1:-2]
        ctx.save_for_backward(parts)
        factors = [
            n / ((n - 1) * shape.numel() * len(jacobian) * h**2)
            for n, h in zip(shape, spacing, strict=True)
        ]
        ctx.factors = np.array(in_three(factors, len(shape), fill=0.0))
        volumes = _volumes(parts)
        sums = np.empty(volumes.shape[0] * volumes.shape[1])
        in_parallel(squared_slopes, len(sums), volumes.numpy(), ctx.factors, sums)
        return jacobian.new_tensor(sums.sum())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (parts,) = ctx.saved_tensors
        volumes, out = _volumes(parts), torch.empty_like(parts)
        in_parallel(
            half_derivative,
            volumes.shape[0] * volumes.shape[1],
            volumes.numpy(),
            2 * float(gradient) * ctx.factors,
            _volumes(out).numpy(),
        )
        return as_jacobian(out), None


def _volumes(parts: Float[Tensor, "d d b *lattice"]) -> Float[Tensor, "e i j k"]:
    """Every entry of every lattice of a batch, in three axes."""
    return as_volume(parts, parts.ndim - 3).flatten(0, 2)


def bending_energy(
    jacobian: Float[Tensor, "b *lattice d d"], spacing: tuple[float, ...]
) -> Float[Tensor, ""]:
    """See ``inrreg.ops.bending_energy.bending_energy``; differentiable once."""
    value: Tensor = _BendingEnergy.apply(jacobian, spacing)
    return value
