"""How much of each voxel an organ fills: soft edges from level functions, and tubes that may be
thinner than a voxel.

A scanner blurs; so both answer as if a Gaussian of ``PSF_VOXELS`` had blurred a sharp organ before
it was sampled at the voxel centres. No image is ever interpolated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, reduce

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.grid import Grid

PSF_VOXELS = 0.45
"""Standard deviation of the scanner's blur, in voxels."""
_EDGE = 4.0
"""Blur widths beyond which an edge is not felt."""
_WIDEST = 8.0
"""Radius in blur widths from which on a tube's edge looks straight."""
_PAIRS_AT_ONCE = 1 << 20


def coverage(
    level: Float[Tensor, "*shape"], thickness: float = float("inf")
) -> Float[Tensor, "*shape"]:
    """Share of each voxel where -thickness < level < 0 (a sheet of that thickness, or all of an
    organ), from the level at the voxel centres.
    """
    slope = reduce(torch.hypot, torch.gradient(level))
    width = PSF_VOXELS * slope.clamp(min=1e-6)
    inner = torch.special.ndtr(-level / width)
    return (
        inner if np.isinf(thickness) else inner - torch.special.ndtr(-(level + thickness) / width)
    )


@dataclass(frozen=True, eq=False)
class Tubes:
    """Straight tubes: from ``starts`` to ``ends``, ``[n, 3]`` in mm, of ``radii`` in mm."""

    starts: Float[Tensor, "n 3"]
    ends: Float[Tensor, "n 3"]
    radii: Float[Tensor, " n"]

    @property
    def lengths(self) -> Float[Tensor, " n"]:
        return (self.ends - self.starts).norm(dim=1)

    def cut(self, longest_mm: float) -> "Tubes":
        """The same tubes in pieces of at most ``longest_mm``."""
        pieces = (self.lengths / longest_mm).ceil().long().clamp(min=1)
        tube = torch.repeat_interleave(torch.arange(len(pieces)), pieces)
        first = torch.repeat_interleave(pieces.cumsum(0) - pieces, pieces)
        rank, step = (
            torch.arange(len(tube)) - first,
            ((self.ends - self.starts) / pieces[:, None])[tube],
        )
        starts = self.starts[tube] + rank[:, None] * step
        return Tubes(starts, starts + step, self.radii[tube])

    def chosen(self, which: Tensor) -> "Tubes":
        """The tubes of an index or a mask."""
        return Tubes(self.starts[which], self.ends[which], self.radii[which])

    def mapped(self, point_map: Callable[[Tensor], Tensor]) -> "Tubes":
        """The tubes where ``point_map`` carries their ends; each keeps its volume, as blood does,
        so that a shortened one widens.
        """
        moved = Tubes(point_map(self.starts), point_map(self.ends), self.radii)
        return Tubes(moved.starts, moved.ends, self.radii * (self.lengths / moved.lengths).sqrt())

    def thickened(self, factor: float, extra_mm: float) -> "Tubes":
        """The same tubes with other radii."""
        return Tubes(self.starts, self.ends, self.radii * factor + extra_mm)

    @classmethod
    def joined(cls, parts: list["Tubes"]) -> "Tubes":
        """All tubes of ``parts`` together."""
        return cls(
            torch.cat([p.starts for p in parts]),
            torch.cat([p.ends for p in parts]),
            torch.cat([p.radii for p in parts]),
        )


def tube_coverage(tubes: Tubes, grid: Grid) -> Float[Tensor, "*shape"]:
    """Share of each voxel of ``grid`` inside short ``tubes``: exact, also for tubes thinner than a
    voxel, unless they overlap; then at most 1.
    """
    voxel = float(np.cbrt(np.prod(grid.spacing)))
    sigma = PSF_VOXELS * voxel
    share = torch.zeros(grid.n_voxels)
    reach = tubes.radii + 0.5 * tubes.lengths + 3 * sigma
    steps = (reach / grid.spacing.min()).ceil().long()
    for step in steps.unique().tolist():
        chosen = (steps == step).nonzero()[:, 0]
        offsets = _offsets(grid, step)
        for part in chosen.split(max(1, _PAIRS_AT_ONCE // len(offsets))):
            _add(share, tubes.chosen(part), offsets, grid, sigma)
    return share.clamp(max=1).reshape(grid.shape)


def _offsets(grid: Grid, step: int) -> Tensor:
    """Voxel offsets to everything within ``step`` smallest voxel widths and the half voxel lost in
    rounding.
    """
    counts = [int(np.ceil(step * grid.spacing.min() / h)) for h in grid.spacing]
    offsets = torch.cartesian_prod(*[torch.arange(-n, n + 1) for n in counts])
    distance = (offsets.double() * torch.from_numpy(grid.spacing)).norm(dim=1)
    return offsets[
        distance <= step * grid.spacing.min() + 0.5 * float(np.linalg.norm(grid.spacing))
    ]


def _add(
    share: Float[Tensor, " voxels"], tubes: Tubes, offsets: Tensor, grid: Grid, sigma: float
) -> None:
    """Add to ``share`` (in place) that of each tube in the voxels around it: a blurred disc across
    the tube times a blurred interval along it.
    """
    middle = grid.to_voxel((tubes.starts + tubes.ends) / 2).round().long()
    index = (middle[:, None] + offsets).reshape(-1, 3)
    tube = torch.repeat_interleave(torch.arange(len(middle)), len(offsets))
    valid = ((index >= 0) & (index < torch.tensor(grid.shape))).all(1)
    index, tube = index[valid], tube[valid]
    from_start, lengths = grid.to_world(index.double()) - tubes.starts[tube], tubes.lengths
    axis = ((tubes.ends - tubes.starts) / lengths.clamp(min=1e-9)[:, None])[tube]
    along = (from_start * axis).sum(1)
    away = (from_start - along[:, None] * axis).norm(dim=1)
    between_ends = torch.special.ndtr(along / sigma) - torch.special.ndtr(
        (along - lengths[tube]) / sigma
    )
    value = between_ends * _disc_share(away / sigma, tubes.radii[tube] / sigma)
    share.index_add_(
        0, (index[:, 0] * grid.shape[1] + index[:, 1]) * grid.shape[2] + index[:, 2], value.float()
    )


@lru_cache(maxsize=1)
def _disc_table() -> np.ndarray:
    """A disc of radius r blurred by a unit Gaussian, at distance r + e from its centre; rows r = 0,
    0.05 ... 8, columns e = -4, -3.9 ... 4.

    It is the distribution of a non-central chi-square variable with two degrees of freedom, as the
    distance of a blurred point is.
    """
    from scipy.special import chndtr

    radius, edge = np.linspace(0, _WIDEST, 161)[:, None], np.linspace(-_EDGE, _EDGE, 81)
    return chndtr(radius**2, 2, np.maximum(radius + edge, 0) ** 2)


def _disc_share(distance: Float[Tensor, " n"], radius: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The blurred disc at ``distance`` from its centre, all in blur widths; interpolated in a
    table.
    """
    from scipy.ndimage import map_coordinates

    edge = distance - radius
    rows, columns = radius.clamp(max=_WIDEST) * (160 / _WIDEST), (edge + _EDGE) * (40 / _EDGE)
    values = map_coordinates(
        _disc_table(), np.stack([rows.numpy(), columns.numpy()]), order=1, mode="nearest"
    )
    return torch.from_numpy(values).where(edge < _EDGE, 0.0)
