"""One step of Adam (Kingma and Ba, ICLR 2015) for one tensor of parameters."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.ops.dispatch import operation

EPSILON = 1e-8


def _example(ndim: int, generator: torch.Generator) -> tuple[object, ...]:
    shape = (70, 90) if ndim == 2 else (11, 23, 31)
    values = torch.randn(3, *shape, dtype=torch.float64, generator=generator)
    square = torch.rand(shape, dtype=torch.float64, generator=generator)
    return *values, square, 3, 0.1, (0.9, 0.99)


@operation(compiled="inrreg.ops.adam_step.compiled", example=_example)
@torch.no_grad()
def adam_step(
    parameter: Float[Tensor, "*shape"],
    gradient: Float[Tensor, "*shape"],
    mean: Float[Tensor, "*shape"],
    square: Float[Tensor, "*shape"],
    steps: int,
    learning_rate: float,
    betas: tuple[float, float],
) -> None:
    """Change ``parameter``, ``mean`` and ``square`` in place, without a gradient.

    Args:
        mean: the running mean of the gradients, with share ``betas[0]`` of its old value.
        square: the running mean of their squares, with share ``betas[1]`` of its old value.
        steps: the number of steps of this parameter, with this one.
    """
    mean.mul_(betas[0]).add_(gradient, alpha=1 - betas[0])
    square.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
    root = square.sqrt().div_(math.sqrt(1 - betas[1] ** steps)).add_(EPSILON)
    parameter.addcdiv_(mean, root, value=-learning_rate / (1 - betas[0] ** steps))
