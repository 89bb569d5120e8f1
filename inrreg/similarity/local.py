"""The weighted sum of local correlations with its gradient, as fast as the memory next to a core allows.

``lncc`` says what is computed; automatic differentiation of that would write and read some fifty whole images a step. Here the derivative is written out, everything
that belongs to a tile of the image is done while it is in the cache, and what depends on the fixed image alone is kept.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.windows import Tile, WindowSumsBySize, tiles


class FixedSide:
    """The fixed image as each step sees it: the tiles that count, and its local moments under the step's weight, computed again only where that has changed since the last step."""

    def __init__(self, values: Float[Tensor, "b c *lattice"], weight: Float[Tensor, "b 1 *lattice"], radii: Sequence[int]) -> None:
        self.values, self.tiles, self.sums = values, list(tiles(weight, values.shape[1], radii)), WindowSumsBySize(radii, values)
        self._weight: Tensor | None = None
        self._inverse, self._mean, self._variance = (torch.zeros_like(values) for _ in range(3))
        self.factors = values.new_zeros(3, *values.shape)

    def see(self, weight: Float[Tensor, "b 1 *lattice"]) -> None:
        """Bring the moments up to date; a weight of a step is part of the weight that the tiles were made for."""
        for tile in self.tiles:
            part = tile.alike().outer
            if self._weight is None or not torch.equal(weight[part], self._weight[part]):
                self._measure(tile, weight[part])
        self._weight = weight

    def moments(self, tile: Tile) -> tuple[Tensor, Tensor, Tensor]:
        """Inverse of the weight in the windows of a tile, weighted mean and variance in them."""
        return self._inverse[tile.inner], self._mean[tile.inner], self._variance[tile.inner]

    def _measure(self, tile: Tile, weight: Tensor) -> None:
        values = self.values[tile.outer]
        weighted = weight * values
        inverse = self.sums(tile, lambda out: out.copy_(weight)).clamp(min=1e-3).reciprocal_()
        mean = self.sums(tile, lambda out: out.copy_(weighted)) * inverse
        square = self.sums(tile, lambda out: torch.mul(weighted, values, out=out)) * inverse
        self._inverse[tile.inner], self._mean[tile.inner] = inverse, mean
        self._variance[tile.inner] = square.addcmul_(mean, mean, value=-1).clamp_(min=0)


class _CorrelationSum(torch.autograd.Function):
    """Two rounds over the tiles.

    With w the weight, V the inverse of its window sums, m and f the values, A, B, C the window sums of w m, w m^2, w m f times V, F the local mean of f, G its variance
    and D = B - A^2 that of m, both with their floors, the sum is that of p (C - A F) with p = w / sqrt(D G). Its derivative by m is
    w [box(V p) f - 2 m box(V q) + box(V (2 A q - F p))] with q = p (C - A F) / (2 D); box are window sums. (A variance
    of m that is cut off at 0 has no derivative; there C - A F is 0, and q with it.)
    """

    @staticmethod
    def forward(ctx: Any, warped: Tensor, weight: Tensor, fixed: FixedSide, floors: tuple[Tensor, Tensor]) -> Tensor:
        fixed.see(weight)
        total = warped.new_zeros(())
        for tile in fixed.tiles:
            total += _correlated(tile, warped, weight, fixed, floors)
        if ctx.needs_input_grad[0]:
            gradient = torch.zeros_like(warped)
            for tile in fixed.tiles:
                _differentiate(tile, warped, weight, fixed, gradient)
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return gradient * ctx.saved_tensors[0], None, None, None


def correlation_sum(warped: Float[Tensor, "b c *lattice"], weight: Float[Tensor, "b 1 *lattice"], fixed: FixedSide, floors: tuple[Tensor, Tensor]) -> Float[Tensor, ""]:
    """Sum of weight times local correlation over all sites and channels; ``floors`` (scalars or ``[1, c, 1, ...]``) are added to both variances. Differentiable by ``warped`` alone, once."""
    of_channels = tuple(floor.expand(1, warped.shape[1], *[1] * (warped.ndim - 2)) for floor in floors)
    return _CorrelationSum.apply(warped, weight, fixed, of_channels)


def _correlated(tile: Tile, warped: Tensor, weight: Tensor, fixed: FixedSide, floors: tuple[Tensor, Tensor]) -> Float[Tensor, ""]:
    """The sum over a tile; leaves V p, V q and V (2 A q - F p) in the factors of ``fixed``."""
    values, weighted = warped[tile.outer], warped[tile.outer] * weight[tile.alike().outer]
    inverse, mean_fixed, variance_fixed = fixed.moments(tile)
    mean = fixed.sums(tile, lambda out: out.copy_(weighted)) * inverse
    variance = (fixed.sums(tile, lambda out: torch.mul(weighted, values, out=out)) * inverse).addcmul_(mean, mean, value=-1)
    covariance = (fixed.sums(tile, lambda out: torch.mul(weighted, fixed.values[tile.outer], out=out)) * inverse).addcmul_(mean, mean_fixed, value=-1)
    variance = variance.clamp_(min=0).add_(floors[1][:, tile.inner[1]])
    p = (variance_fixed + floors[0][:, tile.inner[1]]).mul_(variance).rsqrt_().mul_(weight[tile.alike().inner])
    total = torch.dot(p.flatten(), covariance.flatten())
    by_fixed, by_warped, constant = (factor[tile.inner] for factor in fixed.factors)
    torch.mul(p, inverse, out=by_fixed)
    torch.div(covariance.mul_(by_fixed), variance.mul_(2), out=by_warped)
    torch.mul(by_warped, mean.mul_(2), out=constant).addcmul_(by_fixed, mean_fixed, value=-1)
    return total


def _differentiate(tile: Tile, warped: Tensor, weight: Tensor, fixed: FixedSide, gradient: Tensor) -> None:
    """The derivative of the sum by ``warped`` in a tile."""
    by_fixed, by_warped, constant = (factor[tile.outer] for factor in fixed.factors)
    total = fixed.sums(tile, lambda out: out.copy_(by_fixed)) * fixed.values[tile.inner]
    total.addcmul_(fixed.sums(tile, lambda out: out.copy_(by_warped)), warped[tile.inner], value=-2)
    total.add_(fixed.sums(tile, lambda out: out.copy_(constant)))
    torch.mul(total, weight[tile.alike().inner], out=gradient[tile.inner])
