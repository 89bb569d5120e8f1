"""Translation, rigid and affine transforms about a stated centre.

Every parameter is in mm of motion at ``radius`` mm from the centre, so one step size serves
translation, rotation, scale and shear alike, and the same one serves the deformable transforms.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor, nn

from inrreg.core.errors import InversionError, TransformError
from inrreg.core.grid import Grid
from inrreg.transforms.base import Transform


class Linear(Transform):
    """T(x) = M (x - c) + c + t with a subclass's M; closed-form inverse and Jacobian."""

    center: Tensor

    def __init__(self, center: ArrayLike, radius: float) -> None:
        super().__init__()
        self.radius = float(radius)
        self.register_buffer("center", torch.as_tensor(np.array(center, dtype=np.float64)))
        self.ndim = len(self.center)
        self.shift = nn.Parameter(torch.zeros(self.ndim, dtype=torch.float64))

    def matrix(self) -> Float[Tensor, "d d"]:
        """M, the Jacobian everywhere."""
        return torch.eye(self.ndim, dtype=torch.float64, device=self.device)

    def displacement(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites d"]:
        gradient = (
            self.matrix() - torch.eye(self.ndim, dtype=torch.float64, device=self.device)
        ).to(points.dtype)
        return (points - self.center.to(points.dtype)) @ gradient.T + self.shift.to(points.dtype)

    def jacobian(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites d d"]:
        return self.matrix().to(points.dtype).expand(*points.shape, self.ndim)

    def inverse(self, tolerance_mm: float = 0.05) -> "Affine":
        """The exact inverse.

        Raises:
            InversionError: the matrix is singular.
        """
        matrix, shift = self.matrix().detach(), self.shift.detach()
        if abs(float(torch.linalg.det(matrix))) < 1e-9:
            raise InversionError(
                f"an affine transform of determinant {float(torch.linalg.det(matrix)):.1e} has no"
                " inverse"
            )
        inverse = torch.linalg.inv(matrix)
        return Affine.from_matrix(inverse, -inverse @ shift, self.center)

    def homogeneous(self) -> Float[Tensor, "d1 d1"]:
        """The (d+1) x (d+1) matrix in RAS mm."""
        result = torch.eye(self.ndim + 1, dtype=torch.float64, device=self.device)
        result[: self.ndim, : self.ndim] = self.matrix()
        result[: self.ndim, self.ndim] = self.center + self.shift - self.matrix() @ self.center
        return result.detach()

    def config(self) -> dict[str, Any]:
        return {"center": self.center.tolist(), "radius": self.radius}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(config["center"], config["radius"])


class Translation(Linear):
    """T(x) = x + t."""

    @classmethod
    def by(cls, shift: ArrayLike | Tensor) -> Self:
        """The translation by ``shift`` mm."""
        values = torch.tensor(np.asarray(shift, dtype=np.float64))
        result = cls(np.zeros(len(values)), 1.0)
        result.shift.data.copy_(values)
        return result


def identity(ndim: int) -> Translation:
    """T(x) = x."""
    return Translation.by([0.0] * ndim)


class Rigid(Linear):
    """T(x) = R (x - c) + c + t with R = exp of the skew matrix of ``rotation_vector`` / radius (an
    angle in 2-D, an axis times angle in 3-D).
    """

    def __init__(self, center: ArrayLike, radius: float) -> None:
        super().__init__(center, radius)
        self.rotation_vector = nn.Parameter(
            torch.zeros(1 if self.ndim == 2 else 3, dtype=torch.float64)
        )

    def matrix(self) -> Float[Tensor, "d d"]:
        angle = self.rotation_vector / self.radius
        zero = torch.zeros_like(angle[0])
        if self.ndim == 2:
            skew = torch.stack([zero, -angle[0], angle[0], zero]).reshape(2, 2)
        else:
            x, y, z = angle
            skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
        return torch.linalg.matrix_exp(skew)


class Affine(Linear):
    """T(x) = (I + G / radius) (x - c) + c + t."""

    def __init__(self, center: ArrayLike, radius: float) -> None:
        super().__init__(center, radius)
        self.gradient = nn.Parameter(torch.zeros(self.ndim, self.ndim, dtype=torch.float64))

    def matrix(self) -> Float[Tensor, "d d"]:
        return (
            torch.eye(self.ndim, dtype=torch.float64, device=self.device)
            + self.gradient / self.radius
        )

    @classmethod
    def from_matrix(
        cls,
        matrix: ArrayLike | Tensor,
        shift: ArrayLike | Tensor,
        center: ArrayLike | Tensor,
        radius: float = 1.0,
    ) -> Self:
        """T(x) = matrix (x - center) + center + shift."""
        matrix, shift, center = (
            torch.as_tensor(v, dtype=torch.float64) for v in (matrix, shift, center)
        )
        result = cls(center.cpu().numpy(), radius).to(matrix.device)
        result.gradient.data.copy_(
            (matrix - torch.eye(result.ndim, dtype=torch.float64, device=matrix.device)) * radius
        )
        result.shift.data.copy_(shift)
        return result

    @classmethod
    def from_homogeneous(cls, matrix: ArrayLike) -> Self:
        """The affine of a (d+1) x (d+1) RAS mm matrix."""
        array = np.asarray(matrix, dtype=np.float64)
        d = len(array) - 1
        return cls.from_matrix(array[:d, :d], array[:d, d], np.zeros(d))


@dataclass(frozen=True)
class LinearModel:
    """Builds a translation, rigid or affine transform about the middle of the fixed grid (the
    middle of its mask, if one is given).
    """

    kind: str = "affine"

    def build(
        self, grid: Grid, generator: torch.Generator, center: Sequence[float] | None = None
    ) -> Linear:
        """The identity of this kind on ``grid``."""
        kinds = {"translation": Translation, "rigid": Rigid, "affine": Affine}
        if self.kind not in kinds:
            raise TransformError(
                f"no linear transform is called {self.kind!r}; choose one of {', '.join(kinds)}"
            )
        return kinds[self.kind](
            grid.center if center is None else np.asarray(center),
            float(np.linalg.norm(grid.extent) / 4),
        )
