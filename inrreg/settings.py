"""Everything a run was set to, as JSON: what is needed to run it again."""

import hashlib
import importlib.metadata
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

import inrreg
from inrreg.image import Image, Points
from inrreg.transforms import Transform

LIBRARIES = ("torch", "numpy", "scipy", "nibabel", "SimpleITK")
"""Whose versions the numbers depend on."""


def described(value: Any) -> Any:
    """Settings as JSON has them: dataclasses as ``{"type": name, field: value, ...}``, functions and classes by name, what is not a finite number as text."""
    if isinstance(value, Transform):
        return {"type": type(value).__name__, "sha256": weights_hash(value)}
    if isinstance(value, Image | Points | nn.Module):
        return type(value).__name__
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__, **{f.name: described(getattr(value, f.name)) for f in fields(value)}}
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


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on, and the kind of machine."""
    libraries = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"inrreg": inrreg.__version__, "python": platform.python_version(), **libraries, "system": platform.system(), "machine": platform.machine()}


def input_entry(source: Any, content: Image | tuple[Points, Points]) -> dict[str, Any]:
    """Where an input came from (a file with its SHA-256, an object in memory by its type, or the preset) and what it holds (grid or count, SHA-256)."""
    if isinstance(source, str | Path):
        entry = {"file": str(source), "file_sha256": _file_hash(source)}
    else:
        entry = {"object": "found by the preset" if source is None else type(source).__name__}
    if isinstance(content, Image):
        return {**entry, "grid": content.grid.to_json(), "sha256": image_hash(content)}
    return {**entry, "n": len(content[0]), "sha256": _hash(*[points.coords.numpy().tobytes() for points in content])}


def image_hash(image: Image) -> str:
    """SHA-256 of the values and the grid of an image, whatever file or object it came from."""
    return _hash(image.data.detach().cpu().contiguous().numpy().tobytes(), image.grid.affine.tobytes(), repr(image.grid.shape).encode())


def weights_hash(transform: Transform) -> str:
    """SHA-256 of the tensors of a transform."""
    return _hash(*[part for name, value in transform.state_dict().items() for part in (name.encode(), value.detach().cpu().contiguous().numpy().tobytes())])


def _file_hash(path: str | Path) -> str:
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _hash(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
