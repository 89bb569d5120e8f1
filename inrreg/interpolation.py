"""Linear interpolation of an image where the sites of a grid are displaced to, together with its slope, in pieces that stay in the cache.

What a step of a registration asks for most often. An optimiser needs the slope at every site of every step, and it comes from the same samples as the value:
both are found in one walk, so that the way back is a product. Every piece is a few dozen operations on short arrays, which are
many times faster than the same operations on whole images one after the other: those wait for the memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from inrreg.space import Grid

PIECE = 1 << 16
"""Sites that are worked on at once on a CPU: the arrays of those that count about fit the cache next to a core."""


@dataclass(frozen=True, eq=False)
class Placement:
    """Where the displaced sites of a lattice lie in voxels of an image: voxel(x + u) = start + index @ steps + u @ turn, for the sites that count.

    ``steps`` holds image voxels per site, one row an index axis; ``turn`` image voxels per mm of u, one row a component of u.
    """

    counted: Bool[Tensor, "*lattice"]
    start: NDArray[np.float64]
    steps: NDArray[np.float64]
    turn: NDArray[np.float64]
    _chosen: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def through(cls, sites: Grid, image: Grid, matrix: NDArray[np.float64], shift: NDArray[np.float64], counted: Bool[Tensor, "*lattice"]) -> Self:
        """Of the voxels of ``sites`` displaced and then carried by x -> matrix x + shift, mm."""
        to_voxel = np.linalg.inv(image.matrix)
        turn = (to_voxel @ matrix).T
        return cls(counted, to_voxel @ (matrix @ sites.origin + shift - image.origin), sites.matrix.T @ turn, turn)

    def pieces(self, displacement: Float[Tensor, "d *lattice"]) -> Iterator[tuple[slice, Tensor, Float[Tensor, "d m"]]]:
        """Some layers of the first axis at a time: which sites in order they are, which of these count, and the voxels of those."""
        layers, shift = self._layers(displacement)
        turn, flat, n = _like(self.turn.T, displacement), displacement.reshape(len(self.start), -1), displacement[0, 0].numel()
        for first in range(0, displacement.shape[1], layers.shape[1] // n):
            part = slice(first * n, min(first * n + layers.shape[1], flat.shape[1]))
            if part.start not in self._chosen:
                self._chosen[part.start] = self.counted.view(-1)[part].nonzero()[:, 0]
            chosen = self._chosen[part.start]
            if len(chosen) > 0:
                voxels = torch.addmm(layers[:, : part.stop - part.start], turn, flat[:, part])
                yield part, chosen, voxels.index_select(1, chosen).add_(first * shift)

    def _layers(self, like: Tensor) -> tuple[Float[Tensor, "d m"], Float[Tensor, "d 1"]]:
        """The voxels of the first few layers without displacement, and how far one layer lies from the next."""
        n = like[0, 0].numel()
        rows = len(like[0]) if like.device.type != "cpu" else max(1, min(len(like[0]), PIECE // n))
        index = np.stack(np.meshgrid(*[np.arange(k) for k in (rows, *like.shape[2:])], indexing="ij"), -1).reshape(-1, len(self.start))
        return _like((index @ self.steps + self.start).T, like), _like(self.steps[0][:, None], like)


def _like(values: NDArray[np.float64], tensor: Tensor) -> Tensor:
    return torch.tensor(np.ascontiguousarray(values), dtype=tensor.dtype, device=tensor.device)


class _Interpolation(torch.autograd.Function):
    """Values of the image, and how they change with u, mm."""

    @staticmethod
    def forward(ctx: Any, displacement: Tensor, data: Tensor, placement: Placement) -> Tensor:
        values, turn = displacement.new_zeros(len(data), displacement[0].numel()), _like(placement.turn, displacement)
        ctx.found = list[tuple[int, slice, Tensor, Tensor]]()
        for part, chosen, voxels in placement.pieces(displacement):
            for channel, (value, slope) in enumerate(at_voxels(data, voxels)):
                values[channel, part].index_copy_(0, chosen, value)
                if ctx.needs_input_grad[0]:
                    ctx.found.append((channel, part, chosen, turn @ slope))
        return values.reshape(len(data), *displacement.shape[1:])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        flat = gradient.reshape(len(gradient), -1)
        total = flat.new_zeros(gradient.ndim - 1, flat.shape[1])
        for channel, part, chosen, slope in ctx.found:
            total[:, part].index_add_(1, chosen, slope * flat[channel, part].index_select(0, chosen))
        return total.reshape(-1, *gradient.shape[1:]), None, None


def interpolated(data: Float[Tensor, "c *shape"], displacement: Float[Tensor, "*lattice d"], placement: Placement) -> Float[Tensor, "c *lattice"]:
    """The image at the displaced sites, border held, 0 at those that do not count; differentiable by the displacement (mm), once, and not by the image."""
    dtype = torch.promote_types(displacement.dtype, data.dtype)
    return _Interpolation.apply(displacement.movedim(-1, 0).to(dtype), data.detach().to(dtype), placement)


@torch.no_grad()
def within(displacement: Float[Tensor, "*lattice d"], shape: Sequence[int], placement: Placement) -> Float[Tensor, "*lattice"]:
    """1 where a displaced site that counts lies within the voxels of an image of ``shape``, and where one does not count, 0 outside. No gradient."""
    result = displacement.new_ones(displacement[..., 0].numel())
    for part, chosen, voxels in placement.pieces(displacement.movedim(-1, 0)):
        for along, n in zip(voxels, shape, strict=True):
            if not (along.amin() >= -0.5 and along.amax() <= n - 0.5):  # a comparison takes five times as long
                result[part].index_fill_(0, chosen[(along < -0.5) | (along > n - 0.5) | along.isnan()], 0.0)
    return result.reshape(displacement.shape[:-1])


def at_voxels(data: Float[Tensor, "c *shape"], voxels: Float[Tensor, "d m"]) -> Iterator[tuple[Float[Tensor, " m"], Float[Tensor, "d m"]]]:
    """Value and slope (per voxel along each axis) at continuous voxels, one channel after the other; the border value is held, with a slope of 0."""
    position = _clamped(voxels, data.shape[1:])
    held = [(axis, now != was) for axis, (now, was) in enumerate(zip(position, voxels, strict=True)) if not torch.equal(now, was)]
    cell, fraction = _cells(position, data.shape[1:])
    for channel in data:
        value, slope = _blended(_corners(channel, cell), fraction)
        for axis, there in held:
            slope[axis].masked_fill_(there, 0.0)
        yield value, slope


def _clamped(voxels: Float[Tensor, "d m"], shape: torch.Size) -> Float[Tensor, "d m"]:
    """Held just inside the outermost voxels, so that every point lies in a cell, and one on the border counts as held. Two operations, for clamp with tensors takes five times as long."""
    last = voxels.new_tensor(shape)[:, None] - 1
    just_inside = torch.nextafter(last, torch.zeros_like(last))
    return torch.minimum(torch.maximum(voxels, torch.minimum(last - just_inside, just_inside)), just_inside)


def _cells(position: Float[Tensor, "d m"], shape: torch.Size) -> tuple[Tensor, Float[Tensor, "d m"]]:
    """The flat index of the first corner of the cell each point lies in, and how far into it along each axis, 0 to 1; ``position`` is used up."""
    corner = position.floor()
    index = corner.int()
    cell = index[0]
    for along, n in zip(index[1:], shape[1:], strict=True):
        cell = torch.add(along, cell, alpha=n)
    return cell.clamp_(min=0), position.sub_(corner)  # NaN turns into a far negative index; its fraction stays NaN


def _corners(channel: Float[Tensor, "*shape"], cell: Tensor) -> Float[Tensor, "corners m"]:
    """The samples at the 2^d corners of each cell, the last axis fastest."""
    flat, strides = channel.reshape(-1), [int(np.prod(channel.shape[a + 1 :])) * (channel.shape[a] > 1) for a in range(channel.ndim)]
    corners = flat.new_empty(2**channel.ndim, len(cell))
    for number, row in enumerate(corners):
        offset = sum(stride for axis, stride in enumerate(strides) if number >> (channel.ndim - 1 - axis) & 1)
        torch.index_select(flat[offset:], 0, cell, out=row)
    return corners


def _blended(corners: Float[Tensor, "corners m"], fraction: Float[Tensor, "d m"]) -> tuple[Float[Tensor, " m"], Float[Tensor, "d m"]]:
    """The value inside the cell and its slope along each axis, an axis at a time: halves are blended, and so are the slopes along the axes before."""
    values, slopes = corners, list[Tensor]()
    for along in fraction:
        lower, upper = values.chunk(2)
        difference = upper - lower
        values = torch.addcmul(lower, difference, along)
        slopes = [torch.lerp(slope[: len(slope) // 2], slope[len(slope) // 2 :], along) for slope in slopes] + [difference]
    return values[0], torch.cat(slopes)
