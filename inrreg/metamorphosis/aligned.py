"""Both images on one grid under the present maps: the input of a detector of non-correspondence."""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.core.image_pair import ImagePair
from inrreg.core.threads import lazy
from inrreg.ops.masks import as_weight, bounding_box, cropped
from inrreg.ops.pyramid import pyramid_level
from inrreg.ops.sampling import inside, linear
from inrreg.ops.separable import apply_along_axes, smoothing
from inrreg.ops.small_matrices import determinant
from inrreg.transforms import Transform

VISIBLE, VISIBLE_MM = 0.1, 4.0
"""A voxel shows tissue where either image, blurred by that many mm, is above that share of its
window.
"""


@dataclass(frozen=True, eq=False)
class Aligned:
    """``fixed`` and ``warped`` on one grid, of equal channels, under the maps ``forward`` (fixed ->
    moving) and ``backward`` (moving -> fixed).

    ``weight`` (1 = use) is the fixed mask; without a fixed mask it is 1 where either image shows
    tissue. ``lesion`` is 1 where the lesion mask of the fixed image, or the warped one of the
    moving image, is 1 ("has no counterpart").
    """

    fixed: Image
    warped: Image
    weight: Image
    forward: Transform
    backward: Transform | None = None
    lesion: Float[Tensor, "1 *shape"] | None = None

    @lazy
    def inconsistency(self) -> Float[Tensor, "1 *shape"]:
        """|backward(forward(x)) - x| at every voxel, mm.

        Raises:
            InputError: there is no backward map.
        """
        if self.backward is None:
            raise InputError(
                "a view without a backward map has no inconsistency; give align() the map from"
                " moving to fixed"
            )
        points = self.fixed.grid.points(device=self.fixed.device)
        moved = points + self.forward.displacement_on(self.fixed.grid)
        return (self.backward(moved) - points).norm(dim=-1)[None]

    @lazy
    def determinant(self) -> Float[Tensor, "1 *shape"]:
        """det J of ``forward`` at every voxel."""
        return determinant(self.forward.jacobian_on(self.fixed.grid))[None]


class Detector(Protocol):
    """Finds what has no counterpart."""

    def __call__(self, view: Aligned) -> Image:
        """The soft mask in 0 ...

        1 on the grid of ``view``; ``non_correspondence == 1`` means "has no counterpart".
        """
        ...


def binarise_above_half(mask: Image) -> Image:
    """``mask`` with 1 where it is above 0.5: a voxel that probably has no counterpart is left out
    wholly, because any remaining weight would still pull.
    """
    return mask.with_data(torch.where(mask.data > 0.5, 1.0, mask.data))


def with_found_mask(pair: ImagePair, mask: Image | None) -> ImagePair:
    """``pair`` with its lesion masks at first, then with the ``mask`` that was found."""
    if mask is None:
        return pair
    return replace(pair, fixed_lesion=binarise_above_half(mask), moving_lesion=None)


@torch.no_grad()
def align(
    pair: ImagePair, forward: Transform, backward: Transform | None, spacing_mm: float
) -> Aligned:
    """The view of ``pair`` at ``spacing_mm``, cropped to the fixed mask; the images must be scaled
    to 0 ... 1.
    """
    fixed, mask = pair.fixed, as_weight(pair.fixed_mask, pair.fixed.grid, pair.fixed.device)
    if pair.fixed_mask is not None:
        box = bounding_box(mask, 4 * spacing_mm)
        fixed, mask = cropped(fixed, *box), cropped(mask, *box)
    fixed, mask, moving = (pyramid_level(image, spacing_mm) for image in (fixed, mask, pair.moving))
    mapped = fixed.grid.points(device=fixed.device) + forward.displacement_on(fixed.grid)
    warped = moving.with_data(linear(moving, mapped), fixed.grid)
    weight = mask.data * inside(moving.grid, mapped)[None]
    if pair.fixed_mask is None:
        weight = weight * _visible(fixed, warped)
    return Aligned(
        fixed, warped, mask.with_data(weight), forward, backward, _lesion(pair, fixed.grid, mapped)
    )


def _lesion(
    pair: ImagePair, grid: Grid, mapped: Float[Tensor, "*shape d"]
) -> Float[Tensor, "1 *shape"] | None:
    """The lesion masks of both images, sampled on ``grid``."""
    at_home = (
        []
        if pair.fixed_lesion is None
        else [linear(pair.fixed_lesion, grid.points(device=mapped.device), outside=0.0)]
    )
    carried = (
        [] if pair.moving_lesion is None else [linear(pair.moving_lesion, mapped, outside=0.0)]
    )
    known = at_home + carried
    return torch.cat(known).amax(0, keepdim=True) if known else None


def _visible(fixed: Image, warped: Image) -> Float[Tensor, "1 *shape"]:
    """1 where either image, any channel, shows more than air."""
    brightest = torch.maximum(fixed.data, warped.data).amax(0, keepdim=True)
    return (apply_along_axes(brightest, smoothing(fixed.grid, VISIBLE_MM)) > VISIBLE).to(
        brightest.dtype
    )
