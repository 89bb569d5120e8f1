"""The compiled form of ``adam_step``: one walk over the parameters."""

import math

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from inrreg.ops.adam_step import EPSILON
from inrreg.ops.loops import compiled, in_parallel

PIECE = 4096
"""Numbers in one part of the work."""


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
    """Move the pieces ``start`` to ``stop``.

    ``constants`` are the shares of the old mean and of the old square, the length of the step, the
    factor of the root, and what is added to the root.
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


def adam_step(
    parameter: Float[Tensor, "*shape"],
    gradient: Float[Tensor, "*shape"],
    mean: Float[Tensor, "*shape"],
    square: Float[Tensor, "*shape"],
    steps: int,
    learning_rate: float,
    betas: tuple[float, float],
) -> None:
    """See ``inrreg.ops.adam_step.adam_step``; tensors in one piece are not copied."""
    given = [each.detach() for each in (parameter, gradient, mean, square)]
    solid = [each.contiguous() for each in given]
    values = [each.view(-1).numpy() for each in solid]
    constants = np.array(
        [
            betas[0],
            betas[1],
            learning_rate / (1 - betas[0] ** steps),
            1 / math.sqrt(1 - betas[1] ** steps),
            EPSILON,
        ],
        values[0].dtype,
    )
    in_parallel(move, -(-len(values[0]) // PIECE), *values, constants)
    for changed in (0, 2, 3):
        if solid[changed] is not given[changed]:
            given[changed].copy_(solid[changed])
