"""The two images to be registered with all that is known about them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.image import Image, Points


@dataclass(frozen=True, eq=False)
class Correspondences:
    """Points of the fixed image and where a search found them in the moving one, RAS mm, each with
    a ``confidence`` in 0 ... 1.
    """

    fixed: Points
    moving: Points
    confidence: Float[Tensor, " n"]


@dataclass(frozen=True, eq=False)
class Change:
    """What motion does not explain.

    ``non_correspondence`` in 0 ... 1 on the fixed grid, 1 means "has no counterpart";
    ``appearance_change`` there, to be added to the warped image, in the units of the images that
    the stage saw; ``vanished`` is the mask of the moving image, on its grid: what has no
    counterpart in the fixed one.
    """

    non_correspondence: Image
    appearance_change: Image
    vanished: Image


@dataclass(frozen=True, eq=False)
class ImagePair:
    """Fixed and moving image, where to use them (mask == 1 means "use this"), and landmark pairs
    that may guide the fit.

    The lesions are masks in 0 ... 1 on any grid of their image, 1 means "has no counterpart": a
    ``Registration`` leaves them out of its similarities (cost-function masking).
    """

    fixed: Image
    moving: Image
    fixed_mask: Image | None = None
    moving_mask: Image | None = None
    guides: tuple[Points, Points] | None = None
    fixed_lesion: Image | None = None
    moving_lesion: Image | None = None

    def prepared(self, feature: Callable[[Image], Image]) -> Self:
        """The pair with ``feature`` of both images in their place."""
        return replace(self, fixed=feature(self.fixed), moving=feature(self.moving))

    def to(self, device: torch.device | str) -> Self:
        """The pair with images and masks on ``device``."""
        move = {
            name: image.to(device)
            for name in (
                "fixed",
                "moving",
                "fixed_mask",
                "moving_mask",
                "fixed_lesion",
                "moving_lesion",
            )
            if (image := getattr(self, name)) is not None
        }
        return replace(self, **move)

    def swapped(self) -> Self:
        """The pair with fixed and moving exchanged."""
        guides = None if self.guides is None else (self.guides[1], self.guides[0])
        return replace(
            self,
            fixed=self.moving,
            moving=self.fixed,
            fixed_mask=self.moving_mask,
            moving_mask=self.fixed_mask,
            guides=guides,
            fixed_lesion=self.moving_lesion,
            moving_lesion=self.fixed_lesion,
        )
