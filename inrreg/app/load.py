"""Load and check everything that a request names, without computing anything."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inrreg.app.config import input_entry, versions
from inrreg.app.contrasts import further_contrasts, one_channel
from inrreg.app.lesion_masks import lesion_mask, with_mask_mode
from inrreg.app.mask_mode import MaskMode
from inrreg.app.memory import check_memory
from inrreg.app.metrics import SCHEMA, Landmarks
from inrreg.app.request import Request
from inrreg.app.result import VERSION_KEY
from inrreg.app.saved_request import INPUTS
from inrreg.app.warnings import collected_warnings
from inrreg.core.checks import check_landmarks, check_mask, check_same_dimension
from inrreg.core.errors import FrameError, InputError
from inrreg.core.image import Image, Points
from inrreg.core.image_pair import ImagePair
from inrreg.core.stopwatch import Stopwatch
from inrreg.io import as_mask, pair_points, read_point_pairs, read_points
from inrreg.io.input_types import ImageLike, MaskLike, PairsLike, PointsLike
from inrreg.presets import Preset
from inrreg.transforms import Transform
from inrreg.transforms.description import described

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Job:
    """A request that is loaded and checked: the pair, the preset, the data that the stages do not
    see (landmarks), and config.json; ``notes`` are the warnings so far.
    """

    pair: ImagePair
    preset: Preset
    device: torch.device
    seed: int
    threads: int
    config: dict[str, Any]
    initial: Transform | None = None
    landmarks: Landmarks | None = None
    contrasts: tuple[tuple[Image, Image], ...] = ()
    loading_s: float = 0.0
    notes: list[str] = field(default_factory=list)


def load(request: Request) -> Job:
    """The job of a request.

    Raises:
        InputError: something about the input is wrong.
    """
    watch = Stopwatch()
    preset, device = request.chosen_preset(), request.torch_device()
    with collected_warnings() as notes:
        request = _with_grids(request)
        pair, landmarks = _pair(request, preset)
        preset, mode = with_mask_mode(
            preset, request.mask_mode, {"fixed": pair.fixed_lesion, "moving": pair.moving_lesion}
        )
        contrasts = further_contrasts(request.contrasts, pair.fixed, pair.moving)
        _check_initial(request.initial, pair.fixed.grid.ndim)
    config = {
        **_options(request, preset, mode),
        **_inputs(request, pair, landmarks, contrasts),
    }
    check_memory(pair, preset, request.max_memory_mb, 1 + len(contrasts))
    return Job(
        pair,
        preset,
        device,
        request.seed,
        config["threads"],
        config,
        request.initial,
        landmarks,
        contrasts,
        watch.seconds,
        notes,
    )


def _with_grids(request: Request) -> Request:
    """The request with its arrays as images on the grid that the request gives.

    Raises:
        InputError: a grid is given, but no array.
    """
    if request.spacing is None and request.affine is None:
        return request

    def on_grid(source: ImageLike) -> ImageLike:
        if not isinstance(source, np.ndarray):
            return source
        grid = request.array_grid(source.shape)
        return source if grid is None else Image.from_array(source, grid)

    images = ("fixed", "moving", "fixed_mask", "moving_mask")
    lesions = ("fixed_lesion_mask", "moving_lesion_mask")
    changed: dict[str, Any] = {name: on_grid(getattr(request, name)) for name in images + lesions}
    changed["contrasts"] = tuple((on_grid(a), on_grid(b)) for a, b in request.contrasts)
    given = [getattr(request, name) for name in images + lesions]
    given += [image for contrast in request.contrasts for image in contrast]
    if not any(isinstance(source, np.ndarray) for source in given):
        raise InputError(
            "spacing or affine was given, but no image is an array; leave it out, for an image"
            " has its own grid"
        )
    return replace(request, **changed)


def _pair(request: Request, preset: Preset) -> tuple[ImagePair, Landmarks | None]:
    """The images, masks and guides, and the landmarks that measure the error."""
    images = {
        "fixed": one_channel(request.fixed, "fixed"),
        "moving": one_channel(request.moving, "moving"),
    }
    check_same_dimension(images["fixed"], images["moving"])
    fixed_mask = _mask(request.fixed_mask, "fixed mask", images["fixed"], preset)
    moving_mask = _mask(request.moving_mask, "moving mask", images["moving"], preset)
    landmarks = _landmarks(request.landmarks, images, "landmarks")
    guides = _landmarks(request.guide_landmarks, images, "guide landmarks")
    fixed_lesion = lesion_mask(
        request.fixed_lesion_mask, "fixed lesion mask", images["fixed"], fixed_mask
    )
    moving_lesion = lesion_mask(
        request.moving_lesion_mask, "moving lesion mask", images["moving"], moving_mask
    )
    pair = ImagePair(
        images["fixed"],
        images["moving"],
        fixed_mask,
        moving_mask,
        guides,
        fixed_lesion,
        moving_lesion,
    )
    return pair, landmarks


def _options(request: Request, preset: Preset, mask_mode: MaskMode | None) -> dict[str, Any]:
    """What config.json has apart from the inputs."""
    return {
        VERSION_KEY: versions()["inrreg"],
        "schema": SCHEMA,
        "frame": "RAS mm; the transform maps fixed world points to moving world points",
        "preset": described(preset),
        "settings": described(request.settings or {}),
        "mask_mode": mask_mode,
        "seed": request.seed,
        "device": str(request.torch_device()),
        "threads": request.threads or torch.get_num_threads(),
        "max_memory_mb": request.max_memory_mb,
        "versions": versions(),
        "initial": described(request.initial),
    }


def _inputs(
    request: Request,
    pair: ImagePair,
    landmarks: Landmarks | None,
    contrasts: Sequence[tuple[Image, Image]],
) -> dict[str, Any]:
    """The inputs in config.json: where each came from, and its hash."""
    loaded: Mapping[str, Image | Landmarks | None] = {
        "fixed": pair.fixed,
        "moving": pair.moving,
        "fixed_mask": pair.fixed_mask,
        "moving_mask": pair.moving_mask,
        "landmarks": landmarks,
        "guide_landmarks": pair.guides,
        "fixed_lesion_mask": pair.fixed_lesion,
        "moving_lesion_mask": pair.moving_lesion,
    }
    entries: dict[str, Any] = {}
    for name in INPUTS:
        content = loaded[name]
        entries[name] = None if content is None else input_entry(getattr(request, name), content)
    return {
        "inputs": entries,
        "contrasts": [
            [input_entry(source, image) for source, image in zip(*both, strict=True)]
            for both in zip(request.contrasts, contrasts, strict=True)
        ],
    }


def _check_initial(initial: object, ndim: int) -> None:
    if initial is None:
        return
    if not isinstance(initial, Transform):
        raise InputError(
            f"initial is a {type(initial).__name__}; give an inrreg Transform, for instance"
            " inrreg.load(folder).transform"
        )
    if initial.ndim != ndim:
        raise FrameError(
            f"initial is a {initial.ndim}-D transform, but the images are {ndim}-D; give one of the"
            " same dimension"
        )


def _mask(source: MaskLike | None, name: str, image: Image, preset: Preset) -> Image | None:
    """The mask of an image, which must not be flat inside it; one that the preset finds where none
    is given.
    """
    if source is None and preset.find_mask is None:
        return None
    if source is None and preset.find_mask is not None:
        found = preset.find_mask(image)
        log.warning(
            "no %s was given: preset %s found one over %.0f %% of the image; look at it in the"
            " report",
            name,
            preset.name,
            100 * float(found.data.mean()),
        )
        return found
    mask = as_mask(source, name).to("cpu")
    check_mask(mask, image)
    lowest, highest = image.data.masked_select(mask.data > 0).aminmax()
    if lowest == highest:
        raise InputError(
            f"{image.name} is {float(lowest):g} everywhere inside {mask.name}, so nothing there can"
            " be aligned; check that the mask belongs to the image"
        )
    return mask


def _landmarks(
    source: PairsLike | None, images: Mapping[str, Image], name: str
) -> Landmarks | None:
    """Pairs of points that lie in their images."""
    if source is None:
        return None
    if isinstance(source, str | Path):
        fixed, moving = read_point_pairs(source)
    elif isinstance(source, Sequence) and len(source) == 2:
        fixed, moving = pair_points(
            _points(source[0], f"fixed {name}"), _points(source[1], f"moving {name}")
        )
    else:
        raise InputError(
            f"{name} are a {type(source).__name__}; give a CSV path, or (fixed, moving), each"
            " Points, a path or an array [n, d] of RAS mm"
        )
    for points, (which, image) in zip((fixed, moving), images.items(), strict=True):
        check_landmarks(
            points, image.grid, points.name if which in points.name else f"{which} {points.name}"
        )
    return fixed, replace(moving, labels=fixed.labels)


def _points(given: PointsLike, name: str) -> Points:
    if isinstance(given, str | Path):
        return read_points(given)
    try:
        points = given if isinstance(given, Points) else Points.from_array(given, name=name)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name} are no numbers ({error}); give Points, a path or an array [n, d] of RAS mm"
        ) from error
    if points.coords.ndim != 2 or len(points) == 0 or not bool(torch.isfinite(points.coords).all()):
        raise InputError(
            f"{name} have the shape {tuple(points.coords.shape)} or hold NaN or infinite values;"
            " give one row of finite RAS mm a point"
        )
    return replace(points, name=name if points.name == "points" else points.name)
