"""A dense displacement field: one vector a voxel, as other software stores deformations."""

from typing import Any, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inrreg.core.errors import FrameError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.ops.sampling import linear, spatial_gradient, spline_combination, spline_image
from inrreg.transforms.base import Transform


class DenseDisplacement(Transform):
    """Displacement u sampled on ``grid``.

    ``vectors`` is ``[*shape, d]`` in RAS mm, interpolated linearly or by cubic B-splines. Beyond
    the grid the border value holds.
    """

    vectors: Tensor

    def __init__(
        self,
        vectors: Float[Tensor, "*shape d"],
        grid: Grid,
        interpolation: Literal["linear", "cubic"] = "linear",
    ) -> None:
        super().__init__()
        if tuple(vectors.shape) != (*grid.shape, grid.ndim):
            raise FrameError(
                f"a displacement field on {grid} has shape {(*grid.shape, grid.ndim)}, got"
                f" {tuple(vectors.shape)}"
            )
        self.ndim = grid.ndim
        self.grid = grid
        self.interpolation = interpolation
        self.vectors = nn.Parameter(vectors.detach().clone())

    def displacement(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites d"]:
        if self.interpolation == "cubic":
            return spline_combination(spline_image(self._image()), points).movedim(0, -1)
        return linear(self._image(), points).movedim(0, -1)

    def jacobian(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites d d"]:
        cubic = self.interpolation == "cubic"
        image = spline_image(self._image()) if cubic else self._image()
        gradient = spatial_gradient(image.data, self.grid, points, 3 if cubic else 1)
        return gradient.movedim(0, -2) + torch.eye(
            self.ndim, dtype=points.dtype, device=points.device
        )

    def _image(self) -> Image:
        return Image(self.vectors.movedim(-1, 0), self.grid, "displacement")

    def config(self) -> dict[str, Any]:
        return {"grid": self.grid.to_json(), "interpolation": self.interpolation}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        grid = Grid.from_json(config["grid"])
        return cls(torch.zeros(*grid.shape, grid.ndim), grid, config["interpolation"])
