"""The running moments of Adam (Kingma and Ba, ICLR 2015).

The arithmetic is that of torch.optim, whose first use takes a second and a half to import a
compiler.
"""

from collections.abc import Sequence

import torch
from torch import nn

from inrreg.ops.adam_step import adam_step


class AdamState:
    """The running means of the derivatives of ``parameters`` and of their squares."""

    def __init__(self, parameters: Sequence[nn.Parameter], betas: tuple[float, float]) -> None:
        self.parameters, self.betas, self.steps = parameters, betas, [0] * len(parameters)
        for parameter in parameters:
            parameter.data = parameter.data.contiguous()
        self.means, self.squares = (
            [torch.zeros_like(p, requires_grad=False) for p in parameters] for _ in range(2)
        )

    def step(self, learning_rate: float) -> None:
        """Move every parameter that has a gradient."""
        for index, (parameter, mean, square) in enumerate(
            zip(self.parameters, self.means, self.squares, strict=True)
        ):
            if parameter.grad is not None:
                self.steps[index] += 1
                adam_step(
                    parameter,
                    parameter.grad,
                    mean,
                    square,
                    self.steps[index],
                    learning_rate,
                    self.betas,
                )
