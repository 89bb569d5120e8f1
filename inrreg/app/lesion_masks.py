"""Lesion masks, and what a preset is to make of them: find what has no counterpart, be helped by
the masks, or take them as they are.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import get_args

import torch

from inrreg.app.mask_mode import MaskMode
from inrreg.core.checks import check_mask
from inrreg.core.errors import InputError
from inrreg.core.image import Image
from inrreg.io import as_mask
from inrreg.io.input_types import MaskLike
from inrreg.metamorphosis import GivenMask, NonCorrespondence
from inrreg.presets import Preset


def lesion_mask(
    source: MaskLike | None, name: str, image: Image, mask: Image | None
) -> Image | None:
    """A lesion mask (1 means "has no counterpart") on the grid of its image, as 0 and 1.

    Raises:
        FrameError: another grid than the image's.
        InputError: it is empty, or leaves nothing of the image, or of its ``mask``, to be aligned.
    """
    if source is None:
        return None
    lesion = as_mask(source, name).to("cpu")
    if not bool((lesion.data > 0).any()):
        raise InputError(
            f'{lesion.name} is empty: no voxel is above 0, and 1 means "has no counterpart"; leave'
            " it out, or check that it is the right file"
        )
    check_mask(lesion, image)
    absent = lesion.data > 0
    if bool((absent if mask is None else absent | (mask.data <= 0)).all()):
        raise InputError(
            f"{lesion.name} covers all of {image.name}{'' if mask is None else ' inside its mask'},"
            ' and 1 means "has no counterpart": nothing is left to align; check the sign of the'
            " mask"
        )
    return Image(absent.to(torch.float32), lesion.grid, lesion.name)


def with_mask_mode(
    preset: Preset, mode: MaskMode | None, lesions: Mapping[str, Image | None]
) -> tuple[Preset, MaskMode | None]:
    """``preset`` told what to make of the lesion masks, and the mode that holds: unless one is
    asked for, "prior" where there is a mask and "learn" where not.

    Raises:
        InputError: an unknown mode, one that does not go with the masks, or a preset that would
            heed neither.
    """
    given = [lesion.name for lesion in lesions.values() if lesion is not None]
    heeds = any(isinstance(stage, NonCorrespondence) for stage in preset.stages)
    if mode is not None and mode not in get_args(MaskMode):
        raise InputError(
            f"no mask mode is called {mode!r}; choose one of {', '.join(get_args(MaskMode))}"
        )
    if not heeds and (given or mode is not None):
        raise InputError(
            f"the preset {preset.name!r} does not look for what has no counterpart, and not all of"
            f" its stages would heed {' and '.join(given) or 'a mask mode'}; take the preset"
            " pathology"
        )
    if not heeds:
        return preset, None
    if mode == "learn" and given:
        raise InputError(
            'the mask mode "learn" finds what has no counterpart by itself, but'
            f' {" and ".join(given)} was given; leave it out, or take the mode "prior" or "fixed"'
        )
    if mode in ("prior", "fixed") and not given:
        raise InputError(
            f'the mask mode "{mode}" needs a lesion mask of the fixed image, of the moving image or'
            ' of both; give one, or take the mode "learn"'
        )
    chosen: MaskMode = mode or ("prior" if given else "learn")
    return in_mask_mode(preset, chosen), chosen


def in_mask_mode(preset: Preset, mode: MaskMode | None) -> Preset:
    """``preset`` with lesion masks used unchanged where the mode is "fixed", else as it is."""
    if mode != "fixed":
        return preset
    stages = tuple(
        (
            replace(stage, mask=GivenMask(), survey=())
            if isinstance(stage, NonCorrespondence)
            else stage
        )
        for stage in preset.stages
    )
    return replace(preset, stages=stages)
