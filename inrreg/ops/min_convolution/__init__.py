"""The min-convolution of volumes of labels with a quadratic, an axis at a time (Felzenszwalb and
Huttenlocher, IJCV 2006).
"""

from math import inf

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.ops.dispatch import operation


def _example(ndim: int, generator: torch.Generator) -> tuple[Tensor, Tensor, float, int]:
    shape = (17, 13) if ndim == 2 else (7, 9, 5)
    beliefs = torch.rand(6, *shape, dtype=torch.float64, generator=generator)
    prices = torch.rand(6, ndim, dtype=torch.float64, generator=generator)
    scale = torch.tensor([10.0, 1.0, 0.1, 0.01, 1e-3, 0.0], dtype=torch.float64)
    return beliefs, scale[:, None] * prices, 0.6, 5


@operation(compiled="inrreg.ops.min_convolution.compiled", example=_example)
@torch.no_grad()
def min_convolution(
    beliefs: Float[Tensor, "m *labels"],
    prices: Float[Tensor, "m d"],
    truncation: float = inf,
    window: int | None = None,
) -> Float[Tensor, "m *labels"]:
    """min over d of belief(d) + sum over axes of price (d - e)^2, for every label e of each volume;
    d and e are counted in labels, and no more than ``window`` apart along an axis.

    No more than the least belief plus ``truncation``. A volume that holds a NaN becomes NaN. No
    gradient.
    """
    result, around = beliefs, (-1, *(1,) * (beliefs.ndim - 1))
    for axis, price in enumerate(prices.unbind(1), start=1):
        result = _lower_envelope(result, price.reshape(around), axis, window)
    least = beliefs.flatten(1).amin(1).reshape(around)  # NaN where there is one
    return torch.minimum(result, least + truncation)


def _lower_envelope(
    beliefs: Float[Tensor, "m *labels"], price: Tensor, axis: int, window: int | None
) -> Float[Tensor, "m *labels"]:
    """min over shifts s along ``axis`` of beliefs shifted by s plus price s^2; shifts whose price
    exceeds the range of all beliefs are left out, which is exact.
    """
    n, flat = beliefs.shape[axis], beliefs.flatten(1)
    spread = (flat.amax(1) - flat.amin(1)).div(price.flatten().clamp(min=1e-30)).nan_to_num()
    largest = float(spread.amax()) if len(spread) else 0.0
    reach = min(n - 1, int(min(largest, float(n * n)) ** 0.5) + 1, window or n)
    result = beliefs.clone()
    for s in range(1, reach + 1):
        for target, source in ((s, 0), (0, s)):
            part = result.narrow(axis, target, n - s)
            part.copy_(part.minimum(beliefs.narrow(axis, source, n - s) + price * s**2))
    return result
