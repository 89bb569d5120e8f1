"""Several contrasts of one pair (T1, T1 with contrast agent, T2, FLAIR), seen at once as the
channels of one image.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch

from inrreg.core.checks import check_intensities
from inrreg.core.errors import InputError
from inrreg.core.image import Image
from inrreg.core.image_pair import Change, ImagePair
from inrreg.io import as_image
from inrreg.io.input_types import ImageLike
from inrreg.objective.features import Feature
from inrreg.transforms import identity
from inrreg.transforms.warp import warp

log = logging.getLogger(__name__)


def one_channel(source: ImageLike, name: str) -> Image:
    """An image fit to be registered, on the CPU, in single precision.

    Raises:
        InputError: it has several channels, values that are not finite, or one value everywhere.
    """
    image = as_image(source, name)
    if image.channels != 1:
        raise InputError(
            f"{image.name} has {image.channels} channels, and a registration takes one; give one of"
            " them, or their magnitude"
        )
    image = image.with_data(image.data.detach().to("cpu", torch.float32))
    check_intensities(image)
    return image


def further_contrasts(
    sources: Sequence[tuple[ImageLike, ImageLike]], fixed: Image, moving: Image
) -> tuple[tuple[Image, Image], ...]:
    """Further contrasts ``(fixed, moving)`` of the pair, each on the grid of the first one of its
    side; what lies on another grid is resampled, and that is said.

    Raises:
        InputError: a contrast that is no pair, or cannot be registered.
    """
    pairs = []
    for number, source in enumerate(sources, start=2):
        if isinstance(source, str) or not isinstance(source, Sequence) or len(source) != 2:
            raise InputError(
                f"contrast {number} is no pair; give (fixed, moving), the same contrast of both"
                " images"
            )
        pairs.append(
            (
                _on_grid(one_channel(source[0], f"fixed contrast {number}"), fixed),
                _on_grid(one_channel(source[1], f"moving contrast {number}"), moving),
            )
        )
    return tuple(pairs)


def seen_at_once(
    pair: ImagePair, contrasts: Sequence[tuple[Image, Image]], intensity: Feature
) -> ImagePair:
    """``pair`` with ``intensity`` of every contrast, as the channels of both images."""
    prepared = [
        pair.prepared(intensity),
        *(ImagePair(fixed, moving).prepared(intensity) for fixed, moving in contrasts),
    ]
    fixed, moving = (
        torch.cat([getattr(each, which).data for each in prepared]) for which in ("fixed", "moving")
    )
    return replace(
        prepared[0],
        fixed=prepared[0].fixed.with_data(fixed),
        moving=prepared[0].moving.with_data(moving),
    )


def in_units_of(change: Change, image: Image, seen: Image) -> Change:
    """``change``, on the CPU, its appearance that of the first contrast in the units of ``image``,
    of which ``seen`` is what the stages saw: by the slope of one against the other.
    """
    values, scaled = image.data[0].flatten().double(), seen.data[0].cpu().flatten().double()
    between = (scaled > 0) & (scaled < 1)
    # an image of two values, or one that was left as it is: nothing lies within the window
    if between.sum() < 2 or float(scaled[between].std()) < 1e-9:
        between = torch.ones_like(between)
    values, scaled = (
        values[between] - values[between].mean(),
        scaled[between] - scaled[between].mean(),
    )
    unit = float((values * scaled).sum() / scaled.square().sum())
    appearance = change.appearance_change
    return Change(
        change.non_correspondence.to("cpu"),
        appearance.with_data(unit * appearance.data[:1].cpu()),
        change.vanished.to("cpu"),
    )


def _on_grid(contrast: Image, first: Image) -> Image:
    if contrast.grid.same_as(first.grid):
        return contrast
    log.warning(
        "%s lies on another grid than %s and was resampled onto it by its header",
        contrast.name,
        first.name,
    )
    resampled = warp(contrast, identity(first.grid.ndim), first.grid)
    check_intensities(resampled)
    return resampled
