"""Settings as JSON has them, transforms by the hash of their tensors."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np
from torch import nn

from inrreg.core.hashes import hash_bytes
from inrreg.core.image import Image, Points
from inrreg.transforms.base import Transform


def described(value: Any) -> Any:
    """Settings as JSON has them: dataclasses as ``{"type": name, field: value, ...}``, functions
    and classes by name, what is not a finite number as text.
    """
    if isinstance(value, Transform):
        return {"type": type(value).__name__, "sha256": weights_hash(value)}
    if isinstance(value, Image | Points | nn.Module):
        return type(value).__name__
    if is_dataclass(value) and not isinstance(value, type):
        return {
            "type": type(value).__name__,
            **{f.name: described(getattr(value, f.name)) for f in fields(value)},
        }
    if isinstance(value, Mapping):
        return {str(key): described(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [described(item) for item in value]
    return _leaf(value)


def _leaf(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if callable(value):
        return getattr(value, "__qualname__", type(value).__name__)
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def weights_hash(transform: Transform) -> str:
    """SHA-256 of the tensors of a transform."""
    return hash_bytes(
        *[
            part
            for name, value in transform.state_dict().items()
            for part in (name.encode(), value.detach().cpu().contiguous().numpy().tobytes())
        ]
    )
