"""What an MR scanner adds of its own each time: contrast, shading and noise."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.grid import Grid
from inrreg.phantoms.random_field import RandomField

_SHADING_MM = 70.0
"""Length over which a coil's sensitivity changes."""


@dataclass(frozen=True)
class Scanner:
    """``noise``: standard deviation of each channel's noise over the white matter's mean;
    ``shading``: that of the logarithm of a smooth factor; ``gamma``: largest |log| of the exponent.
    """

    noise: float = 0.03
    shading: float = 0.12
    gamma: float = 0.2

    def __call__(
        self, values: Float[Tensor, "*shape"], grid: Grid, white: float, rng: np.random.Generator
    ) -> Float[Tensor, "*shape"]:
        """``values`` of tissue (white matter is ``white``) as one scan shows them: (v^gamma
        exp(shading) + n1, n2) in magnitude.
        """
        for_contrast, for_shading, for_noise = rng.spawn(3)
        exponent = float(np.exp(for_contrast.uniform(-self.gamma, self.gamma)))
        factor = torch.exp(
            self.shading
            * RandomField.draw(for_shading, _SHADING_MM, ndim=grid.ndim)(
                grid.points(torch.float64)
            )[..., 0]
        )
        clean = white * (values.double().clamp(min=0) / white) ** exponent * factor
        real, imaginary = (
            self.noise * white * torch.from_numpy(for_noise.standard_normal(grid.shape))
            for _ in range(2)
        )
        return torch.hypot(clean + real, imaginary).float()


NO_SCANNER = Scanner(0.0, 0.0, 0.0)
"""Tissue as it is."""
