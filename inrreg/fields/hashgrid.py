"""Multi-resolution hash grid with a small perceptron behind it (Mueller et al., ACM TOG 2022).

Levels, indices, offsets and the layout of the parameters are those of the library tiny-cuda-nn
(grid type "Hash", hash "CoherentPrime"), so that what is fitted with the one can be evaluated with
the other. It computes a level's scale in single precision; where base times growth to the level is
within rounding of a whole number, two machines may round to different resolutions, as two builds of
the library may.
"""

from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from inrreg.core.errors import InputError
from inrreg.fields.perceptron import Perceptron
from inrreg.fields.tangents import Dual, reverse_mode
from inrreg.fields.tinycuda import TinyCudaEncoding

PRIMES = (1, 2654435761, 805459861)
_WORD = 0xFFFFFFFF
"""The library counts in unsigned words of 32 bits."""


@dataclass(frozen=True)
class Level:
    """One grid: x in 0 ...

    1 lies at ``scale`` x + 0.5 of its ``resolution``^d vertices, whose features stand in ``size``
    rows from row ``offset`` on; ``hashed`` where that is too few.
    """

    scale: float
    resolution: int
    offset: int
    size: int
    hashed: bool


def level_table(
    ndim: int, levels: int, base_resolution: int, growth: float, log2_size: int
) -> list[Level]:
    """The grids of an encoding, the coarsest first; each has rows for all its vertices, to a
    multiple of 8, but at most 2^log2_size.
    """
    table: list[Level] = []
    for i in range(levels):
        scale = np.exp2(np.float32(i) * np.log2(np.float32(growth))) * np.float32(
            base_resolution
        ) - np.float32(1)
        resolution = int(np.ceil(scale)) + 1
        vertices = resolution**ndim
        size = min(-(-vertices // 8) * 8, 1 << log2_size)
        table.append(
            Level(
                float(scale),
                resolution,
                table[-1].offset + table[-1].size if table else 0,
                size,
                vertices > size,
            )
        )
    return table


def rows(corner: Int[Tensor, "*sites d"], level: Level) -> Int[Tensor, "*sites"]:
    """The rows of the table that hold integer vertices: counted along the axes, or hashed."""
    index = torch.zeros_like(corner[..., 0])
    for axis in range(corner.shape[-1]):
        if level.hashed:
            index = index ^ ((corner[..., axis] * PRIMES[axis]) & _WORD)
        else:
            index = index + corner[..., axis] * level.resolution**axis
    return level.offset + (index & _WORD) % level.size


class HashEncoding(nn.Module):
    """Points of the unit cube ``[*sites, d]`` -> ``[*sites, levels * features]``: the features of
    the 2^d vertices around them, level by level, interpolated.

    ``params`` is the library's flat array. ``smoothstep`` weights make the encoding C1, its
    derivative 0 at every vertex of its level; with ``linear`` ones it has kinks there.
    """

    corners: Tensor

    def __init__(
        self,
        ndim: int,
        levels: int,
        features: int,
        base_resolution: int,
        growth: float,
        log2_size: int,
        interpolation: Literal["linear", "smoothstep"],
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.levels = level_table(ndim, levels, base_resolution, growth, log2_size)
        self.features = features
        self.interpolation = interpolation
        n_rows = self.levels[-1].offset + self.levels[-1].size
        self.params = nn.Parameter(2e-4 * torch.rand(n_rows * features, generator=generator) - 1e-4)
        self.register_buffer(
            "corners", torch.tensor(list(product((0, 1), repeat=ndim))), persistent=False
        )

    def forward(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites channels"]:
        vertices, fractions, _ = self._around(points)
        weights = _lerp(fractions, self.corners).prod(-1)
        return self._joined(torch.einsum("...v,...vf->...f", weights, vertices))

    def dual(self, points: Float[Tensor, "*sites d"]) -> Dual:
        """The features with their derivatives by the points; the vertices are fetched once for
        all.
        """
        vertices, fractions, slopes = self._around(points)
        factors = _lerp(fractions, self.corners)
        d, sign = points.shape[-1], (2 * self.corners - 1).to(points.dtype)
        others = [
            torch.stack([factors[..., b] for b in range(d) if b != a], -1).prod(-1)
            for a in range(d)
        ]
        derivatives = [others[a] * sign[:, a] * slopes[..., a, None] for a in range(d)]
        weights = torch.stack([factors[..., 0] * others[0], *derivatives])
        value, *tangents = torch.einsum("k...v,...vf->k...f", weights, vertices)
        return Dual(
            self._joined(value), torch.stack([self._joined(tangent) for tangent in tangents])
        )

    def _around(
        self, points: Float[Tensor, "*sites d"]
    ) -> tuple[
        Float[Tensor, "levels *sites vertices features"],
        Float[Tensor, "levels *sites d"],
        Float[Tensor, "levels *sites d"],
    ]:
        """Of each level: the features of the vertices around the points, the interpolation weights
        along the axes, and their derivatives by the points.
        """
        scales = torch.tensor(
            [level.scale for level in self.levels], dtype=points.dtype, device=points.device
        ).view(-1, *[1] * points.ndim)
        position = scales * points + 0.5
        lower = position.detach().floor()
        corner = lower.long()[..., None, :] + self.corners
        index = torch.stack([rows(corner[i], level) for i, level in enumerate(self.levels)])
        fraction = position - lower
        vertices = F.embedding(index, self.params.view(-1, self.features)).to(points.dtype)
        if self.interpolation == "linear":
            return vertices, fraction, scales.expand_as(fraction)
        return (
            vertices,
            fraction.square() * (3 - 2 * fraction),
            6 * scales * fraction * (1 - fraction),
        )

    @staticmethod
    def _joined(
        values: Float[Tensor, "levels *sites features"],
    ) -> Float[Tensor, "*sites channels"]:
        return values.movedim(0, -2).flatten(-2)


def _lerp(
    fractions: Float[Tensor, "*sites d"], corners: Int[Tensor, "vertices d"]
) -> Float[Tensor, "*sites vertices d"]:
    """The factor that each vertex gets from each axis."""
    near = fractions[..., None, :]
    return torch.where(corners.bool(), near, 1 - near)


class HashGrid(nn.Module):
    """Cube coordinates ``[*sites, d]`` -> ``[*sites, outputs]``: ``levels`` grids of
    ``base_resolution`` times powers of ``growth`` vertices an axis, then a perceptron.

    Quick, and as fine as the last grid wherever the image asks. ``smoothstep`` with ``softplus``
    has second derivatives; ``linear`` is the cheaper one, for penalties on the Jacobian at most.
    ``backend="tinycudann"`` leaves the encoding to that library, on CUDA, in ``precision``.

    Raises:
        InputError: a number of features or an interpolation that the library does not have.
        TransformError: ``backend="tinycudann"`` where it cannot be used; the message says why.
    """

    def __init__(
        self,
        ndim: int,
        outputs: int,
        levels: int = 8,
        features: int = 2,
        base_resolution: int = 4,
        growth: float = 1.5,
        log2_size: int = 15,
        interpolation: Literal["linear", "smoothstep"] = "smoothstep",
        width: int = 64,
        depth: int = 2,
        activation: Literal["relu", "softplus"] = "softplus",
        backend: Literal["torch", "tinycudann"] = "torch",
        precision: Literal["float32", "float16"] = "float32",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if (
            features not in (1, 2, 4, 8)
            or interpolation not in ("linear", "smoothstep")
            or min(levels, base_resolution) < 1
            or growth < 1
            or log2_size < 3
        ):
            raise InputError(
                "a hash grid has 1, 2, 4 or 8 features a level, linear or smoothstep weights, 1"
                f" level and vertex or more, growth >= 1 and 2^3 rows or more; got {features}"
                f" features, {interpolation!r}, {levels} levels from {base_resolution} vertices,"
                f" growth {growth:g}, 2^{log2_size} rows"
            )
        if backend not in ("torch", "tinycudann") or (
            backend == "torch" and precision != "float32"
        ):
            raise InputError(
                "a hash grid runs on backend 'torch', in float32, or on 'tinycudann', in float32"
                f" or float16; got {backend!r} in {precision}"
            )
        encoding = HashEncoding(
            ndim, levels, features, base_resolution, growth, log2_size, interpolation, generator
        )
        self.encoding = (
            encoding
            if backend == "torch"
            else TinyCudaEncoding(
                ndim,
                library_config(encoding, base_resolution, growth, log2_size),
                precision,
                encoding.params,
            )
        )
        self.perceptron = Perceptron(
            levels * features, outputs, width, depth, activation, generator
        )

    def forward(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites outputs"]:
        return self.perceptron(self.encoding((points + 1) / 2))

    def value_and_jacobian(
        self, points: Float[Tensor, "*sites d"]
    ) -> tuple[Float[Tensor, "*sites outputs"], Float[Tensor, "*sites outputs d"]]:
        """Values and their derivatives by the cube coordinates; the library differentiates
        backwards only, an output at a time.
        """
        if isinstance(self.encoding, TinyCudaEncoding):
            return reverse_mode(self, points)
        encoded = self.encoding.dual((points + 1) / 2)
        return self.perceptron.dual(Dual(encoded.value, encoded.tangents / 2)).result()


def library_config(
    encoding: HashEncoding, base_resolution: int, growth: float, log2_size: int
) -> dict[str, str | int | float]:
    """The encoding in the library's words."""
    return {
        "otype": "HashGrid",
        "n_levels": len(encoding.levels),
        "n_features_per_level": encoding.features,
        "log2_hashmap_size": log2_size,
        "base_resolution": base_resolution,
        "per_level_scale": growth,
        "interpolation": encoding.interpolation.capitalize(),
    }
