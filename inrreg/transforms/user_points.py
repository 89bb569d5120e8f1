"""Points in the kinds users have: arrays, lists and ``Points`` as tensors, and results as the same
kind again.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inrreg.core.errors import FrameError, InputError
from inrreg.core.image import Points


def takes_any_points(method: Callable[..., Tensor]) -> Callable[..., Any]:
    """``method(transform, points)`` for any kind of points; a tensor is passed on untouched."""

    @wraps(method)
    def converting(transform: Any, points: Any) -> Any:
        if isinstance(points, Tensor):
            return method(transform, points)
        return by_tensor(lambda coords: method(transform, coords), points, transform)

    return converting


@torch.no_grad()
def by_tensor(function: Callable[[Tensor], Tensor], points: Any, transform: Any) -> Any:
    """``function`` of the coordinates of ``points``, RAS mm, in double precision on the device of
    ``transform``, as the kind that was given.

    An array gives an array of its floating-point type, else of double precision. Lists and tuples
    give lists. ``Points`` give ``Points`` with the same labels where the values are positions, and
    a tensor otherwise.

    Raises:
        InputError: ``points`` hold no numbers.
        FrameError: the last axis is not the dimension of the transform.
    """
    coords = _coordinates(points)
    if coords.ndim == 0 or coords.shape[-1] != transform.ndim:
        raise FrameError(
            f"points of shape {tuple(coords.shape)} do not fit a {transform.ndim}-D transform; give"
            f" [n, {transform.ndim}] coordinates in mm, or one point of {transform.ndim}"
        )
    values = function(coords.to(transform.device)).cpu()
    if isinstance(points, Points):
        return replace(points, coords=values) if values.shape == coords.shape else values
    if isinstance(points, np.ndarray):
        array = values.numpy()
        return array.astype(points.dtype, copy=False) if points.dtype.kind == "f" else array
    return values.tolist()


def _coordinates(points: Any) -> Tensor:
    if isinstance(points, Points):
        return points.coords.double()
    try:
        array = np.array(points, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"points are a {type(points).__name__} that holds no regular table of numbers"
            f" ({error}); give an array, a tensor, a list or inrreg.Points"
        ) from error
    return torch.from_numpy(array)
