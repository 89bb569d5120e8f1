"""Grids, analytic functions and transforms that several test files share: none of them lines up
with the world axes by luck.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from inrreg.core.grid import Cube, Grid
from inrreg.core.image import Image
from inrreg.fields import Siren
from inrreg.transforms import (
    BSpline,
    Composite,
    DenseDisplacement,
    LinearModel,
    Neural,
    NumericInverse,
    Render,
    Transform,
    Translation,
)


def oblique(ndim: int) -> NDArray[np.float64]:
    """A rotation that mixes all axes."""
    if ndim == 2:
        return np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
    return Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix()


def signed_permutations(ndim: int) -> list[NDArray[np.float64]]:
    """Every way to flip and permute the axes: 48 in 3-D, 8 in 2-D."""
    return [
        np.eye(ndim)[:, list(order)] * np.array(signs)
        for order in permutations(range(ndim))
        for signs in product((1.0, -1.0), repeat=ndim)
    ]


def oblique_grid(ndim: int) -> Grid:
    """Anisotropic, rotated, off-centre: (0.7, 0.9, 2.5) mm in 3-D, (0.7, 0.9) mm in 2-D."""
    if ndim == 2:
        return Grid.from_spacing((24, 19), (0.7, 0.9), origin=(-31.0, 47.0), direction=oblique(2))
    return Grid.from_spacing(
        (17, 14, 9), (0.7, 0.9, 2.5), origin=(-31.0, 47.0, 112.0), direction=oblique(3)
    )


@st.composite
def grids(draw: st.DrawFn, ndims: tuple[int, ...] = (2, 3), max_size: int = 9) -> Grid:
    """Any axis order and flips, oblique or not, spacing of 0.3 to 5 mm, origin within 1.5 m."""
    d = draw(st.sampled_from(ndims))
    shape = draw(st.tuples(*[st.integers(1, max_size)] * d))
    spacing = draw(st.tuples(*[st.floats(0.3, 5.0)] * d))
    origin = draw(st.tuples(*[st.floats(-1500.0, 1500.0)] * d))
    direction = draw(st.sampled_from((np.eye(d), oblique(d)))) @ draw(
        st.sampled_from(signed_permutations(d))
    )
    return Grid.from_spacing(shape, spacing, origin, direction)


@dataclass(frozen=True)
class Wave:
    """f(x) = sum of sines of world mm, wavelengths of 25 to 60 mm, with its gradient in closed
    form.
    """

    ndim: int

    def _terms(self, points: Tensor) -> tuple[Tensor, Tensor]:
        vectors = torch.tensor(
            [[0.15, -0.11, 0.08], [-0.07, 0.13, 0.17], [0.2, 0.09, -0.05]],
            dtype=points.dtype,
            device=points.device,
        )[:, : self.ndim]
        return (
            points @ vectors.T
            + torch.tensor([0.3, 1.1, 2.0], dtype=points.dtype, device=points.device),
            vectors,
        )

    def __call__(self, points: Tensor) -> Tensor:
        """``[*sites, d]`` mm -> ``[*sites]``."""
        return self._terms(points)[0].sin().sum(-1)

    def gradient(self, points: Tensor) -> Tensor:
        """Per mm along x, y, z, ``[*sites, d]``."""
        phases, vectors = self._terms(points)
        return phases.cos() @ vectors

    def image(self, grid: Grid, dtype: torch.dtype = torch.float32) -> Image:
        """Its samples on ``grid``."""
        return Image(self(grid.points(torch.float64))[None].to(dtype), grid, "wave")


def between_voxels(
    grid: Grid, count: int, generator: torch.Generator, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Random world points inside ``grid`` that stay away from voxel centres' planes, where linear
    interpolation kinks.
    """
    fraction = 0.15 + 0.7 * torch.rand(count, grid.ndim, generator=generator, dtype=torch.float64)
    cell = torch.stack(
        [torch.randint(0, n - 1, (count,), generator=generator) for n in grid.shape], -1
    )
    return grid.to_world(cell + fraction).to(dtype)


def _fill(
    transform: Transform, names: tuple[str, ...], amplitude: float, generator: torch.Generator
) -> Transform:
    for name in names:
        parameter = transform.get_parameter(name)
        with torch.no_grad():
            parameter.copy_(
                amplitude
                * (2 * torch.rand(parameter.shape, generator=generator, dtype=torch.float64) - 1)
            )
    return transform.double()


def _translation(grid: Grid, generator: torch.Generator) -> Transform:
    return Translation.by([1.5, -2.25, 0.75][: grid.ndim])


def _linear(kind: str, names: tuple[str, ...]) -> Callable[[Grid, torch.Generator], Transform]:
    return lambda grid, generator: _fill(
        LinearModel(kind).build(grid, generator), names, 1.2, generator
    )


def _bspline(grid: Grid, generator: torch.Generator) -> Transform:
    return _fill(BSpline.over(grid, 6.0), ("coefficients",), 1.0, generator)


def _dense(interpolation: str) -> Callable[[Grid, torch.Generator], Transform]:
    def build(grid: Grid, generator: torch.Generator) -> Transform:
        u = torch.stack(
            [
                Wave(grid.ndim)(grid.points(torch.float64) + 10.0 * axis)
                for axis in range(grid.ndim)
            ],
            -1,
        )
        return DenseDisplacement(
            u + 0.05 * torch.rand(u.shape, generator=generator, dtype=torch.float64),
            grid,
            interpolation,
        )

    return build


def _neural(grid: Grid, generator: torch.Generator) -> Transform:
    options = {"width": 16, "depth": 2, "omega": 4.0, "omega_hidden": 4.0}
    network = Siren(grid.ndim, grid.ndim, generator=generator, **options)
    return _fill(
        Neural(network, Cube.around(grid), 3.0, "siren", options),
        ("network.output.weight", "network.output.bias"),
        0.1,
        generator,
    )


def _render(grid: Grid, generator: torch.Generator) -> Transform:
    return Render.over(_neural(grid, generator), grid, 5.0)


def _composite(grid: Grid, generator: torch.Generator) -> Transform:
    return Composite(
        [
            TRANSFORMS["bspline"](grid, generator),
            TRANSFORMS["rigid"](grid, generator),
            TRANSFORMS["cubic field"](grid, generator),
        ]
    )


def _inverse(grid: Grid, generator: torch.Generator) -> Transform:
    return NumericInverse(_bspline(grid, generator), tolerance_mm=1e-8)


TRANSFORMS: dict[str, Callable[[Grid, torch.Generator], Transform]] = {
    "translation": _translation,
    "rigid": _linear("rigid", ("rotation_vector", "shift")),
    "affine": _linear("affine", ("gradient", "shift")),
    "bspline": _bspline,
    "linear field": _dense("linear"),
    "cubic field": _dense("cubic"),
    "neural": _neural,
    "render": _render,
    "composite": _composite,
    "inverse": _inverse,
}
"""One of each kind over a grid, in double precision, with a motion of a few mm that does not fold.
"""
