"""The weighted sum of local correlations with its gradient, as fast as the memory allows.

``lncc`` says what is computed; automatic differentiation of that would write and read some fifty
whole images a step. Here the derivative is written out, and what depends on the fixed image alone
is kept: in compiled loops on a CPU, in whole images elsewhere.

With w the weight, V the inverse of its window sums, m and f the values, A, B, C the window sums of
w m, w m^2, w m f times V, F the local mean of f, G its variance and D = B - A^2 that of m, both
with their floors, the sum is that of p (C - A F) with p = w / sqrt(D G). Its derivative by m is w
[box(V p) f - 2 m box(V q) + box(V (2 A q - F p))] with q = p (C - A F) / (2 D); box are window
sums. (A variance of m that is cut off at 0 has no derivative; there C - A F is 0, and q with it.)
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from inrreg.ops.interpolation import row_parts, volumes
from inrreg.ops.separable import box_sum

Array = NDArray[np.floating]
LEAST_WEIGHT = 1e-3
"""Of a window: what is below counts as that."""


class FixedSide(Protocol):
    """The fixed image as each step sees it, with its local moments under the step's weight,
    computed again only where that has changed since the last step.
    """

    def correlation(
        self,
        warped: Float[Tensor, "b c *lattice"],
        weight: Float[Tensor, "b 1 *lattice"],
        floors: Float[Tensor, "2 c"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b c *lattice"]]:
        """The sum, and its derivative by ``warped``."""
        ...


def fixed_side(
    values: Float[Tensor, "b c *lattice"],
    weight: Float[Tensor, "b 1 *lattice"],
    radii: Sequence[int],
) -> FixedSide:
    """Windows reach ``radii`` samples to either side; ``weight`` is 0 wherever that of any step
    will be.
    """
    return (
        InLoops(values, weight, radii) if values.device.type == "cpu" else InImages(values, radii)
    )


def correlation_sum(
    warped: Float[Tensor, "b c *lattice"],
    weight: Float[Tensor, "b 1 *lattice"],
    fixed: FixedSide,
    floors: tuple[Tensor, Tensor],
) -> Float[Tensor, ""]:
    """Sum of weight times local correlation over all sites and channels; ``floors`` (scalars or one
    a channel) are added to both variances. Differentiable by ``warped`` alone, once.
    """
    of_channels = torch.stack([floor.flatten().expand(warped.shape[1]) for floor in floors])
    return _CorrelationSum.apply(warped, weight, fixed, of_channels)


class _CorrelationSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, warped: Tensor, weight: Tensor, fixed: FixedSide, floors: Tensor
    ) -> Tensor:
        total, gradient = fixed.correlation(warped, weight, floors)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return gradient * ctx.saved_tensors[0], None, None, None


class InImages:
    """Every product and every sum a whole image: for a GPU."""

    def __init__(self, values: Float[Tensor, "b c *lattice"], radii: Sequence[int]) -> None:
        self._values, self._radii = values, radii
        self._weight: Tensor | None = None

    def correlation(
        self,
        warped: Float[Tensor, "b c *lattice"],
        weight: Float[Tensor, "b 1 *lattice"],
        floors: Float[Tensor, "2 c"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b c *lattice"]]:
        if stale(self._weight, weight):
            self._measure(weight)
        of_fixed, of_warped = floors.reshape(2, 1, -1, *[1] * (warped.ndim - 2))
        inverse, weighted = self._inverse, weight * warped
        mean = self._sums(weighted) * inverse
        variance = (
            (self._sums(weighted * warped) * inverse)
            .addcmul_(mean, mean, value=-1)
            .clamp_(min=0)
            .add_(of_warped)
        )
        covariance = (self._sums(weighted * self._values) * inverse).addcmul_(
            mean, self._mean, value=-1
        )
        p = (self._variance + of_fixed).mul_(variance).rsqrt_().mul_(weight)
        by_fixed, total = p * inverse, (p * covariance).sum()
        by_warped = covariance.mul_(by_fixed).div_(variance.mul_(2))
        constant = (2 * mean * by_warped).addcmul_(by_fixed, self._mean, value=-1)
        gradient = (
            self._sums(by_fixed)
            .mul_(self._values)
            .addcmul_(self._sums(by_warped), warped, value=-2)
            .add_(self._sums(constant))
            .mul_(weight)
        )
        return total, gradient

    def _measure(self, weight: Tensor) -> None:
        self._weight, self._inverse = weight, 1 / self._sums(weight).clamp(min=LEAST_WEIGHT)
        self._mean = self._sums(weight * self._values) * self._inverse
        self._variance = (
            (self._sums(weight * self._values.square()) * self._inverse)
            .addcmul_(self._mean, self._mean, value=-1)
            .clamp_(min=0)
        )

    def _sums(self, image: Tensor) -> Tensor:
        return box_sum(image, self._radii)


class InLoops:
    """Window after window, of a few planes at a time, only where something counts: for a CPU."""

    def __init__(
        self,
        values: Float[Tensor, "b c *lattice"],
        weight: Float[Tensor, "b 1 *lattice"],
        radii: Sequence[int],
    ) -> None:
        self._values, self._radii = (
            members(values),
            np.array(radii if len(radii) == 3 else (radii[0], 0, radii[1])),
        )
        self._needed = [needed(of_member != 0, self._radii) for of_member in members(weight)[:, 0]]
        self._inverse, self._mean, self._variance = (np.zeros_like(self._values) for _ in range(3))
        self._factors = np.zeros(
            (*self._values.shape[:3], 3, *self._values.shape[3:]), self._values.dtype
        )
        self._weight: Tensor | None = None

    def correlation(
        self,
        warped: Float[Tensor, "b c *lattice"],
        weight: Float[Tensor, "b 1 *lattice"],
        floors: Float[Tensor, "2 c"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b c *lattice"]]:
        from inrreg.ops.loops import in_parallel
        from inrreg.ops.loops.correlation import correlate, differentiate

        self._measure(weight)
        values, weights, gradient = (
            members(warped),
            members(weight),
            torch.zeros_like(warped, memory_format=torch.contiguous_format),
        )
        slopes, of_channels, total = (
            members(gradient),
            np.ascontiguousarray(floors.to(warped.dtype).numpy().T),
            0.0,
        )
        for b, c, needed_part in self._lattices():
            known, factors, sums = (
                [moment[b, c] for moment in (self._inverse, self._mean, self._variance)],
                self._factors[b, c],
                np.zeros(values.shape[2]),
            )
            in_parallel(
                correlate,
                len(sums),
                values[b, c],
                self._values[b, c],
                weights[b, 0],
                *known,
                of_channels[c],
                self._radii,
                needed_part,
                factors,
                sums,
            )
            in_parallel(
                differentiate,
                len(sums),
                values[b, c],
                self._values[b, c],
                weights[b, 0],
                self._radii,
                needed_part,
                factors,
                slopes[b, c],
            )
            total += float(sums.sum())
        return warped.new_tensor(total), gradient

    def _measure(self, weight: Tensor) -> None:
        from inrreg.ops.loops import in_parallel
        from inrreg.ops.loops.correlation import moments

        planes = changed(self._weight, weight, self._radii[0])
        self._weight, weights = weight, members(weight)
        for b, c, needed_part in self._lattices():
            known = [moment[b, c] for moment in (self._inverse, self._mean, self._variance)]
            in_parallel(
                moments, planes, self._values[b, c], weights[b, 0], self._radii, needed_part, *known
            )

    def _lattices(self) -> Iterator[tuple[int, int, Int[np.ndarray, "3 i j 2"]]]:
        """Number of member and channel, and what is needed of it."""
        for b, c in np.ndindex(self._values.shape[:2]):
            yield b, c, self._needed[b]


def stale(seen: Tensor | None, weight: Tensor) -> bool:
    """Whether the moments that were measured under the weight ``seen`` do not hold for
    ``weight``.
    """
    return seen is not weight and (seen is None or not torch.equal(seen, weight))


def changed(seen: Tensor | None, weight: Tensor, radius: int) -> range:
    """The planes of windows of ``radius`` in which another weight counts than under ``seen``: from
    the first of them to the last.
    """
    planes = weight.shape[2]
    if seen is None or seen is weight:
        return range(0 if seen is weight else planes)
    differ = np.flatnonzero((members(seen) != members(weight)).any((0, 1, 3, 4)))
    return (
        range(max(int(differ[0]) - radius, 0), min(int(differ[-1]) + radius + 1, planes))
        if len(differ)
        else range(0)
    )


def members(values: Float[Tensor, "b c *lattice"]) -> Float[np.ndarray, "b c i j k"]:
    """``volumes`` of every member and channel of a batch."""
    each = volumes(values.flatten(0, 1))
    return each.reshape(*values.shape[:2], *each.shape[1:])


def needed(
    counted: Bool[np.ndarray, "i j k"], radii: NDArray[np.integer]
) -> Int[np.ndarray, "3 i j 2"]:
    """Begin and end of the part of each row that counts, of that which lies in a window of such a
    part along the first axis, and along the first two.
    """
    some = counted.any(2)
    begin, end = np.moveaxis(row_parts(counted), -1, 0)
    begin = np.where(some, begin, counted.shape[2])
    stages = [(begin, end)]
    for axis in (0, 1):
        begin, end = (
            _extreme(begin, np.minimum, radii[axis], axis),
            _extreme(end, np.maximum, radii[axis], axis),
        )
        stages.append((begin, end))
    return np.stack([np.stack(stage, -1) for stage in stages])


def _extreme(
    values: NDArray[np.integer], of: np.ufunc, radius: int, axis: int
) -> NDArray[np.integer]:
    """The least or largest of the neighbours along ``axis``, ``radius`` of them to either side."""
    result = values.copy()
    moved, found = np.moveaxis(values, axis, 0), np.moveaxis(result, axis, 0)
    for shift in range(1, min(radius, len(moved) - 1) + 1):
        of(found[shift:], moved[:-shift], out=found[shift:])
        of(found[:-shift], moved[shift:], out=found[:-shift])
    return result
