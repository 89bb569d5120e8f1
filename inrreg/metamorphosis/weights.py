"""Where intensity may change: the weight w of the source in weighted metamorphosis (Francois et
al., WBIR 2022).

One convention: ``non_correspondence == 1`` (w = 1) means "has no counterpart, intensity may change
here"; 0 means "must be explained by motion". The path runs from the moving image at t = 0 to the
fixed one at t = 1; a weight is given on the fixed grid, at each time in the place that the tissue
has then.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.ops.masks import as_weight, signed_distance
from inrreg.ops.pyramid import pyramid_level
from inrreg.ops.sampling import linear


class Weight(Protocol):
    """w(x, t) in 0 ... 1 on a grid."""

    def on(self, grid: Grid, steps: int, like: Tensor) -> Float[Tensor, "times 1 *shape"]:
        """w at the voxels of ``grid`` at the times 0, 1/steps ...

        1, in the precision and on the device of ``like``.
        """
        ...


@dataclass(frozen=True)
class ZeroWeight:
    """w = 0: all change is motion."""

    def on(self, grid: Grid, steps: int, like: Tensor) -> Float[Tensor, "times 1 *shape"]:
        """See ``Weight``."""
        return like.new_zeros(()).expand(steps + 1, 1, *grid.shape)


@dataclass(frozen=True)
class UniformWeight:
    """w = 1: intensity may change wherever that is cheaper than motion."""

    def on(self, grid: Grid, steps: int, like: Tensor) -> Float[Tensor, "times 1 *shape"]:
        """See ``Weight``."""
        return like.new_ones(()).expand(steps + 1, 1, *grid.shape)


@dataclass(frozen=True, eq=False)
class MaskWeight:
    """w = ``mask`` at all times: 1 where there is no counterpart; the mask may lie on any grid in
    the fixed space and is 0 beyond it.

    Raises:
        InputError: a mask that is empty, or that leaves nothing to be explained by motion.
    """

    mask: Image

    def __post_init__(self) -> None:
        _check(self.mask)

    def on(self, grid: Grid, steps: int, like: Tensor) -> Float[Tensor, "times 1 *shape"]:
        """See ``Weight``."""
        return _sampled(self.mask, grid, like).expand(steps + 1, 1, *grid.shape)


@dataclass(frozen=True, eq=False)
class EvolvingMaskWeight:
    """w is ``masks[0]`` at t = 0, the last of ``masks`` at t = 1, and passes linearly through those
    between at equal times; each is as in ``MaskWeight``.

    Raises:
        InputError: fewer than two masks, or one that ``MaskWeight`` would refuse.
    """

    masks: Sequence[Image]

    def __post_init__(self) -> None:
        if len(self.masks) < 2:
            raise InputError(
                f"a mask that evolves needs two states or more, got {len(self.masks)}; use Within"
                " for a constant one"
            )
        for mask in self.masks:
            _check(mask)

    def on(self, grid: Grid, steps: int, like: Tensor) -> Float[Tensor, "times 1 *shape"]:
        """See ``Weight``."""
        frames = torch.stack([_sampled(mask, grid, like) for mask in self.masks])
        position = torch.linspace(
            0, len(frames) - 1, steps + 1, dtype=like.dtype, device=like.device
        )
        before = position.floor().long().clamp(max=len(frames) - 2)
        fraction = (position - before).reshape(-1, *[1] * (frames.ndim - 1))
        return (1 - fraction) * frames[before] + fraction * frames[before + 1]


def growing(mask: Image, states: int = 11, seed_mm: float = 3.0) -> EvolvingMaskWeight:
    """A lesion that grows into ``mask`` (1 = no counterpart, fixed space) from a ball of
    ``seed_mm`` about its deepest voxel: ``states`` steps between their signed distances.
    """
    _check(mask)
    reach = float(mask.grid.extent.max())
    end = signed_distance(as_weight(mask, mask.grid, mask.device), reach).data[0]
    points = mask.grid.points(device=mask.device)
    start = (
        seed_mm - (points - points.reshape(-1, mask.grid.ndim)[end.argmax()]).norm(dim=-1)
    ) / reach
    between = [
        ((1 - s) * start + s * end > 0).to(torch.float32)[None]
        for s in torch.linspace(0, 1, states).tolist()
    ]
    return EvolvingMaskWeight([Image(frame, mask.grid, mask.name) for frame in between])


def _check(mask: Image) -> None:
    if bool((as_weight(mask, mask.grid, mask.device).data > 0.5).all()):
        raise InputError(
            f'{mask.name} covers the whole image, and 1 means "has no counterpart": nothing is left'
            " to be explained by motion; use Everywhere(), or check the mask's sign"
        )


def _sampled(mask: Image, grid: Grid, like: Tensor) -> Float[Tensor, "1 *shape"]:
    """The mask on ``grid``, blurred first where every axis of the grid is coarser."""
    weight = as_weight(mask, mask.grid, like.device)
    level = pyramid_level(weight, float(grid.spacing.min()))
    return linear(
        level.with_data(level.data.to(like.dtype)),
        grid.points(like.dtype, like.device),
        outside=0.0,
    )
