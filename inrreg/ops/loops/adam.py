"""A step of Adam in one walk over the parameters."""

import numpy as np
from numpy.typing import NDArray

from inrreg.ops.loops import compiled

PIECE = 4096
"""Numbers that one row of the work moves."""


@compiled
def move(
    start: int,
    stop: int,
    parameters: NDArray,
    gradient: NDArray,
    mean: NDArray,
    square: NDArray,
    constants: NDArray,
) -> None:
    """Pieces ``start`` to ``stop``; ``constants`` are the shares of the old mean and of the old
    square, the length of the step, the factor of the root, and what is added to it.
    """
    a, b, length, factor, least = (
        constants[0],
        constants[1],
        constants[2],
        constants[3],
        constants[4],
    )
    one = parameters.dtype.type(1)
    first, end = start * PIECE, min(stop * PIECE, len(parameters))
    p, g, m, s = parameters[first:end], gradient[first:end], mean[first:end], square[first:end]
    for k in range(len(p)):
        m[k] = a * m[k] + (one - a) * g[k]
        s[k] = b * s[k] + (one - b) * g[k] * g[k]
        p[k] -= length * m[k] / (factor * np.sqrt(s[k]) + least)
