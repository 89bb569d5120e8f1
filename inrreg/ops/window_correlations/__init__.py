"""The correlation of two images in a box around each voxel, summed over the boxes."""

from collections.abc import Sequence
from math import nan

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inrreg.ops.dispatch import operation
from inrreg.ops.separable import box_sum


def _example(ndim: int, generator: torch.Generator) -> tuple[object, ...]:
    shape = (70, 19) if ndim == 2 else (40, 7, 11)
    f, w = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    inside = torch.rand(shape, generator=generator) < 0.3
    f[:20], w[-9:] = 0.5, 0.25  # flat windows of each
    return f, w, inside, (2, 1, 3)[:ndim], 0.01, 0.02


@operation(compiled="inrreg.ops.window_correlations.compiled", example=_example)
@torch.no_grad()
def window_correlations(
    f: Float[Tensor, "*shape"],
    w: Float[Tensor, "*shape"],
    inside: Bool[Tensor, "*shape"],
    radii: Sequence[int],
    least_f: float,
    least_w: float,
) -> tuple[float, int]:
    """The sum of the correlations of ``f`` and ``w`` in the boxes around the voxels ``inside``, and
    the number of boxes that count, in double precision.

    A box reaches ``radii`` voxels to either side and is cut at the border. It counts where the
    variance of ``f`` in it is above ``least_f``; its correlation is 0 where the variance of ``w``
    is not above ``least_w``. The sum is NaN, of no box, where an image holds a value that is not
    finite.
    """
    if not bool((f.sum() + w.sum()).isfinite()):
        return nan, 0
    f, w = f.double(), w.double()
    products = torch.stack([f, w, f * f, w * w, f * w, torch.ones_like(f)])
    *sums, size = box_sum(products[None], radii)[0]
    mean_f, mean_w, square_f, square_w, product = (each / size for each in sums)
    variance_f, variance_w = square_f - mean_f.square(), square_w - mean_w.square()
    counted = inside & (variance_f > least_f)
    correlated = counted & (variance_w > least_w)
    covariance = (product - mean_f * mean_w)[correlated]
    total = (covariance / (variance_f * variance_w)[correlated].sqrt()).sum()
    return float(total), int(counted.sum())
