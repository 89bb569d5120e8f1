"""The compiled form of ``min_convolution``, a volume at a time: it stays in the cache for all
axes.
"""

from math import inf

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from inrreg.ops.dispatch import as_volume
from inrreg.ops.loops import compiled, in_parallel


@compiled
def convolve(
    first: int,
    stop: int,
    beliefs: NDArray[np.floating],
    prices: NDArray[np.floating],
    truncation: float,
    window: int,
    results: NDArray[np.floating],
) -> None:
    """Min-convolutions ``results`` of the ``beliefs`` ``[m, x, y, z]`` with ``prices`` ``[m, 3]``;
    see ``inrreg.ops.min_convolution``.
    """
    shape, size = beliefs.shape[1:], beliefs.shape[1] * beliefs.shape[2] * beliefs.shape[3]
    one, other = np.empty(size, beliefs.dtype), np.empty(size, beliefs.dtype)
    for m in range(first, stop):
        belief, result = beliefs[m].reshape(-1), results[m].reshape(-1)
        least, most = extremes(belief.reshape(shape[0], -1))
        if not least <= most:
            result[:] = np.nan
            continue
        ceiling = least + beliefs.dtype.type(truncation)
        one[:] = belief
        for axis in range(3):
            if shape[axis] > 1:
                nearest = min(within_reach(most - least, prices[m, axis], shape[axis]), window)
                lower_envelope(
                    one.reshape(shape[axis], -1),
                    prices[m, axis],
                    nearest,
                    other.reshape(-1, shape[axis]),
                )
                one, other = other, one
        for k in range(size):
            result[k] = min(one[k], ceiling)


@compiled
def extremes(rows: NDArray[np.floating]) -> tuple[np.floating, np.floating]:
    """The least and the largest; infinity and its negative where one is NaN.

    Column by column first, which is done in whole vectors.
    """
    low, high, unknown = rows[0].copy(), rows[0].copy(), rows[0].copy()
    for row in rows:
        for k in range(len(row)):
            low[k], high[k], unknown[k] = (
                min(low[k], row[k]),
                max(high[k], row[k]),
                unknown[k] if unknown[k] != unknown[k] else row[k],
            )
    least, most = low[0], high[0]
    for k in range(len(low)):
        if unknown[k] != unknown[k]:
            return rows.dtype.type(np.inf), -rows.dtype.type(np.inf)
        least, most = min(least, low[k]), max(most, high[k])
    return least, most


@compiled
def within_reach(spread: float, price: float, size: int) -> int:
    """The farthest shift whose price is no more than the ``spread`` of the beliefs: beyond it
    nothing can be the minimum, whatever axes were done before.
    """
    return size - 1 if not spread < price * (size - 1) ** 2 else int(np.sqrt(spread / price)) + 1


@compiled
def lower_envelope(
    values: NDArray[np.floating], price: float, reach: int, turned: NDArray[np.floating]
) -> None:
    """``turned[r, i]``: min over shifts s of no more than ``reach`` of values[i + s, r] + price
    s^2. The axis that was first is last then, so the next one comes first.
    """
    n, kind = len(values), values.dtype.type
    line = np.empty(values.shape[1], values.dtype)
    for i in range(n):
        line[:] = values[i]
        for s in range(1, min(reach, n - 1) + 1):
            paid, below, above = price * kind(s * s), max(i - s, 0), min(i + s, n - 1)
            if above - below == 2 * s:
                for k in range(len(line)):
                    line[k] = min(line[k], min(values[below, k], values[above, k]) + paid)
            elif below == i - s or above == i + s:
                only = below if below == i - s else above
                for k in range(len(line)):
                    line[k] = min(line[k], values[only, k] + paid)
        for k in range(len(line)):
            turned[k, i] = line[k]


def min_convolution(
    beliefs: Float[Tensor, "m *labels"],
    prices: Float[Tensor, "m d"],
    truncation: float = inf,
    window: int | None = None,
) -> Float[Tensor, "m *labels"]:
    """See ``inrreg.ops.min_convolution.min_convolution``."""
    ndim = beliefs.ndim - 1
    results = torch.empty_like(beliefs, memory_format=torch.contiguous_format)
    volumes = [as_volume(each.detach(), ndim).contiguous().numpy() for each in (beliefs, results)]
    of_axes = prices.detach().to(beliefs.dtype).numpy()
    if ndim == 2:  # the price of the axis of one label counts nowhere
        of_axes = np.insert(of_axes, 1, 1, axis=1)
    in_parallel(
        convolve,
        len(beliefs),
        volumes[0],
        np.ascontiguousarray(of_axes),
        truncation,
        window or max(beliefs.shape),
        volumes[1],
    )
    return results
