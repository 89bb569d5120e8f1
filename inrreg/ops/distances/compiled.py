"""The compiled forms of ``distances`` and ``weighted_distances``."""

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from inrreg.ops.loops import compiled, in_parallel


@compiled
def distance_rows(
    first: int, stop: int, points: NDArray[np.floating], out: NDArray[np.floating]
) -> None:
    """``out[i, j]`` = |point i - point j|, of points ``[3, n]``."""
    x, y, z = points[0], points[1], points[2]
    for i in range(first, stop):
        a, b, c, row = x[i], y[i], z[i], out[i, : len(x)]
        for j in range(len(x)):
            row[j] = np.sqrt((x[j] - a) ** 2 + (y[j] - b) ** 2 + (z[j] - c) ** 2)


@compiled
def weighted_sums(
    first: int,
    stop: int,
    at: NDArray[np.floating],
    points: NDArray[np.floating],
    weights: NDArray[np.floating],
    out: NDArray[np.floating],
) -> None:
    """``out[:, k]`` = sum over i of weights[:, i] |at[:, k] - points[:, i]|; everything is ``[3,
    ...]``.
    """
    x, y, z, u, v, w = points[0], points[1], points[2], weights[0], weights[1], weights[2]
    zero = points.dtype.type(0)
    for k in range(first, stop):
        a, b, c, p, q, r = at[0, k], at[1, k], at[2, k], zero, zero, zero
        for i in range(len(x)):
            distance = np.sqrt((x[i] - a) ** 2 + (y[i] - b) ** 2 + (z[i] - c) ** 2)
            p += distance * u[i]
            q += distance * v[i]
            r += distance * w[i]
        out[0, k], out[1, k], out[2, k] = p, q, r


def distances(points: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """See ``inrreg.ops.distances.distances``."""
    matrix = points.new_empty(len(points), len(points))
    in_parallel(distance_rows, len(points), _in_three(points), matrix.numpy())
    return matrix


def weighted_distances(
    at: Float[Tensor, "k d"], points: Float[Tensor, "n d"], weights: Float[Tensor, "n c"]
) -> Float[Tensor, "k c"]:
    """See ``inrreg.ops.distances.weighted_distances``."""
    sums = at.new_empty(3, len(at))
    arrays = [_in_three(each) for each in (at, points, weights)]
    in_parallel(weighted_sums, len(at), *arrays, sums.numpy())
    return sums[: weights.shape[1]].T


def _in_three(rows: Float[Tensor, "n d"]) -> Float[np.ndarray, "3 n"]:
    """One contiguous row a component; a component that there is not is 0."""
    values = rows.detach().numpy()
    components = np.zeros((3, len(values)), values.dtype)
    components[: values.shape[1]] = values.T
    return components
