"""The arithmetic of Adam (Kingma and Ba, ICLR 2015) on a CPU: as torch.optim's, without the second
and a half that its first use takes to import a compiler.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

EPSILON = 1e-8


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
                self._move(
                    parameter, parameter.grad, mean, square, self.steps[index], learning_rate
                )

    def _move(
        self,
        parameter: nn.Parameter,
        gradient: Tensor,
        mean: Tensor,
        square: Tensor,
        steps: int,
        learning_rate: float,
    ) -> None:
        from inrreg.ops.loops import in_parallel
        from inrreg.ops.loops.adam import PIECE, move

        values = [
            part.detach().contiguous().view(-1).numpy()
            for part in (parameter, gradient, mean, square)
        ]
        mean_kept, square_kept = self.betas
        constants = np.array(
            [
                mean_kept,
                square_kept,
                learning_rate / (1 - mean_kept**steps),
                1 / math.sqrt(1 - square_kept**steps),
                EPSILON,
            ],
            values[0].dtype,
        )
        in_parallel(move, -(-len(values[0]) // PIECE), *values, constants)
