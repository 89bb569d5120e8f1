"""Smooth random functions of position that are known everywhere, not only on a grid."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class RandomField:
    """f(x) = sum over waves of amplitude cos(frequency . x + phase): points ``[*sites, d]`` in mm
    -> ``[*sites, c]``, mean 0 and variance about 1.

    With Gaussian frequencies it is a draw from a Gaussian process whose covariance exp(-|x - y|^2 /
    (2 length^2)) has the asked length (random Fourier features: Rahimi and Recht, NeurIPS 2007).
    """

    frequencies: Float[Tensor, "d waves"]
    phases: Float[Tensor, " waves"]
    amplitudes: Float[Tensor, "waves c"]

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        length_mm: float,
        components: int = 1,
        ndim: int = 3,
        waves: int = 24,
    ) -> Self:
        """A field of ``components`` values that varies over about ``length_mm``."""
        frequencies = rng.standard_normal((ndim, waves)) / length_mm
        phases = rng.uniform(0, 2 * np.pi, waves)
        amplitudes = rng.standard_normal((waves, components)) * np.sqrt(2 / waves)
        return cls(*(torch.from_numpy(a) for a in (frequencies, phases, amplitudes)))

    def __call__(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites c"]:
        return torch.cos(points @ self.frequencies + self.phases) @ self.amplitudes
